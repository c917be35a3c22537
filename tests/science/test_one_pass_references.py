"""Trajectories against an independent right-hand side in SciPy, and against reference values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import dimladder as dl


def rows(matrix: np.ndarray) -> str:
    return str([[float(v) for v in row] for row in matrix])


def run_file(
    K: int, M: int, activation: str, target: str, rate: float, noise: float, both: bool, a: float, times: list[float],
    rtol: float = 1e-10,
) -> str:  # fmt: skip
    """A start that needs no random numbers: Q0 = 0.5 delta + 0.02 cos(1+i+k+ik), M0 = 0.03 sin(1+2i+3n+in)."""
    Q = np.array([[0.5 * (i == k) + 0.02 * math.cos(1 + i + k + i * k) for k in range(K)] for i in range(K)])
    R = np.array([[0.03 * math.sin(1 + 2 * i + 3 * n + i * n) for n in range(M)] for i in range(K)])
    return f"""
schema = 2
[target]
{target}
noise = {noise}
[student]
kind = "two-layer"
width = {K}
activation = "{activation}"
train_readout = {str(both).lower()}
[algorithm]
kind = "one-pass"
learning_rate = {rate}
[initial]
Q = {rows(Q)}
M = {rows(R)}
a = {[a] * K}
[grid]
time = {[float(t) for t in times]}
[solver]
rtol = {rtol}
atol = {rtol / 100}
"""


class Naive:
    """The flow of Saad and Solla (1995) and Goldt et al. (2019), typed in with Lambda_0, Lambda_1, Lambda_2."""

    def __init__(self, K: int, M: int, rate: float, noise: float, both: bool, a: float) -> None:
        self.K, self.M, self.n = K, M, K + M
        self.rate, self.noise, self.both, self.a = rate, noise, both, a

    def unpack(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        K, M = self.K, self.M
        C = np.eye(self.n)
        i, k = np.tril_indices(K)
        C[i, k] = C[k, i] = y[: len(i)]
        C[:K, K:] = y[len(i) : len(i) + K * M].reshape(K, M)
        C[K:, :K] = C[:K, K:].T
        return C, np.concatenate([y[len(i) + K * M :] if self.both else np.full(K, self.a), -np.ones(M)])

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        del t
        K, n = self.K, self.n
        C, c = self.unpack(y)
        d = np.diag(C)
        I2 = 2 / math.pi * np.arcsin(C / np.sqrt(np.outer(1 + d, 1 + d)))
        i, b, a = np.ix_(range(K), range(n), range(n))
        L3 = (1 + d[i]) * (1 + d[a]) - C[i, a] ** 2
        I3 = 2 / math.pi * (C[b, a] * (1 + d[i]) - C[i, b] * C[i, a]) / ((1 + d[i]) * np.sqrt(L3))
        D = I3 @ c
        i, k, a, b = np.ix_(range(K), range(K), range(n), range(n))
        L4 = (1 + d[i]) * (1 + d[k]) - C[i, k] ** 2
        L0 = L4 * C[a, b] - C[k, a] * C[k, b] * (1 + d[i]) - C[i, a] * C[i, b] * (1 + d[k])
        L0 = L0 + C[i, k] * (C[i, a] * C[k, b] + C[i, b] * C[k, a])
        L = [
            L4 * (1 + d[q]) - C[k, q] ** 2 * (1 + d[i]) - C[i, q] ** 2 * (1 + d[k]) + 2 * C[i, k] * C[i, q] * C[k, q]
            for q in (a, b)
        ]
        I4 = 4 / math.pi**2 / np.sqrt(L4) * np.arcsin(L0 / np.sqrt(L[0] * L[1]))
        J2 = 2 / math.pi / np.sqrt(L4[:, :, 0, 0])
        eta, v = self.rate, c[:K]
        drift = v[:, None] * D[:, :K]
        dQ = -eta * (drift + drift.T) + eta**2 * np.outer(v, v) * (I4 @ c @ c + self.noise**2 * J2)
        dM = -eta * v[:, None] * D[:, K:]
        parts = [dQ[np.tril_indices(K)], dM.ravel()]
        return np.concatenate([*parts, -eta * (I2 @ c)[:K]] if self.both else parts)


# K, M, learning rate, noise, both layers, initial readout
CASES = [
    (3, 2, 0.7, 0.25, True, 0.8),
    (4, 4, 0.5, 0.0, False, 1.0),
    (5, 3, 1.5, 0.2, True, 1.0),
    (2, 3, 1.1, 0.4, False, 1.3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_erf_committee_against_scipy(case: tuple[int, int, float, float, bool, float]) -> None:
    """At rtol = 1e-10 every order parameter is within 1e-8 of SciPy's DOP853 at rtol = 3e-14 on the naive equations."""
    K, M, rate, noise, both, a = case
    times = [0.0, 1.0, 10.0, 60.0, 200.0]
    target = f'kind = "committee"\nactivation = "erf"\nreadout = {[1.0] * M}'
    p = dl.loads(run_file(K, M, "erf", target, rate, noise, both, a, times))
    curve = dl.solve(p)
    naive = Naive(*case)
    start = dl.derive(p).initial_state()
    want = solve_ivp(naive, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=3e-14, atol=1e-15).y.T
    for n, y in enumerate(want):
        C, c = naive.unpack(y)
        assert abs(curve["Q"].values[n] - C[:K, :K]).max() < 1e-8
        assert abs(curve["M"].values[n] - C[:K, K:]).max() < 1e-8
        assert abs(curve["a"].values[n] - c[:K]).max() < 1e-8
        d = np.diag(C)
        risk = c @ (2 / math.pi * np.arcsin(C / np.sqrt(np.outer(1 + d, 1 + d)))) @ c / 2
        assert curve["generalization_error"].values[n] == pytest.approx(risk, abs=1e-8)


