"""``[data]`` of ``kind = "coordinate"``: laws of one rotated coordinate of a cluster, in closed form.

For data z and a target eta, truncation at threshold t replaces z by max(z, t). The potential ``c(t) = E[(max(z, t) -
eta)^2]/2`` has ``c'(t) = F(t)(t - eta)`` with F the distribution function, so the flow of the threshold is ``t' =
F(t)(eta - t)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from .checks import finite, positive
from .spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class GaussianCoordinate(Spec, frozen=True, kw_only=True, tag_field="kind", tag="coordinate"):
    """z ~ N(mean, std^2), to be sent to `target`."""

    law: Literal["gaussian"] = "gaussian"
    mean: float
    std: float
    target: float

    def __post_init__(self) -> None:
        finite(mean=self.mean, std=self.std, target=self.target)
        positive(std=self.std)

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


class UniformCoordinate(Spec, frozen=True, kw_only=True, tag_field="kind", tag="coordinate"):
    """z uniform on [low, high], to be sent to `target`."""

    law: Literal["uniform"] = "uniform"
    low: float
    high: float
    target: float

    def __post_init__(self) -> None:
        finite(low=self.low, high=self.high, target=self.target)
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


class ExponentialCoordinate(Spec, frozen=True, kw_only=True, tag_field="kind", tag="coordinate"):
    """z = origin + scale * Exp(1), to be sent to `target`."""

    law: Literal["exponential"] = "exponential"
    origin: float
    scale: float
    target: float

    def __post_init__(self) -> None:
        finite(origin=self.origin, scale=self.scale, target=self.target)
        positive(scale=self.scale)

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


Cluster = GaussianCoordinate | UniformCoordinate | ExponentialCoordinate


class Component(Spec, frozen=True, kw_only=True):
    """One law of a mixture in a coordinate; its keys are those of the law of that name."""

    law: Literal["gaussian", "uniform", "exponential"]
    target: float
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    origin: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        _ = self.cluster

    @property
    def cluster(self) -> Cluster:
        """The law itself."""
        own = ("mean", "std", "low", "high", "origin", "scale")
        given: dict[str, Any] = {key: value for key in own if (value := getattr(self, key)) is not None}
        known: dict[str, type[Cluster]] = {
            "gaussian": GaussianCoordinate, "uniform": UniformCoordinate, "exponential": ExponentialCoordinate,
        }  # fmt: skip
        try:
            return known[self.law](target=self.target, **given)
        except TypeError as error:
            raise ValueError(f"law = {self.law!r}: {error}") from None


class MixtureCoordinate(Spec, frozen=True, kw_only=True, tag_field="kind", tag="coordinate"):
    """Several clusters in the same coordinate, each with its own target; `weights` are the fractions N_j/N."""

    law: Literal["mixture"] = "mixture"
    weights: tuple[float, ...]
    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.components) or not self.weights:
            raise ValueError(f"one weight a component is needed, got {len(self.weights)} for {len(self.components)}")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-12:
            raise ValueError(f"weights must be positive and sum to 1, got {list(self.weights)}")


class EmpiricalCoordinate(Spec, frozen=True, kw_only=True, tag_field="kind", tag="coordinate"):
    """The values themselves, each to be sent to `target` (or to its own entry of `targets`)."""

    law: Literal["empirical"] = "empirical"
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
        finite(values=self.values, targets=self.targets, target=self.target)


Data = GaussianCoordinate | UniformCoordinate | ExponentialCoordinate | MixtureCoordinate | EmpiricalCoordinate


def components(data: Data) -> tuple[Sequence[float], Sequence[Cluster]]:
    """Return (weights, clusters) of a law with a density."""
    if isinstance(data, MixtureCoordinate):
        return data.weights, [component.cluster for component in data.components]
    if isinstance(data, EmpiricalCoordinate):
        raise TypeError("an empirical law has no density")
    return (1.0,), (data,)


def draw(data: Data, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Draw `count` independent (value, target) pairs; an empirical law is resampled with replacement."""
    import numpy as np

    if isinstance(data, EmpiricalCoordinate):
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

    if isinstance(data, EmpiricalCoordinate):
        z, eta = points(data)
        return z, eta, np.full(z.size, 1 / z.size)
    weights, clusters = components(data)
    slices = [c.quantile((np.arange(strata) + rng.random(strata)) / strata) for c in clusters]
    return (
        np.concatenate(slices),
        np.repeat([c.target for c in clusters], strata),
        np.repeat(np.asarray(weights) / strata, strata),
    )


def points(data: EmpiricalCoordinate) -> tuple[Array, Array]:
    """(values, targets) of an empirical law, as arrays."""
    import numpy as np

    z = np.array(data.values)
    return z, np.array(data.targets) if data.targets else np.full(z.size, float(data.target or 0.0))
