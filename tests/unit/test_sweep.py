"""Sweeps: order, failures kept, resuming, workers, the grid's syntax."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder import workers
from dimladder.errors import ConfigError, ResultFileError, UsageError
from dimladder.problem import Problem
from dimladder.results import PhaseDiagram, open_result
from dimladder.sweep import parse_grid, sweep
from dimladder.workers import Answer, Point, compute, recorded

# `dimladder.sweep` is the function; its module is reached by name.
MODULE = sys.modules["dimladder.sweep"]


@pytest.fixture(scope="module")
def problem(runs: Path) -> Problem:
    return dl.load(runs / "truncation-flow.toml", {"grid.time": [0.0, 1.0, 4.0]})


def test_every_point_is_the_solve_of_that_point_in_order(problem: Problem) -> None:
    targets, starts = [1.5, 1.9], [0.6, 0.75, 0.9]
    seen = []
    diagram = sweep(
        problem,
        {"data.target": targets, "initial.threshold": starts},
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert isinstance(diagram, PhaseDiagram)
    assert diagram.dims("threshold") == ["data.target", "initial.threshold", "time"]
    assert diagram.status == "success"
    assert seen == [(k, 6) for k in range(1, 7)]
    for i, target in enumerate(targets):
        for j, start in enumerate(starts):
            alone = dl.solve(dl.replace(problem, {"data.target": target, "initial.threshold": start}))
            np.testing.assert_array_equal(diagram["threshold"].values[i, j], alone["threshold"].values)
    assert (diagram["status"].values == "success").all()


def test_a_failed_point_keeps_its_row(problem: Problem) -> None:
    diagram = sweep(problem, {"data.std": [0.25, -1.0, 0.5]})
    assert diagram["status"].values.tolist() == ["success", "invalid", "success"]
    assert np.isnan(diagram["threshold"].values[1]).all()
    assert np.isfinite(diagram["threshold"].values[[0, 2]]).all()
    assert diagram.status == "incomplete"
    assert diagram.stats["failed"] == 1
    assert "std" in str(diagram["message"].values[1])
    text = diagram.to_json()
    assert '"status"' in text


def test_a_solve_that_stops_is_a_row_with_its_status(problem: Problem) -> None:
    diagram = sweep(problem, {"solver.max_steps": [1, 100000]})
    status = diagram["status"].values.tolist()
    assert status[0] != "success"
    assert status[0] != "invalid"
    assert status[1] == "success"
    assert np.isnan(diagram["threshold"].values[0]).all()


def test_a_key_that_no_point_accepts_is_an_error(problem: Problem) -> None:
    with pytest.raises(ConfigError, match="target"):
        sweep(problem, {"data.tarjet": [1.0, 2.0]})
    with pytest.raises(UsageError, match="repeats"):
        sweep(problem, {"data.target": [1, 1.0]})
    with pytest.raises(UsageError, match="nothing to sweep"):
        sweep(problem, {})
    with pytest.raises(UsageError, match="executor"):
        sweep(problem, {"data.target": [1.0]}, executor="cloud:9")


def test_resume_uses_what_is_there_and_extends_it(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "diagram"
    first = sweep(problem, {"data.target": [1.5, 1.9]}, out=folder)
    with pytest.raises(ResultFileError, match="not empty"):
        sweep(problem, {"data.target": [1.5, 1.9]}, out=folder)
    solved = []
    real = MODULE.solve_point
    monkeypatch.setattr(MODULE, "solve_point", lambda point: solved.append(point.index) or real(point))
    again = sweep(problem, {"data.target": [1.5, 1.7, 1.9]}, out=folder, resume=True)
    assert solved == [1]
    np.testing.assert_array_equal(again["threshold"].values[[0, 2]], first["threshold"].values)
    np.testing.assert_array_equal(open_result(folder)["threshold"].values, again["threshold"].values)


def test_an_interruption_keeps_finished_points(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MODULE.solve_point

    def interrupted(point: Point) -> Answer:
        if point.index == 2:
            raise KeyboardInterrupt
        return real(point)

    monkeypatch.setattr(MODULE, "solve_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(problem, {"data.target": [1.5, 1.6, 1.7, 1.8]}, out=tmp_path / "d")
    assert len(recorded(tmp_path / "d" / "points")[0]) == 2
    monkeypatch.setattr(MODULE, "solve_point", real)
    assert sweep(problem, {"data.target": [1.5, 1.6, 1.7, 1.8]}, out=tmp_path / "d", resume=True).status == "success"


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "flipped"])
def test_a_damaged_point_is_computed_again(problem: Problem, tmp_path: Path, damage: str) -> None:
    grid = {"data.target": [1.5, 1.9]}
    whole = sweep(problem, grid, out=tmp_path / "d")
    file = next((tmp_path / "d" / "points").iterdir())
    content = file.read_bytes()
    file.write_bytes(
        {"cut": content[:-9], "text": b"not a log", "empty": b"", "flipped": content[:-9] + bytes(9)}[damage]
    )
    assert len(recorded(tmp_path / "d" / "points")[0]) == (1 if damage in ("cut", "flipped") else 0)
    again = sweep(problem, grid, out=tmp_path / "d", resume=True)
    np.testing.assert_array_equal(again["threshold"].values, whole["threshold"].values)


def test_any_executor_gives_the_same(problem: Problem, tmp_path: Path) -> None:
    grid = {"data.target": [1.5, 1.7, 1.9], "initial.threshold": [0.6, 0.75]}
    here = sweep(problem, grid)
    with ThreadPoolExecutor(2) as pool:
        there = sweep(problem, grid, executor=pool, out=tmp_path / "d")
    np.testing.assert_array_equal(here["threshold"].values, there["threshold"].values)
    assert len(recorded(tmp_path / "d" / "points")[0]) == 6
    # The threads are this process's own: a process of many sweeps must not keep their logs open.
    assert not any(folder == str((tmp_path / "d" / "points").resolve()) for folder, _ in workers._writers)


def deadly(point: Point) -> Answer:
    """Kill this process at point 9, always, and at point 5 the first time, as the system does when memory is short."""
    marker = Path(os.environ["DIMLADDER_TEST_MARKER"])
    if point.index == 9 or (point.index == 5 and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Answer(
        point.index, "success", "", {"time": np.arange(2.0)}, {"x": (("time",), np.array([point.index, 1.0]), {})}
    )


@pytest.mark.parametrize("logged", [True, False])
def test_a_worker_that_dies_costs_its_point_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool) -> None:
    monkeypatch.setenv("DIMLADDER_TEST_MARKER", str(tmp_path / "died once"))
    points = [Point(k, "", f"key{k}") for k in range(40)]
    answers = dict(compute(points, "local:2", tmp_path / "points" if logged else None, deadly))
    assert len(answers) == 40
    assert {p.index: a.status for p, a in answers.items() if a.status != "success"} == {9: "worker-died"}
    assert all(a.index == p.index for p, a in answers.items())
    if logged:
        # Whoever solved a point has written it: its arrays did not come back.
        assert not any(a.variables for a in answers.values())
    found = recorded(tmp_path / "points")[0] if logged else {p.key: a for p, a in answers.items() if p.index != 9}
    assert {key: a.variables["x"][1][0] for key, a in found.items()} == {f"key{k}": k for k in range(40) if k != 9}


@pytest.mark.slow
def test_processes_give_the_same(problem: Problem, tmp_path: Path) -> None:
    grid = {"data.target": [1.5, 1.7, 1.9], "initial.threshold": [0.6, 0.75]}
    here = sweep(problem, grid)
    there = sweep(problem, grid, executor="local:2", out=tmp_path / "d")
    np.testing.assert_array_equal(here["threshold"].values, there["threshold"].values)


def test_flows_are_solved_on_threads_in_chunks(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started; a point that is no problem and one that stops keep their rows, and resuming finds all."""

    def never(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(sys.modules["dimladder.workers"], "local_pool", never)
    grid = {"data.target": [*np.linspace(1.5, 2.5, 20), -np.inf], "solver.max_steps": [3, 100000]}
    two = sweep(problem, grid, executor="local:2", out=tmp_path / "d")
    one = sweep(problem, grid)
    status = two["status"].values
    assert (status[:20, 1] == "success").all()
    assert (status[20] == "invalid").all()
    assert not (status[:20, 0] == "success").any()
    for name in ("threshold", "status", "message"):
        np.testing.assert_array_equal(two[name].values, one[name].values)
    done, begun = recorded(tmp_path / "d" / "points")
    assert len(done) == 42
    assert not begun
    again = sweep(problem, grid, executor="local:2", out=tmp_path / "d", resume=True)
    np.testing.assert_array_equal(again["threshold"].values, one["threshold"].values)


def test_points_of_different_shape_share_one_diagram(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dl.load(runs / "truncation-flow.toml")
    # The times differ from point to point: the diagram has the union, NaN where a point has no value.
    diagram = sweep(base, {"grid.time": [[0.0, 1.0], [0.0, 2.0]]})
    assert diagram.dataset.coords["time"].values.tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(diagram["threshold"].values).tolist() == [[False, False, True], [False, True, False]]
    # From the logs: in memory, and record by record into a file that is too large to be read whole.
    grid = {"grid.time": [[0.0, 1.0], [0.0, 2.0]], "data.std": [0.25, -1.0, 0.5]}
    memory = sweep(base, grid)
    for folder in (tmp_path / "small", tmp_path / "large"):
        if folder.name == "large":
            for module in ("dimladder.results.container", "dimladder.diagram"):
                monkeypatch.setattr(sys.modules[module], "EAGER", 0)
        for stored in (sweep(base, grid, out=folder), open_result(folder), sweep(base, grid, out=folder, resume=True)):
            assert isinstance(stored, PhaseDiagram)
            assert list(stored) == list(memory)
            for name in (*memory, *memory.dataset.coords):
                np.testing.assert_array_equal(stored.dataset[name].values, memory.dataset[name].values)
                assert stored.dataset[name].attrs == memory.dataset[name].attrs
                assert stored.dataset[name].dims == memory.dataset[name].dims
            assert stored.status == memory.status == "incomplete"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=0.5,1,2.5", [0.5, 1, 2.5]),
        ("a.b=0:1:3", [0.0, 0.5, 1.0]),
        ("a.b=2:10:5", [2, 4, 6, 8, 10]),
        ("a.b=1:100:3:log", [1, 10, 100]),
        ("a.b=erf,relu", ["erf", "relu"]),
        ('a.b="tanh(2*h)","h"', ["tanh(2*h)", "h"]),
        ("a.b=[1, 2],[3, 4]", [[1, 2], [3, 4]]),
        ("a.b=true,false", [True, False]),
    ],
)
def test_grid_syntax(text: str, values: list[object]) -> None:
    key, found = parse_grid(text)
    assert key == "a.b"
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


@pytest.mark.parametrize("text", ["a.b", "a.b=", "=1,2", "a.b=1:x:3", "a.b=0:1:3:log", "a.b=0:1:3:cubic", "a.b=0:1:0"])
def test_bad_grids_are_explained(text: str) -> None:
    with pytest.raises(UsageError, match=r"a\.b=lo:hi:n"):
        parse_grid(text)


def test_numbers_of_numpy_are_values_like_others(runs: Path) -> None:
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [0.0, 1.0]})
    rates = np.linspace(0.1, 0.3, 3)
    plain = dl.sweep(problem, {"algorithm.learning_rate": rates.tolist()})
    for values in (rates, list(rates)):
        diagram = dl.sweep(problem, {"algorithm.learning_rate": values})
        assert np.array_equal(diagram["Q"].values, plain["Q"].values)
