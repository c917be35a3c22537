"""Every pair of options of the one-pass theory: one right-hand side against Monte Carlo over the fields.

The oracle shares no code with the theory: it draws the fields, applies the update rule of one step to the overlaps by
hand, and averages. Rows of options are chosen so that every pair of values occurs together.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import erf, expit, ndtri
from scipy.stats import qmc

import dimladder as dl

TIME, RATE, READOUT_RATE, NOISE = 0.7, 0.5, 0.3, 0.3
Q = np.array([[0.8, 0.1], [0.1, 0.6]])
M = np.array([[0.3, 0.1], [-0.2, 0.25]])
A = np.array([0.9, -0.7])
SCRAMBLES, LOG_POINTS = 8, 16

# Text of the run file, function, slope.
ACTIVATIONS: dict[str, tuple[str, Any, Any]] = {
    "erf": ("erf", lambda x: erf(x / np.sqrt(2)), lambda x: np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)),
    "linear": ("x", lambda x: x, np.ones_like),
    "cubic": ("x + x**3/30", lambda x: x + x**3 / 30, lambda x: 1 + x**2 / 10),
    "relu": ("relu", lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)),
    "tanh": ("tanh", np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "softplus": ("softplus", lambda x: np.logaddexp(0, x), expit),
}
TEACHER = '[target]\nkind = "committee"\nactivation = "{}"\nreadout = [1.0, -0.6]\noverlap = [[1.0, 0.2], [0.2, 1.1]]\n'
OVERLAP = np.array([[1.0, 0.2], [0.2, 1.1]])
SINGLE = '[target]\nkind = "index"\nformula = "{}"\n'
MULTI = '[target]\nkind = "index"\nformula = "{}"\n'
TARGETS: dict[str, tuple[str, Any, np.ndarray]] = {
    "erf teacher": (TEACHER.format("erf"), lambda z: erf(z / np.sqrt(2)) @ [1.0, -0.6], OVERLAP),
    "relu teacher": (TEACHER.format("relu"), lambda z: np.maximum(z, 0) @ [1.0, -0.6], OVERLAP),
    "He2": (SINGLE.format("He2(z) + z/2"), lambda z: z[:, 0] ** 2 - 1 + z[:, 0] / 2, np.eye(1)),
    "tanh": (SINGLE.format("tanh(2*z)"), lambda z: np.tanh(2 * z[:, 0]), np.eye(1)),
    "sign": (SINGLE.format("sign(z)"), lambda z: np.sign(z[:, 0]), np.eye(1)),
    "product": (MULTI.format("z1 + z1*z2"), lambda z: z[:, 0] + z[:, 0] * z[:, 1], np.eye(2)),
    "coupled": (MULTI.format("tanh(z1 + z2)"), lambda z: np.tanh(z[:, 0] + z[:, 1]), np.eye(2)),
    "larger": (MULTI.format("max(z1, z2)"), lambda z: np.maximum(z[:, 0], z[:, 1]), np.eye(2)),
}  # fmt: skip
LOSSES: dict[str, Any] = {
    "square": lambda f, y: f - y,
    "correlation": lambda f, y: -y,
    "logistic": lambda f, y: -y * expit(-y * f),
    "log-cosh": lambda f, y: np.tanh(f - y),
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "target": tuple(TARGETS),
    "activation": tuple(ACTIVATIONS),
    "loss": tuple(LOSSES),
    "regime": ("classical", "gradient-flow", "noise-dominated"),
    "train_readout": (False, True),
    "spherical": (False, True),
    "batch_size": (1, 3),
    "weight_decay": (0.0, 0.4),
    "schedule": ("1", "1/(1 + t)", "step(t - 0.5)*exp(-t)"),
}
SCHEDULES = {"1": 1.0, "1/(1 + t)": 1 / (1 + TIME), "step(t - 0.5)*exp(-t)": np.exp(-TIME)}


def all_pairs() -> list[dict[str, Any]]:
    """Return rows that show every pair of values, greedily, always in the same order."""
    names = list(OPTIONS)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in OPTIONS[a] for y in OPTIONS[b]}
    random = np.random.default_rng(1)
    rows = []
    while missing:
        best: dict[str, Any] = {}
        most = -1
        for _ in range(60):
            # A random missing pair, then every other option by what it adds.
            (a, x), (b, y) = sorted(missing, key=repr)[int(random.integers(len(missing)))]
            row = {a: x, b: y}
            for name in (str(n) for n in random.permutation([n for n in names if n not in row])):
                values = [OPTIONS[name][int(k)] for k in random.permutation(len(OPTIONS[name]))]
                row[name] = max(values, key=lambda v: sum(p in missing for p in _pairs({**row, name: v})))
            gained = sum(p in missing for p in _pairs(row))
            if gained > most:
                best, most = row, gained
        missing -= set(_pairs(best))
        rows.append({name: best[name] for name in names})
    return rows


def _pairs(row: dict[str, Any]) -> list[Any]:
    known = [(name, row[name]) for name in OPTIONS if name in row]
    return list(itertools.combinations(known, 2))


ROWS = all_pairs()


def velocity(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dQ, dM and da of the compiled right-hand side at `TIME`."""
    count = TARGETS[row["target"]][2].shape[0]
    text = f"""
schema = 2
{TARGETS[row["target"]][0]}
noise = {NOISE}
[student]
kind = "two-layer"
width = 2
activation = "{ACTIVATIONS[row["activation"]][0]}"
readout = {A.tolist()}
train_readout = {str(row["train_readout"]).lower()}
[algorithm]
kind = "one-pass"
learning_rate = {RATE}
readout_learning_rate = {READOUT_RATE}
regime = "{row["regime"]}"
spherical = {str(row["spherical"]).lower()}
batch_size = {row["batch_size"]}
weight_decay = {row["weight_decay"]}
readout_weight_decay = {row["weight_decay"] / 2}
schedule = "{row["schedule"]}"
[loss]
function = "{row["loss"]}"
[initial]
Q = {Q.tolist()}
M = {M[:, :count].tolist()}
[grid]
time = [0.0, 1.0]
"""
    flow: Any = dl.derive(dl.loads(text))
    y = flow.initial_state()
    out = np.empty_like(y)
    flow.module().rhs(TIME, y, out, flow.parameters(), np.zeros(flow.work_size()))
    dQ, dM, da = flow.unpack(out[None, :])
    return dQ[0], dM[0], da[0] if row["train_readout"] else np.zeros(2)


