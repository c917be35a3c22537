"""Truncation maps, cones, and the explicit zero-loss ReLU network of clustered data.

Conventions. Q classes with linearly independent labels; inputs are the columns of (M, N_j) arrays. The explicit
network lives in M = Q dimensions: hidden layer l acts in input space as the truncation map
``tau_{W,b}(x) = W^{-1}(relu(W x + b) - b)`` of its *cumulative* parameters ``W^(l) = W_l ... W_1``, ``b^(l) = W_l
b^(l-1) + b_l`` (Chen & Munoz Ewald, arXiv:2309.10639, Prop. 2.2). All lengths are in the units of the data; relu'(0)
= 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import DomainError
from .clusters import ClusteredData, ball_clusters
from .networks import Array, Network, relu

__all__ = [
    "ClusteredData",
    "Cones",
    "HiddenLayers",
    "Violation",
    "angle",
    "ball_clusters",
    "classify",
    "cones",
    "cumulative",
    "default_shifts",
    "explicit_minimiser",
    "hidden_layers",
    "native",
    "noise_to_signal",
    "orthant_angle",
    "rotation",
    "truncate",
    "truncated",
]

CAP_FRACTION = 0.95  # of the shortest mean-to-barycentre distance: how far a cluster may be moved (see `Cones.cap`)


# ---------------------------------------------------------------------------------------------------- truncation maps


def truncate(weight: Array, bias: Array, x: Array) -> Array:
    """Truncation map ``W^+ (relu(W x + b) - b)`` of the columns of `x`; W^+ = W^{-1} when W is square.

    Parameters
    ----------
    weight : (k, M) array
        Surjective, k <= M.
    bias : (k,) array
    x : (M, N) array
    """
    column = bias[:, None]
    image = relu(weight @ x + column) - column
    if weight.shape[0] == weight.shape[1]:
        return np.asarray(np.linalg.solve(weight, image), dtype=float)
    return np.asarray(np.linalg.pinv(weight) @ image, dtype=float)


def cumulative(weights: Sequence[Array], biases: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Native (W_l, b_l) to cumulative: W^(l) = W_l W^(l-1), b^(l) = W_l b^(l-1) + b_l."""
    total_w, total_b = [weights[0]], [biases[0]]
    for w, b in zip(weights[1:], biases[1:], strict=True):
        total_w.append(w @ total_w[-1])
        total_b.append(w @ total_b[-1] + b)
    return total_w, total_b


