"""The labelled container: JSON contract, netCDF round trip, and files that cannot be read or written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dimladder.errors import ResultFileError, UsageError
from dimladder.problem import Problem
from dimladder.problem.targets import Index
from dimladder.results import LearningCurve, columns, main_axis, open_result, run_folder, text_table, write_atomically

PROBLEM = Problem(theory="toy", target=Index(formula="He1(z1)"))


def curve() -> LearningCurve:
    q = np.arange(12.0).reshape(3, 2, 2)
    return LearningCurve.build(
        PROBLEM,
        {"time": [0.0, 1.0, np.inf], "learner": ["kernel", "deep"]},
        {
            "Q": (("time", "student", "student"), q, "Q", "overlap", None),
            "error": (("learner", "time"), [[1.0, 0.5, np.nan], [1.0, 0.2, 0.1]], r"\varepsilon", "", None),
            "threshold": ((), 1.5, "", "", None),
        },
    )


def test_json_contract() -> None:
    data = json.loads(curve().to_json())
    assert set(data) == {"schema", "theory", "status", "coords", "variables", "parameters", "provenance"}
    assert data["schema"] == 1
    assert data["variables"]["Q"]["dims"] == ["time", "student", "student"]
    assert data["coords"]["time"] == [0.0, 1.0, None]
    assert data["coords"]["student"] == [0, 1]
    assert data["variables"]["error"]["values"][0][2] is None
    assert data["variables"]["threshold"] == {"dims": [], "values": 1.5, "units": None, "latex": ""}
    assert data["parameters"]["target"]["formula"] == "He1(z1)"


def test_round_trip(tmp_path: Path) -> None:
    original = curve()
    original.save(tmp_path / "run" / "result.nc")
    again = open_result(tmp_path / "run")
    assert type(again) is LearningCurve
    assert again.to_dict() == original.to_dict()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["result.nc"]


def test_a_file_written_without_xarray_is_the_one_it_writes(tmp_path: Path) -> None:
    made = LearningCurve.build(
        PROBLEM,
        {"time": [0.0, 1.0, np.inf], "learner": ["kernel", "d\u00e9ep"], "size": [3, 4]},
        {
            "Q": (("time", "size", "size"), np.arange(12.0).reshape(3, 2, 2), "Q", "overlap", "1"),
            "few": (("learner",), np.array([1.0, np.nan], dtype=np.float32), "", "", None),
            "count": (("size",), [1, 2], "", "", None),
            "critical": (("learner", "size"), [[True, False], [False, True]], "", "", None),
            "name": (("size",), np.array(["a", "bc"]), "", "", None),
            "said": ((), "yes", "", "", None),
            "nothing": (("empty",), np.zeros(0), "", "", None),
        },
        coordinates={"time": ("$t$", "s"), "size": ("units", "")},
    )  # fmt: skip
    made.save(tmp_path / "direct.nc")
    assert len(made.dataset) == 7
    made.save(tmp_path / "xarray.nc")
    direct, other = (open_result(tmp_path / name).dataset for name in ("direct.nc", "xarray.nc"))
    xr.testing.assert_identical(direct, other)
    assert list(direct.variables) == list(other.variables)
    assert {n: v.dtype for n, v in direct.variables.items()} == {n: v.dtype for n, v in other.variables.items()}


def test_columns_name_components() -> None:
    assert main_axis(curve()) == "time"
    table = columns(curve())
    assert list(table) == ["time", "Q[0,0]", "Q[0,1]", "Q[1,0]", "Q[1,1]", "error[kernel]", "error[deep]"]
    assert table["Q[1,0]"].tolist() == [2.0, 6.0, 10.0]
    assert "threshold = 1.5" in text_table(curve())


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="has length 2"):
        LearningCurve.build(PROBLEM, {"time": [0.0, 1.0, 2.0]}, {"x": (("time",), [1.0, 2.0], "", "", None)})
    with pytest.raises(KeyError, match="did you mean 'error'"):
        curve()["eror"]


def test_unreadable_results(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="there is no result here"):
        open_result(tmp_path / "nothing.nc")
    (tmp_path / "bad.nc").write_bytes(b"not a netCDF file")
    with pytest.raises(ResultFileError, match="cannot be read"):
        open_result(tmp_path / "bad.nc")
    import xarray as xr

    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ResultFileError, match="another program wrote it"):
        open_result(tmp_path / "other.nc")
    LearningCurve(xr.Dataset({"x": ("t", [1.0])}, attrs={"kind": "cat", "schema": 1})).save(tmp_path / "cat.nc")
    with pytest.raises(ResultFileError, match="not one of dimladder's"):
        open_result(tmp_path / "cat.nc")


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = curve().save(tmp_path / "result.nc")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultFileError, match="no space is left") as caught:
        curve().save(path)
    assert "--resume" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_a_used_folder_needs_a_word(tmp_path: Path) -> None:
    with run_folder(tmp_path / "new") as folder:
        assert folder.is_dir()
    (tmp_path / "x").write_text("x")
    with pytest.raises(ResultFileError, match="--resume"), run_folder(tmp_path):
        pass
    with run_folder(tmp_path, resume=True):
        pass
    with pytest.raises(ResultFileError, match="a file has that name"), run_folder(tmp_path / "x", resume=True):
        pass
    with pytest.raises(UsageError, match="exclude"), run_folder(tmp_path, resume=True, force=True):
        pass
    # What came to nothing leaves no folder behind.
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_run_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    import subprocess
    import sys

    other = (
        "import sys, pathlib\nfrom dimladder.results import run_folder\n"
        "with run_folder(pathlib.Path(sys.argv[1]), resume=True): pass\n"
    )

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True, check=False)

    with run_folder(tmp_path), run_folder(tmp_path):
        assert "another process is writing this run folder" in run().stderr
    done = run()
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / ".a.nc.x1.tmp").write_bytes(b"half")
    (tmp_path / "kept.tmp").write_bytes(b"a user's own")
    with run_folder(tmp_path, resume=True):
        assert [p.name for p in tmp_path.rglob("*.tmp")] == ["kept.tmp"]


@pytest.mark.parametrize("seed", range(6))
def test_every_damaged_file_is_one_clear_error(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = curve().save(tmp_path / "result.nc").read_bytes()
    damaged = tmp_path / "damaged.nc"
    for _ in range(50):
        content = bytearray(whole)
        match rng.integers(4):
            case 0:
                del content[rng.integers(len(content)) :]
            case 1:
                content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            case 2:
                start = rng.integers(len(content))
                content[start : start + 64] = rng.bytes(64)
            case _:
                content += b"more"
        damaged.write_bytes(content)
        if bytes(content) != whole:
            with pytest.raises(ResultFileError, match="cannot be read"):
                open_result(damaged)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_waits_for_the_file_to_be_whole(tmp_path: Path, times: int) -> None:
    import signal

    def write(temporary: Path) -> None:
        temporary.write_text("first half, ")
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        temporary.write_text("first half, second half")

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", write)
    # Once: the file is finished first. Twice: given up, and nothing is left of it.
    assert [p.read_text() for p in tmp_path.iterdir()] == (["first half, second half"] if times == 1 else [])


def test_a_printed_table_leaves_out_mirrors_and_draws_errors_in() -> None:
    q = np.array([[[1.0, 0.25], [0.25, 2.0]], [[1.0, 0.5], [0.5, 2.0]]])
    se = np.full_like(q, 0.012)
    variables = {
        "Q": (("time", "student", "student"), q, "", "", None),
        "Q_se": (("time", "student", "student"), se, "", "", None),
        "generalization_error": (("time",), np.array([0.5, 0.25]), "", "", None),
        "generalization_error_se": (("time",), np.array([0.0012, 0.0]), "", "", None),
    }
    text = text_table(LearningCurve.build(None, {"time": [0.0, 1.0]}, variables))
    head, first, last = text.splitlines()
    assert head.split() == ["time", "generalization_error", "Q[0,0]", "Q[0,1]", "Q[1,1]"]
    assert first.split() == ["0", "0.5000(12)", "1.000(12)", "0.250(12)", "2.000(12)"]
    assert last.split()[1] == "0.25"
    # An asymmetric pair is shown whole.
    q[1, 1, 0] = 0.6
    assert "Q[1,0]" in text_table(LearningCurve.build(None, {"time": [0.0, 1.0]}, variables))
