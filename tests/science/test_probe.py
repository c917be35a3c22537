"""A training loop written here, without a line of ours, measured by probes and judged against the derived theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

import dimladder as dl
from dimladder.errors import UsageError
from dimladder.problem.training import training_of
from dimladder_validation import Probe, compare, feature_kernels, measured

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


@pytest.mark.slow
def test_a_module_of_two_outputs_with_momentum_in_torch() -> None:
    """Two erf units read by two outputs, heavy ball of order one, both layers trained: as one writes it in torch."""
    torch = pytest.importorskip("torch")
    times, rate, beta = [0.0, 1.0, 2.0], 0.12, 0.7
    start = {"Q": [[0.5, 0.1], [0.1, 0.4]], "M": [[0.2, 0.0], [0.1, 0.1]]}
    problem = dl.problem(
        target={"kind": "committee", "activation": "erf", "outputs": 2, "readout": [[1.0, 0.5], [-0.4, 1.0]]},
        student={"kind": "two-layer", "width": 2, "activation": "erf", "readout": [[0.5, 1.0], [0.2, -0.7]]},
        algorithm={"kind": "one-pass", "learning_rate": rate, "momentum": {"beta": beta}},
        initial=start, grid={"time": times},
    )  # fmt: skip

    def train(d: int, seed: int) -> Probe:
        torch.manual_seed(1000 * d + seed)
        basis = torch.linalg.qr(torch.randn(d, 4, dtype=torch.float64))[0].T
        overlaps = torch.tensor(start["M"], dtype=torch.float64)
        rest = torch.linalg.cholesky(torch.tensor(start["Q"], dtype=torch.float64) - overlaps @ overlaps.T)
        net = torch.nn.Sequential(torch.nn.Linear(d, 2, bias=False), torch.nn.Linear(2, 2, bias=False)).double()
        with torch.no_grad():
            net[0].weight.copy_(overlaps @ basis[:2] + rest @ basis[2:])
            net[1].weight.copy_(torch.tensor([[0.5, 1.0], [0.2, -0.7]]))
        optimiser = torch.optim.SGD([net[0].weight], lr=rate / d, momentum=beta)
        readout = torch.tensor([[1.0, 0.5], [-0.4, 1.0]], dtype=torch.float64)
        probe = Probe(basis[:2] * d**0.5, net, layer="0.weight", readout="1.weight", scale="pytorch")
        steps = 0
        for time in times:
            while steps < time * d:
                x = torch.randn(d, dtype=torch.float64)
                label = readout @ torch.erf(basis[:2] @ x / 2**0.5)
                loss = ((net[1](torch.erf(net[0](x) / 2**0.5)) - label) ** 2).sum() / 2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                steps += 1
            probe.record(time)
        return probe

    probes = [train(d, seed) for d in (50, 100, 200) for seed in range(16)]
    comparison = compare(problem, measured(problem, probes, closing=1.0))
    assert comparison.verdict == "agree", comparison.reasons
    assert comparison.measurement["a"].dims == ("d", "time", "output", "student")
    for wrong in ({"algorithm.momentum": {"beta": 0.6}}, {"target.readout": [[1.0, 0.5], [0.4, 1.0]]}):
        other = dl.replace(problem, wrong)
        assert compare(other, measured(other, probes, closing=1.0)).verdict == "disagree"


MUP = {
    "data": {"kind": "points", "source": "cosine", "samples": 4, "dimension": 5},
    "student": {"kind": "deep", "hidden_layers": 2, "activation": "linear"},
    "algorithm": {"kind": "gradient-descent", "learning_rate": 0.3, "steps": 4},
}


def networks(problem: dl.Problem, kernels: Any, sizes: Sequence[int] = (32, 64, 128), runs: int = 60) -> list[Probe]:
    """Train three linear layers under muP, each gradient written out, and record outputs, loss and kernels."""
    data, rate = training_of(problem), problem.algorithm.learning_rate
    x, y = data.inputs[: data.samples], data.labels[: data.samples]
    m = len(y)
    found = []
    for n in sizes:
        for run in range(runs):
            rng = np.random.default_rng([n, run])
            first, second = rng.standard_normal((n, x.shape[1])), rng.standard_normal((n, n)) / np.sqrt(n)
            last = rng.standard_normal(n) / n
            probe = Probe(size=n)
            for time in range(problem.algorithm.steps + 1):
                one = x @ first.T
                two = one @ second.T
                f = two @ last
                probe.record(time, f=f, loss=((f - y) ** 2).mean() / 2)
                pull = (y - f) / m
                step = (
                    n * np.outer(second.T @ last, pull @ x), np.outer(last, pull @ one), pull @ two / n,
                )  # fmt: skip
                if time < problem.algorithm.steps:
                    first, second, last = (w + rate * s for w, s in zip((first, second, last), step, strict=True))
            probe.finish(feature_kernel=kernels(one, two))
            found.append(probe)
    return found


def test_three_layers_with_kernels_beside_the_theory_of_their_limit() -> None:
    problem = dl.problem(**MUP)
    probes = networks(problem, lambda one, two: np.stack([h @ h.T / h.shape[1] for h in (one, two)]))
    measurement = measured(problem, probes, closing=1.0, coords={"layer": [1, 2]})
    assert measurement["feature_kernel"].dims == ("width", "layer", "sample", "sample'")
    comparison = compare(problem, measurement)
    assert comparison.verdict == "agree", comparison.reasons
    assert {v.name for v in comparison.variables} == {"f", "loss", "feature_kernel"}
    lazy = dl.replace(problem, {"student.richness": 1.3})
    assert compare(lazy, measured(lazy, probes, closing=1.0, coords={"layer": [1, 2]})).verdict == "disagree"


def test_kernels_of_a_torch_module_are_those_of_its_features() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6), torch.nn.Tanh())
    x = torch.randn(3, 5)
    found = feature_kernels(net, x, ["1", "3"])
    inner, outer = net[1](net[0](x)).detach().numpy(), net(x).detach().numpy()
    assert found[0] == pytest.approx(inner @ inner.T / 8, abs=1e-6)
    assert found[1] == pytest.approx(outer @ outer.T / 6, abs=1e-6)
    assert not net[1]._forward_hooks
    with pytest.raises(UsageError, match="no part"):
        feature_kernels(net, x, ["tanh"])


def test_probes_without_weights_say_what_they_need() -> None:
    problem = dl.problem(**MUP)
    with pytest.raises(UsageError, match="nothing to record"):
        Probe(size=8).record(0.0)
    probe = Probe()
    probe.record(0.0, loss=1.0)
    with pytest.raises(UsageError, match="size of the run is not known"):
        measured(problem, [probe, probe])
    probe = Probe(size=8)
    probe.record(0.0, feature_min_eigenvalue=np.ones(2))
    with pytest.raises(UsageError, match="axes of 'feature_min_eigenvalue' are not known"):
        measured(problem, [probe, probe])
    probe = Probe(size=8)
    probe.record(0.0, feature_min_eigenvalue=(("layer",), np.ones(2)))
    assert measured(problem, [probe, probe])["feature_min_eigenvalue"].dims == ("width", "time", "layer")
    with pytest.raises(UsageError, match="no weights"):
        Probe(np.eye(3)[:1])
