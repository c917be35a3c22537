"""Measurements that come with the package: of the quick campaign, what their seeds give again, and evidence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import UsageError
from dimladder_validation import compare, simulate, stored, stored_for, stored_names
from dimladder_validation.campaign import load_campaign, problem_of, validate
from dimladder_validation.measurements import FOLDER

# That take no time to simulate.
CHEAP = ["graph-convolution", "multi-pass", "truncation-flow"]


def test_every_case_of_the_quick_campaign_is_stored() -> None:
    quick, folder = load_campaign("quick")
    names = set()
    for case in quick.case:
        found = stored_for(problem_of(case, folder), case.sizes, case.replicas, case.seed)
        names.add(found.provenance["problem_hash"])
        assert found.theory == problem_of(case, folder).theory
    # And nothing else: a file of a problem that has changed would lie about for ever.
    assert {stored(name).provenance["problem_hash"] for name in stored_names()} == names
    assert max(path.stat().st_size for path in FOLDER.glob("*.nc")) < 100_000


@pytest.mark.parametrize("name", CHEAP)
def test_a_stored_measurement_is_what_its_seed_gives_again(name: str) -> None:
    found = stored(name)
    stats = found.stats
    again = simulate(
        dl.loads(found.problem_toml), found[stats["size"]].values.tolist(), stats["replicas"], seed=stats["seed"]
    )
    for variable in (n for n in found if not n.endswith("_se")):
        # Another machine adds in another order; a millionth of a standard error is nothing.
        allowed = 1e-6 * found[f"{variable}_se"].values + 1e-12
        assert np.all(np.abs(again[variable].values - found[variable].values) <= allowed), variable


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("graph-convolution", {"data.mu": 2.0}), ("multi-pass", {"algorithm.learning_rate": 0.55}),
        ("truncation-flow", {"data.std": 0.3}),
    ],
)  # fmt: skip
def test_a_wrong_theory_disagrees_with_what_is_stored(name: str, wrong: dict[str, float]) -> None:
    problem = dl.loads(stored(name).problem_toml)
    assert compare(problem, stored_for(problem)).verdict == "agree"
    assert compare(dl.replace(problem, wrong), stored(name)).verdict == "disagree"


def test_the_command_line_compares_without_simulating(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something is simulated")

    # `dimladder_validation.simulate` is the function; its module is reached by name.
    monkeypatch.setattr(sys.modules["dimladder_validation.simulate"], "replicate", never)
    run = tmp_path / "run.toml"
    run.write_text(stored("truncation-flow").problem_toml)
    assert main(["compare", str(run), "--measurement", "stored", "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "agree"
    assert (tmp_path / "out" / "result.nc").exists()
    wrong = ["--set", "data.std=0.3", "--measurement"]
    assert main(["compare", str(run), *wrong, "truncation-flow"]) == 1
    assert main(["compare", str(run), *wrong, "stored"]) == 2
    assert main(["compare", str(run), *wrong, "truncation-flou"]) == 2
    err = capsys.readouterr().err
    assert "no measurement of this problem comes with the package" in err
    assert "truncation-flow" in err
    with pytest.raises(UsageError, match="comes with the package"):
        stored("nothing")


@pytest.mark.slow
def test_the_quick_campaign_without_simulating(tmp_path: Path) -> None:
    """Every verdict is the expected one, by solving the theories alone; the report is that of a campaign."""
    outcomes = validate("quick", stored=True)
    assert {o.name: o.reasons for o in outcomes if not o.as_expected} == {}
