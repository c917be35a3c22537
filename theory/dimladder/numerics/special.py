"""Special functions for compiled kernels: branch-free, vectorisable, NaN-preserving.

numba does not vectorise the math library's ``asin``, ``exp``, ``tanh`` or ``erf`` (one scalar call each, 3 to 11 ns).
Arcsines are nearly all the cost of the order-parameter equations of erf networks, the others of activations and losses
of many particles. The versions here have no branch, so that LLVM turns a loop over them into SIMD code (about 1 ns).

Generated modules are self-contained: `ASIN_SOURCE` and `EXP_SOURCE` (``exp``, ``tanh``, ``erf``,
``softplus``) are the source text of these very functions, to be pasted after `SOURCE_IMPORTS`.
"""

from __future__ import annotations

import inspect
import math

import numpy as np

from .native import njit
from .pasted import asin_text

__all__ = [
    "ASIN_SOURCE",
    "EXP_SOURCE",
    "SOURCE_IMPORTS",
    "asin",
    "asin_series",
    "asin_short",
    "erf",
    "exp",
    "softplus",
    "tanh",
]


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def asin_series(z: float) -> float:
    """(asin(x) - x)/x^3 at z = x^2 <= 1/4: degree 11, minimax in the relative error of asin (1.5e-17)."""
    p = 0.03191234478676631
    p = p * z - 0.01622436892216246
    p = p * z + 0.019528344398198314
    p = p * z + 0.006527944070007312
    p = p * z + 0.01216921945902067
    p = p * z + 0.013885234176079547
    p = p * z + 0.0173597049036652
    p = p * z + 0.022371758040554742
    p = p * z + 0.03038195913739977
    p = p * z + 0.04464285682831734
    p = p * z + 0.07500000000337029
    return p * z + 0.16666666666665408


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def asin_short(x: float) -> float:
    """Arcsine on [-1/2, 1/2] with relative error below 2e-16, at two thirds of the cost of `asin`; NaN for NaN."""
    z = x * x
    return x + x * z * asin_series(z)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def asin(x: float) -> float:
    """Arcsine with relative error below 4e-16; NaN outside [-1, 1] and for NaN.

    |x| <= 1/2: the series. |x| > 1/2: pi/2 - 2 asin(sqrt((1 - |x|)/2)). Both share one polynomial; the choices are
    selects, not jumps.
    """
    a = abs(x)
    small = a <= 0.5
    z = a * a if small else 0.5 - 0.5 * a
    s = a if small else math.sqrt(z)
    t = s * z * asin_series(z)
    # pi/2 = 1.5707963267948966 + 6.123233995736766e-17; pi/2 - 2 s is exact near |x| = 1/2, so it must come first.
    r = s + t if small else (1.5707963267948966 - 2.0 * s) - (2.0 * t - 6.123233995736766e-17)
    return math.copysign(r, x)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def power_of_two(n: float) -> float:
    """2^n for whole n in [-1022, 1023] by its bits; 0 at -1023, inf at 1024."""
    return np.int64((int(n) + 1023) << 52).view(np.float64)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def expm1_series(r: float) -> float:
    """exp(r) - 1 on |r| <= log(2)/2: degree 12, from Chebyshev nodes (2e-18)."""
    p = 2.0914679376583935e-09
    p = p * r + 2.510520637395701e-08
    p = p * r + 2.7557273661348637e-07
    p = p * r + 2.7557255425746435e-06
    p = p * r + 2.4801587325533363e-05
    p = p * r + 0.00019841269874800493
    p = p * r + 0.0013888888888883752
    p = p * r + 0.008333333333326141
    p = p * r + 0.04166666666666667
    p = p * r + 0.1666666666666667
    return r + r * r * (p * r + 0.5)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def exp(x: float) -> float:
    """Exponential with relative error below 3e-16; 0 below 2^-1021.5, inf on overflow, NaN for NaN.

    x = n log 2 + r, log 2 in two parts, whose first times n is exact. 2^n may overflow where the result does not.
    """
    u = -746.0 if x < -746.0 else x
    u = 710.0 if u > 710.0 else u
    n = math.floor(u * 1.4426950408889634 + 0.5)
    r = (u - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    return 2.0 * (1.0 + expm1_series(r)) * power_of_two(-1023.0 if n < -1022.0 else n - 1.0)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def tanh(x: float) -> float:
    """Hyperbolic tangent with relative error below 4e-16, from exp(2 |x|) - 1; NaN for NaN."""
    u = 2.0 * abs(x)
    u = 40.0 if u > 40.0 else u
    n = math.floor(u * 1.4426950408889634 + 0.5)
    s = power_of_two(n)
    e = s * expm1_series((u - n * 0.6931471803691238) - n * 1.9082149292705877e-10) + (s - 1.0)
    return math.copysign(e / (e + 2.0), x)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def erf(x: float) -> float:
    """Error function with relative error below 4e-16; NaN for NaN.

    |x| < 1: x times a polynomial in x^2; else 1 - exp(-x^2) times a polynomial in (x - 3)/(x + 3), over x + 3.
    """
    a = abs(x)
    z = a * a
    p = -7.795898827002142e-10
    p = p * z + 1.3720064546777686e-08
    p = p * z - 1.6208483801871705e-07
    p = p * z + 1.6447424703317362e-06
    p = p * z - 1.492473690741966e-05
    p = p * z + 0.00012055294904839707
    p = p * z - 0.0008548325975389692
    p = p * z + 0.0052239776071164225
    p = p * z - 0.02686617064323777
    p = p * z + 0.11283791670945006
    p = p * z - 0.37612638903183543
    p = p * z + 1.1283791670955126
    b = 6.0 if a > 6.0 else a
    d = 1.0 / (b + 3.0)
    t = (b - 3.0) * d
    q = 1.1509446618286097e-06
    q = q * t + 2.6652494134144984e-06
    q = q * t - 4.828388531106216e-06
    q = q * t - 1.746894237536358e-05
    q = q * t + 3.0411157010566973e-05
    q = q * t + 0.00010756316443953365
    q = q * t - 0.00027677886189937895
    q = q * t - 0.0005483098944013238
    q = q * t + 0.003034062042182937
    q = q * t - 0.0012124166174802505
    q = q * t - 0.02682723462533429
    q = q * t + 0.11952776128708652
    q = q * t - 0.31046726190055846
    q = q * t + 0.5902283571041034
    q = q * t - 0.8833944531698836
    q = q * t + 1.0740069070883398
    return math.copysign(a * p if a < 1.0 else 1.0 - exp(-b * b) * q * d, x)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True, forceinline=True)
def softplus(x: float) -> float:
    """log(1 + exp(x)) with relative error below 5e-16, without overflow: 0 where exp(-|x|) underflows; NaN for NaN.

    max(x, 0) + log(1 + e) with e = exp(-|x|), and log(1 + e) = 2 artanh(s), s = e/(2 + e).
    """
    e = exp(-abs(x))
    s = e / (2.0 + e)
    z = s * s
    p = 0.08082022805971766
    p = p * z + 0.04400369243072337
    p = p * z + 0.06000536404795356
    p = p * z + 0.06657072104827468
    p = p * z + 0.07692785032479312
    p = p * z + 0.09090894718066429
    p = p * z + 0.11111111358713932
    p = p * z + 0.1428571428355438
    p = p * z + 0.20000000000007292
    p = p * z + 0.3333333333333333
    return (x if x > 0.0 else 0.0) + 2.0 * (s + s * z * p)


SOURCE_IMPORTS = "import math\n\nimport numpy as np\nfrom numba import njit\n"
ASIN_SOURCE = asin_text()
EXP_SOURCE = "\n\n".join(inspect.getsource(f.py_func) for f in (power_of_two, expm1_series, exp, tanh, erf, softplus))
