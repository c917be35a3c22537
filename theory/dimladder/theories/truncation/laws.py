"""Laws of one rotated coordinate of a cluster: distribution function and potential, in closed form.

For data z and a target eta, truncation at threshold t replaces z by max(z, t). The potential ``c(t) = E[(max(z, t) -
eta)^2]/2`` has ``c'(t) = F(t)(t - eta)`` with F the distribution function, so the flow of the threshold is ``t' =
F(t)(eta - t)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...problem import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


def _finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


class GaussianCluster(Spec, frozen=True, kw_only=True, tag_field="kind", tag="gaussian-cluster"):
    """z ~ N(mean, std^2), to be sent to `target`."""

    mean: float
    std: float
    target: float

    def __post_init__(self) -> None:
        _finite(mean=self.mean, std=self.std, target=self.target)
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    names = ("m", "s")

    def values(self) -> tuple[float, ...]:
        """Numbers in the order of `names`."""
        return (self.mean, self.std)

    @staticmethod
    def cdf(t: Any, m: Any, s: Any) -> Any:
        """Phi((t - m)/s)."""
        import sympy as sp

        return sp.erfc(-(t - m) / (s * sp.sqrt(2))) / 2

    @staticmethod
    def potential(t: Any, eta: Any, m: Any, s: Any) -> Any:
        """E[(max(z, t) - eta)^2]/2."""
        import sympy as sp

        u = (t - m) / s
        density = sp.exp(-(u**2) / 2) / sp.sqrt(2 * sp.pi)
        below, above = sp.erfc(-u / sp.sqrt(2)) / 2, sp.erfc(u / sp.sqrt(2)) / 2
        tail = ((m - eta) ** 2 + s**2) * above + s * density * (2 * (m - eta) + s * u)
        return (below * (t - eta) ** 2 + tail) / 2

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw `count` values."""
        return rng.normal(self.mean, self.std, count)

    def quantile(self, u: Array) -> Array:
        """Inverse of the distribution function."""
        from scipy.special import ndtri

        values: Array = self.mean + self.std * ndtri(u)
        return values


class UniformCluster(Spec, frozen=True, kw_only=True, tag_field="kind", tag="uniform-cluster"):
    """z uniform on [low, high], to be sent to `target`."""

    low: float
    high: float
    target: float

    def __post_init__(self) -> None:
        _finite(low=self.low, high=self.high, target=self.target)
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    names = ("a", "b")

    def values(self) -> tuple[float, ...]:
        """Numbers in the order of `names`."""
        return (self.low, self.high)

    @staticmethod
    def cdf(t: Any, a: Any, b: Any) -> Any:
        """(t - a)/(b - a) inside the support."""
        import sympy as sp

        return sp.Piecewise((0, t <= a), ((t - a) / (b - a), t < b), (1, True))

    @staticmethod
    def potential(t: Any, eta: Any, a: Any, b: Any) -> Any:
        """E[(max(z, t) - eta)^2]/2."""
        import sympy as sp

        outside = (t - eta) ** 2
        below = ((b - eta) ** 3 - (a - eta) ** 3) / (3 * (b - a))
        inside = (t - a) / (b - a) * outside + ((b - eta) ** 3 - (t - eta) ** 3) / (3 * (b - a))
        return sp.Piecewise((below / 2, t <= a), (inside / 2, t < b), (outside / 2, True))

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw `count` values."""
        return rng.uniform(self.low, self.high, count)

    def quantile(self, u: Array) -> Array:
        """Inverse of the distribution function."""
        return self.low + (self.high - self.low) * u


class ExponentialCluster(Spec, frozen=True, kw_only=True, tag_field="kind", tag="exponential-cluster"):
    """z = origin + scale * Exp(1), to be sent to `target`."""

    origin: float
    scale: float
    target: float

    def __post_init__(self) -> None:
        _finite(origin=self.origin, scale=self.scale, target=self.target)
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    names = ("o", "s")

    def values(self) -> tuple[float, ...]:
        """Numbers in the order of `names`."""
        return (self.origin, self.scale)

    @staticmethod
    def cdf(t: Any, o: Any, s: Any) -> Any:
        """1 - exp(-(t - o)/s) above the origin."""
        import sympy as sp

        return sp.Piecewise((0, t <= o), (1 - sp.exp(-(t - o) / s), True))

    @staticmethod
    def potential(t: Any, eta: Any, o: Any, s: Any) -> Any:
        """E[(max(z, t) - eta)^2]/2."""
        import sympy as sp

        def tail(start: Any) -> Any:  # E[(start + s Exp(1) - eta)^2]
            return (start - eta) ** 2 + 2 * s * (start - eta) + 2 * s**2

        left = sp.exp(-(t - o) / s)
        return sp.Piecewise((tail(o) / 2, t <= o), (((1 - left) * (t - eta) ** 2 + left * tail(t)) / 2, True))

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw `count` values."""
        return self.origin + rng.exponential(self.scale, count)

    def quantile(self, u: Array) -> Array:
        """Inverse of the distribution function."""
        import numpy as np

        values: Array = self.origin - self.scale * np.log1p(-u)
        return values


