"""Runs on one data set that several tests share, in numbers and formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dimladder.problem import Expression
from dimladder.problem.descent import Descent
from dimladder.problem.losses import loss_function
from dimladder.theories.multi_pass.model import Model

# Own computations at 65536 particles and 8 scrambles; `<name>_se` is the error of the mean over scrambles.
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "multi_pass_reference.json").read_text())
SQUARE = loss_function("square").expression
LOGISTIC = loss_function("logistic").expression
ERF = Expression("erf(x/sqrt(2))")


def reference_case(name: str) -> tuple[Descent, Model]:
    """Return a case of the reference file."""
    p = REFERENCE[name]["parameters"]
    steps = p["T"]
    descent = Descent.isotropic(
        sample_ratio=p["alpha"], rates=np.full(steps, p["eta"]), readout_rates=np.full(steps, p["eta_a"]),
        target_gram=p["Tm"], start_overlap=p["M0"], start_gram=p["Q0"], start_readout=np.array(p["a0"]),
        ridge=p["ridge"], readout_ridge=p["ridge_a"], batch_fraction=p["b"],
        batching="epoch" if p["masks"] == "epoch" else "fresh",
    )  # fmt: skip
    if name == "logistic":
        target = Expression("sign(z + 0.5*n1)", ("z", "n1"))
        return descent, Model(1, Expression("x"), LOGISTIC, ("z",), target, ("n1",))
    if name in ("phase", "tanh2"):
        network, noise = ("x**2", 0.2) if name == "phase" else ("tanh(x)**2", 0.1)
        target = Expression(network.replace("x", "z"), ("z",)) if name == "phase" else Expression("tanh(z)**2", ("z",))
        return descent, Model(1, Expression(network), SQUARE, ("z",), target, noise=noise)
    return descent, Model(2, ERF, SQUARE, ("z1", "z2"), unit=ERF, readout=(1.0, 1.0), noise=0.5)


def linear_case(alpha: float, eta: float, ridge: float, sigma: float, steps: int, **more: Any) -> tuple[Descent, Model]:
    """Return ridge regression of y = z + sigma xi from Q = 1, M = 0."""
    descent = Descent.isotropic(
        sample_ratio=alpha, rates=np.full(steps, eta), readout_rates=np.zeros(steps), target_gram=[[1.0]],
        start_overlap=[[0.0]], start_gram=[[1.0]], start_readout=np.ones(1), ridge=ridge, **more,
    )  # fmt: skip
    return descent, Model(1, Expression("x"), SQUARE, ("z",), Expression("z", ("z",)), noise=sigma)
