"""Errors on fresh data: exact Gaussian averages where the formulas have them, quadrature elsewhere.

On fresh data the fields are jointly Gaussian, ``(z, lam) ~ N(0, [[T, M^T], [M, Q]])``; on training samples they are
not. A squared error needs averages over two fields at a time, ``E[g(lam_k) g(lam_l)]`` and ``E[g(lam_k) h(z_m)]``;
another loss needs all fields at once. Up to three fields the nodes are nested rules split at kinks, beyond they are
scrambled Sobol' points, whose error shows in the spread over scrambles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...numerics.nested import nested_points, triangular
from ...numerics.sampling import normals
from ...numerics.scalars import find_root
from ...problem import Expression
from ...problem.losses import loss_function
from .closed import Regression
from .model import Model
from .start import Coordinates, coordinates, labels_of

Array = NDArray[np.float64]


NESTED_FIELDS = 3
SOBOL_POINTS = 2**15
# (trapezoidal step in units of the field, nodes of a Gauss-Legendre panel) of one or two fields, coarse to fine.
RULES = ((0.3, 16), (0.15, 32), (0.075, 48), (0.0375, 64))
AGREEMENT = 1e-11
# The same for a loss with kinks on no axis, by the number of fields: its errors fall as a power of the step only.
KINKED_RULES = {2: (0.075, 48), 3: (0.25, 16)}


class FreshData:
    """Averages of one problem over fresh data.

    Parameters
    ----------
    model : Model
    target_gram : (M, M) array
        Covariance of the target fields.
    """

    def __init__(self, model: Model, target_gram: Array) -> None:
        self.model, self.target_gram = model, target_gram
        self.root = triangular(target_gram)
        # Signs that are drawn or turned, and added noise, are averaged apart.
        self._quiet = model.quiet()
        self.law: Coordinates = coordinates(self._quiet, self.root)
        self._student_kinks = list(model.activation.kinks("x"))

    @property
    def square(self) -> bool:
        """Whether the loss is half the squared error."""
        return is_square(self.model)

    def errors(self, gram: Array, overlap: Array, readout: Array, stream: np.random.Generator) -> dict[str, float]:
        """Return test_loss, generalization_error and classification_error where each has a meaning.

        Parameters
        ----------
        gram, overlap : (K, K) and (K, M) arrays
            Covariances of the student fields, and of student with target fields.
        readout : (K,) array
        stream : numpy.random.Generator
            Of the Sobol' points, where they are needed.
        """
        out: dict[str, float] = {}
        regression = self.square or (self.model.noiseless and not self.model.two_valued)
        by_pairs = self._by_pairs(gram, overlap, readout) if regression else None
        if by_pairs is not None:
            out |= by_pairs
        if "test_loss" not in out or self.model.two_valued:
            out = self._by_fields(gram, overlap, readout, stream) | out
        return out

    def _by_pairs(self, gram: Array, overlap: Array, readout: Array) -> dict[str, float] | None:
        """Return what follows from E f^2, E f f* and E f*^2, or None where these have no quadrature."""
        cross = self._with_label(gram, overlap)
        if cross is None:
            return None
        clean, noisy = cross
        square = readout @ self._students(gram) @ readout
        out = {}
        if self.model.noiseless:
            out["generalization_error"] = 0.5 * float(square - 2.0 * readout @ clean + self.label_moments.clean_square)
        if self.square:
            out["test_loss"] = 0.5 * float(square - 2.0 * readout @ noisy + self.label_moments.label_square)
        return out

    def _students(self, gram: Array) -> Array:
        """Return E[g(lam_k) g(lam_l)]."""
        g = self.model.activation
        out = np.empty_like(gram)
        for k in range(len(gram)):
            for l in range(k + 1):
                out[k, l] = out[l, k] = self.pair((g, "x"), (g, "x"), gram[k, k], gram[k, l], gram[l, l])
        return out

    def _with_label(self, gram: Array, overlap: Array) -> tuple[Array, Array] | None:
        """Return E[g(lam_k) f*] and E[g(lam_k) y]."""
        model, g = self.model, self.model.activation
        one = model.one_field()
        if one is not None:
            h, variable, c = one
            used = np.flatnonzero(c)
            values = np.zeros(len(gram))
            for k in range(len(gram)):
                for m in used:
                    own = (gram[k, k], overlap[k, m], self.target_gram[m, m])
                    values[k] += c[m] * self.pair((g, "x"), (h, variable), *own)
            return values, (1.0 - 2.0 * model.flip) * values
        if self.law.active >= NESTED_FIELDS or not self.law.aligned:
            return None
        clean, noisy = np.empty(len(gram)), np.empty(len(gram))
        for k in range(len(gram)):
            points, weights = self._nested(gram[k : k + 1, k : k + 1], overlap[k : k + 1], self._student_kinks)
            network, formula = weights * g.evaluate(np, x=points[-1]), self._formula(points[:-1])
            clean[k], noisy[k] = network @ formula, network @ self._mean(formula)
        return clean, noisy

    def _mean(self, formula: Array) -> Array:
        """Return E[y | h]."""
        return (1.0 - 2.0 * self.model.flip) * (np.tanh(0.5 * formula) if self.model.logit else formula)

    def _joint(self, gram: Array, overlap: Array) -> Array:
        """Return the covariance of the label's active coordinates and the student fields."""
        active, directions = self.law.active, self.root.shape[1]
        along = np.linalg.lstsq(self.root, overlap.T, rcond=None)[0].T
        cross = along @ self.law.turn[:directions, :active]
        return np.block([[np.eye(active), cross.T], [cross, gram]])

    def _nested(self, gram: Array, overlap: Array, kinks: Sequence[float]) -> tuple[Array, Array]:
        active = self.law.active
        kinked = [*self.law.kinks[:active], *([sorted(kinks)] * len(gram))]
        return nested_points(self._joint(gram, overlap), kinked, *self._coarser(active + len(gram)))

    def _coarser(self, fields: int) -> tuple[float, int]:
        """Return the rule of an average over so many fields: nodes multiply, and three fields make do with fewer."""
        step, order = self.rule
        return (step, order) if fields <= 2 else (min(0.5, 2.0 * step), max(12, order // 2))

    @cached_property
    def rule(self) -> tuple[float, int]:
        """The coarsest rule that agrees with the next finer one on what the formulas need, at unit variances."""
        g, one = (self.model.activation, "x"), self.model.one_field()
        probes = [(g, g)] if one is None else [(g, g), (g, one[:2]), (one[:2], one[:2])]
        values = [np.array([_pair(p, q, 1.0, 0.6, 1.0, rule) for p, q in probes]) for rule in RULES[:2]]
        for level in range(1, len(RULES)):
            if level == len(values):
                values.append(np.array([_pair(p, q, 1.0, 0.6, 1.0, RULES[level]) for p, q in probes]))
            if np.abs(values[level] - values[level - 1]).max() <= AGREEMENT * (1.0 + np.abs(values[level]).max()):
                return RULES[level - 1]
        return RULES[-1]

    def pair(
        self, first: tuple[Expression, str], second: tuple[Expression, str], uu: float, uv: float, vv: float
    ) -> float:
        """Return E[p(u) q(v)] for two formulas in one variable each and fields of the given covariance."""
        return _pair(first, second, uu, uv, vv, self.rule)

    def _formula(self, active: Array) -> Array:
        """Return the formula of the label at values of its active coordinates."""
        points = np.zeros((len(self.law.turn), active.shape[1]))
        points[: len(active)] = active
        return labels_of(self._quiet, self.root, self.law.turn, points)

    def _branches(self, formula: Array) -> list[tuple[Array, Array]]:
        """Return labels with their probabilities given the formula, without added noise."""
        flip, one = self.model.flip, np.ones_like(formula)
        found = [(formula, one)]
        if self.model.logit:
            found = [(y * one, 0.5 * (1.0 + np.tanh(0.5 * y * formula))) for y in (1.0, -1.0)]
        if flip > 0:
            found = [(s * y, p * q) for y, p in found for s, q in ((1.0, 1.0 - flip), (-1.0, flip))]
        return found

    def _by_fields(self, gram: Array, overlap: Array, readout: Array, stream: np.random.Generator) -> dict[str, float]:
        """Return averages over all fields at once."""
        model, students, active = self.model, len(gram), self.law.active
        covariance = self._joint(gram, overlap)
        kinks: list[Sequence[float]] = list(self.law.kinks[:active])
        if model.noise > 0:
            covariance = np.block(
                [[covariance, np.zeros((len(covariance), 1))], [np.zeros((1, len(covariance))), np.ones((1, 1))]]
            )
        # Where the loss is kinked in the output, or the class changes, is on an axis for one unit and two labels only.
        split = students == 1 or not (model.two_valued or self._student_kinks)
        if len(covariance) <= NESTED_FIELDS and self.law.aligned and split:
            own = sorted({*self._student_kinks, *(self._crossings(readout[0]) if model.two_valued else [])})
            kinks += [own] * students + [()] * (model.noise > 0)
            smooth = model.two_valued or not model.loss.kink_planes()
            rule = self._coarser(len(covariance)) if smooth else KINKED_RULES[len(covariance)]
            points, weights = nested_points(covariance, kinks, *rule)
        else:
            points = triangular(covariance) @ normals(len(covariance), SOBOL_POINTS, stream)
            weights = np.full(SOBOL_POINTS, 1.0 / SOBOL_POINTS)
        formula, output = self._formula(points[:active]), model.output(np, points[active : active + students], readout)
        added = model.noise * points[-1] if model.noise > 0 else 0.0
        out = {"test_loss": 0.0}
        for labels, probability in self._branches(formula):
            weighted = weights * probability
            out["test_loss"] += float(weighted @ model.loss.evaluate(np, f=output, y=labels + added))
            if model.two_valued:
                out["classification_error"] = out.get("classification_error", 0.0) + float(
                    weighted @ (output * labels <= 0)
                )
        if model.noiseless and not model.two_valued:
            out["generalization_error"] = 0.5 * float(weights @ (output - formula) ** 2)
        return out

    def _crossings(self, readout: float) -> list[float]:
        """Return the fields at which one unit changes its class, or its loss is not smooth for a label +1 or -1."""
        loss = loss_function(self.model.loss.text)
        grid = np.linspace(-30.0, 30.0, 6002)
        values = readout * self.model.activation.evaluate(np, x=grid)
        found = []
        for level in {0.0, *loss.kinks(1.0), *loss.kinks(-1.0)}:

            def above(x: float, level: float = level) -> float:
                return readout * float(self.model.activation.evaluate(np, x=np.float64(x))) - level

            for i in np.flatnonzero((values[:-1] - level) * (values[1:] - level) < 0):
                found.append(float(find_root(above, grid[i], grid[i + 1], xtol=1e-14)))
        return found

    @cached_property
    def label_moments(self) -> Regression:
        """Second moments of the label, by quadrature over what its formula is made of.

        Raises
        ------
        ValueError
            When that is more than three independent coordinates, or kinked on no planes.
        """
        active, noise, turned = self.law.active, self.model.noise, 1.0 - 2.0 * self.model.flip
        one = self.model.one_field()
        if one is not None:
            h, variable, c = one
            used = np.flatnonzero(c)
            square, beta, gram = 0.0, np.zeros(len(c)), self.target_gram
            for m in used:
                for n in used:
                    own = (gram[m, m], gram[m, n], gram[n, n])
                    square += c[m] * c[n] * self.pair((h, variable), (h, variable), *own)
                x, w = nested_points(gram[m : m + 1, m : m + 1], [h.kinks(variable)], *self.rule)
                along = float(w @ (x[0] * h.evaluate(np, **{variable: x[0]})))
                beta[m] = turned * c[m] * along / gram[m, m] if gram[m, m] > 0 else 0.0
            return Regression(beta, square + noise * noise, square)
        if active > NESTED_FIELDS or not self.law.aligned:
            raise ValueError(f"the label is made of {active} independent coordinates, or is kinked on no planes")
        points, weights = nested_points(np.eye(active), self.law.kinks[:active], *self._coarser(active))
        formula = self._formula(points)
        slopes = self.law.turn[: self.root.shape[1], :active] @ (points @ (weights * self._mean(formula)))
        slopes_on_fields: Array = np.asarray(np.linalg.lstsq(self.root.T, slopes, rcond=None)[0], dtype=np.float64)
        clean = float(weights @ formula**2)
        return Regression(slopes_on_fields, (1.0 if self.model.logit else clean) + noise * noise, clean)


def is_square(model: Model) -> bool:
    """Return whether the loss is half the squared error."""
    return model.loss == loss_function("square").expression


def _pair(
    first: tuple[Expression, str], second: tuple[Expression, str], uu: float, uv: float, vv: float,
    rule: tuple[float, int],
) -> float:  # fmt: skip
    (p, a), (q, b) = first, second
    points, weights = nested_points(np.array([[uu, uv], [uv, vv]]), [p.kinks(a), q.kinks(b)], *rule)
    return float(weights @ (p.evaluate(np, **{a: points[0]}) * q.evaluate(np, **{b: points[1]})))
