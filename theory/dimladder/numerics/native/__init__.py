"""A second compiler, for the code that is met first: what we print, integrators, kernels of fixed points.

numba takes most of its time in Python, inferring types of everything that Python can say. What we print and solve
with says little, so that a short translation to LLVM does (`lowering`), in a tenth of the time and to the same machine
code. numba remains the compiler of all other kernels, of what is outside the subset, and the oracle in tests;
``DIMLADDER_NATIVE=0`` leaves everything to it.
"""

from .functions import Native
from .kernels import Kernel, enabled, module_functions, njit, value_type
from .types import Refused, types

__all__ = ["Kernel", "Native", "Refused", "enabled", "module_functions", "njit", "types", "value_type"]
