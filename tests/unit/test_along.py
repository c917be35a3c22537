"""Many comparisons at once: along a grid and in campaigns, in processes, one of which may be killed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import UsageError
from dimladder.executors import each
from dimladder_validation import campaign_report, compare_along
from dimladder_validation.campaign import validate

RUNS = Path(__file__).parents[2] / "docs/gallery/runs"
SMALL = {"grid.time": [0.0, 1.0]}
GRID = {"algorithm.learning_rate": [0.2, 0.4], "target.noise": [0.0]}
OPTIONS: dict[str, Any] = {"d": [30, 60], "replicas": 4, "seed": 3}


def problem() -> dl.Problem:
    return dl.load(RUNS / "online-erf.toml", SMALL)


def double(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 2:
        raise ValueError("two is not liked")
    return 2 * task


def test_points_do_not_depend_on_who_computes_them(tmp_path: Path) -> None:
    here = compare_along(problem(), GRID, **OPTIONS)
    with ThreadPoolExecutor(2) as pool:
        there = compare_along(problem(), GRID, executor=pool, out=tmp_path, **OPTIONS)
    assert [p.values["algorithm.learning_rate"] for p in here] == [0.2, 0.4]
    for one, two in zip(here, there, strict=True):
        assert one.comparison is not None
        assert two.comparison is not None
        assert np.array_equal(one.comparison.measurement["Q"].values, two.comparison.measurement["Q"].values)
        assert one.verdict == two.verdict
        assert two.folder is not None
        assert {"result.nc", "theory.nc", "comparison.json"} <= {p.name for p in two.folder.iterdir()}
    # All points together are one figure, colours told apart by what differs.
    files = dl.export([p.folder for p in there if p.folder], tmp_path / "paper", ["csv"], refine=False)
    assert len(files) == 2 * 3  # a theory and two sizes each
    again = compare_along(problem(), GRID, out=tmp_path, resume=True, **OPTIONS)
    assert [p.verdict for p in again] == [p.verdict for p in here]


@pytest.mark.slow
def test_a_killed_process_costs_its_task_only() -> None:
    found = dict(each(double, [1, 2, 3, 4, 5], "local:2"))
    assert {k: v for k, v in found.items() if k not in (1, 2)} == {0: 2, 3: 8, 4: 10}
    assert "two is not liked" in str(found[1])
    assert getattr(found[2], "status", "") == "worker-died"


def test_a_point_that_fails_is_told_and_the_others_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(RUNS / "online-erf.toml"), "--set", "grid.time=[0.0, 1.0]", "--d", "2,60"]
    assert main([*arguments, "--replicas", "2", "--grid", "algorithm.learning_rate=0.2,0.4"]) == 2
    out, err = capsys.readouterr()
    assert out.count("error") == 2
    assert "Traceback" not in out + err
    with pytest.raises(UsageError, match="no executor"):
        compare_along(problem(), GRID, executor="lokal:2", **OPTIONS)
    with pytest.raises(UsageError, match="at least one"):
        compare_along(problem(), {"target.noise": []}, **OPTIONS)


def test_cases_of_a_campaign_in_threads_are_those_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Figures take nine tenths of a small case.
    monkeypatch.setattr(campaign_report, "draw", lambda *_: None)
    case = "[[case]]\nname = '{}'\nrun = '{}'\nsizes = [30, 60]\nreplicas = 4\nset = {{ 'grid.time' = [0.0, 1.0] }}\n"
    run = RUNS / "online-erf.toml"
    (tmp_path / "c.toml").write_text("schema = 1\n" + case.format("one", run) + case.format("two", run))
    seen: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        together = validate(tmp_path / "c.toml", tmp_path / "a", executor=pool, progress=lambda *a: seen.append(a[2]))
    alone = validate(tmp_path / "c.toml", tmp_path / "b")
    assert [(o.name, o.verdict, o.max_z) for o in together] == [(o.name, o.verdict, o.max_z) for o in alone]
    assert sorted(seen) == ["one", "two"]
    assert (tmp_path / "a" / "two" / "outcome.json").exists()
