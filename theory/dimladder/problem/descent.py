"""Training on a fixed data set, as numbers and formulas: what the theory and the experiment both read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .activations import activation
from .expressions import Expression
from .geometry import random_overlaps, start_readout, teacher_count
from .kinds import kind_of
from .overlaps import matrix_of, require_semidefinite, require_symmetric
from .students import readout_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .spec import Problem

    Array = npt.NDArray[np.float64]

Batching = Literal["fresh", "epoch", "cyclic"]


@dataclass(frozen=True)
class Descent:
    """Gradient descent on ``n = sample_ratio d`` samples that are drawn once.

    With u = s dl/dlam on a sample, s its mask in the batch, one update is

        w <- w + v,    v <- momentum v - eta sqrt(d)/(b n) sum_i u_i x_i - eta ridge w + noise xi,  xi ~ N(0, I_d),
        a <- a + v_a,  v_a <- momentum v_a - eta_a/(b n) sum_i s_i dl/da_i - eta_a readout_ridge a.

    Attributes
    ----------
    sample_ratio : float
        alpha = n/d.
    rates, readout_rates : (steps,) arrays
        eta and eta_a of every update.
    target_gram, start_overlap, start_gram : (blocks, M, M), (blocks, K, M) and (blocks, K, K) arrays
        w*.w*/d, w(0).w*/d and w(0).w(0)/d inside each block.
    start_readout : (K,) array
    variances, fractions : (blocks,) arrays
        Eigenvalues of the input covariance and the parts of the coordinates that have them.
    ridge, readout_ridge : float
        The objective is the mean loss + ridge |w|^2/(2 d) + readout_ridge |a|^2/2.
    momentum : float
    batch_fraction : float
        b, the part of the samples in one batch.
    batching : {"fresh", "epoch", "cyclic"}
        Every sample independently with probability b; a partition into 1/b batches drawn anew each epoch; one
        partition for ever.
    temperature : float
        That of the Gibbs measure exp(-objective/temperature) of the summed loss, which Langevin descent with full
        batches samples at small rates. Readouts have no noise: it would vanish as d grows.
    """

    sample_ratio: float
    rates: Array
    readout_rates: Array
    target_gram: Array
    start_overlap: Array
    start_gram: Array
    start_readout: Array
    variances: Array
    fractions: Array
    ridge: float = 0.0
    readout_ridge: float = 0.0
    momentum: float = 0.0
    batch_fraction: float = 1.0
    batching: Batching = "fresh"
    temperature: float = 0.0

    @classmethod
    def isotropic(cls, *, target_gram: Any, start_overlap: Any, start_gram: Any, **values: Any) -> Descent:
        """Return a run on inputs of covariance one, from Gram matrices without a block index."""
        import numpy as np

        grams = {"target_gram": target_gram, "start_overlap": start_overlap, "start_gram": start_gram}
        blocks: dict[str, Any] = {name: np.asarray(gram, dtype=float)[None] for name, gram in grams.items()}
        return cls(**blocks, variances=np.ones(1), fractions=np.ones(1), **values)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.rates)

    @property
    def students(self) -> int:
        """K."""
        return self.start_gram.shape[-1]

    @property
    def teachers(self) -> int:
        """M."""
        return self.target_gram.shape[-1]

    @property
    def blocks(self) -> int:
        """Number of eigenvalue blocks."""
        return len(self.variances)

    @property
    def batches(self) -> int:
        """Batches in an epoch, 1/b."""
        return round(1.0 / self.batch_fraction)

    @property
    def full(self) -> bool:
        """Whether every update sees every sample."""
        return self.batch_fraction == 1.0

    @property
    def noise(self) -> Array:
        """Standard deviation of the Langevin noise of every update in every coordinate of w, shape (steps,)."""
        import numpy as np

        return np.sqrt(2.0 * self.rates * (1.0 - self.momentum) * self.temperature / self.sample_ratio)

    def field_gram(self, overlaps: Array) -> Array:
        """Return the covariance of fields, sum_j s_j O_j, from overlaps with the blocks on the third axis from last."""
        return (self.variances[:, None, None] * overlaps).sum(axis=-3)

    def finer(self, times: int) -> Descent:
        """Return the run with every update split into `times` smaller ones."""
        rates, readout_rates = (r.repeat(times) / times for r in (self.rates, self.readout_rates))
        return replace(self, rates=rates, readout_rates=readout_rates)


@dataclass(frozen=True)
class Formulas:
    """f = sum_k a_k g(lam_k) trained by a loss l(f, y) on labels y = h(z, n).

    Attributes
    ----------
    students : int
        K.
    activation : Expression
        g, in ``x``.
    loss : Expression
        l, in ``f`` and ``y``.
    fields, noises : tuple of str
        Names of the target fields in order, and of the standard normal noises of the formula.
    target : Expression or None
        h, a formula in fields and noises; None for a committee.
    unit : Expression or None
        The activation of a committee's units, in ``x``.
    readout : tuple of float
        The readout of a committee.
    logit : bool
        Whether y is a sign, +1 with probability 1/(1 + exp(-h)).
    flip : float
        Probability that the sign of y is turned.
    noise : float
        Standard deviation of what is added to the label.
    """

    students: int
    activation: Expression
    loss: Expression
    fields: tuple[str, ...]
    target: Expression | None = None
    noises: tuple[str, ...] = ()
    unit: Expression | None = None
    readout: tuple[float, ...] = ()
    logit: bool = False
    flip: float = 0.0
    noise: float = 0.0

    @property
    def sources(self) -> int:
        """Number of independent normals that a label is made of: fields, noises, the logit, the flip, added noise."""
        return len(self.fields) + len(self.noises) + self.logit + (self.flip > 0) + (self.noise > 0)

    def formula(self, xp: Any, fields: Any, noises: Any) -> Any:
        """Return h, before any sign is drawn or turned and without added noise.

        Parameters
        ----------
        xp : module
            Array namespace.
        fields, noises : (M, ...) and (sources - M, ...) arrays
            Target fields, and all that is random beside them.
        """
        if self.target is None:
            assert self.unit is not None
            return sum(c * self.unit.evaluate(xp, x=fields[m]) for m, c in enumerate(self.readout)) + 0.0 * fields[0]
        named = {name: fields[m] for m, name in enumerate(self.fields)}
        named |= {name: noises[i] for i, name in enumerate(self.noises)}
        return self.target.evaluate(xp, **{v: named[v] for v in self.target.variables}) + 0.0 * fields[0]

    def labels(self, fields: Any, noises: Any) -> Any:
        """Return labels (NumPy arrays); arguments as in `formula`."""
        import numpy as np
        from scipy.special import log_ndtr, ndtri

        values, rest = self.formula(np, fields, noises), iter(noises[len(self.noises) :])
        if self.logit:
            n = next(rest)
            values = np.where(values + log_ndtr(n) - log_ndtr(-n) > 0, 1.0, -1.0)
        if self.flip > 0:
            values = np.where(next(rest) < ndtri(self.flip), -values, values)
        return values + self.noise * next(rest) if self.noise > 0 else values

    def output(self, xp: Any, fields: Any, readout: Any) -> Any:
        """Return the network's output of student fields (K, ...)."""
        return sum(a * self.activation.evaluate(xp, x=fields[k]) for k, a in enumerate(readout)) + 0.0 * fields[0]

    @cached_property
    def two_valued(self) -> bool:
        """Whether every label is +1 or -1 (seen on many draws)."""
        import numpy as np

        draws = np.random.default_rng(0).standard_normal((self.sources, 4096))
        return bool((abs(self.labels(draws[: len(self.fields)], draws[len(self.fields) :])) == 1.0).all())

    @property
    def noiseless(self) -> bool:
        """Whether a label without noise is a function of the fields, so that f* has a meaning."""
        return not self.noises and not self.logit


