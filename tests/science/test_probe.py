"""A training loop written here, without a line of ours, measured by probes and judged against the derived theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

import dimladder as dl
from dimladder.errors import UsageError
from dimladder_validation import Probe, compare, measured

TIMES = [0.0, 1.0, 2.0, 4.0]
PROBLEM = {
    "target": {"kind": "committee", "activation": "erf", "readout": [1.0, 1.0], "overlap": [[1.0, 0.0], [0.0, 1.0]]},
    "student": {"kind": "two-layer", "width": 2, "activation": "erf", "readout": "ones"},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.7},
    "initial": {"Q": [[0.5, 0.1], [0.1, 0.4]], "M": [[0.2, 0.0], [0.1, 0.1]]},
    "grid": {"time": TIMES},
}


class Loop:
    """Two erf units on two, as anybody would write it: f = sum_k erf(W_k.x/sqrt 2) with W = w/sqrt d."""

    def __init__(self, d: int, seed: int, rate: float) -> None:
        self.rng, self.d, self.rate = np.random.default_rng([seed, d]), d, rate
        basis = np.linalg.qr(self.rng.standard_normal((d, 4)))[0].T
        self.teacher = basis[:2]
        rest = np.linalg.cholesky(np.array([[0.5, 0.1], [0.1, 0.4]]) - np.array([[0.04, 0.02], [0.02, 0.02]]))
        self.W = np.array([[0.2, 0.0], [0.1, 0.1]]) @ self.teacher + rest @ basis[2:]

    def step(self) -> None:
        x = self.rng.standard_normal(self.d)
        field = self.W @ x
        error = erf(field / np.sqrt(2)).sum() - erf(self.teacher @ x / np.sqrt(2)).sum()
        slope = np.sqrt(2 / np.pi) * np.exp(-(field**2) / 2)
        self.W -= self.rate / self.d * error * np.outer(slope, x)


def run(d: int, seed: int, rate: float) -> Probe:
    loop = Loop(d, seed, rate)
    probe = Probe(loop.teacher * np.sqrt(d), lambda: loop.W, scale="pytorch")
    steps = 0
    for time in TIMES:
        while steps < time * d:
            loop.step()
            steps += 1
        probe.record(time)
    return probe


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return [run(d, seed, 0.7) for d in (60, 120, 240) for seed in range(24)]


def test_a_foreign_loop_agrees_with_its_theory(probes: list[Probe]) -> None:
    problem = dl.problem(**PROBLEM)
    measurement = measured(problem, probes)
    assert measurement["Q"].dims == ("d", "time", "student", "student'")
    assert measurement["Q"].values[:, 0] == pytest.approx(
        np.broadcast_to(PROBLEM["initial"]["Q"], (3, 2, 2)), abs=1e-12
    )
    for known in (None, 1.0):
        comparison = compare(problem, measured(problem, probes, known))
        assert comparison.verdict == "agree", comparison.reasons


def test_a_foreign_loop_disagrees_with_another_theory(probes: list[Probe]) -> None:
    wrong = dl.problem(**{**PROBLEM, "algorithm": {"kind": "one-pass", "learning_rate": 0.35}})
    assert compare(wrong, measured(wrong, probes, closing=1.0)).verdict == "disagree"
    # Without that knowledge a gap that large may close slowly: nothing is claimed, and never agreement.
    assert compare(wrong, measured(wrong, probes)).verdict in ("disagree", "inconclusive")


def test_probes_read_modules_and_refuse_what_they_cannot_use() -> None:
    class Layer:
        weight = np.eye(3)[:2]

    class Net:
        first = Layer()
        readout = np.array([[1.0, -1.0]])

    probe = Probe(np.eye(3)[:1], Net(), layer="first.weight", readout="readout")
    probe.record(0.0, generalization_error=0.25)
    assert probe.values["a"][0].tolist() == [1.0, -1.0]
    with pytest.raises(UsageError, match="does not come after"):
        probe.record(0.0)
    with pytest.raises(UsageError, match="same names"):
        probe.record(1.0)
    with pytest.raises(UsageError, match="teacher's dimension"):
        Probe(np.eye(4)[:1], Net(), layer="first.weight").record(0.0)
    others = [Probe(np.eye(5)[:1], np.eye(5)[:2], readout=np.ones(2)) for _ in range(2)]
    for other in others:
        other.record(0.0, generalization_error=0.1)
    with pytest.raises(UsageError, match="as many runs"):
        measured(dl.problem(**PROBLEM), [probe, *others])


def test_a_torch_module_is_read_by_its_parameter_name() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(5, 2, bias=False), torch.nn.Tanh(), torch.nn.Linear(2, 1, bias=False))
    probe = Probe(np.eye(5)[:1], net, layer="0.weight", readout="2.weight", scale="pytorch")
    probe.record(0.0)
    weight = net[0].weight.detach().numpy()
    assert probe.values["Q"][0] == pytest.approx(weight @ weight.T, rel=1e-6)
    with pytest.raises(UsageError, match="no parameter"):
        Probe(np.eye(5)[:1], net, layer="first.weight")
