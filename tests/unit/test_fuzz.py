"""Nonsense of every kind: refused in words or answered, never a traceback and never a hang.

Each test has few examples here; `test_much_nonsense` runs ten thousand by the marker nightly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dimladder as dl
import fuzzing
from dimladder.problem.spec import axis_values
from dimladder.problem.toml_writer import dumps
from dimladder.results import LearningCurve, open_result
from dimladder.sweep import parse_grid

RUNS = Path(__file__).resolve().parents[2] / "docs" / "gallery" / "runs"
ORIGINALS = fuzzing.documents(RUNS)
# Answered in milliseconds without compiling, whatever their numbers.
CHEAP = {"hierarchical-plateaus", "hierarchical-layerwise", "truncation", "graph-convolution", "deep-linear-posterior"}
FLOW = str(RUNS / "truncation-flow.toml")

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


def a_run_file(document: dict[str, Any], solve: bool = True) -> None:
    problem = fuzzing.answered(lambda: dl.loads(dumps(document)))
    if problem is None:
        return
    assert dl.loads(problem.to_toml()) == problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = fuzzing.answered(lambda: dl.derive(problem))
        if system is not None and solve and cheap(problem):
            fuzzing.answered(lambda: dl.solve(problem))


def cheap(problem: Any) -> bool:
    """Whether the answer takes milliseconds; the refined order of layers is a Monte Carlo over the features a point."""
    if problem.theory == "hierarchical-layerwise" and problem.algorithm.first.order == "refined":
        axes = msgspec.structs.asdict(problem.grid).values()
        sizes = np.ravel(problem.limit.d)
        return math.prod(len(axis_values(axis)) for axis in axes if axis is not None) <= 20 and max(sizes) <= 1000
    return problem.theory in CHEAP


def an_override(path: str, text: str) -> None:
    fuzzing.command("show", FLOW, "--set", f"{path}={text}")


def a_grid(text: str) -> None:
    fuzzing.answered(lambda: parse_grid(text))


def a_text(text: str, folder: Path) -> None:
    (folder / "run.toml").write_text(text, encoding="utf-8", errors="surrogatepass")
    fuzzing.command("show", str(folder / "run.toml"))


def a_campaign(document: dict[str, Any], folder: Path) -> None:
    (folder / "campaign.toml").write_text(dumps(document), encoding="utf-8", errors="surrogatepass")
    from dimladder_validation.campaign import load_campaign, problem_of

    def read() -> None:
        campaign, place = load_campaign(folder / "campaign.toml")
        for case in campaign.case:
            problem_of(case, place)

    fuzzing.answered(read)


def a_result(damage: Callable[[bytes], bytes], folder: Path) -> None:
    path = LearningCurve.build(
        None, {"time": [0.0, 1.0]}, {"Q": (("time", "student"), [[1.0], [math.nan]], "Q_1", "", None)}
    ).save(folder / "result.nc")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    found = fuzzing.answered(lambda: open_result(path))
    assert (found is None) == (path.read_bytes() != whole)


DOCUMENTS = fuzzing.changed(ORIGINALS)
PATHS = st.sampled_from([".".join(p) for d in ORIGINALS for p in fuzzing.paths(d)])
WORDS = st.one_of(
    fuzzing.VALUES.map(str), st.text(max_size=30), fuzzing.VALUES.map(lambda v: dumps({"v": v})[4:].strip())
)
GRIDS = st.builds(
    "{}={}".format,
    PATHS,
    st.one_of(WORDS, st.lists(WORDS, max_size=4).map(":".join), st.lists(WORDS, max_size=4).map(",".join)),
)
CASES = st.fixed_dictionaries(
    {
        "case": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b", "..", "a/b", ""])},
                optional={
                    "run": st.sampled_from([FLOW, "nowhere.toml", ""]),
                    "problem": DOCUMENTS,
                    "set": st.dictionaries(PATHS, fuzzing.VALUES),
                    "theory_set": st.dictionaries(PATHS, fuzzing.VALUES, max_size=1),
                    "sizes": fuzzing.VALUES,
                    "alpha": fuzzing.VALUES,
                    "expect": st.sampled_from(["agree", "perhaps"]),
                },
            ),
            max_size=2,
        )
    },
    optional={"schema": st.integers(0, 2), "title": fuzzing.VALUES, "nonsense": st.just(1)},
)
DAMAGES = st.one_of(
    st.integers(0, 20_000).map(lambda at: lambda b: b[: at % len(b)]),
    st.tuples(st.integers(0, 20_000), st.integers(0, 255)).map(
        lambda p: lambda b: b[: p[0] % len(b)] + bytes([p[1]]) + b[p[0] % len(b) + 1 :]
    ),
    st.binary(max_size=50).map(lambda more: lambda b: b + more),
    st.binary(max_size=200).map(lambda other: lambda b: other),
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.tuples(st.sampled_from(ORIGINALS).map(dumps), st.integers(0, 3000), st.text(max_size=5)).map(
        lambda p: p[0][: p[1] % len(p[0])] + p[2] + p[0][p[1] % len(p[0]) :]
    ),
)


@given(DOCUMENTS)
@settings(QUICK, max_examples=120)
def test_changed_run_files(document: dict[str, Any]) -> None:
    # Read and derived; solved too in the nightly test.
    a_run_file(document, solve=False)


@given(PATHS, WORDS)
@settings(QUICK, max_examples=50)
def test_overrides(path: str, text: str) -> None:
    an_override(path, text)


@given(GRIDS)
@settings(QUICK, max_examples=60)
def test_grids(text: str) -> None:
    a_grid(text)


@given(TEXTS)
@settings(QUICK, max_examples=30)
def test_texts(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    a_text(text, tmp_path_factory.mktemp("fuzz"))


@given(CASES)
@settings(QUICK, max_examples=20)
def test_campaigns(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    a_campaign(document, tmp_path_factory.mktemp("fuzz"))


@given(DAMAGES)
@settings(QUICK, max_examples=20)
def test_result_files(tmp_path_factory: pytest.TempPathFactory, damage: Callable[[bytes], bytes]) -> None:
    a_result(damage, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.nightly
@given(st.data())
@settings(QUICK, max_examples=10_000, derandomize=False)
def test_much_nonsense(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    match data.draw(st.sampled_from(["run", "run", "run", "run", "override", "grid", "text", "campaign", "result"])):
        case "run":
            a_run_file(data.draw(DOCUMENTS))
        case "override":
            an_override(data.draw(PATHS), data.draw(WORDS))
        case "grid":
            a_grid(data.draw(GRIDS))
        case "text":
            a_text(data.draw(TEXTS), folder)
        case "campaign":
            a_campaign(data.draw(CASES), folder)
        case _:
            a_result(data.draw(DAMAGES), folder)