def formulas_of(problem: Problem) -> Formulas:
    """Return network, loss and labels of a problem."""
    target, student, loss = problem.target, problem.student, problem.loss.form.expression
    linear = kind_of(student) == "linear"
    g = activation("linear") if linear else Expression(activation(student.activation).text, ("x",), student.hermite)
    width = 1 if linear else student.width
    if kind_of(target) == "committee":
        names = tuple(f"z{m + 1}" for m in range(target.units))
        unit = activation(target.activation)
        return Formulas(width, g, loss, names, unit=unit, readout=target.readouts[0], noise=target.noise)
    names = ("z",) if target.fields == ("z",) else tuple(f"z{m + 1}" for m in range(target.directions))
    return Formulas(
        width, g, loss, names, target.expression, target.noises, logit=target.is_logit, flip=target.flip,
        noise=target.noise,
    )  # fmt: skip


def descent_of(problem: Problem) -> Descent:
    """Return the run of a problem in numbers; of a gradient flow the coarsest discretisation, update by update.

    Raises
    ------
    ConfigError
        For shapes that do not fit together; the message names the key.
    DomainError
        For matrices that no weights can have as overlaps.
    """
    import numpy as np

    algorithm, student = problem.algorithm, problem.student
    ratio = problem.data.ratio
    flow = kind_of(algorithm) == "gradient-flow"
    count = algorithm.steps * (algorithm.substeps if flow else 1)
    factor = np.ones(count)
    if not flow:
        schedule = Expression(algorithm.schedule, ("t", "T"))
        given = {"t": np.arange(count, dtype=float), "T": np.full(count, float(count))}
        factor = schedule.evaluate(np, **{v: given[v] for v in schedule.variables}) + np.zeros(count)
        if not np.isfinite(factor).all() or factor.min() < 0:
            raise ConfigError(
                "the schedule must be finite and not negative", where="algorithm.schedule",
                why=f"it is {factor[~np.isfinite(factor) | (factor < 0)][0]} at one of the updates 0..{count - 1}",
            )  # fmt: skip
    trained = kind_of(student) == "two-layer" and student.train_readout
    readout_rate = (
        algorithm.learning_rate if algorithm.readout_learning_rate is None else algorithm.readout_learning_rate
    )
    rates = factor * algorithm.learning_rate / (algorithm.substeps if flow else 1)
    readout_rates = factor * (readout_rate if trained else 0.0) / (algorithm.substeps if flow else 1)
    variances, fractions = np.ones(1), np.ones(1)
    if problem.data.spectrum is not None:
        variances, fractions = problem.data.spectrum.blocks()
    loss = problem.loss
    ridge = loss.ridge / ratio if loss.ridge is not None else loss.ridge_per_sample or 0.0
    teachers = _teachers(problem, variances, fractions)
    overlaps, grams = _start(problem, teachers, fractions)
    return Descent(
        ratio, rates, readout_rates, teachers, overlaps, grams, _readout(problem), variances, fractions,
        ridge=float(ridge), momentum=0.0 if flow or algorithm.momentum is None else algorithm.momentum.beta,
        batch_fraction=1.0 if flow else algorithm.batch_fraction,
        batching="fresh" if flow or algorithm.batch_fraction == 1.0 else algorithm.batching,
        temperature=0.0 if flow else algorithm.temperature,
    )  # fmt: skip