Cluster = GaussianCluster | UniformCluster | ExponentialCluster


class ClusterMixture(Spec, frozen=True, kw_only=True, tag_field="kind", tag="mixture"):
    """Several clusters in the same coordinate, each with its own target; `weights` are the fractions N_j/N."""

    weights: tuple[float, ...]
    components: tuple[Cluster, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.components) or not self.weights:
            raise ValueError(f"one weight a component is needed, got {len(self.weights)} for {len(self.components)}")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-12:
            raise ValueError(f"weights must be positive and sum to 1, got {list(self.weights)}")


class EmpiricalCluster(Spec, frozen=True, kw_only=True, tag_field="kind", tag="empirical"):
    """The values themselves, each to be sent to `target` (or to its own entry of `targets`)."""

    values: tuple[float, ...]
    target: float | None = None
    targets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must not be empty")
        if (self.target is None) == (not self.targets):
            raise ValueError("give either target (one number) or targets (one a value)")
        if self.targets and len(self.targets) != len(self.values):
            raise ValueError(f"targets must list one number a value: {len(self.targets)} for {len(self.values)} values")
        for number in (*self.values, *self.targets, *(() if self.target is None else (self.target,))):
            _finite(values=number)


Data = GaussianCluster | UniformCluster | ExponentialCluster | ClusterMixture | EmpiricalCluster


def components(data: Data) -> tuple[Sequence[float], Sequence[Cluster]]:
    """Return (weights, clusters) of a law with a density."""
    if isinstance(data, ClusterMixture):
        return data.weights, data.components
    if isinstance(data, EmpiricalCluster):
        raise TypeError("an empirical law has no density")
    return (1.0,), (data,)


def draw(data: Data, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Draw `count` independent (value, target) pairs; an empirical law is resampled with replacement."""
    import numpy as np

    if isinstance(data, EmpiricalCluster):
        pick = rng.integers(0, len(data.values), count)
        values, targets = points(data)
        return values[pick], targets[pick]
    weights, clusters = components(data)
    if len(clusters) == 1:
        return clusters[0].sample(rng, count), np.full(count, clusters[0].target)
    counts = rng.multinomial(count, np.asarray(weights) / np.sum(weights))
    z = [c.sample(rng, int(n)) for c, n in zip(clusters, counts, strict=True)]
    return np.concatenate(z), np.repeat([c.target for c in clusters], counts)


def draw_stratified(data: Data, rng: np.random.Generator, strata: int) -> tuple[Array, Array, Array]:
    """One point in each of `strata` equally likely slices of every component: (values, targets, weights) with rare
    tails well covered.

    Averages are unbiased, with far less scatter than independent draws. An empirical law is returned whole.
    """
    import numpy as np

    if isinstance(data, EmpiricalCluster):
        z, eta = points(data)
        return z, eta, np.full(z.size, 1 / z.size)
    weights, clusters = components(data)
    slices = [c.quantile((np.arange(strata) + rng.random(strata)) / strata) for c in clusters]
    return (
        np.concatenate(slices),
        np.repeat([c.target for c in clusters], strata),
        np.repeat(np.asarray(weights) / strata, strata),
    )


def points(data: EmpiricalCluster) -> tuple[Array, Array]:
    """(values, targets) of an empirical law, as arrays."""
    import numpy as np

    z = np.array(data.values)
    return z, np.array(data.targets) if data.targets else np.full(z.size, float(data.target or 0.0))