COMMITTEE = 'kind = "committee"\nactivation = "{}"\nreadout = {}'
# Two independent implementations agree on these to 1e-11 or better (erf), 1e-10 (ReLU, polynomials).
REFERENCES = {
    "erf 2-2": ((2, 2, "erf", COMMITTEE.format("erf", [1.0, 1.0]), 0.5, 0.1, False, 1.0), {
        1: 2.921391930736e-01, 10: 2.013402054272e-02, 50: 1.687860202945e-02, 100: 1.436365884729e-02,
        500: 1.167778532748e-03}),
    "erf 2-1 both layers": ((2, 1, "erf", COMMITTEE.format("erf", [1.0]), 0.5, 0.1, True, 1.0), {
        1: 1.950543804732e-01, 10: 9.362828059514e-03, 100: 3.218303649169e-03, 500: 2.791029010755e-04}),
    "ReLU 2-2": ((2, 2, "relu", COMMITTEE.format("relu", [1.0, 1.0]), 0.1, 0.0, False, 1.0), {
        1: 4.9734508196e-01, 10: 2.7313529426e-01, 50: 7.7913375960e-02, 200: 7.4196145171e-03}),
    "x^2 on He2": ((1, 1, "x**2-1", 'kind = "index"\nformula = "He2(z)"', 0.02, 0.1, False, 1.0), {
        1: 1.3704358423e00, 20: 1.3162820382e00, 50: 5.2791666137e-01, 500: 2.2727272726e-04}),
    "x + x^2 on z1 + z1 z2": ((2, 2, "x+x**2", 'kind = "index"\nformula = "z1+z1*z2"', 0.02, 0.1,
        False, 0.5), {
        1: 1.3198546702e00, 20: 9.5586082555e-01, 100: 5.7018289163e-01, 500: 5.4706966452e-01}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_reference_values(name: str) -> None:
    case, values = REFERENCES[name]
    curve = dl.solve(dl.loads(run_file(*case, times=list(values))))
    assert curve["generalization_error"].values == pytest.approx(list(values.values()), rel=2e-9, abs=2e-11)


def test_noise_floor_of_one_unit() -> None:
    """K = M = 1: the stationary error is the zero of the flow, found here by bisection on the naive equations."""
    target = 'kind = "committee"\nactivation = "erf"\nreadout = [1.0]'
    curve = dl.solve(dl.loads(run_file(1, 1, "erf", target, 1.5, 0.3, False, 1.0, [2000.0])))
    naive = Naive(1, 1, 1.5, 0.3, False, 1.0)
    state = np.array([float(curve["Q"].values[-1, 0, 0]), float(curve["M"].values[-1, 0, 0])])
    assert abs(naive(0.0, state)).max() < 1e-9
    assert curve["generalization_error"].values[-1] == pytest.approx(1.825115e-2, rel=1e-6)


def test_symmetries() -> None:
    """Permuting students permutes the solution; rotating nothing else changes; Q stays positive semi-definite."""
    target = 'kind = "committee"\nactivation = "erf"\nreadout = [1.0, 0.7]'
    text = run_file(3, 2, "erf", target, 0.8, 0.1, True, 1.0, [20.0])
    p = dl.loads(text)
    order = [2, 0, 1]
    Q, R = np.array(p.initial.Q), np.array(p.initial.M)
    q = dl.replace(p, {"initial.Q": Q[np.ix_(order, order)].tolist(), "initial.M": R[order].tolist()})
    one, two = dl.solve(p), dl.solve(q)
    assert abs(one["Q"].values[-1][np.ix_(order, order)] - two["Q"].values[-1]).max() < 1e-10
    assert abs(one["M"].values[-1][order] - two["M"].values[-1]).max() < 1e-10
    C = np.block([[one["Q"].values[-1], one["M"].values[-1]], [one["M"].values[-1].T, np.eye(2)]])
    assert np.linalg.eigvalsh(C)[0] > -1e-10


def test_gradient_flow_is_the_small_rate_limit() -> None:
    """At fixed rate x time the classical flow approaches gradient flow linearly in the rate."""
    target = 'kind = "committee"\nactivation = "erf"\nreadout = [1.0, 1.0]'
    gaps = []
    for rate in (0.02, 0.01):
        p = dl.loads(run_file(2, 2, "erf", target, rate, 0.5, False, 1.0, [2.0 / rate]))
        q = dl.replace(p, {"algorithm.regime": "gradient-flow"})
        one, two = (float(dl.solve(v)["Q"].values[-1, 0, 0]) for v in (p, q))
        gaps.append(one - two)
    assert gaps[0] > 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(2.0, abs=0.1)


BAD = [
    ({"student.width": 0}, "student", "width"),
    ({"target.noise": -0.1}, "target", "noise"),
    ({"initial.Q": [[0.5, 2.0], [2.0, 0.5]]}, "initial.Q", "negative eigenvalue"),
    ({"initial.Q": [[0.5, 0.1], [0.2, 0.5]]}, "initial.Q[0][1]", "not symmetric"),
    ({"initial.M": [[3.0, 0.0], [0.0, 0.1]]}, "initial.M", "inconsistent"),
    ({"initial.M": [[0.1, 0.0]]}, "initial.M", "wrong shape"),
    ({"initial.a": [1.0]}, "initial.a", "wrong length"),
    ({"student.activation": "sign"}, "student.activation", "jumps"),
    ({"algorithm.learning_rates": 0.1}, "algorithm", "learning_rate"),
]


@pytest.mark.parametrize(("change", "where", "word"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_input_names_the_key(change: dict, where: str, word: str) -> None:
    target = 'kind = "committee"\nactivation = "erf"\nreadout = [1.0, 1.0]'
    p = dl.loads(run_file(2, 2, "erf", target, 0.5, 0.1, False, 1.0, [1.0]))
    with pytest.raises(dl.DimladderError) as caught:
        dl.derive(dl.replace(p, change)).equations()
    assert where in str(caught.value)
    assert word in str(caught.value)


def test_random_start_is_reproducible_and_consistent() -> None:
    from dimladder.problem.geometry import start

    text = run_file(2, 2, "erf", 'kind = "index"\nformula = "z1 + z1*z2"', 0.1, 0.0, False, 1.0, [1.0])
    head, _, tail = text.partition("[initial]")
    text = head + '[initial]\nkind = "random"\noverlap = 0.1\nseed = 5\n' + tail[tail.index("[grid]") :]
    p = dl.loads(text)
    one, two = start(p), start(dl.loads(p.to_toml()))
    for field in ("Q", "M", "a"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
    assert np.linalg.eigvalsh(np.block([[one.Q, one.M], [one.M.T, one.T]]))[0] > 0
    assert np.diag(one.Q) == pytest.approx(1.0, abs=1e-15)
    assert any(abs(x - y) > 1e-3 for x, y in itertools.pairwise(one.M.ravel()))
    with pytest.raises(dl.DomainError, match="larger than the weights"):
        start(dl.replace(p, {"initial.overlap": 2.0}))


def test_divergence_names_the_overlap_and_the_time() -> None:
    target = 'kind = "committee"\nactivation = "x**2"\nreadout = [1.0]'
    p = dl.loads(run_file(1, 1, "x**2", target, 2.0, 0.1, False, 1.0, [50.0]))
    with pytest.raises(dl.SolveError) as caught:
        dl.solve(p)
    assert caught.value.status == "blow_up"
    assert "Q[0,0]" in str(caught.value)