def outputs_of(problem: Problem) -> tuple[npt.NDArray[np.int64], Array]:
    """Return which updates of `descent_of` are reported, and their times: updates done, or flow time.

    Raises
    ------
    ConfigError
        For a time of the grid at which there is no output.
    """
    import numpy as np

    algorithm = problem.algorithm
    flow = kind_of(algorithm) == "gradient-flow"
    unit = algorithm.learning_rate if flow else 1.0
    counts = np.arange(algorithm.steps + 1)
    asked = problem.grid.values("time")
    if asked:
        exact = np.array(asked) / unit
        counts = np.round(exact).astype(np.int64)
        wrong = (np.abs(exact - counts) > 1e-9 * (1.0 + np.abs(exact))) | (counts > algorithm.steps)
        if wrong.any():
            raise ConfigError(
                f"there is no output at time {np.array(asked)[wrong][0]:g}", where="grid.time",
                why=f"outputs are at 0, {unit:g}, {2 * unit:g}, ..., {algorithm.steps * unit:g}",
                hint="list some of these, or leave grid.time out for all of them",
            )  # fmt: skip
    return counts * (algorithm.substeps if flow else 1), counts * unit


def _teachers(problem: Problem, variances: Array, fractions: Array) -> Array:
    """Return w*.w*/d inside each block; an index target's `overlap` is the covariance of its fields."""
    import numpy as np

    from .targets import power_shares

    target = problem.target
    index = kind_of(target) == "index"
    count = target.directions if index else target.units
    gram = np.array(target.overlap, dtype=float) if target.overlap else np.eye(count)
    require_symmetric(gram, "target.overlap")
    require_semidefinite(gram, "target.overlap")
    if target.power == "latent":
        shares = fractions / variances
    else:
        shares = power_shares(target.power, fractions)
    if index:
        shares = shares / (shares @ variances)
    return shares[:, None, None] * gram


