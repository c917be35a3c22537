"""The compiled channel of a label law: quick routes against panels, and against sampling of the printed definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

from dimladder.numerics import label_channel, proximal
from dimladder.problem.losses import loss_function
from dimladder.theories.estimation.channel import Loss, vector
from dimladder.theories.estimation.labels import constant_law, label_law

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


def _averages(
    loss: Loss, law: Any, state: tuple[float, ...], observe: bool = True, panels: bool = False, beta: float = 0.0
) -> np.ndarray:
    out, (V, q, m, b) = np.empty(7), state
    label_channel.law_averages.compiled(vector(loss, law, panels=panels, beta=beta), 0, V, q, m, b, observe, out)
    return out


@pytest.mark.parametrize("text", ["logistic", "hinge", "huber(y - f, 1.0)", "relu(1 - y*f)**2", "log(1+exp(-2*y*f))"])
def test_quick_routes_are_the_panels(text: str) -> None:
    loss = _loss(text)
    for name, law in LAWS.items():
        if not loss.of_residual and name in ("linear", "smooth"):
            continue
        for state in STATES:
            expected = _averages(loss, law, state, panels=True)
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
    functions, u = proximal.together(loss.module()), np.empty(n)
    for label in (-1.0, 1.0):
        part = np.empty(int(np.sum(y == label)))
        proximal.prox_many.compiled(functions, label, omega[y == label], V, part)
        u[y == label] = part
    f, form = (u - omega) / V, loss_function(text)
    samples = [f, f * f, form.evaluate(np, u, y), form.evaluate(np, omega, y), (y * omega < 0).astype(float)]
    found = _averages(loss, LAWS["sign"], (V, q, m, b))
    for index, sample in zip((0, 1, 3, 4, 6), samples, strict=True):
        assert abs(found[index] - sample.mean()) < 5 * sample.std() / np.sqrt(n), index
    # E[z f] = E d_z f + m E d_omega f (Stein).
    zf = z * f
    assert abs(found[5] - m * found[2] - zf.mean()) < 5 * zf.std() / np.sqrt(n)


@pytest.mark.parametrize("text", ["logistic", "hinge", "2*abs(y - f)", "quantile(y - f, 0.3)"])
def test_posterior_forces_against_plain_integration(text: str) -> None:
    """f and -f' of exp(-beta l) N(u; omega, V) on a fine grid of u, kinks or none, averaged by panels and by grids."""
    loss, form, (V, q, m, b), beta = _loss(text), loss_function(text), (0.8, 1.7, 0.9, 0.3), 2.5
    law = LAWS["linear"] if loss.of_residual else LAWS["sign"]
    np.testing.assert_allclose(
        _averages(loss, law, (V, q, m, b), beta=beta)[[0, 1, 2, 3, 5]],
        _averages(loss, law, (V, q, m, b), beta=beta, panels=True)[[0, 1, 2, 3, 5]], rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    certain = constant_law(1.0)
    omega = b + np.sqrt(q) * np.linspace(-9.0, 9.0, 1201)
    u = np.linspace(-25.0, 25.0, 40001)
    log_weight = -beta * form.evaluate(np, u, np.ones_like(u))
    log_z, mean, square = np.empty_like(omega), np.empty_like(omega), np.empty_like(omega)
    for i, o in enumerate(omega):
        w = np.exp(log_weight - (u - o) ** 2 / (2 * V)) * (u[1] - u[0])
        log_z[i] = np.log(w.sum() / np.sqrt(2 * np.pi * V))
        mean[i], square[i] = w @ u / w.sum(), w @ u**2 / w.sum()
    weights = np.exp(-((omega - b) ** 2) / (2 * q))
    weights /= weights.sum()
    f, response = (mean - omega) / V, (V - square + mean**2) / V**2
    found = _averages(loss, certain, (V, q, m, b), beta=beta)
    expected = [weights @ f, weights @ f**2, weights @ response, -weights @ log_z]
    # The grid of u meets a kink with an error of its step squared.
    np.testing.assert_allclose(found[:4], expected, rtol=3e-6)


def test_states_outside_the_domain_are_not_numbers() -> None:
    loss = _loss("hinge")
    for state in ((-1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.1, 0.0), (np.inf, 1.0, 0.0, 0.0)):
        assert np.isnan(_averages(loss, LAWS["sign"], state)).all()


def test_the_hinge_training_loss_has_the_width_of_the_field() -> None:
    """A published table (docs/reference/errata.md) lists the mean training loss over sqrt q, at its own overlaps."""
    V, m, q, printed = 1.8511472226201047, 0.9439196038964699, 0.6970908553720103, 0.0056283834416254765
    x, w = np.polynomial.legendre.leggauss(400)
    # The loss is max(0, 1 - V - omega): below the kink only.
    top = (1.0 - V - m) / np.sqrt(q)
    nodes = top - 6.0 * (1.0 + x)
    mean = float((6.0 * w * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)) @ (np.sqrt(q) * (top - nodes)))
    found = _averages(_loss("hinge"), constant_law(1.0), (V, q, 0.0, m))[3]
    assert found == pytest.approx(mean, rel=1e-12)
    assert printed * np.sqrt(q) == pytest.approx(mean, rel=1e-7)


@pytest.mark.parametrize("V", [1.0, 10.0, 100.0])
def test_curved_pieces_are_resolved_next_to_their_kinks(V: float) -> None:
    """relu(1 - u)^3: prox = 1 - (sqrt(1 + 12 V (1 - omega)) - 1)/(6 V) below the kink, whose branch point lies 1/(12 V)
    beyond it; the averages by adaptive quadrature."""
    loss, q, b = _loss("relu(1 - y*f)**3"), 1.3, 0.2

    def force(x: float) -> float:
        omega = b + np.sqrt(q) * x
        return 0.5 * ((np.sqrt(1 + 12 * V * (1 - omega)) - 1) / (6 * V)) ** 2 * 6.0 if omega < 1 else 0.0

    kink = (1 - b) / np.sqrt(q)
    found = _averages(loss, LAWS["certain"], (V, q, 0.0, b))
    for index, power in ((0, 1), (1, 2)):
        integrand = lambda x, power=power: force(x) ** power * np.exp(-x * x / 2)  # noqa: E731
        exact = quad(integrand, -12, kink, epsabs=1e-14, limit=400)[0]
        assert found[index] == pytest.approx(exact / np.sqrt(2 * np.pi), rel=1e-11)


@pytest.mark.parametrize("text", ["logistic", "log(1+exp(-2*y*f))", "log-cosh"])
def test_slopes_on_arrays_do_not_overflow(text: str) -> None:
    """Slopes that experiments use, at outputs of hundreds, are those of the compiled loss."""
    form, u = loss_function(text), np.array([-900.0, -3.0, 0.4, 900.0])
    for which, found in (("slope", form.slopes(u, np.ones(4))), ("curvature", form.curvatures(u, np.ones(4)))):
        np.testing.assert_allclose(found, _loss(text).several(which, 1.0, u), rtol=1e-13, atol=1e-300)
