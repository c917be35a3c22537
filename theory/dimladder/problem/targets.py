"""``[target]``: what the label y of an input x is."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Literal

from .activations import activation
from .checks import at_least, finite, formula, not_negative, probabilities, square
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


class Drift(Spec, frozen=True, kw_only=True):
    """w*_m <- (1 - rate/(2 d)) w*_m + (1/d) sum_n mixing_mn w*_n + sqrt(noise/d) |w*_m(0)| zeta_m/sqrt d at every step.

    Attributes
    ----------
    rate : float
    noise : float
        `rate` unless given: then norms stay what they are, and w* forgets itself at half that rate.
    mixing : rows
        Between the teachers; antisymmetric: a rotation.
    """

    rate: float = 0.0
    noise: float | None = None
    mixing: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        not_negative(rate=self.rate, noise=self.noise)
        finite(mixing=self.mixing)
        if any(len(row) != len(self.mixing) for row in self.mixing):
            raise ValueError("mixing must be a square matrix, a row and a column a teacher")


class Committee(Spec, frozen=True, kw_only=True, tag_field="kind", tag="committee"):
    """y = sum_m readout_m g(w*_m.x/sqrt d) + noise xi, with overlap_mn = w*_m.w*_n/d.

    Attributes
    ----------
    activation : str
    readout : sequence of float, or rows
        It sets the number of teacher units. Rows: one a task; with several outputs one an output, task by task.
    outputs : int
        Dimension of y; the noises of its entries are independent.
    overlap : rows
        Gram matrix of all teacher units; identity unless given.
    noise : float, or a formula in the time ``t``
        Standard deviation of the label noise.
    power : shares of |w*|^2 by block of the spectrum
        A list, ``{ exponent }`` or ``{ file }``; default: the shares of the dimensions.
    drift : table
        How the teachers move while the student learns.
    """

    activation: str = "erf"
    readout: tuple[float | tuple[float, ...], ...]
    outputs: int = 1
    overlap: tuple[tuple[float, ...], ...] = ()
    noise: Timed = 0.0
    power: PowerShares | None = None
    drift: Drift | None = None

    timed: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self) -> None:
        activation(self.activation)
        check_timed("noise", self.noise, 0.0)
        check_power(self.power)
        if not self.readout:
            raise ValueError("readout must have at least one entry: it sets the number of teacher units")
        at_least(1, outputs=self.outputs)
        if len({isinstance(row, tuple) for row in self.readout}) != 1:
            raise ValueError("readout is a list of numbers, or one row a task")
        if len({len(row) for row in self.readout if isinstance(row, tuple)}) > 1:
            raise ValueError("readout must have rows of one length, an entry a teacher unit")
        if len(self.readouts) % self.outputs:
            raise ValueError(
                f"readout needs a row an output, task by task: {len(self.readouts)} for {self.outputs} outputs"
            )
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
        """One row of readouts an output, task by task; a single row where there is one of each."""
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
    drift : table
        How the teachers move while the student learns.
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
    drift: Drift | None = None

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
        if self.is_logit or self.fields != ("z",) or self.noises:
            return None
        import numpy as np

        # At points of all sizes: to import sympy takes longer than a solve.
        z = np.random.default_rng(0).standard_normal(200) * np.geomspace(1e-6, 1e3, 200)
        c = float(self.clean(np.ones((1, 1)))[0])
        with np.errstate(all="ignore"):
            proportional = abs(self.clean(z[None]) - c * z) <= 1e-12 * abs(c * z)
        return c if proportional.all() else None


class VectorIndex(Spec, frozen=True, kw_only=True, tag_field="kind", tag="vector-index"):
    """y_j = formula_j(z1, z2, ...) + noise xi_j, z_m = w*_m.x/sqrt d of covariance `overlap`, one formula an output.

    Attributes
    ----------
    formulas : sequence of str
        In ``z`` (one direction) or ``z1, z2, ...``.
    argmax : bool
        The label is a class: the number, from 0, of the largest formula. As a vector it is the unit vector of it.
    noise : float, or a formula in the time ``t``
        Standard deviation of independent noises added to the entries of y.
    overlap : rows
        Covariance of the fields; identity unless given. |w*_m|^2 is as for an index target.
    hermite : {"probabilists", "orthonormal", "factorial"}
        Convention of ``HeN`` in the formulas.
    power : shares of |w*|^2 by block of the spectrum
    """

    formulas: tuple[str, ...]
    argmax: bool = False
    noise: Timed = 0.0
    overlap: tuple[tuple[float, ...], ...] = ()
    hermite: HermiteConvention = "probabilists"
    power: PowerShares | None = None

    timed: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self) -> None:
        check_timed("noise", self.noise, 0.0)
        check_power(self.power)
        if len(self.formulas) < 2:
            raise ValueError('formulas has one entry an output, two at least; a single one is kind = "index"')
        if self.argmax and self.noise:
            raise ValueError("noise adds to numbers: a label that is a class has none")
        names = {name for row in self.expressions for name in row.variables}
        if not names:
            raise ValueError("formulas must use a field: z, or z1, z2, ...")
        if "z" in names and len(names) > 1:
            raise ValueError("formulas name their fields z (one) or z1, z2, ... (several), not both")
        if any(name != "z" and int(name[1:]) < 1 for name in names):
            raise ValueError("formulas count their fields from 1")
        if self.argmax and len(set(self.formulas)) < len(self.formulas):
            raise ValueError("formulas of classes must differ: two equal ones have no largest")
        if self.overlap:
            square("overlap", self.overlap, self.directions, "direction")

    @cached_property
    def expressions(self) -> tuple[Expression, ...]:
        """The formulas, parsed."""
        return tuple(formula("formulas", text, ("z", "z*"), self.hermite) for text in self.formulas)

    @property
    def directions(self) -> int:
        """Number of hidden directions: the highest index used."""
        return max(1 if name == "z" else int(name[1:]) for row in self.expressions for name in row.variables)


class ClusterLabels(Spec, frozen=True, kw_only=True, tag_field="kind", tag="cluster-labels"):
    """The label of a point is that of its cluster.

    Attributes
    ----------
    labels : sequence of float, formula or row
        One a cluster; default: +1 and -1 for two, 0, 1, 2, ... for more, and for losses of classes. A text is a formula
        as of an index target, in ``z`` = w*.x and noise ``n1, n2, ...``: one link a cluster, such as
        ``["sign(z)", "-sign(z)", 1.0]``. A row has a number an output.
    direction : "random", "aligned" or sequence of float
        Of w* where a label is a formula: as of an index target.
    """

    labels: tuple[float | str | tuple[float, ...], ...] = ()
    direction: Literal["random", "aligned"] | tuple[float, ...] = "random"

    def __post_init__(self) -> None:
        for label in self.labels:
            if isinstance(label, str):
                Index(formula=label)
            else:
                finite(labels=label)
        if len({len(label) for label in self.labels if isinstance(label, tuple)}) > 1 or (
            self.rows and len(self.rows) < len(self.labels)
        ):
            raise ValueError("labels are numbers and formulas, or rows of one length, an entry an output")
        if self.rows and len(self.rows[0]) < 2:
            raise ValueError("labels that are rows have an entry an output, two at least")
        if isinstance(self.direction, tuple) and not any(self.direction):
            raise ValueError("direction must not be the zero vector")
        if self.direction != "random" and not any(isinstance(label, str) for label in self.labels):
            raise ValueError("direction is that of the field z: no label is a formula")

    @property
    def rows(self) -> tuple[tuple[float, ...], ...]:
        """The labels that are rows, a number an output; all of them, or none."""
        return tuple(label for label in self.labels if isinstance(label, tuple))

    def vectors(self, clusters: int) -> tuple[tuple[float, ...], ...]:
        """Return one row a cluster; `ValueError` when their number does not fit."""
        if len(self.rows) != clusters:
            raise ValueError(f"labels has {len(self.rows)} rows for {clusters} clusters")
        return self.rows

    def classes(self, clusters: int) -> tuple[int, ...]:
        """Return the class of each cluster, 0, 1, 2, ...: its number, unless labels say otherwise.

        Raises
        ------
        ValueError
            When they are not the numbers 0 ... m - 1, each at least once, m at least 2.
        """
        if not self.labels:
            return tuple(range(clusters))
        values = self.values(clusters)
        numbers = sorted(set(values))
        if numbers != [float(k) for k in range(len(numbers))] or len(numbers) < 2:
            raise ValueError(f"labels are classes 0, 1, 2, ..., at least two, got {list(values)}")
        return tuple(int(y) for y in values)

    def values(self, clusters: int) -> tuple[float, ...]:
        """Return one number a cluster; `ValueError` when their number does not fit, or one is no number."""
        found = self.laws(clusters)
        if any(isinstance(label, Index) for label in found):
            raise ValueError(f"labels are numbers here, not formulas: got {list(self.labels)}")
        return tuple(label for label in found if not isinstance(label, Index))

    def laws(self, clusters: int) -> tuple[float | Index, ...]:
        """Return a number, or an index target, a cluster; `ValueError` when their number does not fit, or for rows."""
        if self.rows:
            raise ValueError("labels that are rows belong to students of several outputs")
        if not self.labels:
            return (1.0, -1.0) if clusters == 2 else tuple(float(c) for c in range(clusters))
        if len(self.labels) != clusters:
            raise ValueError(f"labels has {len(self.labels)} entries for {clusters} clusters")
        known = [label for label in self.labels if not isinstance(label, tuple)]
        return tuple(Index(formula=label) if isinstance(label, str) else label for label in known)


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
