"""``[target]``: what the label y of an input x is."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Literal

from .activations import activation
from .checks import finite, formula, not_negative, probabilities, square
from .data import read_numbers
from .expressions import Expression, HermiteConvention
from .spec import Coefficients, Spec
from .timed import Timed, check_timed


class Power(Spec, frozen=True, kw_only=True):
    """Shares of |w*|^2 by level of the spectrum: k^-exponent normalised, or a file of them (``.npy`` or text)."""

    exponent: float | None = None
    file: str = ""

    def __post_init__(self) -> None:
        if (self.exponent is None) == (not self.file):
            raise ValueError("power is a list of shares, { exponent } or { file }: give one")
        finite(exponent=self.exponent)


# Shares of |w*|^2 by block of the spectrum. "latent": the teacher acts on the unscaled features Sigma^(-1/2) x.
PowerShares = Literal["latent"] | tuple[float, ...] | Power


def check_power(power: PowerShares | None) -> None:
    """Refuse shares that are negative or do not sum to 1."""
    if isinstance(power, tuple):
        probabilities("power", power, "block")


def power_shares(power: PowerShares | None, shares: Any) -> Any:
    """Return the shares of |w*|^2 by block, shape (blocks,): those of the dimensions where `power` is None.

    Raises
    ------
    ValueError
        When they do not fit the number of blocks; for ``"latent"``, which is a statement about eigenvalues.
    """
    import numpy as np

    if power is None:
        return np.asarray(shares, dtype=float)
    if power == "latent":
        raise ValueError('power = "latent" depends on the eigenvalues, not only on their shares')
    if isinstance(power, tuple):
        found = np.asarray(power, dtype=float)
    elif power.file:
        found = read_numbers(power.file, "power.file")
    else:
        assert power.exponent is not None
        found = np.arange(1, len(shares) + 1, dtype=float) ** -power.exponent
    if found.size != len(shares):
        raise ValueError(f"power has {found.size} entries, the spectrum {len(shares)} blocks")
    return found / found.sum()


class Committee(Spec, frozen=True, kw_only=True, tag_field="kind", tag="committee"):
    """y = sum_m readout_m g(w*_m.x/sqrt d) + noise xi, with overlap_mn = w*_m.w*_n/d.

    Attributes
    ----------
    activation : str
    readout : sequence of float, or one such row a task
        It sets the number of teacher units.
    overlap : rows
        Gram matrix of all teacher units; identity unless given.
    noise : float, or a formula in the time ``t``
        Standard deviation of the label noise.
    power : shares of |w*|^2 by block of the spectrum
        A list, ``{ exponent }`` or ``{ file }``; default: the shares of the dimensions.
    """

    activation: str = "erf"
    readout: tuple[float | tuple[float, ...], ...]
    overlap: tuple[tuple[float, ...], ...] = ()
    noise: Timed = 0.0
    power: PowerShares | None = None

    timed: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self) -> None:
        activation(self.activation)
        check_timed("noise", self.noise, 0.0)
        check_power(self.power)
        if not self.readout:
            raise ValueError("readout must have at least one entry: it sets the number of teacher units")
        if len({isinstance(row, tuple) for row in self.readout}) != 1:
            raise ValueError("readout is a list of numbers, or one row a task")
        if len({len(row) for row in self.readout if isinstance(row, tuple)}) > 1:
            raise ValueError("readout must have rows of one length, an entry a teacher unit")
        m = self.units
        if self.overlap and (len(self.overlap) != m or any(len(row) != m for row in self.overlap)):
            raise ValueError(f"overlap must be a {m} x {m} matrix, one row a teacher unit")

    @property
    def units(self) -> int:
        """Number of teacher units."""
        first = self.readout[0]
        return len(first) if isinstance(first, tuple) else len(self.readout)

    @property
    def readouts(self) -> tuple[tuple[float, ...], ...]:
        """One row of readouts a task; a single row where there are no tasks."""
        rows = tuple(row for row in self.readout if isinstance(row, tuple))
        return rows or (tuple(float(a) for a in self.readout if not isinstance(a, tuple)),)


class Outliers(Spec, frozen=True, kw_only=True):
    """With that probability the label is `formula` instead."""

    probability: float
    formula: str

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {self.probability}")
        formula("formula", self.formula, INDEX_VARIABLES)


class Prior(Spec, frozen=True, kw_only=True):
    """Law of the entries of w*: normal, or of variance one with a share `rate` of non-zero entries."""

    kind: Literal["normal", "rademacher", "gauss-bernoulli"]
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is a probability: it must lie in (0, 1], got {self.rate}")
        if self.rate != 1.0 and self.kind != "gauss-bernoulli":
            raise ValueError(f"rate belongs to the gauss-bernoulli prior, not to {self.kind}")


# Latent fields z or z1, z2, ...; fresh standard normal noise n1, n2, ...
INDEX_VARIABLES = ("z", "z*", "n*")
_LOGIT = re.compile(r"\s*logit\s*\((.*)\)\s*", re.DOTALL)


class Index(Spec, frozen=True, kw_only=True, tag_field="kind", tag="index"):
    """y = formula(z1, z2, ..., n1, n2, ...) + noise xi, z_m = w*_m.x/sqrt d of covariance `overlap`.

    For isotropic inputs |w*_m|^2 = d; for others the scale of w* follows from that of z, its shape from `power`.

    Attributes
    ----------
    formula : str
        In ``z`` (one direction) or ``z1, z2, ...``, and noise ``n1, n2, ...`` ~ N(0, 1), fresh for every sample, inside
        the link. ``logit(a)``: y = +1 with probability 1/(1 + exp(-a)), else -1.
    noise : float, or a formula in the time ``t``
        Standard deviation of noise added to y.
    overlap : rows
        Covariance of the fields; identity unless given.
    direction : "random", "aligned" or sequence of float
        Of w* among the distinguished directions of the data: orthogonal to them, their sum, or coordinates.
    flip : float
        Probability that the sign of y is flipped.
    outliers : {probability, formula}
    prior : "normal", "rademacher" or {kind, rate}
        Law of the entries of w*.
    hermite : {"probabilists", "orthonormal", "factorial"}
        Convention of ``HeN`` in the formula.
    power : shares of |w*|^2 by block of the spectrum
        A list, ``{ exponent }``, ``{ file }``, or ``"latent"``; default: the shares of the dimensions.
    """

    formula: str
    noise: Timed = 0.0
    overlap: tuple[tuple[float, ...], ...] = ()
    direction: Literal["random", "aligned"] | tuple[float, ...] = "random"
    flip: float = 0.0
    outliers: Outliers | None = None
    prior: Literal["normal", "rademacher"] | Prior = "normal"
    hermite: HermiteConvention = "probabilists"
    power: PowerShares | None = None

    timed: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self) -> None:
        check_timed("noise", self.noise, 0.0)
        check_power(self.power)
        if not self.fields and not self.noises:
            raise ValueError("the formula must use a field: z, or z1, z2, ...")
        if "z" in self.fields and len(self.fields) > 1:
            raise ValueError("the formula names its fields z (one) or z1, z2, ... (several), not both")
        if any(not name[1:].isdigit() or int(name[1:]) < 1 for name in (*self.fields, *self.noises) if name != "z"):
            raise ValueError("the formula counts its fields and noises from 1")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability: it must lie in [0, 1], got {self.flip}")
        if isinstance(self.direction, tuple) and not any(self.direction):
            raise ValueError("direction must not be the zero vector")
        if self.overlap:
            square("overlap", self.overlap, self.directions, "direction")

    @cached_property
    def _logit(self) -> str | None:
        found = _LOGIT.fullmatch(self.formula)
        return found.group(1) if found else None

    @cached_property
    def expression(self) -> Expression:
        """The formula; for ``logit(a)`` that of a (see `is_logit`)."""
        return formula("formula", self._logit or self.formula, INDEX_VARIABLES, self.hermite)

    @property
    def is_logit(self) -> bool:
        """Whether y is a sign drawn with probability 1/(1 + exp(-expression)) of +1."""
        return self._logit is not None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the latent fields in the formula, in their order."""
        return tuple(name for name in self.expression.variables if name.startswith("z"))

    @property
    def noises(self) -> tuple[str, ...]:
        """Names of the noises inside the formula, in their order."""
        return tuple(name for name in self.expression.variables if name.startswith("n"))

    @property
    def directions(self) -> int:
        """Number of hidden directions: the highest index used."""
        return max((1 if name == "z" else int(name[1:]) for name in self.fields), default=0)

    def clean(self, z: Any) -> Any:
        """The formula without noise, at fields of shape (directions, ...)."""
        import numpy as np

        known = {f"z{i + 1}": z[i] for i in range(len(z))} | {"z": z[0]} | dict.fromkeys(self.noises, 0.0 * z[0])
        used = {name: known[name] for name in self.expression.variables}
        return np.broadcast_to(np.asarray(self.expression.evaluate(np, **used), dtype=float), z[0].shape)

    @cached_property
    def alike(self) -> bool:
        """Whether its two fields are exchangeable, uncorrelated, and a change of one's sign keeps or flips y."""
        import numpy as np

        if self.directions != 2 or (self.overlap and not np.allclose(self.overlap, np.eye(2))):
            return False
        z1, z2 = np.random.default_rng(0).standard_normal((2, 400))
        y, other, mirrored = (self.clean(np.array(z)) for z in ((z1, z2), (z2, z1), (-z1, z2)))
        scale = 1e-10 * (1.0 + np.max(np.abs(y)))
        even, odd = np.max(np.abs(y - mirrored)) <= scale, np.max(np.abs(y + mirrored)) <= scale
        return bool(np.max(np.abs(y - other)) <= scale and (even or odd))

    @cached_property
    def slope(self) -> float | None:
        """c where the formula is c z, else None."""
        terms = None if self.is_logit or self.fields != ("z",) or self.noises else self.expression.sympy()
        if terms is None or not terms.is_polynomial():
            return None
        import sympy as sp

        polynomial = sp.Poly(terms, sp.Symbol("z", real=True))
        constant, linear = (float(polynomial.coeff_monomial(k)) for k in (1, sp.Symbol("z", real=True)))
        return linear if polynomial.degree() <= 1 and constant == 0.0 else None