def native(total_w: Sequence[Array], total_b: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Cumulative to native parameters, W_l = W^(l) (W^(l-1))^{-1}, b_l = b^(l) - W_l b^(l-1); the inverse of
    `cumulative`.
    """
    weights, biases = [total_w[0]], [total_b[0]]
    for w, b, w_before, b_before in zip(total_w[1:], total_b[1:], total_w, total_b, strict=False):
        if w_before.shape[0] == w_before.shape[1]:
            layer = np.asarray(np.linalg.solve(w_before.T, w.T).T, dtype=float)
        else:
            layer = np.asarray(w @ np.linalg.pinv(w_before), dtype=float)
        weights.append(layer)
        biases.append(b - layer @ b_before)
    return weights, biases


# ----------------------------------------------------------------------------------------------------------- cones


def rotation(source: Array, target: Array) -> Array:
    """Rotation (determinant +1) that takes the direction of `source` to that of `target`.

    The rotation of the plane they span; near the antipode, where that plane is undefined, a half turn comes first.
    """
    a = source / np.linalg.norm(source)
    b = target / np.linalg.norm(target)
    n = a.size
    cosine = float(a @ b)
    if cosine < -0.5 and n > 1:
        # -a is within 60 degrees of b; turn a to -a about the axis least aligned with it.
        v = np.zeros(n)
        v[int(np.argmin(np.abs(a)))] = 1.0
        v -= (v @ a) * a
        v /= np.linalg.norm(v)
        half_turn = np.eye(n) - 2 * np.outer(a, a) - 2 * np.outer(v, v)
        return rotation(-a, b) @ half_turn
    k = np.outer(b, a) - np.outer(a, b)
    return np.eye(n) + k + k @ k / (1.0 + cosine)


def angle(a: Array, b: Array) -> float:
    """Angle between two vectors in [0, pi], accurate at both ends."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2.0 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b)))


def orthant_angle(classes: int) -> float:
    """theta_Q = 2 arccos sqrt((Q-1)/Q): opening of the widest cone about (1,...,1) inside the positive orthant."""
    return 2.0 * math.acos(math.sqrt((classes - 1) / classes))


@dataclass(frozen=True)
class Violation:
    """One geometric assumption that does not hold: which, for which cluster, and by how much."""

    condition: str
    cluster: int
    value: float
    bound: float
    message: str


@dataclass(frozen=True)
class Cones:
    """The cones along which clusters are cut (arXiv:2309.10639, sec. 2.2), and whether they exist.

    Attributes
    ----------
    directions : (Q, Q) array
        Column j is f_j, the unit vector from mean j to the barycentre.
    openings : (Q,) array
        theta_{*,j}: smallest opening of a cone at mean j about f_j that holds the balls of radius 4 delta of all
        other classes.
    theta : float
        Opening used, between max theta_{*,j} and pi.
    stretch : float
        lambda of W_* = uu^T/Q + lambda (1 - uu^T/Q), which maps the cone of opening theta into the positive orthant.
    threshold : float
        2 delta sqrt(Q): a cluster is cut for mu_j < -threshold and left alone for mu_j > threshold.
    reach : float
        D: largest |mu| such that the cone at mean j - mu f_j still holds the balls of all other classes.
    distances : (Q,) array
        |mean_j - barycentre|.
    violations : tuple of Violation
    """

    directions: Array
    openings: Array
    theta: float
    stretch: float
    threshold: float
    reach: float
    distances: Array
    violations: tuple[Violation, ...]

    @property
    def cap(self) -> float:
        """Largest |mu| allowed for a cut cluster: D, and less than the shortest distance to the barycentre.

        The second bound is not in the paper: beyond it an already collapsed point may leave the cones of the later
        layers.
        """
        return min(self.reach, CAP_FRACTION * float(self.distances.min()))

    @property
    def interval(self) -> tuple[float, float]:
        """Admissible open interval of mu for a cut cluster."""
        return (-self.cap, -self.threshold)

    def require(self) -> None:
        """Raise `DomainError` naming every violated assumption and its cluster."""
        if self.violations:
            raise DomainError(
                "the clusters violate the geometric assumptions of the explicit network",
                why="; ".join(v.message for v in self.violations),
                hint="separate the clusters more or make them smaller, or set student.assumptions = 'reported' to go "
                "on regardless",
            )


def cones(data: ClusteredData, *, separation_constant: float = 0.25, theta: float | None = None) -> Cones:
    """Work out the cones of `data` and check the assumptions of the explicit construction, cluster by cluster.

    Parameters
    ----------
    data : ClusteredData
        M = Q dimensions.
    separation_constant : float
        c0 in (0, 1/4]: each class must satisfy delta < c0 |mean_j - barycentre|.
    theta : float, optional
        Opening in radians; default half-way between the largest theta_{*,j} and pi.
    """
    q = data.classes
    if data.dimension != q:
        raise DomainError(
            "the explicit network needs as many input dimensions as classes",
            why=f"dimension {data.dimension}, classes {q}",
            hint="project the data on the span of the class means first (see truncation.clusters.project)",
        )
    means, delta, centre = data.means, data.radius, data.barycentre
    offsets = centre[:, None] - means
    distances = np.linalg.norm(offsets, axis=0)
    bad: list[Violation] = []
    for name, matrix in (("labels", data.labels), ("class means", means)):
        smallest = float(np.linalg.svd(matrix, compute_uv=False)[-1])
        if smallest <= 1e-12 * float(np.linalg.norm(matrix)):
            bad.append(Violation(f"independent {name}", -1, smallest, 0.0, f"the {name} are linearly dependent"))
    for j in range(q):
        bound = separation_constant * float(distances[j])
        if not delta < bound:
            worst = int(data.radii.argmax())
            bad.append(
                Violation(
                    "radius", j, delta, bound,
                    f"cluster {j}: the largest radius delta = {delta:.4g} (cluster {worst}) is not below "
                    f"{separation_constant:g} |mean - barycentre| = {bound:.4g}",
                )
            )  # fmt: skip
    directions = offsets / np.where(distances > 0, distances, 1.0)
    openings = np.zeros(q)
    for j in range(q):
        for k in range(q):
            if k == j:
                continue
            v = means[:, k] - means[:, j]
            length = float(np.linalg.norm(v))
            if 4 * delta >= length or distances[j] == 0:
                openings[j] = 2 * math.pi
                message = (
                    f"cluster {j}: the ball of radius 4 delta = {4 * delta:.4g} about cluster {k} reaches its mean"
                )
                bad.append(Violation("separation", j, 4 * delta, length, f"{message} (distance {length:.4g})"))
                continue
            openings[j] = max(openings[j], 2 * (angle(v, directions[:, j]) + math.asin(4 * delta / length)))
    widest = float(openings.max())
    if widest >= math.pi and widest < 2 * math.pi:
        for j in map(int, np.flatnonzero(openings >= math.pi)):
            text = f"cluster {j}: its cone must open by {math.degrees(openings[j]):.1f} degrees, which is not below 180"
            bad.append(Violation("opening", j, float(openings[j]), math.pi, text))
    if theta is None:
        theta = 0.5 * (widest + math.pi) if widest < math.pi else math.pi * (1 - 1e-6)
    elif not widest < theta < math.pi:
        text = f"theta = {theta:.4g} does not lie between the largest opening {widest:.4g} and pi"
        bad.append(Violation("theta", int(openings.argmax()), theta, widest, text))
    threshold = 2 * delta * math.sqrt(q)
    reaches = np.array([_reach(means, directions, j, delta, theta) for j in range(q)])
    narrow = orthant_angle(q)
    stretch = math.tan(narrow / 2) / math.tan(theta / 2) if theta > narrow else 1.0
    found = Cones(directions, openings, theta, stretch, threshold, float(reaches.min()), distances, ())
    if not found.cap > threshold:
        # Say which of the two limits is the short one.
        if found.reach <= CAP_FRACTION * float(distances.min()):
            j, what = int(reaches.argmin()), "the other clusters leave its cone"
        else:
            j, what = int(distances.argmin()), "it would pass the barycentre"
        text = f"cluster {j}: cutting it needs a shift above 2 delta sqrt Q = {threshold:.4g}, but {what} at "
        f"{found.cap:.4g}"
        bad.append(Violation("interval", j, threshold, found.cap, text))
    return Cones(directions, openings, theta, stretch, threshold, found.reach, distances, tuple(bad))


def _reach(means: Array, directions: Array, j: int, delta: float, theta: float) -> float:
    """Largest shift a along f_j for which the cone of opening theta at mean_j + a f_j holds B_delta of every other
    class.
    """
    half = theta / 2
    f = directions[:, j]
    shifts = []
    for k in range(means.shape[1]):
        if k != j:
            v = means[:, k] - means[:, j]
            along = float(v @ f)
            across = float(np.linalg.norm(v - along * f))
            shifts.append(along - (delta + across * math.cos(half)) / math.sin(half))
    return min(shifts)


# ------------------------------------------------------------------------------------------- the explicit network


@dataclass(frozen=True)
class HiddenLayers:
    """Cumulative parameters of Q truncation layers, one a cluster.

    Attributes
    ----------
    weights, biases : tuples of (Q, Q) and (Q,) arrays
        W^(l), b^(l), l = 1..Q.
    base_points : (Q, Q) array
        Column l is p_l = -(W^(l))^{-1} b^(l), the point to which layer l sends whatever it cuts.
    shifts : (Q,) array
        mu_l.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    base_points: Array
    shifts: Array


def hidden_layers(data: ClusteredData, geometry: Cones, shifts: Sequence[float] | Array) -> HiddenLayers:
    """Truncation layers W^(l) = W_* R_l, b^(l) = -W^(l) mean_l + mu_l u/|u|, with R_l f_l = u/|u| (Theorem 2.3).

    Layer l sends the ball of radius delta about mean l to ``p_l = mean_l - mu_l f_l`` and keeps everything else when
    ``mu_l`` lies in `Cones.interval`; it keeps everything when ``mu_l > Cones.threshold``.
    """
    q = data.classes
    mu = np.asarray(shifts, dtype=float)
    if mu.shape != (q,):
        raise DomainError("one shift mu a cluster is needed", why=f"got shape {mu.shape} for {q} clusters")
    unit = np.full(q, 1 / math.sqrt(q))
    stretch = np.outer(unit, unit) + geometry.stretch * (np.eye(q) - np.outer(unit, unit))
    weights, biases = [], []
    for j in range(q):
        w = stretch @ rotation(geometry.directions[:, j], unit)
        weights.append(w)
        biases.append(-w @ data.means[:, j] + mu[j] * unit)
    return HiddenLayers(tuple(weights), tuple(biases), data.means - mu * geometry.directions, mu)


def truncated(layers: HiddenLayers, x: Array, upto: int | None = None) -> Array:
    """Apply the first `upto` truncation maps (all by default) to the columns of `x`, in input space."""
    for w, b in zip(layers.weights[:upto], layers.biases[:upto], strict=True):
        x = truncate(w, b, x)
    return x


def default_shifts(geometry: Cones, state: Sequence[bool] | None = None) -> Array:
    """Shifts of the explicit network (no `state`: every cluster cut) or of a truncation state (True: active).

    The explicit network cuts as little as the theorem allows with a factor two to spare, mu = -4 delta sqrt Q (or the
    middle of the interval if that lies outside). A state uses the middle of the interval for cut clusters and 6 delta
    sqrt Q for active ones.
    """
    lo, hi = geometry.interval
    middle = 0.5 * (lo + hi)
    if state is None:
        gentle = -2 * geometry.threshold
        return np.full(geometry.distances.size, gentle if lo < gentle < hi else middle)
    return np.where(np.asarray(state, dtype=bool), 3 * geometry.threshold, middle)


def explicit_minimiser(
    data: ClusteredData,
    layers: int | None = None,
    *,
    geometry: Cones | None = None,
    shifts: Sequence[float] | Array | None = None,
    enforce: bool = True,
) -> Network:
    """Zero-loss network with L >= Q hidden layers, by formula (Theorem 2.3): no training.

    Layers beyond the Q-th are the identity with biases that keep the data in the positive orthant. With
    ``enforce=False`` the network is built whether or not the assumptions hold, to see what it does then.

    Raises
    ------
    DomainError
        If L < Q, an assumption fails, or a shift lies outside the capped interval.
    """
    q = data.classes
    depth = q if layers is None else layers
    if depth < q:
        raise DomainError(
            "the explicit network cuts one cluster a layer",
            why=f"{depth} layers for {q} classes",
            hint=f"layers >= {q}",
        )
    if geometry is None:
        geometry = cones(data)
    if enforce:
        geometry.require()
    mu = default_shifts(geometry) if shifts is None else np.asarray(shifts, dtype=float)
    lo, hi = geometry.interval
    for j in np.flatnonzero(~((mu > lo) & (mu < hi))) if enforce else ():
        raise DomainError(
            "a shift lies outside the admissible interval",
            where=f"cluster {j}",
            why=f"mu = {mu[j]:.6g} not in ({lo:.6g}, {hi:.6g})",
        )
    hidden = hidden_layers(data, geometry, mu)
    total_w, total_b = list(hidden.weights), list(hidden.biases)
    for _ in range(depth - q):
        total_w.append(total_w[-1])
        # The data are non-negative already: any added bias keeps them away from the kink.
        total_b.append(total_b[-1] + 1.0)
    last = data.labels @ np.linalg.inv(hidden.base_points)
    total_w.append(last)
    total_b.append(np.zeros(q))  # cumulative bias 0
    # The last layer is linear in X^(L) = W^(L) X^(tau) + b^(L), so it enters the same inversion.
    weights, biases = native(total_w, total_b)
    return Network(tuple(weights), tuple(biases))


def classify(data: ClusteredData, layers: HiddenLayers, x: Array) -> npt.NDArray[np.int64]:
    """Class of each column of `x`: the nearest base point in the metric |Y [p]^{-1} (x - x')|."""
    transform = data.labels @ np.linalg.inv(layers.base_points)
    distance = np.linalg.norm(transform @ (truncated(layers, x)[:, None, :] - layers.base_points[:, :, None]).reshape(
        data.dimension, -1), axis=0).reshape(data.classes, -1)  # fmt: skip
    return np.asarray(distance.argmin(axis=0), dtype=np.int64)


def noise_to_signal(means: Array, fluctuations: Sequence[Array]) -> float:
    """delta_P = sup |X_red^{-1} dx|: the largest fluctuation in barycentric coordinates."""
    return max(float(np.linalg.norm(np.linalg.solve(means, d), axis=0).max()) for d in fluctuations)
