"""The verb simulate: batches, resuming, keys, errors. The experiment here is a toy whose numbers are its streams."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimladder.errors import ResultFileError, SimulationError
from dimladder.problem import Problem, Spec
from dimladder.problem.grids import Simulation
from dimladder_validation import replicate, simulate
from dimladder_validation.simulate import Experiment, Sample, backend_for

MODULE = sys.modules["dimladder_validation.simulate"]


class Level(Spec, frozen=True, kw_only=True):
    level: float = 1.0


def asked(level: float = 1.0, theory: str = "toy") -> Problem:
    return Problem(theory=theory, limit=Level(level=level), simulation=Simulation(sizes=(10, 20), replicas=7))


class ToyExperiment(Experiment):
    theory = "toy"
    batch_size = 3
    interrupt_after: int | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Any) -> Sample:
        if self.interrupt_after is not None and len(self.calls) == self.interrupt_after:
            raise KeyboardInterrupt
        self.calls.append((size, len(streams)))
        x = backend.to_numpy(backend.normal(streams, (2, 3))) / np.sqrt(size)
        constant = np.full((len(streams), 2), problem.limit.level)
        return Sample({"time": np.array([0.0, 1.0])}, {"q": (("time", "unit"), x), "c": (("time",), constant)})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyExperiment:
    found = ToyExperiment()
    monkeypatch.setattr(MODULE, "experiment", lambda name: found)
    return found


def values(ensemble: Any) -> np.ndarray:
    return ensemble.variables["q"][1]


def test_mean_and_standard_error(toy: ToyExperiment) -> None:
    ensemble = replicate(asked())
    q = values(ensemble)
    measured = simulate(asked())
    assert q.shape == (2, 7, 2, 3)
    assert np.allclose(measured["q"].values, q.mean(axis=1), rtol=1e-14)
    assert np.allclose(measured["q_se"].values, q.std(axis=1, ddof=1) / np.sqrt(7), rtol=1e-12)
    assert measured["q"].dims == ("d", "time", "unit")
    assert list(measured["d"].values) == [10, 20]


def test_constant_entries_have_exactly_no_scatter(toy: ToyExperiment) -> None:
    measured = simulate(asked(level=0.1))
    assert (measured["c"].values == 0.1).all()
    assert (measured["c_se"].values == 0.0).all()


def test_more_replicas_and_other_sizes_keep_the_old_ones(toy: ToyExperiment) -> None:
    old = values(replicate(asked(), d=[10, 20], replicas=5))
    more = values(replicate(asked(), d=[40, 20, 10], replicas=11))
    assert np.array_equal(more[2, :5], old[0])
    assert np.array_equal(more[1, :5], old[1])


def test_seed_and_problem_change_every_replica(toy: ToyExperiment) -> None:
    base = values(replicate(asked()))
    assert not np.isin(values(replicate(asked(), seed=1)), base).any()
    assert not np.isin(values(replicate(asked(level=2.0))), base).any()


def test_interrupted_and_resumed_equals_uninterrupted_bitwise(toy: ToyExperiment, tmp_path: Path) -> None:
    whole = simulate(asked(), out=tmp_path / "whole")
    toy.interrupt_after = len(toy.calls) + 4
    with pytest.raises(KeyboardInterrupt):
        simulate(asked(), out=tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "batches").glob("*.npz"))) == 4
    toy.interrupt_after, toy.calls = None, []
    resumed = simulate(asked(), out=tmp_path / "parts", resume=True)
    assert toy.calls == [(20, 3), (20, 1)]
    for name in whole:
        assert np.array_equal(whole[name].values, resumed[name].values)


def test_resume_with_more_replicas_runs_only_the_new_ones(toy: ToyExperiment, tmp_path: Path) -> None:
    simulate(asked(), d=10, replicas=4, out=tmp_path)
    toy.calls = []
    resumed = replicate(asked(), d=10, replicas=8, out=tmp_path, resume=True)
    assert toy.calls == [(10, 2), (10, 2)]
    assert np.array_equal(values(resumed), values(replicate(asked(), d=10, replicas=8)))
    fewer = replicate(asked(), d=10, replicas=5, out=tmp_path, resume=True)
    assert np.array_equal(values(fewer), values(resumed)[:, :5])


def test_existing_batches_need_resume_or_force(toy: ToyExperiment, tmp_path: Path) -> None:
    simulate(asked(), d=10, out=tmp_path)
    with pytest.raises(ResultFileError, match="already holds"):
        simulate(asked(), d=10, out=tmp_path)
    toy.calls = []
    simulate(asked(), d=10, out=tmp_path, force=True)
    assert len(toy.calls) == 3


def test_batches_of_another_run_are_refused(toy: ToyExperiment, tmp_path: Path) -> None:
    simulate(asked(), d=10, out=tmp_path)
    with pytest.raises(ResultFileError, match="another run") as raised:
        simulate(asked(), d=10, seed=9, out=tmp_path, resume=True)
    assert "seed is 0 there, 9 here" in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_batch_is_simulated_again(
    toy: ToyExperiment, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = simulate(asked(), d=10, out=tmp_path)
    path = tmp_path / "batches" / "10-0-3.npz"
    content = path.read_bytes()
    # The last array's last bytes lie before the directory of the archive.
    at = content.rindex(b"PK\x01\x02", 0, content.index(b"PK\x01\x02") + 4) - 1
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    path.write_bytes({"cut": content[:50], "empty": b"", "flipped": flipped, "text": b"not an archive"}[damage])
    toy.calls = []
    resumed = simulate(asked(), d=10, out=tmp_path, resume=True)
    assert toy.calls == [(10, 3)]
    assert "10-0-3.npz is simulated again" in caplog.text
    for name in whole:
        assert np.array_equal(whole[name].values, resumed[name].values)


def test_full_disk_keeps_what_was_finished(toy: ToyExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.replace, 0

    def replace(a: Any, b: Any) -> None:
        nonlocal count
        count += str(b).endswith(".npz")
        if count > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ResultFileError, match="cannot be written") as raised:
        simulate(asked(), out=tmp_path)
    assert "no space" in str(raised.value)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "batches").iterdir()) == ["10-0-3.npz", "10-3-6.npz"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"d": 0}, "positive sizes"),
        ({"d": [10, 10]}, "distinct"),
        ({"replicas": 0}, "at least 1"),
        ({"seed": -1}, "negative"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"device": "abacus"}, "unknown device"),
        ({"resume": True}, "run folder"),
    ],
)
def test_bad_options_are_refused(toy: ToyExperiment, options: dict[str, Any], text: str) -> None:
    with pytest.raises(SimulationError, match=text):
        simulate(asked(), **options)


def test_unknown_theory_gets_a_suggestion() -> None:
    with pytest.raises(SimulationError) as raised:
        simulate(asked(theory="one-pas"))
    assert "one-pass" in str(raised.value)


def test_wrong_shape_is_refused() -> None:
    sample = Sample({"time": [0.0, 1.0]}, {"q": (("time",), np.zeros((4, 3)))})
    with pytest.raises(SimulationError, match="shape"):
        sample.arrays()


def test_missing_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SimulationError, match="torch") as raised:
        backend_for("cuda")
    assert "dimladder[gpu]" in str(raised.value)


def test_float32_draws() -> None:
    backend = backend_for(dtype="float32")
    draws = backend.normal([np.random.default_rng(0)], (5,))
    assert draws.dtype == np.float32


def test_progress_counts_replicas(toy: ToyExperiment) -> None:
    seen: list[tuple[int, int]] = []
    simulate(asked(), progress=lambda done, total, label: seen.append((done, total)))
    assert seen == [(3, 14), (6, 14), (7, 14), (10, 14), (13, 14), (14, 14)]


def test_a_size_that_is_most_likely_a_slip_is_refused_with_its_cost(toy: ToyExperiment) -> None:
    with pytest.raises(SimulationError, match="d = 90000000 is more than 1000000") as refusal:
        simulate(asked(), d=90_000_000)
    # Three replicas of 9e7 doubles; 3 x 8.1e15 multiplications at 1e9 a second.
    assert "2.01 GiB" in str(refusal.value)
    assert "6.75e+03 hours" in str(refusal.value)
    assert toy.calls == []
    simulate(asked(), d=2_000_000, replicas=2, large=True)
    assert toy.calls == [(2_000_000, 2)]