class ClusterLabels(Spec, frozen=True, kw_only=True, tag_field="kind", tag="cluster-labels"):
    """The label of a point is that of its cluster.

    Attributes
    ----------
    labels : sequence of float or formula
        One a cluster; default: +1 and -1 for two, 0, 1, 2, ... for more. A text is a formula as of an index target, in
        ``z`` = w*.x and noise ``n1, n2, ...``: one link a cluster, such as ``["sign(z)", "-sign(z)", 1.0]``.
    direction : "random", "aligned" or sequence of float
        Of w* where a label is a formula: as of an index target.
    """

    labels: tuple[float | str, ...] = ()
    direction: Literal["random", "aligned"] | tuple[float, ...] = "random"

    def __post_init__(self) -> None:
        for label in self.labels:
            if isinstance(label, str):
                Index(formula=label)
            else:
                finite(labels=label)
        if isinstance(self.direction, tuple) and not any(self.direction):
            raise ValueError("direction must not be the zero vector")
        if self.direction != "random" and not any(isinstance(label, str) for label in self.labels):
            raise ValueError("direction is that of the field z: no label is a formula")

    def values(self, clusters: int) -> tuple[float, ...]:
        """Return one number a cluster; `ValueError` when their number does not fit, or one is a formula."""
        found = self.laws(clusters)
        if any(isinstance(label, Index) for label in found):
            raise ValueError(f"labels are numbers here, not formulas: got {list(self.labels)}")
        return tuple(label for label in found if not isinstance(label, Index))

    def laws(self, clusters: int) -> tuple[float | Index, ...]:
        """Return a number, or an index target, a cluster; `ValueError` when their number does not fit."""
        if not self.labels:
            return (1.0, -1.0) if clusters == 2 else tuple(float(c) for c in range(clusters))
        if len(self.labels) != clusters:
            raise ValueError(f"labels has {len(self.labels)} entries for {clusters} clusters")
        return tuple(Index(formula=label) if isinstance(label, str) else label for label in self.labels)


