"""Averages over many standard normal variables: scrambled Sobol' points or plain Monte Carlo, scrambles on threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sampler = Literal["sobol", "monte-carlo"]
T = TypeVar("T")
MAX_DIMENSIONS = 21201  # the direction numbers that scipy knows


def uniforms(dimensions: int, samples: int, stream: np.random.Generator, sampler: Sampler = "sobol") -> Array:
    """Return points inside the open unit cube, shape (dimensions, samples).

    Sobol' points are scrambled (Owen 1995; scipy's digital shift and linear matrix scramble), so that each scramble is
    an unbiased rule. Dimensions that carry more of the variance should come first.
    """
    if sampler == "monte-carlo":
        return stream.random((dimensions, samples)) * (1.0 - 2.0**-53) + 2.0**-54
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, rng=stream, bits=30)
    power = max(1, int(np.ceil(np.log2(samples))))
    points = engine.random_base2(power)[:samples]
    # The digital net has 2^30 cells: the half cell keeps quantiles finite.
    return points.T + 2.0**-31


def normals(dimensions: int, samples: int, stream: np.random.Generator, sampler: Sampler = "sobol") -> Array:
    """Return standard normal nodes of equal weight, shape (dimensions, samples); see `uniforms`."""
    if sampler == "monte-carlo":
        return stream.standard_normal((dimensions, samples))
    from scipy.special import ndtri

    return ndtri(uniforms(dimensions, samples, stream, sampler))


def each_scramble(function: Callable[[int], T], count: int, workers: int) -> list[T]:
    """Return function(0), ..., function(count - 1), on `workers` threads; the first failure cancels what waits."""
    if workers == 1 or count == 1:
        return [function(i) for i in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(function, i) for i in range(count)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
