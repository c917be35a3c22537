"""Significance of a mean over replicas that need not be normal: Student's threshold, and what skewness does to it.

Replicas that are skewed to the right (escape times, losses, rare events) have a mean that is usually too low, and a
standard error that is too small just then: Student's t has a heavy tail on the side away from the tail of the replicas.
Hall's monotone transformation removes that to second order,

    T' = ((1 + g T/3)^3 - 1) / g,    g = skewness / sqrt(replicas),

and is used on that side only; on the other one Student's threshold is safe. It is flat about |T| = 3/g, T' = 1/g: to
pass it a mean needs either replicas (1/g above the threshold) or a deviation far beyond what their tail can explain.

The skewness of a few replicas is itself uncertain and bounded by sqrt(replicas), so that each entry takes the larger
of its own and of the r.m.s. over all entries and sizes of its variable, less what normal replicas would show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Fewer replicas say nothing about their skewness.
LEAST_REPLICAS = 6


def threshold(alpha: float, comparisons: int, freedom: float) -> float:
    """Return the two-sided Student threshold for one of `comparisons` entries at family-wise level `alpha` (Sidak)."""
    import numpy as np
    from scipy.stats import t

    single = -np.expm1(np.log1p(-alpha) / max(comparisons, 1))
    return float(t.isf(single / 2, freedom))


def family_p_value(statistic: float, comparisons: int, freedom: float) -> float:
    """Return the chance that the largest of `comparisons` independent |t| exceeds `statistic` in a right theory.

    For entries that depend on each other it is an upper bound.
    """
    import numpy as np
    from scipy.stats import t

    single = 2.0 * t.sf(abs(statistic), freedom)
    return float(-np.expm1(max(comparisons, 1) * np.log1p(-min(single, 1.0 - 1e-16))))


def sample_skewness(values: np.ndarray, axis: int) -> np.ndarray:
    """Return m3 / m2^(3/2) along an axis; 0 where all values are equal."""
    import numpy as np

    with np.errstate(all="ignore"):
        centred = values - values.mean(axis=axis, keepdims=True)
        scale = np.max(np.abs(centred), axis=axis, keepdims=True)
        centred = centred / np.where(scale > 0, scale, 1.0)
        second = np.mean(centred**2, axis=axis)
        return np.asarray(np.where(second > 0, np.mean(centred**3, axis=axis) / np.maximum(second, 1e-300) ** 1.5, 0.0))


def excess_skewness(skewness: np.ndarray, scattered: np.ndarray, replicas: int) -> np.ndarray:
    """Return the skewness (N,) that each entry of a variable must be suspected of, whatever its own sample shows.

    Parameters
    ----------
    skewness : array (S, N)
    scattered : array (S, N) of bool
        Where the replicas differ at all.
    replicas : int

    Returns
    -------
    array (N,)
        The larger of the r.m.s. over all entries and sizes, and of that over the sizes of the entry; the variance of
        the skewness of normal replicas, 6 (n - 2) / ((n + 1)(n + 3)), is taken off first.
    """
    import numpy as np

    n = replicas
    chance = 6.0 * (n - 2) / ((n + 1) * (n + 3)) if n > 2 else 0.0
    square = np.where(scattered, skewness**2, 0.0)
    pooled = square.sum() / max(int(scattered.sum()), 1)
    own = square.sum(axis=0) / np.maximum(scattered.sum(axis=0), 1)
    # An entry's own r.m.s. rests on a few numbers: it counts beyond twice what chance gives it.
    return np.asarray(np.sqrt(np.maximum(np.maximum(pooled - chance, own - 3.0 * chance), 0.0)))


def deskewed(statistic: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """Return |T'|, Hall's transformation of |T|, for T on the side away from the tail of the replicas.

    Parameters
    ----------
    statistic : array
        |T|.
    skew : array
        g = skewness / sqrt(replicas) >= 0: third cumulant of the mean over its standard error cubed.
    """
    import numpy as np

    g = np.maximum(skew, 1e-12)
    reach = g * np.abs(statistic) / 3.0
    # 1 - (1 - u)^3 without cancellation
    return np.asarray(reach * (3.0 - 3.0 * reach + reach**2) / g)


def third_moment(weights: np.ndarray, se: np.ndarray, skewness: np.ndarray, replicas: int) -> np.ndarray:
    """Return g of the combination sum_s w_s mean_s over sizes: third cumulant over the standard error cubed.

    Parameters
    ----------
    weights, se, skewness : arrays (S, N)
    """
    import numpy as np

    part = weights * se
    variance = np.sum(part**2, axis=0)
    return np.asarray(np.sum(part**3 * skewness, axis=0) / np.sqrt(replicas) / np.maximum(variance, 1e-300) ** 1.5)
