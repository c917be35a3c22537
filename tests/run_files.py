"""The run files of the gallery at sizes for a test, what their heads promise, and the contract of the JSON answers."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import dimladder as dl
from dimladder import registry

RUNS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "runs"

# Statistical theories at fewer samples: the contract is tested with them, not the accuracy.
SMALL: dict[str, dict[str, Any]] = {
    "mup-tanh": {"solver.samples": 256, "solver.scrambles": 2, "algorithm.steps": 4},
    "mup-linear": {"algorithm.steps": 6},
    "mup-widths": {"solver.samples": 256, "solver.scrambles": 2, "algorithm.steps": 4},
    "giant-step-figures": {"limit.n": 60, "limit.draws": 2},
    "giant-step-images": {"limit.draws": 2, "grid.sample_ratio": [2.0]},
    "giant-step-mixture": {"limit.n": 60, "limit.draws": 2, "grid.sample_ratio": [0.5, 2.0]},
    "online-multi-index": {"student.width": 3, "grid.time": [0.1, 1.0, 5.0]},
    "online-erf": {"grid.time": [0.0, 0.5, 2.0]},
    "hierarchical-flow": {"grid.time": [0.0, 1.0, 2.0]},
    "hierarchical-layerwise": {"grid.first_ratio": [1.0, 2.0], "grid.second_ratio": [1.0]},
    "hierarchical-plateaus": {"grid.kappa": [1.0, 1.5]},
    "hierarchical-branches": {"grid.first_ratio": [1.0, 4.0], "grid.second_ratio": [1.0]},
    "hierarchical-learners": {
        "grid.kappa": [1.5], "algorithm.steps": [3, 4], "algorithm.second_width": 8, "algorithm.recipes": ["paper"],
    },
    "hierarchical-tree": {"grid.kappa": [1.2, 1.5]},
    "hierarchical-protocol": {"grid.kappa": [1.5], "algorithm.steps": [3, 4], "algorithm.second_width": 8},
    "hierarchical-parity": {"algorithm.steps": [3, 4], "algorithm.second_width": 8},
    "hierarchical-even": {"limit.d": [36], "grid.kappa": [2.1]},
    "hierarchical-published": {
        "grid.kappa": [1.5], "algorithm.steps": [3, 4], "algorithm.second_width": 8, "algorithm.recipes": ["paper"],
    },
    "hierarchical-paper": {"limit.d": [64], "grid.kappa": [1.6]},
    "staircase": {
        "student.particles": 20, "grid.time": [0.0, 1.0], "simulation.width": 20, "simulation.batch": 50,
    },
    "estimation-huber": {"grid.sample_ratio": [0.5, 2.0], "data.spectrum.levels": 40},
    "estimation-deep-features": {"grid.sample_ratio": [1.0]},
    "estimation-bayes": {"grid.sample_ratio": [1.0, 1.35, 1.7]},
    "estimation-mixture": {"grid.sample_ratio": [0.5, 2.0]},
    "estimation-random-features": {"grid.sample_ratio": [0.5, 2.0]},
    "online-look-ahead": {"grid.time": [0.0, 1.0]},
    "online-reuse": {"grid.time": [0.0, 1.0]},
    "online-power-law": {"grid.time": [0.0, 1.0, 2.0]},
    "online-xor": {"grid.time": [0.0, 1.0, 2.0]},
    "online-classes": {"grid.time": [0.0, 1.0, 2.0]},
    "online-outputs": {"grid.time": [0.0, 1.0, 2.0]},
    "online-continual": {"grid.time": [0.0, 1.0, 2.0]},
    "graph-convolution": {"grid.train_fraction": [0.3, 0.6]},
    "triple-descent": {"grid.width_ratio": [0.3, 2.0]},
    "truncation-flow": {"grid.time": [0.0, 1.0, 2.0]},
    "multi-pass-ridge": {"algorithm.steps": 6},
    "multi-pass-committee": {"solver.samples": 512, "solver.scrambles": 2, "algorithm.steps": 6},
    "multi-pass-logistic": {"solver.samples": 512, "solver.scrambles": 2, "algorithm.steps": 3},
}  # fmt: skip
_SIZE = {
    "giant-step-images": 64,  # the pixels of a digit
    "online-power-law": 64, "hierarchical-plateaus": 64, "graph-convolution": 200, "triple-descent": 60,
    "estimation-huber": 100,  # in smaller ones some samples are so poor that the best ridge is infinite
}  # fmt: skip

# The smallest problem in the words of schema 2, of a theory that takes no time: dl.replace it, or set its keys.
TWO_LAYER_LINEAR = """
schema = 2
[data]
samples = 5
dimension = 12
[target]
kind = "index"
formula = "z"
[student]
kind = "deep"
activation = "linear"
hidden_layers = 1
initial_norm = 0.5
[algorithm]
kind = "gradient-flow"
[grid]
time = [0.0, 0.02, 0.2, 2.0]
"""

# One unit on a smooth target: the smallest problem of online SGD.
TANH_UNIT = """
schema = 2
[target]
kind = "index"
formula = "tanh(z)"
[student]
kind = "two-layer"
width = 1
[algorithm]
kind = "one-pass"
learning_rate = 0.2
[initial]
Q = [[1.0]]
M = [[0.3]]
[grid]
time = [0.0, 1.0, 2.0, 3.0]
"""


def path_of(name: str) -> Path:
    """Return the file of a run."""
    return RUNS / f"{name}.toml"


def size_of(name: str) -> int:
    """Return a size at which the experiment takes no time."""
    return _SIZE.get(name, 36)


THEORY_OF = {path.stem: dl.load(path).theory for path in sorted(RUNS.glob("*.toml"))}
FILES = list(THEORY_OF)
SIMULATED = [
    name
    for name, theory in THEORY_OF.items()
    if theory in registry.names("experiments") and "simulation" in tomllib.loads(path_of(name).read_text())
]


def arguments(name: str) -> list[str]:
    """Return the command-line arguments that name a run file at its small size."""
    # JSON is TOML as far as numbers, strings and lists go.
    return [str(path_of(name)), *(f"--set={key}={json.dumps(value)}" for key, value in SMALL.get(name, {}).items())]


def promised(name: str) -> dict[str, list[str]]:
    """Return the variables that the head of a run file lists, with their dimensions: part of the contract."""
    head = "\n".join(line[1:] for line in path_of(name).read_text().splitlines() if line.startswith("#"))
    _, _, listed = head.partition("Variables:")
    listed, _, _ = listed.partition("on request")
    found = re.findall(r"\b([A-Za-z_]\w*)\(([a-z_, ']*)\)", listed)
    return {word: [d.strip() for d in dims.split(",") if d.strip()] for word, dims in found if word != "Var"}


def check_contract(text: str, theory: str) -> dict[str, Any]:
    """Check the JSON that solve, simulate and sweep print, and return it."""
    assert text.count("\n") == 1, "one object on one line"

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    answer: dict[str, Any] = json.loads(text, parse_constant=refuse)
    assert {"schema", "theory", "status", "coords", "variables", "parameters", "provenance"} <= set(answer)
    assert answer["schema"] == 1
    assert answer["theory"] == theory
    assert answer["status"] == "success"
    assert answer["parameters"]["theory"] == theory
    assert answer["variables"]
    for name, variable in answer["variables"].items():
        assert set(variable) == {"dims", "values", "units", "latex"}, name
        assert variable["units"] is None or isinstance(variable["units"], str)
        shape = _shape(variable["values"])
        assert len(shape) == len(variable["dims"]), name
        for dim, length in zip(variable["dims"], shape, strict=True):
            assert len(answer["coords"][dim]) == length, (name, dim)
        if name.endswith("_se"):
            assert answer["variables"][name[:-3]]["dims"] == variable["dims"]
            assert all(v is None or v >= 0 for v in _flat(variable["values"])), name
    numbers = [v for variable in answer["variables"].values() for v in _flat(variable["values"])]
    assert any(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
    return answer


def _shape(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        return ()
    assert len({_shape(v) for v in values}) <= 1, "ragged"
    return (len(values), *(_shape(values[0]) if values else ()))


def _flat(values: Any) -> list[Any]:
    return [v for part in values for v in _flat(part)] if isinstance(values, list) else [values]
