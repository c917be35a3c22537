"""How the gap between a finite-size measurement and a limit closes: gap ~ C d^-a, and gap = A + B d^-a."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

EXPONENTS = (-2.0, 6.0)


@dataclass(frozen=True)
class PowerLaw:
    """The fit gap(d) = C d^-a.

    Attributes
    ----------
    exponent, exponent_se : float
        a and its standard error; NaN when the gap is below the noise at every size, or there is one size only.
    amplitude : float
        C, signed.
    chi2, freedom : float, int
        Weighted sum of squared residuals, and sizes - 2.
    reason : str
        Why there is no exponent; empty when there is one.
    """

    exponent: float
    exponent_se: float
    amplitude: float
    chi2: float
    freedom: int
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether an exponent could be fitted."""
        return not self.reason


def fit_power_law(sizes: np.ndarray, gap: np.ndarray, se: np.ndarray, noise: float = 3.0) -> PowerLaw:
    """Fit gap(d) = C d^-a by weighted least squares on the signed gaps.

    The gaps themselves are fitted, not their logarithms: one that is lost in the noise, or has the wrong sign by
    chance, enters with its weight and biases nothing.

    Parameters
    ----------
    sizes, gap, se : arrays (S,)
        Sizes, gaps and their standard errors (positive).
    noise : float
        The largest |gap| / se must exceed this for an exponent to mean anything.

    Returns
    -------
    PowerLaw
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    sizes, gap, se = (np.asarray(a, dtype=float) for a in (sizes, gap, se))
    nothing = float("nan")
    if len(sizes) < 2:
        return PowerLaw(nothing, nothing, nothing, 0.0, -1, "one size only")
    if not (np.isfinite(gap).all() and np.isfinite(se).all() and (se > 0).all()):
        return PowerLaw(nothing, nothing, nothing, nothing, len(sizes) - 2, "a gap or its standard error is not known")
    strongest = float(np.max(np.abs(gap) / se))
    if not strongest > noise:
        why = f"the gap is below the noise at every size (largest: {strongest:.2g} standard errors)"
        return PowerLaw(nothing, nothing, nothing, float(np.sum((gap / se) ** 2)), len(sizes) - 2, why)
    middle = np.exp(np.mean(np.log(sizes)))
    logs = np.log(sizes / middle)
    weight = (se.min() / se) ** 2

    def amplitude(a: float) -> float:
        shape = np.exp(-a * logs)
        return float(np.sum(weight * shape * gap) / np.sum(weight * shape**2))

    def chi2(a: float) -> float:
        return float(np.sum(((gap - amplitude(a) * np.exp(-a * logs)) / se) ** 2))

    grid = np.linspace(*EXPONENTS, 161)
    best = grid[int(np.argmin([chi2(a) for a in grid]))]
    width = grid[1] - grid[0]
    found = minimize_scalar(chi2, bounds=(best - width, best + width), method="bounded", options={"xatol": 1e-8})
    a = float(found.x)
    freedom = len(sizes) - 2
    if not EXPONENTS[0] + width < a < EXPONENTS[1] - width:
        return PowerLaw(nothing, nothing, nothing, chi2(a), freedom, "no power law fits these gaps")
    size = amplitude(a)
    # Amplitude and exponent decouple about the weighted mean of log d: no matrix to invert.
    share = weight * np.exp(-2.0 * a * logs)
    spread = np.sum(share * (logs - np.sum(share * logs) / np.sum(share)) ** 2)
    # A fit worse than its errors says that they, or the pure power, are too optimistic: widen the error accordingly.
    widen = max(1.0, chi2(a) / freedom) if freedom else 1.0
    precision = float(abs(size) * np.sqrt(spread) / se.min())
    if not precision > 1.0 / (EXPONENTS[1] - EXPONENTS[0]):
        return PowerLaw(nothing, nothing, nothing, chi2(a), freedom, "one size alone is precise enough to say")
    return PowerLaw(a, float(np.sqrt(widen) / precision), size * float(middle) ** a, chi2(a), freedom)


def own_exponents(
    sizes: np.ndarray, gap: np.ndarray, se: np.ndarray, slowest: float, fastest: float, points: int = 61
) -> np.ndarray:
    """Return, for each entry, the exponent in [slowest, fastest] with which gap = C d^-a fits best.

    Parameters
    ----------
    sizes : array (S,)
    gap, se : arrays (S, N)
    """
    import numpy as np

    logs = np.log(np.asarray(sizes, dtype=float) / np.max(sizes))[:, None]
    best, chosen = np.full(gap.shape[1], np.inf), np.full(gap.shape[1], slowest)
    for a in np.geomspace(slowest, fastest, points):
        shape = np.exp(-a * logs) / se
        amplitude = np.sum(shape * gap / se, axis=0) / np.sum(shape**2, axis=0)
        chi2 = np.sum((gap / se - amplitude * shape) ** 2, axis=0)
        chosen = np.where(chi2 < best, a, chosen)
        best = np.minimum(best, chi2)
    return chosen


def extrapolate(
    sizes: np.ndarray, gap: np.ndarray, se: np.ndarray, exponent: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return A and its standard error in gap(d) = A + B d^-exponent: the gap that stays as d -> infinity.

    Parameters
    ----------
    sizes : array (S,)
        At least two sizes.
    gap, se : arrays (S, ...)
        One fit for each trailing entry.
    exponent : float or array (...)
        The same for all entries, or one for each.
    """
    import numpy as np

    gap, se = np.asarray(gap, dtype=float), np.asarray(se, dtype=float)
    weights = combination(sizes, se, exponent)
    return np.sum(weights * gap, axis=0), np.sqrt(np.sum((weights * se) ** 2, axis=0))


def combination(sizes: np.ndarray, se: np.ndarray, exponent: float | np.ndarray) -> np.ndarray:
    """Return the weights (S, ...) with which gaps at the sizes combine to A in gap(d) = A + B d^-exponent.

    Least squares with standard errors `se`, without cancellation however much these differ. Arguments as `extrapolate`.
    """
    import numpy as np

    sizes, se = np.asarray(sizes, dtype=float), np.asarray(se, dtype=float)
    x = (sizes / sizes.max()).reshape(-1, *[1] * (se.ndim - 1)) ** -np.asarray(exponent)
    weight = (se.min(axis=0) / se) ** 2
    # In pairs of sizes: sum_ij w_i w_j (x_j - x_i) x_j gap_i / sum_i<j w_i w_j (x_i - x_j)^2.
    step = x[None] - x[:, None]
    pairs = weight[None] * weight[:, None] * step
    return np.asarray(np.sum(pairs * x[None], axis=1) / (0.5 * np.sum(pairs * step, axis=(0, 1))))


def leading_correction(
    sizes: np.ndarray, gap: np.ndarray, se: np.ndarray, exponent: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return C, its standard error and chi^2 of gap(d) = C d^-exponent: the coefficient of the 1/d correction.

    Parameters
    ----------
    sizes : array (S,)
    gap, se : arrays (S, ...)
        One coefficient for each trailing entry. chi^2 has S - 1 degrees of freedom; a large one says that the sizes are
        too small for the leading order, or that the theory is not the limit.
    """
    import numpy as np

    sizes, gap, se = (np.asarray(a, dtype=float) for a in (sizes, gap, se))
    shape = sizes.reshape(-1, *[1] * (gap.ndim - 1)) ** -exponent
    information = np.sum((shape / se) ** 2, axis=0)
    coefficient = np.sum(shape * gap / se**2, axis=0) / information
    return coefficient, 1 / np.sqrt(information), np.sum(((gap - coefficient * shape) / se) ** 2, axis=0)
