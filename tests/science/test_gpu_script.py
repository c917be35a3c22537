"""The script that checks a device: every experiment of the registry, and small runs that it can read."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dimladder as dl
from dimladder_validation import replicate
from dimladder_validation.simulate import experiment, experiments

SCRIPT = Path(__file__).parents[2] / "docs" / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_every_experiment_is_checked_on_a_device_or_says_why_not(script: ModuleType) -> None:
    covered = {problem.theory for _, problem, _ in script.cases()}
    on_device = {name for name in experiments() if not experiment(name).on_host}
    assert on_device == covered
    # Every experiment in which weights take steps.
    assert covered >= {
        "one-pass", "staircase", "multi-pass", "mup", "giant-step", "two-layer-linear", "hierarchical-flow",
        "hierarchical-learners",
    }  # fmt: skip


def test_the_loads_are_problems(script: ModuleType) -> None:
    for load in script.loads():
        problem = dl.load(script.RUNS / f"{load.run}.toml", load.changes)
        assert not experiment(problem.theory).on_host
        assert load.of in ("bandwidth", "flops")


def test_a_wrong_law_is_seen(script: ModuleType) -> None:
    """The comparison itself, without a device: another seed agrees, another problem does not."""
    name, problem, size = next(case for case in script.cases() if case[0] == "mup, tanh")
    wrong = dl.replace(problem, {"algorithm.learning_rate": 0.3})
    here, there, other = (
        replicate(what, d=size, replicas=60, dtype=dtype, seed=seed)
        for what, dtype, seed in ((problem, "float64", 1), (problem, "float32", 2), (wrong, "float64", 3))
    )
    assert script.compared(here, there, "float32")["same"], name
    assert not script.compared(here, other, "float64")["same"]
