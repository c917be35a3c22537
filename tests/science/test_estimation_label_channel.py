"""The compiled channel of a label law: quick routes against panels, and against sampling of the printed definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

from dimladder.numerics import label_channel, proximal
from dimladder.problem.losses import loss_function
from dimladder.theories.estimation.channel import Channel, Loss
from dimladder.theories.estimation.label_vector import constant_law, trapezoid_reach, vector
from dimladder.theories.estimation.labels import label_law

Z, N1 = sp.Symbol("z", real=True), sp.Symbol("n1", real=True)
LAWS = {
    "certain": constant_law(1.0),
    "sign": label_law(sp.sign(Z + 0.3 * N1 - 0.2), flip=0.1),
    "logit": label_law(2 * Z, logit=True),
    "linear": label_law(Z + 0.5 * N1, outliers=(0.2, 2 * N1)),
    "smooth": label_law(sp.tanh(2 * Z) + 0.3 * N1),
}
STATES = ((0.7, 1.3, 0.6, 0.2), (8.0, 0.3, -0.2, -1.0), (0.05, 30.0, 3.0, 2.0), (40.0, 4.0, 1.5, 0.0))


def _loss(text: str) -> Loss:
    form = loss_function(text)
    return Loss(form.name, form.value)


def _averages(loss: Loss, law: Any, state: tuple[float, ...], observe: bool = True) -> np.ndarray:
    out, (V, q, m, b) = np.empty(7), state
    label_channel.law_averages(vector(loss, law), 0, V, q, m, b, observe, out)
    return out


@pytest.mark.parametrize("text", ["logistic", "hinge", "huber(y - f, 1.0)", "relu(1 - y*f)**2", "log(1+exp(-2*y*f))"])
def test_quick_routes_are_the_panels(text: str) -> None:
    loss = _loss(text)
    for name, law in LAWS.items():
        if not loss.of_residual and name in ("linear", "smooth"):
            continue
        for state in STATES:
            e = Channel(loss, law, 1.0).averages(*state)
            expected = np.array([e.f, e.ff, e.fv, e.loss, e.test, e.fz, e.error])
            found = _averages(loss, law, state)
            np.testing.assert_allclose(found, expected, rtol=2e-12, atol=2e-13, err_msg=f"{name} {state}")
            np.testing.assert_array_equal(_averages(loss, law, state, observe=False)[[0, 1, 2, 5]], found[[0, 1, 2, 5]])


@pytest.mark.parametrize("text", ["hinge", "logistic", "quantile(y - f, 0.3)"])
def test_averages_against_sampling(text: str) -> None:
    """Definitions alone: draw (omega, z), draw the label, find the proximal point; 5 standard errors."""
    loss, (V, q, m, b), n = _loss(text), (0.8, 1.7, 0.9, 0.3), 400_000
    rng = np.random.default_rng(5)
    z = rng.standard_normal(n)
    omega = b + m * z + np.sqrt(q - m * m) * rng.standard_normal(n)
    y = np.sign(z + 0.3 * rng.standard_normal(n) - 0.2) * np.where(rng.random(n) < 0.1, -1.0, 1.0)
    module, u = loss.module(), np.empty(n)
    for label in (-1.0, 1.0):
        part = np.empty(int(np.sum(y == label)))
        proximal.prox_many(module.slope, module.curvature, module.roots, label, omega[y == label], V, part)
        u[y == label] = part
    f, form = (u - omega) / V, loss_function(text)
    samples = [f, f * f, form.evaluate(np, u, y), form.evaluate(np, omega, y), (y * omega < 0).astype(float)]
    found = _averages(loss, LAWS["sign"], (V, q, m, b))
    for index, sample in zip((0, 1, 3, 4, 6), samples, strict=True):
        assert abs(found[index] - sample.mean()) < 5 * sample.std() / np.sqrt(n), index
    # E[z f] = E d_z f + m E d_omega f (Stein).
    zf = z * f
    assert abs(found[5] - m * found[2] - zf.mean()) < 5 * zf.std() / np.sqrt(n)


def test_the_step_of_the_trapezoidal_rule_is_found_by_comparison() -> None:
    """A loss that bends ten times as sharply needs a tenth of the step; one with kinks has none."""
    smooth, sharp = trapezoid_reach(_loss("logistic")), trapezoid_reach(_loss("log(1 + exp(-10*y*f))/10"))
    assert 0.0 < sharp < 0.3 * smooth


def test_states_outside_the_domain_are_not_numbers() -> None:
    loss = _loss("hinge")
    for state in ((-1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.1, 0.0), (np.inf, 1.0, 0.0, 0.0)):
        assert np.isnan(_averages(loss, LAWS["sign"], state)).all()