def oracle(row: dict[str, Any], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same by the update rule of one sample, averaged over Sobol' points of the fields and the noise."""
    _, target, T = TARGETS[row["target"]]
    _, g, dg = ACTIVATIONS[row["activation"]]
    count = len(T)
    overlap = M[:, :count]
    joint = np.block([[Q, overlap], [overlap.T, T]])
    uniform = qmc.Sobol(3 + count, rng=seed).random_base2(LOG_POINTS)
    normal = ndtri(np.clip(uniform, 1e-15, 1 - 1e-15))
    fields = normal[:, :-1] @ np.linalg.cholesky(joint).T
    lam, z = fields[:, :2], fields[:, 2:]
    delta = LOSSES[row["loss"]](g(lam) @ A, target(z) + NOISE * normal[:, -1])[:, None]
    rate = SCHEDULES[row["schedule"]]
    first, second = row["regime"] != "noise-dominated", row["regime"] != "gradient-flow"
    decay = row["weight_decay"] * first
    gain = -RATE * rate * A * dg(lam) * delta  # w_i moves by gain_i x / sqrt d
    n = len(gain)
    dQ = -2 * decay * Q
    dM = -decay * overlap
    if first:
        dM = dM + gain.T @ z / n
        dQ = dQ + gain.T @ lam / n + lam.T @ gain / n
    if second:
        dQ = dQ + gain.T @ gain / n / row["batch_size"]
    if row["spherical"]:
        growth = np.diag(dQ) / np.diag(Q) / 2
        dM = dM - growth[:, None] * overlap
        dQ = dQ - (growth[:, None] + growth[None, :]) * Q
    da = np.zeros(2)
    if row["train_readout"] and first:
        da = -READOUT_RATE * rate * (g(lam) * delta).mean(axis=0) - decay / 2 * A
    return dQ, dM, da


def compare(row: dict[str, Any]) -> None:
    """Agree within five standard errors of independent scrambles, plus the accuracy of averages by quadrature."""
    found = np.concatenate([np.ravel(part) for part in velocity(row)])
    draws = np.array([np.concatenate([np.ravel(p) for p in oracle(row, seed)]) for seed in range(SCRAMBLES)])
    error = draws.std(axis=0, ddof=1) / np.sqrt(SCRAMBLES)
    assert np.isfinite(found).all()
    assert error.max() < 0.02 * max(1.0, abs(found).max()), "the oracle must be sharp enough to see a wrong term"
    np.testing.assert_array_less(abs(found - draws.mean(axis=0)), 5 * error + 3e-5 * max(1.0, abs(found).max()))


def _name(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" if not isinstance(v, str) else v for k, v in row.items())


def test_every_pair_occurs() -> None:
    seen = {p for row in ROWS for p in _pairs(row)}
    for a, b in itertools.combinations(OPTIONS, 2):
        for x, y in itertools.product(OPTIONS[a], OPTIONS[b]):
            assert ((a, x), (b, y)) in seen


@pytest.mark.nightly
@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_all_pairs(row: dict[str, Any]) -> None:
    compare(row)


# Fixed once by a draw; between them every option is away from its default and at it.
CHOSEN = tuple(np.random.default_rng(3).choice(len(ROWS), 8, replace=False))


@pytest.mark.slow
@pytest.mark.parametrize("row", [ROWS[k] for k in CHOSEN], ids=_name)
def test_some_pairs(row: dict[str, Any]) -> None:
    compare(row)


@pytest.mark.parametrize("regime", OPTIONS["regime"])
def test_all_fields_with_a_frozen_readout(regime: str) -> None:
    """A target without closed averages and the default student: some moments of the quadrature have no use."""
    row = {name: values[0] for name, values in OPTIONS.items()}
    compare(row | {"target": "coupled", "activation": "linear", "regime": regime})
