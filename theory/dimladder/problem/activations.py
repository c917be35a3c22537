"""Activations by name, or any formula in ``x``."""

from __future__ import annotations

from functools import lru_cache

from ..errors import did_you_mean
from .expressions import Expression, HermiteConvention

# Name -> formula in x. "erf" is the Saad-Solla activation erf(x/sqrt 2), as everywhere in the field.
ACTIVATIONS: dict[str, str] = {
    "abs": "abs(x)",
    "erf": "erf(x/sqrt(2))",
    "exp": "exp(x)",
    "gaussian": "exp(-x**2/2)",
    "gelu": "gelu(x)",
    "hard-tanh": "hardtanh(x)",
    "leaky-relu": "leaky_relu(x)",
    "linear": "x",
    "quadratic": "x**2",
    "relu": "relu(x)",
    "sigmoid": "sigmoid(x)",
    "sign": "sign(x)",
    "silu": "silu(x)",
    "sin": "sin(x)",
    "cos": "cos(x)",
    "softplus": "softplus(x)",
    "step": "step(x)",
    "tanh": "tanh(x)",
}


@lru_cache(maxsize=256)
def activation(text: str, hermite: HermiteConvention = "probabilists") -> Expression:
    """Return the activation called `text`, or the formula `text` in ``x``.

    Raises
    ------
    ValueError
        When it is neither; the message lists the names.
    """
    formula = ACTIVATIONS.get(text.lower().replace("_", "-"))
    if formula is None and text != "x" and text.replace("-", "_").isidentifier():
        raise ValueError(f"unknown activation {text!r}: {did_you_mean(text, ACTIVATIONS)}")
    try:
        return Expression(formula if formula is not None else text, ("x",), hermite)
    except ValueError as error:
        raise ValueError(
            f"{error}; an activation is a formula in x or one of: {', '.join(sorted(ACTIVATIONS))}"
        ) from None


def name_of(text: str) -> str:
    """Return the canonical name of an activation, or the formula itself."""
    key = text.lower().replace("_", "-")
    if key in ACTIVATIONS:
        return key
    return next((name for name, formula in ACTIVATIONS.items() if formula == text.replace(" ", "")), text)
