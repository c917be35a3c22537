"""Functions of formulas that neither overflow nor cancel: log(1 + exp(a)), 1/(1 + exp(a)), log(cosh(a)) by name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def stable_functions() -> dict[str, Any]:
    """Return sympy functions whose printed code neither overflows nor cancels: softplus, sigmoid, logcosh."""
    import sympy as sp

    class sigmoid(sp.Function):  # type: ignore[misc]
        """1/(1 + exp(-x))."""

        nargs = 1

        def fdiff(self, argindex: int = 1) -> Any:
            return sigmoid(self.args[0]) * sigmoid(-self.args[0])

        def _latex(self, printer: Any, exp: str | None = None) -> str:
            text = rf"\sigma\left({printer._print(self.args[0])}\right)"
            return text if exp is None else rf"{text}^{{{exp}}}"

    class softplus(sp.Function):  # type: ignore[misc]
        """log(1 + exp(x))."""

        nargs = 1

        def fdiff(self, argindex: int = 1) -> Any:
            return sigmoid(self.args[0])

        def _latex(self, printer: Any, exp: str | None = None) -> str:
            text = rf"\log\left(1+e^{{{printer._print(self.args[0])}}}\right)"
            return text if exp is None else rf"{text}^{{{exp}}}"

    class logcosh(sp.Function):  # type: ignore[misc]
        """log(cosh(x))."""

        nargs = 1

        def fdiff(self, argindex: int = 1) -> Any:
            return sp.tanh(self.args[0])

        def _latex(self, printer: Any, exp: str | None = None) -> str:
            text = rf"\log\cosh\left({printer._print(self.args[0])}\right)"
            return text if exp is None else rf"{text}^{{{exp}}}"

    return {"sigmoid": sigmoid, "softplus": softplus, "logcosh": logcosh}


def stabilise(expression: Any) -> Any:
    """Replace log(1 + exp(a)), log(cosh(a)) and 1/(1 + exp(a)) by functions that are safe for large arguments."""
    import sympy as sp

    named = stable_functions()

    def one_plus_exp(e: Any) -> Any:
        """Return a when e is 1 + exp(a), else None."""
        if isinstance(e, sp.Add) and len(e.args) == 2 and e.args[0] == 1 and isinstance(e.args[1], sp.exp):
            return e.args[1].args[0]
        return None

    out = expression.replace(
        lambda e: isinstance(e, sp.log) and one_plus_exp(e.args[0]) is not None,
        lambda e: named["softplus"](one_plus_exp(e.args[0])),
    )
    out = out.replace(
        lambda e: isinstance(e, sp.log) and isinstance(e.args[0], sp.cosh),
        lambda e: named["logcosh"](e.args[0].args[0]),
    )
    return out.replace(
        lambda e: isinstance(e, sp.Pow) and e.exp == -1 and one_plus_exp(e.base) is not None,
        lambda e: named["sigmoid"](-one_plus_exp(e.base)),
    )


def on_arrays() -> dict[str, Any]:
    """Return the functions on NumPy arrays, by name."""
    import numpy as np
    from scipy.special import expit

    return {
        "sigmoid": expit,
        "softplus": lambda x: np.logaddexp(0.0, x),
        "logcosh": lambda x: np.abs(x) + np.log1p(np.exp(-2.0 * np.abs(x))) - np.log(2.0),
    }
