"""The cost of a truncation state in closed form: matrix expressions, and the NumPy source printed from them.

The expressions are the source; `source` prints them, and `compiled` is what `theories.truncation.landscape` evaluates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

COST_NAMES = ("linear_cost", "affine_cost", "printed_cost")


@cache
def expressions() -> dict[str, Any]:
    """Squared costs and the matrices they are made of, as SymPy matrix expressions.

    Symbols: ``Y`` labels (Q, Q); ``X`` truncated class means (Q, Q); ``X_0`` class means before truncation; ``Sigma``
    sum of the covariances of the active classes (Q, Q); ``V`` (Q, Q-1) an orthonormal basis of the vectors orthogonal
    to ``e = (1,...,1)/sqrt Q``; ``c_inv`` the reciprocal of ``c = e^T Delta e`` (0 if c = 0, when ``Delta e = 0`` too).
    """
    import sympy as sp

    q = sp.Symbol("Q", integer=True, positive=True)
    labels, means, before = sp.MatrixSymbol("Y", q, q), sp.MatrixSymbol("X", q, q), sp.MatrixSymbol("X_0", q, q)
    sigma, delta = sp.MatrixSymbol("Sigma", q, q), delta_symbol()
    basis, mean_direction = sp.MatrixSymbol("V", q, q - 1), sp.MatrixSymbol("e", q, 1)
    schur, c_inv = sp.MatrixSymbol("S", q - 1, q - 1), sp.Symbol("c_inv", nonnegative=True)
    return {
        "Delta": means.inv() * sigma * means.inv().T,
        "Delta_printed": before.inv() * sigma * before.inv().T,
        "c": sp.Trace(mean_direction.T * delta * mean_direction),
        "S": basis.T * delta * basis - c_inv * (basis.T * delta * mean_direction) * (mean_direction.T * delta * basis),
        "linear_cost": sp.Trace(labels * delta * (sp.Identity(q) + delta).inv() * labels.T),
        "affine_cost": sp.Trace(labels * basis * schur * (sp.Identity(q - 1) + schur).inv() * basis.T * labels.T),
    }


def delta_symbol() -> Any:
    """The matrix symbol ``Delta`` of `expressions`."""
    import sympy as sp

    q = sp.Symbol("Q", integer=True, positive=True)
    return sp.MatrixSymbol("Delta", q, q)


@cache
def source() -> str:
    """Readable NumPy source of the formulas, printed from `expressions`."""
    from sympy.printing.numpy import NumPyPrinter

    class Printer(NumPyPrinter):  # type: ignore[misc]
        def _print_Identity(self, expr: Any) -> str:
            return f"numpy.eye({self._print(expr.shape[0])})"

        def _print_Trace(self, expr: Any) -> str:
            return f"numpy.trace({self._print(expr.arg)})"

    printer = Printer({"fully_qualified_modules": True, "allow_unknown_functions": False})
    text = {name: printer.doprint(expr) for name, expr in expressions().items()}
    return f'''"""Cost of a truncation state: generated from the printed equations."""

import numpy


def squared_costs(Y, X, X_0, Sigma, V, e):
    """Return (linear, affine, printed) squared costs."""
    Q = Y.shape[0]
    Delta = {text["Delta_printed"]}
    printed = {text["linear_cost"]}
    Delta = {text["Delta"]}
    linear = {text["linear_cost"]}
    c = {text["c"]}
    c_inv = 1.0 / c if c > 0.0 else 0.0
    S = {text["S"]}
    affine = {text["affine_cost"]}
    return linear, affine, printed
'''


def compiled() -> Callable[..., tuple[float, float, float]]:
    """The function `squared_costs` of `source`, from the store of generated modules."""
    from ...symbolic import store

    function: Callable[..., tuple[float, float, float]] = store.module(
        ("truncation-state-costs",), source
    ).squared_costs
    return function


def orthonormal_split(classes: int) -> tuple[Any, Any]:
    """Return (V, e): e = (1,...,1)/sqrt Q as a column, V an orthonormal basis of its complement."""
    import numpy as np

    e = np.full((classes, 1), 1.0 / np.sqrt(classes))
    # Helmert's basis: exact, and the same on every machine.
    v = np.zeros((classes, classes - 1))
    for k in range(1, classes):
        v[:k, k - 1] = 1.0
        v[k, k - 1] = -k
        v[:, k - 1] /= np.sqrt(k * (k + 1.0))
    return v, e
