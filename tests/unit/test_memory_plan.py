"""How many replicas run together: what fits, what is said, and that the estimates are of the right size."""

import logging
import tracemalloc

import pytest

import dimladder as dl
from dimladder.errors import SimulationError
from dimladder_validation import simulate
from dimladder_validation.simulate import experiment, memory, streams
from dimladder_validation.simulate.base import backend_for
from run_files import path_of

CPU = backend_for()


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("mup-tanh", {"algorithm.steps": 5}, 400),
        ("multi-pass-committee", {"algorithm.steps": 5, "simulation.method": "dense"}, 600),
        ("giant-step-mixture", {"grid.sample_ratio": [1.0]}, 200),
        ("staircase", {"student.particles": 20, "grid.time": [0.0, 0.5], "simulation.width": 500}, 400),
    ],
)
def test_estimates_are_what_numpy_allocates(name: str, settings: dict, size: int) -> None:
    """Between a third and three times: it decides how many replicas run together, not whether one does."""
    problem = dl.load(path_of(name), settings)
    found = experiment(problem.theory)
    peaks = []
    for replicas in (1, 1, 3):  # the first call compiles
        tracemalloc.start()
        found.run(problem, size, streams(0, "plan", "x", size, 0, replicas), CPU)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    each = (peaks[2] - peaks[1]) / 2
    estimate = 8 * found.numbers(problem, size, CPU)
    assert each / 3 < estimate < 3 * each, (estimate, each)


def test_no_more_replicas_than_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    problem = dl.load(path_of("mup-tanh"), {"algorithm.steps": 3})
    whole = simulate(problem, d=20, replicas=5)
    each = 8 * experiment("mup").numbers(problem, 20, CPU)
    monkeypatch.setattr(memory, "free_memory", lambda backend: 2.5 * each / memory.SHARE)
    with caplog.at_level(logging.INFO, "dimladder.simulate"):
        parts = simulate(problem, d=20, replicas=5)
    assert "width = 20 on cpu: 2 replicas at a time" in caplog.text
    assert "(16 would not fit)" in caplog.text
    for name in whole:
        assert parts[name].values == pytest.approx(whole[name].values, rel=1e-10, abs=1e-13, nan_ok=True), name
    monkeypatch.setattr(memory, "free_memory", lambda backend: 0.5 * each / memory.SHARE)
    with pytest.raises(SimulationError, match="one replica at width = 20 does not fit") as caught:
        simulate(problem, d=20, replicas=5)
    assert caught.value.where == "simulation.sizes"
    assert "float32" in str(caught.value)


def test_what_is_free_is_known_here() -> None:
    free = memory.free_memory(CPU)
    assert free is None or free > 2**20