class Hierarchical(Spec, frozen=True, kw_only=True, tag_field="kind", tag="hierarchical"):
    """f*(x) = link(h), h a tree of polynomial features of d^eps_1, d^eps_2, ... hidden directions.

    ``features[l]`` holds the coefficients of the level-(l+1) polynomial on Hermite polynomials of the given convention.
    With ``branches = r > 1`` the link is a formula in ``h1 ... hr``, r such trees on orthogonal hidden directions.
    """

    exponents: tuple[float, ...]
    features: tuple[Coefficients, ...]
    link: str
    readout: Literal["ones", "rademacher", "gaussian"] | tuple[float, ...] = "ones"
    noise: float = 0.0
    hermite: HermiteConvention = "probabilists"
    branches: int = 1

    def __post_init__(self) -> None:
        not_negative(noise=self.noise)
        if self.branches < 1:
            raise ValueError(f"branches must be at least 1, got {self.branches}")
        used = self.expression.variables
        if not used:
            raise ValueError(f"the link must depend on {'h' if self.branches == 1 else 'h1, h2, ...'}")
        if isinstance(self.readout, tuple) and not any(self.readout):
            raise ValueError("a given readout must have a non-zero entry")
        if not self.exponents:
            raise ValueError("exponents must list at least one effective-dimension exponent")
        chain = (1.0, *self.exponents, 0.0)
        if any(b >= a for a, b in pairwise(chain)):
            raise ValueError(f"exponents must decrease strictly inside (0, 1), got {list(self.exponents)}")
        if len(self.features) != len(self.exponents):
            raise ValueError(
                f"features must have one polynomial for each exponent: got {len(self.features)} for "
                f"{len(self.exponents)} exponent(s)"
            )
        for level, coefficients in enumerate(self.features):
            if not any(k >= 1 and c != 0 for k, c in coefficients.items()):
                raise ValueError(f"features[{level}] must have a non-zero coefficient of degree 1 or more")

    @property
    def link_variables(self) -> tuple[str, ...]:
        """Names of the scalar features the link acts on: ``h``, or ``h1 ... hr`` with r branches."""
        return ("h",) if self.branches == 1 else tuple(f"h{m}" for m in range(1, self.branches + 1))

    @property
    def expression(self) -> Expression:
        """The link as a formula in `link_variables`."""
        return Expression(self.link, self.link_variables, self.hermite)


def expanded(target: Any) -> str:
    """Return the formula of a target with its Hermite polynomials written out, and their convention; "" without any."""
    text = getattr(target, "formula", "") or getattr(target, "link", "")
    if "He" not in text:
        return ""
    import sympy as sp

    formula = str(sp.expand(target.expression.sympy()))
    if getattr(target, "is_logit", False):
        formula = f"logit({formula})"
    return f"{formula} ({target.hermite} Hermite polynomials)"
