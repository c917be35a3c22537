"""The derived flow against the SGD step it was derived from, averaged by brute force over samples of the fields."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

import dimladder as dl
from dimladder.problem import activation
from dimladder.problem.geometry import start
from dimladder.theories.one_pass import quadrature_rules as rules
from dimladder.theories.one_pass.erf_sums import erf_mixture
from generated import interpreted

SAMPLES = 300_000

LOGISTIC = '[loss]\nfunction = "logistic"'
COMMITTEE = 'kind = "committee"\nreadout = [0.8, -1.1]\noverlap = [[1.0, 0.3], [0.3, 0.9]]\nnoise = 0.3\n'


def problem(student: str, target: str, algorithm: str = "", train: bool = True, width: int = 3) -> dl.Problem:
    rng = np.random.default_rng(3)
    directions = 1 if "(z)" in target else 2
    T = np.array([[1.0, 0.3], [0.3, 0.9]]) if "overlap" in target else np.eye(directions)
    M = 0.4 * rng.standard_normal((width, directions))
    W = rng.standard_normal((width, 6)) / 3
    Q = M @ np.linalg.inv(T) @ M.T + W @ W.T
    a = [0.9, -0.7, 1.2][:width]
    return dl.loads(f"""
schema = 2
[target]
{target}
[student]
kind = "two-layer"
width = {width}
activation = "{student}"
train_readout = {str(train).lower()}
[algorithm]
kind = "one-pass"
learning_rate = 0.7
readout_learning_rate = 0.4
{algorithm}
[initial]
Q = {Q.tolist()}
M = {M.tolist()}
a = {a}
[grid]
time = [1.0]
""")


def teacher_of(p: dl.Problem) -> str:
    return str(getattr(p.target, "activation", "erf"))


def brute_force(p: dl.Problem) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return mean and standard error of the velocity, and of the generalisation error, over samples of the fields."""
    s = start(p)
    K, M = s.M.shape
    C = np.block([[s.Q, s.M], [s.M.T, s.T]])
    rng = np.random.default_rng(11)
    f = rng.standard_normal((SAMPLES, K + M)) @ np.linalg.cholesky(C).T
    lam, z = f[:, :K], f[:, K:]
    g = p.student.expression
    value = g.evaluate(np, x=lam)
    slope = np.asarray(g.derivative("x")(x=lam))
    output = value @ s.a
    target = p.target
    if hasattr(target, "readout"):
        clean = activation(target.activation).evaluate(np, x=z) @ s.A
    else:
        clean = target.expression.evaluate(np, **{"z": z[:, 0]} | {f"z{r + 1}": z[:, r] for r in range(M)})
    y = clean + target.noise * rng.standard_normal(SAMPLES)
    alg = p.algorithm
    error = {"square": output - y, "correlation": -y, "logistic": -y * expit(-y * output)}[p.loss.function]
    eta, kappa = alg.learning_rate, alg.weight_decay
    b = -eta * s.a * slope * error[:, None]
    dM = b[:, :, None] * z[:, None, :] - kappa * s.M
    drift = b[:, :, None] * lam[:, None, :]
    dQ = drift + drift.transpose(0, 2, 1) - 2 * kappa * s.Q
    noise = b[:, :, None] * b[:, None, :] / alg.batch_size
    dQ = {"classical": dQ + noise, "gradient-flow": dQ, "noise-dominated": noise}[alg.regime]
    if alg.regime == "noise-dominated":
        dM = np.zeros_like(dM)
    if alg.spherical:
        norm = np.diag(s.Q)
        growth = dQ[:, range(K), range(K)] / norm
        dM = dM - 0.5 * s.M * growth[:, :, None]
        dQ = dQ - 0.5 * s.Q * (growth[:, :, None] + growth[:, None, :])
    i, k = np.tril_indices(K)
    parts = [dQ[:, i, k], dM.reshape(SAMPLES, -1)]
    if p.student.train_readout:
        parts.append(-alg.readout_learning_rate * value * error[:, None] - alg.readout_weight_decay * s.a)
    steps = np.concatenate(parts, axis=1)
    risk = 0.5 * (output - clean) ** 2
    return steps.mean(0), steps.std(0) / SAMPLES**0.5, float(risk.mean()), float(risk.std() / SAMPLES**0.5)


