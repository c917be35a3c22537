"""Sequentially linearly separable data: zero loss beyond clusters that fit in balls (arXiv:2405.07098).

Definition: there is an order of the classes and a point p_j on the open segment from mean j to the barycentre such
that a hyperplane through p_j has class j on one side and, on the other, all later classes and all earlier points p_i.
Each such cut is one layer: its cone is opened until it almost is the half-space, class j falls into the backward cone
and is sent to p_j, everything else stays. The hyperplanes are the max-margin solutions of linear programmes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DomainError
from .clusters import ClusteredData
from .geometry import native, rotation
from .networks import Array, Network


@dataclass(frozen=True)
class Cut:
    """One separating hyperplane: ``normal . (x - point) < 0`` for class `cluster`, > 0 for what must stay.

    Attributes
    ----------
    cluster : int
    normal : (M,) array
        Unit vector.
    point : (M,) array
        p_j, on the segment from the class mean to the barycentre.
    fraction : float
        Where on that segment, in (0, 1).
    margin : float
        Distance of the nearest point, on either side.
    """

    cluster: int
    normal: Array
    point: Array
    fraction: float
    margin: float


def best_cut(inside: Array, outside: Array, mean: Array, barycentre: Array, cluster: int = 0) -> Cut | None:
    """Hyperplane of largest margin (in the maximum norm of its normal) between two point sets, crossing the segment
    mean - barycentre.

    Parameters
    ----------
    inside, outside : (M, n) arrays
        Points to be cut, points to be kept.
    """
    from scipy.optimize import linprog

    m = inside.shape[0]
    # Unknowns: normal h, offset c, margin g. h.x <= c - g inside, h.x >= c + g outside and at the barycentre, |h_k|
    # <= 1.
    kept = np.concatenate([outside, barycentre[:, None]], axis=1)
    rows = np.concatenate(
        [
            np.column_stack([inside.T, -np.ones(inside.shape[1]), np.ones(inside.shape[1])]),
            np.column_stack([-kept.T, np.ones(kept.shape[1]), np.ones(kept.shape[1])]),
        ]
    )
    objective = np.zeros(m + 2)
    objective[-1] = -1.0
    limits = [(-1.0, 1.0)] * m + [(None, None), (0.0, None)]
    found = linprog(objective, A_ub=rows, b_ub=np.zeros(rows.shape[0]), bounds=limits, method="highs")
    scale = float(np.abs(np.concatenate([inside, kept], axis=1)).max())
    if found.status != 0 or found.x[-1] <= 1e-10 * scale:
        return None
    length = float(np.linalg.norm(found.x[:m]))
    normal, offset, margin = found.x[:m] / length, found.x[m] / length, found.x[-1] / length
    along = float(normal @ (barycentre - mean))
    fraction = (offset - float(normal @ mean)) / along
    return Cut(cluster, normal, mean + fraction * (barycentre - mean), float(fraction), float(margin))


def sequential_cuts(data: ClusteredData, order: Sequence[int] | None = None) -> list[Cut]:
    """Cuts that separate the classes one after the other; the orders are tried by backtracking if none is given.

    Raises
    ------
    DomainError
        If no order works; the message says how far the best one came.
    """
    centre, means = data.barycentre, data.means
    deepest: list[Cut] = []

    def extend(done: list[Cut], candidates: Sequence[int], fixed: bool) -> list[Cut] | None:
        nonlocal deepest
        if len(done) > len(deepest):
            deepest = list(done)
        if not candidates:
            return done
        for j in candidates[:1] if fixed else candidates:
            rest = [k for k in candidates if k != j]
            outside = [data.points[k] for k in rest] + [c.point[:, None] for c in done]
            kept = np.concatenate(outside, axis=1) if outside else np.empty((data.dimension, 0))
            cut = best_cut(data.points[j], kept, means[:, j], centre, j)
            if cut is not None:
                found = extend([*done, cut], rest, fixed)
                if found is not None:
                    return found
        return None

    candidates = list(range(data.classes)) if order is None else list(order)
    if sorted(candidates) != list(range(data.classes)):
        raise DomainError("the order must list every class once", why=f"got {candidates}")
    found = extend([], candidates, order is not None)
    if found is None:
        raise DomainError(
            "the data are not sequentially linearly separable" + ("" if order is None else " in this order"),
            why=f"after classes {[c.cluster for c in deepest]} no further class can be cut from the rest",
            hint="give fewer or better separated classes" if order is None else "let the order be found",
        )
    return found


def separable_network(data: ClusteredData, cuts: Sequence[Cut] | None = None) -> Network:
    """Zero-loss network of width M with Q hidden layers and one affine layer, from the cuts (Theorem 5.2).

    Raises
    ------
    DomainError
        If the data are not sequentially separable, or the points p_j are linearly dependent.
    """
    chain = sequential_cuts(data) if cuts is None else list(cuts)
    total_w, total_b = cut_layers(data, chain)
    base = base_points(chain)
    if np.linalg.svd(base, compute_uv=False)[-1] <= 1e-12 * np.linalg.norm(base):
        raise DomainError(
            "the points of the cuts are linearly dependent: no linear last layer can tell the classes apart"
        )
    total_w.append(data.labels @ np.linalg.pinv(base))
    total_b.append(np.zeros(data.classes))
    return Network(*map(tuple, native(total_w, total_b)))


def base_points(chain: Sequence[Cut]) -> Array:
    """Return the points p_j as columns, in the order of the classes."""
    points = {c.cluster: c.point for c in chain}
    return np.stack([points[j] for j in range(len(chain))], axis=1)


def cut_layers(data: ClusteredData, chain: Sequence[Cut]) -> tuple[list[Array], list[Array]]:
    """Return the cumulative weights and biases of one hidden layer a cut."""
    m = data.dimension
    unit = np.full(m, 1 / math.sqrt(m))
    along = np.outer(unit, unit)
    points = {c.cluster: c.point for c in chain}
    total_w, total_b = [], []
    done: list[int] = []
    for cut in chain:
        done.append(cut.cluster)
        inside = data.points[cut.cluster] - cut.point[:, None]
        others = [data.points[k] for k in range(data.classes) if k not in done] + [
            points[k][:, None] for k in done[:-1]
        ]
        outside = np.concatenate(others, axis=1) - cut.point[:, None] if others else np.empty((m, 0))
        widest = max(_slope(-inside, cut.normal), _slope(outside, cut.normal))
        # W_theta maps the cone of slope `widest`, twice over, into the positive orthant, whose widest cone has slope
        # 1/sqrt(M-1).
        stretch = 1.0 if m == 1 else min(1.0, 1.0 / (2.0 * widest * math.sqrt(m - 1)) if widest > 0 else 1.0)
        w = (along + stretch * (np.eye(m) - along)) @ rotation(cut.normal, unit)
        total_w.append(w)
        total_b.append(-w @ cut.point)
    return total_w, total_b


def _slope(x: Array, normal: Array) -> float:
    """Largest |across| / along of the columns of x about `normal`: the tangent of half the cone that holds them."""
    if x.shape[1] == 0:
        return 0.0
    along = normal @ x
    across = np.linalg.norm(x - np.outer(normal, along), axis=0)
    return float((across / along).max())


def cost_split(data: ClusteredData, network: Network) -> tuple[float, float]:
    """(variance, bias) parts of C_N^2: spread of each class's outputs about their mean, and distance of that mean
    from the label.

    The hidden layers decide the first, the last layer the second.
    """
    outputs = network(data.inputs)
    variance = bias = 0.0
    for j in range(data.classes):
        own = outputs[:, data.classes_of_points == j]
        mean = own.mean(axis=1, keepdims=True)
        variance += float(np.sum((own - mean) ** 2)) / own.shape[1]
        bias += float(np.sum((mean[:, 0] - data.labels[:, j]) ** 2))
    return variance, bias


def polyhedral_components(weight: Array, bias: Array, x: Array) -> tuple[Array, Array, Array]:
    """Polyhedral-cone form of a truncation: x = p + residue + sum_i a_i v_i, of which the map keeps p and the a_i > 0
    (arXiv:2504.18710).

    Returns
    -------
    point : (M,) array
        p = -W^+ b, the apex.
    edges : (M, k) array
        Columns v_i = W^+ e_i.
    components : (k, N) array
        a_i = (W x + b)_i.
    """
    inverse = np.asarray(np.linalg.pinv(weight), dtype=float)
    return -inverse @ bias, inverse, weight @ x + bias[:, None]
