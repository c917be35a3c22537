"""A one-pass problem as one table: who emits the samples, the blocks of the inputs, the vectors, how they move.

    x | c = m_c + sum_b sqrt(s_cb) Pi_b z,   P(c) = p_c(t),   m_c = sum_r means[c, r] r_r / sqrt d
    y | c = y0_c + sum_m A_cm g*(w*_m.x/sqrt d) + sigma_c z',   f | c = sum_k mask_ck a^h(c)_k g(w_k.x/sqrt d + b_k)
    (several outputs: y0_c, A_c and a^h have a row an output, and y and f are vectors)
    u_p <- u_p + (1/d) sum_q L_pq u_q - (P_p/sqrt d) mean_batch[a g'(lambda_w) l'(f, y) x]         time = steps/d

Theories derive their flow from it, experiments run it at finite d: what both share is the problem, as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .activations import activation
from .algorithms import Episodes
from .data import HiddenManifold, Mixture
from .emitters import chances, masks_of, moving_numbers
from .expressions import Expression
from .losses import LossFunction
from .spec import Problem
from .students import Linear
from .timed import Moving
from .update_labels import loss_of, outputs_of, sources_of, units_of
from .update_presets import extras_of, moves_of
from .vector_losses import VectorLoss

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """One-pass training as numbers. C sources (with dropout: source x mask), B blocks, S species of K vectors each.

    Vectors are numbered species by species (K each), then the M teachers, then the D directions of the means: n in all.

    Attributes
    ----------
    species : tuple of str
        ``"w"``, the trained weights, first; then ``"u"`` (momentum) or those of ``[algorithm.vectors]``
        by name.
    outputs : tuple of str
        Species beside w whose network is measured.
    K, M, D, heads, Y : int
        Hidden units, teachers, directions of the means, readouts of tasks, outputs: the dimension of y.
    activation, slope : Expression
        g, in ``x``; its slope where that is given instead, and g is then without meaning.
    teacher : Expression or None
        g* of a committee, in ``x``.
    index : tuple of Expression
        The target as formulas in the teachers' fields, ``z`` or ``z1, z2, ...``, one an output; empty for others.
    argmax : bool
        Whether the label is a class, that of the largest of these formulas, and y its unit vector.
    shares : array (B,)
        gamma_b, the share of the coordinates; 0: a single direction.
    variances : array (C, B)
        s_cb.
    means : array (C, D)
        m_c in the directions.
    stages : tuple of (end, weights)
        Probabilities of the sources until that time, in the order of time; the last one stays.
    labels, noise : arrays (C, Y), (C,)
        y0_c, and the standard deviation sigma_c of the label noise.
    teacher_rows : array (C, Y M)
        A_c, output by output; ones where `index` is given.
    head : int array (C,)
        Which readout is used.
    masks : array (C, K)
        Which units are kept.
    emitter : int array (C,)
        The source without its mask: the index of ``error(time, source)``.
    drift, scheduled_drift : arrays (S, S)
        L, and the part of it that the learning-rate schedule multiplies.
    gain, fixed_gain : arrays (S,)
        P that the schedule multiplies, and the part that it does not.
    coefficients : tuple of (Expression or None), or None
        Sample coefficients b_p instead of P where an update rule is not a multiple of the gradient; see `update_text`.
    sampled_drift : tuple (S) of tuples (S) of (Expression or None), or None
        L where it depends on the sample, beside `drift`: of the unit's vector q in the row of its vector p.
    kick, fixed_kick : arrays (S,)
        Fresh noise: u_p += (kick_p + fixed_kick_p) zeta_k/sqrt d, one zeta a unit; the schedule multiplies the first.
    beta : float or None
        Momentum of order one, w and u: `gain` is lr/(1 - beta) for w, the limit; a finite d runs the rule itself.
    readout_rate, readout_decay : float
        da = -rate mean[mask g l'] - decay a, in units of 1/d; the schedule multiplies the rate.
    bias_rate : float or None
        Biases are a coordinate of the weights, moved at this multiple of their rate: decay and momentum act on it.
    schedule : str
        Factor of the rates, a formula in ``t``.
    batch : float
        Samples a step.
    uses : int
    displacement : float
    spherical : bool
    regime : str
    loss : LossFunction, or VectorLoss where Y > 1
    gram : array (B, n, n)
        Gamma^b at time 0: V_p.Pi_b V_q / d.
    a, bias : arrays (heads Y, K), (S, K)
        Readouts, head by head and output by output, and biases at time 0.
    nodes : bool
        Whether the blocks are nodes of a Gauss rule in the eigenvalue, which no finite d has.
    feedback : array (K,) or None
        What takes the place of the readouts in P's sample: feedback alignment.
    input_noise, weight_noise : float
        Standard deviations of fresh noise on the inputs of a step, and on the weights where its gradient is taken.
    hidden : bool
        Whether that noise belongs to the inputs, tests included: a hidden manifold, whose labels do not see it.
    fixed_drift : array (M, M) or None
        Teachers that drift: w*_m += (1/d) sum_n fixed_drift_mn w*_n + fresh noise.
    fixed_noise : array (B, M) or None
        What that noise adds to w*_m.Pi_b w*_m/d in a unit of time.
    episodes : Episodes or None
        Rewards in the place of a gradient: `batch` samples an episode.
    timed : tuple of Moving
        Entries of chances (stage x source), variances, noise and batch that are formulas in the time; the arrays have
        their values at the beginning. `along` has them at any times.
    """

    species: tuple[str, ...]
    outputs: tuple[str, ...]
    K: int
    M: int
    D: int
    heads: int
    Y: int
    activation: Expression
    slope: Expression | None
    teacher: Expression | None
    index: tuple[Expression, ...]
    argmax: bool
    shares: Array
    variances: Array
    means: Array
    stages: tuple[tuple[float, tuple[float, ...]], ...]
    labels: Array
    noise: Array
    teacher_rows: Array
    head: NDArray[np.int64]
    masks: Array
    emitter: NDArray[np.int64]
    drift: Array
    scheduled_drift: Array
    gain: Array
    fixed_gain: Array
    coefficients: tuple[Expression | None, ...] | None
    sampled_drift: tuple[tuple[Expression | None, ...], ...] | None
    kick: Array
    fixed_kick: Array
    learning_rate: float
    beta: float | None
    readout_rate: float
    readout_decay: float
    bias_rate: float | None
    schedule: str
    batch: float
    uses: int
    displacement: float
    spherical: bool
    regime: str
    loss: LossFunction | VectorLoss
    gram: Array
    a: Array
    bias: Array
    nodes: bool = False
    feedback: Array | None = None
    input_noise: float = 0.0
    weight_noise: float = 0.0
    hidden: bool = False
    fixed_drift: Array | None = None
    fixed_noise: Array | None = None
    episodes: Episodes | None = None
    timed: tuple[Moving, ...] = ()

    @property
    def n(self) -> int:
        """Number of vectors."""
        return self.moving + self.M + self.D

    @property
    def moving(self) -> int:
        """Number of vectors that move: S K, the first ones."""
        return len(self.species) * self.K

    @property
    def sources(self) -> int:
        """Number of sources, masks apart."""
        return int(self.emitter.max()) + 1

    @property
    def squared_length(self) -> Array:
        """|x|^2/d of each source as d grows, shape (C,): no single coordinate counts in it, such as that of biases."""
        return np.asarray(self.variances @ self.shares + self.input_noise**2, dtype=float)

    @property
    def switches(self) -> tuple[float, ...]:
        """Times at which the probabilities jump."""
        return tuple(end for end, _ in self.stages[:-1])

    @property
    def chances(self) -> Array:
        """Probabilities of the sources at the beginning of each stage, shape (stages, C)."""
        return np.array([weights for _, weights in self.stages])

    def along(self, name: str, times: Array) -> Array:
        """Return ``chances`` (C), ``variances`` (C, B), ``noise`` (C) or ``batch`` at times: (times, ...)."""
        times = np.asarray(times, dtype=float)
        stage = np.searchsorted(self.switches, times, side="right")
        if name == "chances":
            out = self.chances[stage]
        else:
            out = np.repeat(np.asarray(getattr(self, name), dtype=float)[None], len(times), axis=0)
        for entry in self.timed:
            if entry.array != name:
                continue
            if name == "chances":
                here = stage == entry.index[0]
                out[here, entry.index[1]] = entry.values(times[here])
            else:
                at: Any = (slice(None), *entry.index)
                out[at] = entry.values(times)
        return out

    def probabilities(self, t: float) -> Array:
        """Return p_c(t), shape (C,): at a switch those of the stage that begins."""
        return self.along("chances", np.array([t]))[0]

    def source_weights(self, times: Array) -> Array:
        """Return the probabilities of the sources without their masks, shape (times, sources)."""
        out = np.zeros((len(times), self.sources))
        for emitter, shares in zip(self.emitter, self.along("chances", times).T, strict=True):
            out[:, emitter] += shares
        return out

    @cached_property
    def signs(self) -> bool:
        """Whether labels are signs, so that there is a classification error: P(f y < 0), y without noise."""
        if self.episodes is not None:
            return True
        by_cluster = self.teacher is None and not self.index
        signs = by_cluster and (self.labels != 0).all() and np.ptp(np.sign(self.labels))
        return self.Y == 1 and bool(signs or self.loss.two_valued)

    @cached_property
    def classes(self) -> bool:
        """Whether labels are classes, so that there is a classification error: P(argmax f != argmax y)."""
        if self.Y == 1:
            return False
        units = np.eye(self.Y)
        by_cluster = self.teacher is None and not self.index
        return self.argmax or (by_cluster and all((units == y).all(axis=1).any() for y in self.labels))

    @property
    def plain(self) -> bool:
        """Whether this is SGD on standard Gaussian inputs with one target and readout: one block, one source."""
        return bool(
            len(self.species) == 1 and len(self.shares) == 1 and len(self.head) == 1 and self.D == 0
            and self.variances[0, 0] == 1.0 and self.bias_rate is None and self.coefficients is None
            and not self.labels[0].any() and self.Y == 1 and self.M and not self.fixed_gain.any() and self.beta is None
            and not self.timed and not self.kicked
        )  # fmt: skip

    @property
    def kicked(self) -> bool:
        """Whether a step adds noise of its own."""
        return bool(self.kick.any() or self.fixed_kick.any())


def table(problem: Problem) -> Table:
    """Return the table of a one-pass problem.

    Raises
    ------
    ConfigError
        For sections that do not fit together; the message names the key.
    DomainError
        For overlaps that no weights have.
    """
    return _table(problem)


@lru_cache(maxsize=64)
def _table(problem: Problem) -> Table:
    from .block_start import initial_state

    student: Any = problem.student
    rule: Any = problem.algorithm
    linear = isinstance(student, Linear)
    outputs, width = outputs_of(problem), units_of(problem)
    trained = not linear and student.train_readout
    shares, base, tau, nodes = _blocks(problem)
    sources = sources_of(problem)
    means = _means(problem)
    masks, factors = masks_of(problem, width)
    stages, moving = chances(problem, sources.stages, factors)
    count = len(sources.labels)
    emitter = np.repeat(np.arange(count), len(masks))
    variances = np.broadcast_to(base, (count, len(shares)))
    species, measured, moves = moves_of(problem)
    heads = 1 if linear else student.heads
    if heads not in (1, count):
        raise ConfigError(
            "heads and sources do not fit together", where="student.heads",
            why=f"{heads} readouts for {count} sources of samples", hint="give one readout a source, or 1: shared",
        )  # fmt: skip
    head = np.arange(count) if heads > 1 else np.zeros(count, dtype=np.int64)
    gram, a, bias = initial_state(problem, species, heads, shares, tau, variances, means)
    lr = rule.learning_rate
    readout_rate = lr if rule.readout_learning_rate is None else rule.readout_learning_rate
    return Table(
        species=species, outputs=measured, K=width, M=sources.rows.shape[1] // outputs, D=means.shape[1], heads=heads,
        Y=outputs,
        activation=activation("x") if linear else student.expression,
        slope=student.slope_expression if not linear and student.slope else None,
        teacher=sources.teacher, index=sources.index, argmax=sources.argmax, shares=shares,
        variances=variances[emitter], means=means[emitter], labels=sources.labels[emitter],
        noise=sources.noise[emitter], stages=stages,
        teacher_rows=sources.rows[emitter], head=head[emitter], masks=np.tile(masks, (count, 1)), emitter=emitter,
        learning_rate=lr, readout_rate=readout_rate if trained else 0.0,
        readout_decay=rule.readout_weight_decay if trained else 0.0, bias_rate=_bias_rate(problem),
        schedule=rule.schedule, uses=rule.uses, displacement=rule.displacement,
        spherical=rule.spherical, regime=rule.regime, loss=loss_of(problem), gram=gram, a=a, bias=bias, nodes=nodes,
        timed=(*moving, *moving_numbers(problem, emitter, shares)),
        **moves, **extras_of(problem, gram, width * len(species), width),
    )  # fmt: skip


def _bias_rate(problem: Problem) -> float | None:
    student: Any = problem.student
    rule: Any = problem.algorithm
    if not student.bias:
        if rule.bias_learning_rate is not None:
            raise ConfigError(
                "there is no bias to train", where="algorithm.bias_learning_rate", why="student.bias is false"
            )
        return None
    if rule.bias_learning_rate is None or rule.bias_learning_rate == rule.learning_rate:
        return 1.0
    if rule.learning_rate == 0:
        raise ConfigError(
            "biases move at a multiple of the learning rate of the weights", where="algorithm.bias_learning_rate",
            why="algorithm.learning_rate is zero",
        )  # fmt: skip
    return float(rule.bias_learning_rate / rule.learning_rate)


def _blocks(problem: Problem) -> tuple[Array, Array, Array, bool]:
    """Return shares (B,), variances (sources or 1, B), shares of |w*|^2 (B,), and whether the blocks are nodes."""
    from .targets import power_shares

    data: Any = problem.data
    spectrum = data.spectrum
    power = getattr(problem.target, "power", None)
    try:
        values, shares = (np.ones(1), np.ones(1)) if spectrum is None else spectrum.blocks()
        if isinstance(data, HiddenManifold):
            tau = np.where(values > 0.0, shares / np.where(values > 0.0, values, 1.0), 0.0)
            tau = tau / tau.sum()
        elif power == "latent":
            with np.errstate(divide="ignore"):
                tau = np.where(shares > 0, shares / values, 0.0)
            if not np.isfinite(tau).all():
                raise ValueError('power = "latent" needs positive variances')
            tau = tau / tau.sum()
        else:
            tau = np.asarray(power_shares(power, shares), dtype=float)
        nodes = spectrum is not None and 0 < spectrum.nodes < len(shares)
        if nodes:
            values, shares, tau = _gauss_rule(values, shares, tau, spectrum.nodes, power)
    except ValueError as error:
        key = "target.power" if str(error).startswith("power") else "data.spectrum"
        raise ConfigError("the blocks of the inputs cannot be built", where=key, why=str(error)) from None
    if isinstance(data, Mixture):
        if nodes:
            why = "its variances are rows, an entry a block"
            raise ConfigError("a mixture takes no Gauss rule", where="data.spectrum.nodes", why=why)
        return shares, np.array(data.eigenvalues()), tau, False
    return shares, values[None, :], tau, nodes


def _gauss_rule(values: Array, shares: Array, tau: Array, nodes: int, power: Any) -> tuple[Array, Array, Array]:
    """Return the Gauss rule of the spectral measure (Lanczos), with the teachers' density at its nodes.

    Overlaps by eigenvalue are entire functions of it, so that the rule converges geometrically in the nodes.
    """
    if power not in (None, "latent") and getattr(power, "exponent", None) is None:
        raise ValueError("power: a list of shares has no values between the levels; use { exponent } with nodes")
    diagonal, off = np.zeros(nodes), np.zeros(nodes - 1)
    basis = np.zeros((nodes, len(shares)))
    basis[0] = np.sqrt(shares)
    for k in range(nodes):
        rest = values * basis[k]
        diagonal[k] = rest @ basis[k]
        for _ in range(2):
            rest = rest - basis[: k + 1].T @ (basis[: k + 1] @ rest)
        if k + 1 < nodes:
            off[k] = np.linalg.norm(rest)
            basis[k + 1] = rest / off[k]
    found, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    weights = vectors[0] ** 2
    order = np.argsort(-found)
    found, weights = found[order], weights[order]
    # log tau/gamma is linear in log s for a power law of levels and shares, and for "latent".
    slope = 0.0
    if np.ptp(values) > 0:
        slope = float(np.log(tau[-1] / tau[0] * shares[0] / shares[-1]) / np.log(values[-1] / values[0]))
    density = weights * found**slope
    return found, weights, density / density.sum()


def _means(problem: Problem) -> Array:
    """Return the means of the sources in their directions, shape (sources, D)."""
    data: Any = problem.data
    if not isinstance(data, Mixture):
        tasks = len(data.tasks[0].weights) if data.tasks else 1
        return np.zeros((tasks, 0))
    if data.means == "opposite":
        return np.array([[1.0], [-1.0]])
    if data.means == "zero":
        return np.zeros((len(data.weights), 0))
    return np.array(data.means)