CASES = {
    "erf": ("erf", COMMITTEE + 'activation = "erf"', "", True),
    "erf, ReLU teacher": ("erf", COMMITTEE + 'activation = "relu"', "batch_size = 4", True),
    "ReLU": ("relu", COMMITTEE + 'activation = "relu"', "", True),
    "leaky ReLU, sign teacher": ("leaky-relu", COMMITTEE + 'activation = "sign"', "weight_decay = 0.3", False),
    "abs, tanh teacher": ("abs", COMMITTEE + 'activation = "tanh"', "", False),
    "GELU, erf teacher": ("gelu", COMMITTEE + 'activation = "erf"', "", True),
    "sine and Gaussian": ("sin(1.3*x + 0.4) + exp(-x**2/2)", COMMITTEE + 'activation = "cos"', "", True),
    "He3": ("He3(x) + 0.5*x", COMMITTEE + 'activation = "He2(x)"', "", True),
    "degree five, contracted": (
        "0.2*He5(x) + He2(x)/4",
        'kind = "index"\nformula = "z1 + z1*z2"\nnoise = 0.2',
        "",
        False,
    ),
    "tanh + linear": ("tanh(x) + 0.1*x", COMMITTEE + 'activation = "tanh(x) + 0.1*x"', "", True),
    "hard tanh": ("hard-tanh", COMMITTEE + 'activation = "sigmoid"', "", False),
    "ReLU staircase, spherical": (
        "relu", 'kind = "index"\nformula = "z1 + z1*z2 - He2(z2)"\nnoise = 0.2', "spherical = true", False),
    "erf on parity": ("erf", 'kind = "index"\nformula = "sign(z1)*sign(z2) + 0.5*z1"', "", True),
    "ReLU on parity": ("relu", 'kind = "index"\nformula = "sign(z1)*sign(z2)"\nnoise = 0.1', "", True),
    "tanh on a staircase": (
        "tanh", 'kind = "index"\nformula = "z1 + z1*z2 - 0.5*He2(z2)"\nnoise = 0.2', "", True),
    "single index, correlation": ("He3(x)", 'kind = "index"\nformula = "He3(z) + z"\nnoise = 0.5',
        'spherical = true\n[loss]\nfunction = "correlation"', False),
    "committee, correlation": ("erf", COMMITTEE + 'activation = "erf"', '[loss]\nfunction = "correlation"', True),
    "Gaussian": ("gaussian", COMMITTEE + 'activation = "gaussian"', "", True),
    "product of erfs": ("erf(x)*erf(x/2) + 0.3*x", COMMITTEE + 'activation = "erf"', "", False),
    "tanh on parity": ("tanh", 'kind = "index"\nformula = "sign(z1)*sign(z2) + 0.5*z1"', "", True),
    "SiLU on parity": ("silu", 'kind = "index"\nformula = "sign(z1)*sign(z2) + 0.5*z1"', "", True),
    "sigmoid and steep tanh": ("2*sigmoid(x) - 0.3*erf(2*x)", COMMITTEE + 'activation = "tanh(1.5*x)"', "", True),
    "sigmoid, correlation": ("sigmoid", COMMITTEE + 'activation = "sigmoid"', '[loss]\nfunction = "correlation"', True),
    "coupled fields": ("erf", 'kind = "index"\nformula = "tanh(z1 + 0.5*z2)"\nnoise = 0.3', "", True),
    "logistic": ("relu", 'kind = "index"\nformula = "sign(z)"', "spherical = true\n" + LOGISTIC, True),
    "logistic, committee": ("erf", COMMITTEE + 'activation = "erf"', "batch_size = 2\n" + LOGISTIC, True),
    "gradient flow": ("erf", COMMITTEE + 'activation = "erf"', 'regime = "gradient-flow"', True),
    "noise only": ("relu", COMMITTEE + 'activation = "relu"', 'regime = "noise-dominated"', False),
}  # fmt: skip


# Two students only: quadrature, or many kernels.
SMALL = ("tanh", "sigmoid", "on parity", "sign teacher", "contracted", "product", "coupled", "logistic")


@pytest.mark.parametrize("name", CASES)
def test_flow_is_the_mean_of_the_step(name: str) -> None:
    """Every component of the velocity within 4.8 standard errors of the sampled step (about 250 comparisons in all)."""
    student, target, algorithm, train = CASES[name]
    p = problem(
        student,
        target,
        algorithm,
        train,
        width=2 if any(word in name for word in SMALL) else 3,
    )
    flow = dl.derive(p)
    if flow.derived.route == "fields":
        # Too many nodes for the interpreter.
        generated = vars(flow.module())
    else:
        generated = interpreted(flow._source())
        flow.module = lambda: SimpleNamespace(**generated)  # type: ignore[method-assign]
    if flow.mixtures is not None:
        # As few erfs as the sampling error lets pass.
        flow.mixtures = tuple(erf_mixture(activation(a), 1e-4) for a in (p.student.activation, teacher_of(p)))
    if generated["ROUTE"] == "conditional" and not generated["POLYNOMIAL_DEGREE"]:
        flow.rule = rules.levels(flow)[0][1]
    y, parameters = flow.initial_state(), flow.parameters()
    work, velocity = np.zeros(flow.work_size()), np.zeros_like(y)
    generated["rhs"](0.0, y, velocity, parameters, work)
    mean, se, risk, risk_se = brute_force(p)
    assert np.isfinite(velocity).all()
    assert abs(velocity - mean).max() > 0
    z = (velocity - mean) / np.maximum(se, 1e-12)
    assert abs(z).max() < 4.8, z
    assert (se > 0).mean() > 0.5 or "noise" in name
    error = generated["generalization_error"](y, parameters, work)
    assert abs(error - risk) < 4.8 * risk_se


def test_contraction_over_hermite_modes_is_the_written_out_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two routes for polynomials agree to rounding."""
    from dimladder.theories.one_pass import derivation

    p = problem("He3(x) - 0.4*He2(x)", 'kind = "index"\nformula = "z1 + z1*He2(z2)"', width=2)
    velocities = []
    for written_out in (4, 2):
        monkeypatch.setattr(derivation, "EXPANDED_DEGREE", written_out)
        flow = dl.derive(p)
        generated = interpreted(flow._source())
        assert generated["ROUTE"] == ("conditional" if written_out == 2 else "closed")
        flow.module = lambda generated=generated: SimpleNamespace(**generated)  # type: ignore[method-assign]
        y, parameters = flow.initial_state(), flow.parameters()
        work, velocity = np.zeros(flow.work_size()), np.zeros_like(y)
        generated["rhs"](0.0, y, velocity, parameters, work)
        velocities.append([*velocity, generated["generalization_error"](y, parameters, work)])
    assert velocities[1] == pytest.approx(velocities[0], rel=1e-11, abs=1e-11)
