"""How often the verdict is wrong: synthetic experiments whose truth is known.

A null experiment draws replicas of a given law whose mean closes onto the theory as d^-a; a biased one stays off by a
given share of the theory. `rates` counts the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .significance import sample_skewness
from .verdict import Entries, Settings, count_distinct, judge

if TYPE_CHECKING:
    import numpy as np

    Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _student(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(3, shape) / 3.0**0.5


def _log_normal(sigma: float) -> Draw:
    import math

    mean, width = math.exp(sigma**2 / 2), math.exp(sigma**2 / 2) * math.sqrt(math.expm1(sigma**2))
    return lambda rng, shape: (rng.lognormal(0.0, sigma, shape) - mean) / width


def _events(share: float) -> Draw:
    return lambda rng, shape: ((rng.random(shape) < share) - share) / (share * (1 - share)) ** 0.5


def _quantised(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    return np.asarray(np.round(rng.standard_normal(shape)) / 1.04)


def laws() -> dict[str, Draw]:
    """Return the laws of replicas by name, each with mean 0 and variance 1."""
    return {
        "normal": _normal,
        "student-3": _student,
        "log-normal-1": _log_normal(1.0),
        "log-normal-2": _log_normal(2.0),
        "rare-events": _events(0.05),
        "quantised": _quantised,
    }


@dataclass(frozen=True)
class Design:
    """A synthetic experiment.

    Attributes
    ----------
    law : str
        Of the replicas; see `laws`.
    replicas : int
    scatter : float
        Standard deviation of a replica over the theory at the smallest size; it falls as d^-1/2.
    gap, exponent : float
        The gap is gap (d / d_0)^-exponent of the theory.
    bias : float
        What stays, as a share of the theory: 0 for a right theory.
    sizes : tuple of float
    entries : int
    correlated : bool
        Whether the entries of a replica are one draw (a curve that fluctuates as a whole) instead of independent ones.
    """

    law: str = "normal"
    replicas: int = 16
    scatter: float = 0.1
    gap: float = 0.0
    exponent: float = 1.0
    bias: float = 0.0
    sizes: tuple[float, ...] = (200.0, 400.0, 800.0)
    entries: int = 40
    correlated: bool = False

    def draw(self, rng: np.random.Generator) -> Entries:
        """Return the entries of one experiment, as `compare` would give them to `judge`."""
        import numpy as np

        sizes = np.array(self.sizes)
        theory = np.broadcast_to(np.linspace(0.5, 1.5, self.entries), (sizes.size, self.entries))
        columns = 1 if self.correlated else self.entries
        noise = laws()[self.law](rng, (sizes.size, self.replicas, columns))
        fall = (sizes[0] / sizes)[:, None, None]
        values = theory[:, None] * (
            1.0 + self.bias + self.gap * fall**self.exponent + self.scatter * np.sqrt(fall) * noise
        )
        first = values[:, :1]
        mean = first[:, 0] + (values - first).mean(axis=1)
        se = (values - first).std(axis=1, ddof=1) / np.sqrt(self.replicas)
        gap, still = mean - theory, se < 1e-9
        kept = ~(still & (np.abs(gap) < 1e-9)).all(axis=0)
        entries = Entries(
            "q", sizes, gap, np.maximum(se, 1e-9), theory, [f"time = {k}" for k in range(self.entries)], self.replicas,
            np.where(still, 0.0, sample_skewness(values, axis=1)), np.zeros(self.entries, bool), still,
        )  # fmt: skip
        return entries.take(kept)


def rates(design: Design, settings: Settings, runs: int, seed: int = 0) -> dict[str, float]:
    """Return the shares of the verdicts over `runs` independent experiments."""
    import numpy as np

    counts = {"agree": 0, "disagree": 0, "inconclusive": 0}
    for stream in np.random.SeedSequence(seed).spawn(runs):
        entries = design.draw(np.random.default_rng(stream))
        counts[judge(entries, count_distinct([entries]), settings).verdict] += 1
    return {verdict: count / runs for verdict, count in counts.items()}
