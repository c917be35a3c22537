"""``[data]``: what the inputs x of d coordinates are. Absent: `Gaussian`, isotropic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from .checks import Matrix, Row, at_least, count, finite, not_negative, positive, probabilities
from .spec import Spec
from .timed import REST, Timed, Weight, check_timed, value_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class Spectrum(Spec, frozen=True, kw_only=True):
    """Eigenvalues of an input covariance: a list of blocks, a power law, or a file.

    Attributes
    ----------
    variances, fractions : sequences of float
        Blocks: their eigenvalues, and the shares of the dimensions they hold. A fraction 0 is a single direction.
    exponent, levels : float, int
        Power law: ``s_k = k^-(1 + exponent)`` for k = 1..levels, each with the share 1/levels.
    nodes : int
        Replace the levels of a power law by a Gauss rule of that many nodes (theory only); 0 keeps them.
    file : str
        Text or ``.npy`` file of eigenvalues, all of equal share.
    normalise : {"mean", "none"}
        Divide by the mean eigenvalue, or not. Default: ``"mean"`` for a law and a file, ``"none"`` for blocks.
    """

    variances: Row = ()
    fractions: Row = ()
    exponent: float | None = None
    levels: int | None = None
    nodes: int = 0
    file: str = ""
    normalise: Literal["mean", "none"] | None = None

    def __post_init__(self) -> None:
        ways = [bool(self.variances or self.fractions), self.exponent is not None or self.levels is not None]
        if sum([*ways, bool(self.file)]) != 1:
            raise ValueError("a spectrum is { variances, fractions }, { exponent, levels } or { file }: give one")
        if ways[0]:
            if len(self.fractions) > 1 or self.variances:
                probabilities("fractions", self.fractions, "block")
            if self.variances and len(self.variances) != len(self.fractions):
                raise ValueError(f"variances has {len(self.variances)} entries for {len(self.fractions)} fractions")
            for value in self.variances:
                not_negative(variances=value)
        elif ways[1]:
            if self.exponent is None or self.levels is None:
                raise ValueError("a power law needs both exponent and levels")
            finite(exponent=self.exponent)
            at_least(1, levels=self.levels)
        at_least(0, nodes=self.nodes)
        if self.nodes and not ways[1]:
            raise ValueError("nodes goes with a power law { exponent, levels }")

    @property
    def normalised(self) -> bool:
        """Whether the eigenvalues are divided by their mean."""
        return (self.normalise or ("none" if self.variances or self.fractions else "mean")) == "mean"

    def blocks(self) -> tuple[Array, Array]:
        """Return eigenvalues and shares of the blocks (without the Gauss rule of `nodes`), each of shape (blocks,).

        Raises
        ------
        ValueError
            When the file does not hold eigenvalues.
        """
        import numpy as np

        if self.exponent is not None and self.levels is not None:
            variances = np.arange(1, self.levels + 1, dtype=float) ** -(1.0 + self.exponent)
            shares = np.full(self.levels, 1.0 / self.levels)
        elif self.file:
            variances = read_numbers(self.file, "spectrum.file")
            shares = np.full(variances.size, 1.0 / variances.size)
        else:
            shares = np.array(self.fractions)
            variances = np.array(self.variances) if self.variances else np.ones(shares.size)
        return (variances / (variances @ shares) if self.normalised else variances), shares

    def counts(self, dimension: int) -> npt.NDArray[np.int64]:
        """Return how many of `dimension` directions each block holds; `ValueError` unless the shares give whole ones.

        Directions of fraction 0 take one each from the largest block.
        """
        return whole_counts(self.blocks()[1], dimension)

    def eigenvalues(self, dimension: int) -> Array:
        """Return the eigenvalues of a covariance of that dimension, block after block, shape (dimension,)."""
        import numpy as np

        return np.repeat(self.blocks()[0], self.counts(dimension))


def whole_counts(shares: Array, dimension: int) -> npt.NDArray[np.int64]:
    """Return how many of `dimension` directions blocks of these shares hold; `ValueError` unless whole ones.

    Blocks of share 0 take one direction each from the largest block.
    """
    import numpy as np

    exact = shares * dimension
    counts = np.round(exact).astype(np.int64)
    if np.abs(exact - counts).max() > 1e-6:
        raise ValueError(f"fractions {_short_list(shares)} of {dimension} dimensions are not whole numbers")
    counts[shares == 0.0] = 1
    counts[np.argmax(counts)] -= int((shares == 0.0).sum())
    return counts


def _short_list(values: Array) -> str:
    shown = ", ".join(f"{v:.6g}" for v in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"


def read_numbers(path: str, key: str) -> Array:
    """Return the numbers of a text or ``.npy`` file as one row; `ValueError` naming `key` unless they are finite."""
    import numpy as np

    try:
        values = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}: {path!r} cannot be read as numbers ({error})") from None
    values = np.asarray(values, dtype=float).ravel()
    if values.size == 0 or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"{key}: {path!r} must hold finite numbers that are not negative")
    return values


class Task(Spec, frozen=True, kw_only=True):
    """Until time `until` the next sample comes from source s with probability ``weights[s]``.

    Each weight is a number or a formula in the time ``t``; one of them may be ``"rest"``, what the others leave.
    """

    until: float
    weights: tuple[Weight, ...]

    def __post_init__(self) -> None:
        if not self.until > 0:
            raise ValueError(f"until must be positive, got {self.until}")
        if self.weights.count(REST) > 1:
            raise ValueError(f"weights: one of them may be {REST!r}, what the others leave")
        written = [w for w in self.weights if w != REST]
        for weight in written:
            check_timed("weights", weight, 0.0)
        numbers = [float(w) for w in written if not isinstance(w, str)]
        if len(numbers) == len(self.weights):
            probabilities("weights", tuple(numbers), "source")
        elif sum(numbers) > 1.0 + 1e-12:
            raise ValueError(f"weights must sum to one, and {numbers} are more")

    def formulas(self) -> tuple[Weight, ...]:
        """Return the weights, ``"rest"`` as a number or a formula."""
        others = [w for w in self.weights if w != REST]
        rest: Weight = 1.0 - sum(w for w in others if not isinstance(w, str))
        if any(isinstance(w, str) for w in others):
            rest = " - ".join([repr(rest), *(f"({w})" for w in others if isinstance(w, str))])
        return tuple(rest if w == REST else w for w in self.weights)


class _Inputs(Spec, frozen=True, kw_only=True):
    """What Gaussian inputs and mixtures share: who emits the next sample, and how many samples there are."""

    tasks: tuple[Task, ...] = ()
    sample_ratio: float | None = None
    samples: int | None = None
    dimension: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive(sample_ratio=self.sample_ratio)
        count(samples=self.samples, dimension=self.dimension)
        at_least(0, seed=self.seed)
        if (self.samples is None) != (self.dimension is None):
            raise ValueError("samples and dimension go together: give both, or sample_ratio")
        if self.sample_ratio is not None and self.samples is not None:
            raise ValueError("sample_ratio excludes samples and dimension: give n/d, or both numbers")
        if any(b.until <= a.until for a, b in zip(self.tasks, self.tasks[1:], strict=False)):
            raise ValueError("tasks must end one after the other: until must increase")
        if len({len(task.weights) for task in self.tasks}) > 1:
            raise ValueError("every entry of tasks must weigh the same sources")

    @property
    def ratio(self) -> float | None:
        """n/d where it is given, as `sample_ratio` or as samples and dimension."""
        if self.samples is not None and self.dimension is not None:
            return self.samples / self.dimension
        return self.sample_ratio


class Gaussian(_Inputs, frozen=True, kw_only=True, tag_field="kind", tag="gaussian"):
    """x ~ N(0, Sigma), isotropic unless a spectrum is given.

    Attributes
    ----------
    spectrum : table, optional
        Eigenvalues of Sigma.
    tasks : sequence of {until, weights}
        Who emits the next sample, in time: one source a teacher.
    sample_ratio : float
        n/d of one data set; or `samples` and `dimension`.
    samples, dimension, seed : int
        One data set of that size, drawn from the seed where a theory is about a given one.
    """

    spectrum: Spectrum | None = None


class Mixture(_Inputs, frozen=True, kw_only=True, tag_field="kind", tag="mixture"):
    """x = m_c + Sigma_c^(1/2) z with probability weights[c], z standard Gaussian.

    Attributes
    ----------
    weights : sequence of float
        One probability a cluster.
    means : "opposite", "zero" or rows
        Coordinates of the means in a frame of directions, a row a cluster. ``"opposite"``: +1 and -1 times one
        direction of unit norm.
    mean_overlap : rows
        Gram matrix of those directions, O(1); identity unless given.
    variances : float, one a cluster, or rows (cluster x block of `spectrum`)
        Eigenvalues of the bulk; each a number or a formula in the time ``t``.
    spikes : rows
        Extra variances along directions (those of the means first), a row a cluster; a one-step algorithm multiplies
        them by its spike strength. `shared_spikes`: spike j has the same direction in every cluster;
        `alignment`: cosine between spike j of a later cluster and of the first.
    spectrum : table, optional
        Blocks of the dimensions; its variances multiply those of the clusters.
    tasks, sample_ratio, samples, dimension, seed
        As for Gaussian data.
    """

    weights: Row = (0.5, 0.5)
    means: Literal["opposite", "zero"] | Matrix = "opposite"
    mean_overlap: Matrix = ()
    variances: Timed | tuple[Timed | tuple[Timed, ...], ...] = 1.0
    spikes: Matrix = ()
    shared_spikes: bool = False
    alignment: float = 0.0
    spectrum: Spectrum | None = None

    timed: ClassVar[tuple[str, ...]] = ("variances",)

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities("weights", self.weights, "cluster")
        clusters = len(self.weights)
        if self.means == "opposite" and clusters != 2:
            raise ValueError(f'means = "opposite" is for two clusters, there are {clusters}')
        if isinstance(self.means, tuple):
            if len(self.means) != clusters:
                raise ValueError(f"means has {len(self.means)} rows for {clusters} clusters")
            if len({len(row) for row in self.means}) != 1:
                raise ValueError("means must have rows of one length, a coordinate a direction")
        finite(means=self.means if isinstance(self.means, tuple) else ())
        if self.mean_overlap:
            from .checks import square

            square("mean_overlap", self.mean_overlap, len(self.mean_overlap), "direction")
        if isinstance(self.variances, tuple) and len(self.variances) != clusters:
            raise ValueError(f"variances has {len(self.variances)} entries for {clusters} clusters")
        for row in self.variances if isinstance(self.variances, tuple) else (self.variances,):
            for value in row if isinstance(row, tuple) else (row,):
                check_timed("variances", value, 0.0, above=True)
        if self.spikes and len(self.spikes) != clusters:
            raise ValueError(f"spikes has {len(self.spikes)} rows for {clusters} clusters")
        for strengths in self.spikes:
            for value in strengths:
                not_negative(spikes=value)
        if not -1 <= self.alignment <= 1:
            raise ValueError(f"alignment is a cosine: it must lie in [-1, 1], got {self.alignment}")
        if self.alignment and self.shared_spikes:
            raise ValueError("alignment has no meaning with shared_spikes = true: drop one of them")
        self.eigenvalues()

    @property
    def shares(self) -> Row:
        """Shares of the dimensions held by the blocks of the bulk."""
        return (1.0,) if self.spectrum is None else tuple(float(f) for f in self.spectrum.blocks()[1])

    def eigenvalues(self) -> Matrix:
        """Return the eigenvalues of the bulk at time 0, clusters x blocks; `ValueError` when they do not fit."""
        return tuple(tuple(value_at(v) * s for v, s in row) for row in self._scaled())

    def moving_eigenvalues(self) -> dict[tuple[int, int], str]:
        """Return (cluster, block) -> formula in ``t`` of the eigenvalues that are written as one."""
        return {
            (c, b): v if s == 1.0 else f"{s!r}*({v})"
            for c, row in enumerate(self._scaled()) for b, (v, s) in enumerate(row) if isinstance(v, str)
        }  # fmt: skip

    def _scaled(self) -> list[list[tuple[Timed, float]]]:
        """Return (variance, factor of the block), clusters x blocks."""
        scales = (1.0,) if self.spectrum is None else tuple(float(v) for v in self.spectrum.blocks()[0])
        given = self.variances if isinstance(self.variances, tuple) else (self.variances,) * len(self.weights)
        rows = tuple(row if isinstance(row, tuple) else (row,) * len(scales) for row in given)
        if any(len(row) != len(scales) for row in rows):
            raise ValueError(f"variances must have a number a cluster, or {len(scales)} a cluster, one a block")
        return [list(zip(row, scales, strict=True)) for row in rows]

    def coordinates(self) -> Matrix:
        """Return the means in an orthonormal frame, clusters x directions, padded to the directions of the spikes."""
        if self.means == "opposite":
            rows: Matrix = ((1.0,), (-1.0,))
        elif self.means == "zero":
            rows = ((),) * len(self.weights)
        else:
            assert isinstance(self.means, tuple)
            rows = self.means
        if self.mean_overlap and rows[0]:
            import numpy as np

            frame = np.linalg.cholesky(np.array(self.mean_overlap))
            rows = tuple(tuple(float(v) for v in row) for row in np.array(rows) @ frame)
        width = max(len(rows[0]), *(len(row) for row in self.spikes)) if self.spikes else len(rows[0])
        return tuple(tuple(row) + (0.0,) * (width - len(row)) for row in rows)


class HiddenManifold(_Inputs, frozen=True, kw_only=True, tag_field="kind", tag="hidden-manifold"):
    """x = activation(F c/sqrt D), c ~ N(0, I_D), F ~ N(0, 1), D = latent_ratio d; z_m = w*_m.c/sqrt D.

    Attributes
    ----------
    activation : str
        Of mean zero, such as an odd one.
    latent_ratio : float
        At most 1: of more latent dimensions than d the inputs would not say everything.
    nodes : int
        Of the Gauss rule of the law of F F^T/D (theory only).
    """

    activation: str
    latent_ratio: float
    nodes: int = 24

    def __post_init__(self) -> None:
        from .activations import activation

        super().__post_init__()
        activation(self.activation)
        positive(latent_ratio=self.latent_ratio)
        if self.latent_ratio > 1.0:
            raise ValueError(f"latent_ratio must be at most 1, got {self.latent_ratio}")
        at_least(2, nodes=self.nodes)

    @property
    def spectrum(self) -> Spectrum:
        """Blocks of the part of the inputs that labels see."""
        from .manifold import manifold_blocks

        values, shares = manifold_blocks(self.activation, self.latent_ratio, self.nodes)
        return Spectrum(variances=tuple(values.tolist()), fractions=tuple(shares.tolist()))


class Images(Spec, frozen=True, kw_only=True, tag_field="kind", tag="images"):
    """Two or more classes of real images, each a cluster; the digits of scikit-learn unless `path` names IDX files."""

    path: str = ""
    classes: tuple[int, ...] = (0, 1)
    weights: Row = (0.5, 0.5)
    keep_means: bool = False

    def __post_init__(self) -> None:
        probabilities("weights", self.weights, "class")
        if len(self.classes) != len(self.weights) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must list one distinct class a weight, got {list(self.classes)}")


class Hypercube(Spec, frozen=True, kw_only=True, tag_field="kind", tag="hypercube"):
    """x uniform on {-1, 1}^d; the fields z1, z2, ... of the target are its first coordinates."""


class BlockModel(Spec, frozen=True, kw_only=True, tag_field="kind", tag="block-model"):
    """Contextual stochastic block model: nodes/features = `gamma`, feature signal `mu`, graph signal `homophily`."""

    gamma: float
    mu: float
    homophily: float

    def __post_init__(self) -> None:
        positive(gamma=self.gamma)
        not_negative(mu=self.mu)
        finite(homophily=self.homophily)


class KernelLaw(Spec, frozen=True, kw_only=True, tag_field="kind", tag="kernel-law"):
    """What is known of a data set: alpha = P/N and r0 = Y^T K0^-1 Y/P."""

    alpha: float
    label_alignment: float

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)
        if not (self.label_alignment >= 0 and math.isfinite(self.label_alignment)):
            raise ValueError(f"label_alignment must be finite and not negative, got {self.label_alignment}")