def _start(problem: Problem, teachers: Array, fractions: Array) -> tuple[Array, Array]:
    """Return w(0).w*/d and w(0).w(0)/d inside each block, checked."""
    import numpy as np

    initial, blocks, count = problem.initial, len(fractions), teachers.shape[1]
    width = 1 if kind_of(problem.student) == "linear" else problem.student.width
    shares = fractions[:, None, None]
    if kind_of(initial) == "random":
        stream = np.random.Generator(np.random.PCG64(initial.seed))
        norm = 1.0 if initial.norm is None else initial.norm
        overlap, gram = random_overlaps(stream, width, teachers.sum(axis=0), initial.overlap or 0.0, norm)
        return _checked(teachers, shares * overlap, shares * gram)
    identity = tuple(tuple(float(i == k) for k in range(width)) for i in range(width))
    totals = {"M": initial.M or ((0.0,) * count,) * width, "Q": initial.Q or identity}
    found = []
    for name, shape in (("M", (width, count)), ("Q", (width, width))):
        resolved = getattr(initial, f"block_{name}")
        if resolved is None:
            found.append(shares * matrix_of(totals[name], shape, f"initial.{name}"))
            continue
        key = f"initial.block_{name}"
        if len(resolved) != blocks:
            raise ConfigError(f"{key} has one matrix a block", where=key, why=f"{len(resolved)} for {blocks} blocks")
        found.append(np.array([matrix_of(rows, shape, key) for rows in resolved]))
    return _checked(teachers, found[0], found[1])


def _checked(teachers: Array, overlaps: Array, grams: Array) -> tuple[Array, Array]:
    import numpy as np

    for target, cross, own in zip(teachers, overlaps, grams, strict=True):
        require_symmetric(own, "initial.Q")
        require_semidefinite(own, "initial.Q")
        require_semidefinite(
            np.block([[own, cross], [cross.T, target]]), "initial.M",
            "M is inconsistent with Q and the target's overlaps: [[Q, M], [M^T, T]] has a negative eigenvalue",
        )  # fmt: skip
    return overlaps, grams


def _readout(problem: Problem) -> Array:
    """Return the readouts at the start; 1 of a linear student."""
    import numpy as np

    initial = problem.initial
    if kind_of(problem.student) == "linear":
        given = (1.0,) if initial.a is None else initial.a
        return matrix_of(readout_rows(given), (1, 1), "initial.a")[0]
    stream = np.random.Generator(np.random.PCG64(getattr(initial, "seed", 0)))
    if kind_of(initial) == "random":
        # Directions are drawn first.
        stream.standard_normal((problem.student.width, teacher_count(problem)))
    return start_readout(problem, stream)
