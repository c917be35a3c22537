"""Special functions for compiled kernels: branch-free, vectorisable, NaN-preserving.

numba does not vectorise the math library's ``asin`` (one scalar call, 5 ns or more), and arcsines are nearly all the
cost of the order-parameter equations of erf networks. The version here has no branch, so that LLVM turns a loop over it
into SIMD code (about 1 ns each).

Generated modules are self-contained: `ASIN_SOURCE` and `NORMAL_SOURCE` are the source text of these very functions, to
be pasted after `SOURCE_IMPORTS`.
"""

from __future__ import annotations

import inspect
import math

from .jit import njit

__all__ = [
    "ASIN_SOURCE",
    "NORMAL_SOURCE",
    "SOURCE_IMPORTS",
    "asin",
    "asin_series",
    "asin_short",
    "norm_cdf",
    "norm_pdf",
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


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True)
def norm_pdf(x: float) -> float:
    """Density of the standard normal law, exp(-x^2/2)/sqrt(2 pi)."""
    return 0.3989422804014327 * math.exp(-0.5 * x * x)


@njit(error_model="numpy", fastmath={"contract", "arcp"}, cache=True)
def norm_cdf(x: float) -> float:
    """Distribution function of the standard normal law; through erfc: the lower tail keeps its digits."""
    return 0.5 * math.erfc(-0.7071067811865476 * x)


SOURCE_IMPORTS = "import math\n\nfrom numba import njit\n"
ASIN_SOURCE = "\n\n".join(inspect.getsource(f.py_func) for f in (asin_series, asin_short, asin))
NORMAL_SOURCE = inspect.getsource(norm_pdf.py_func) + "\n\n" + inspect.getsource(norm_cdf.py_func)
