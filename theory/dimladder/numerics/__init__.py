"""numba and SciPy numerics. Nothing here knows of learning, of sympy, or of the rest of the package."""
