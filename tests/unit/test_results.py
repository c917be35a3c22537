"""The labelled container: JSON contract, netCDF round trip, and files that cannot be read or written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from dimladder.errors import ResultFileError
from dimladder.problem import MultiIndex, Problem, convert
from dimladder.results import LearningCurve, claim_folder, columns, main_axis, open_result, text_table


class Toy(Problem, frozen=True, kw_only=True):
    target: MultiIndex


PROBLEM = convert({"theory": "toy", "target": {"kind": "multi-index", "expression": "He1(z1)"}}, Toy)


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
    assert data["parameters"]["target"]["expression"] == "He1(z1)"


def test_round_trip(tmp_path: Path) -> None:
    original = curve()
    original.save(tmp_path / "run" / "result.nc")
    again = open_result(tmp_path / "run")
    assert type(again) is LearningCurve
    assert again.to_dict() == original.to_dict()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["result.nc"]


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
    with pytest.raises(ResultFileError, match="not one of dimladder's"):
        open_result(tmp_path / "other.nc")


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import xarray as xr

    path = curve().save(tmp_path / "result.nc")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(ResultFileError, match="no space is left") as caught:
        curve().save(path)
    assert "--resume" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_a_used_folder_needs_a_word(tmp_path: Path) -> None:
    claim_folder(tmp_path / "new", resume=False, force=False)
    (tmp_path / "x").write_text("x")
    with pytest.raises(ResultFileError, match="--resume"):
        claim_folder(tmp_path, resume=False, force=False)
    claim_folder(tmp_path, resume=True, force=False)
    with pytest.raises(ResultFileError, match="is a file"):
        claim_folder(tmp_path / "x", resume=True, force=False)
