"""Kernels written by hand: all of them are translated, and mean what Python makes of them when a theory calls them."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.numerics.addresses import FromAddresses
from dimladder.numerics.native import Kernel, Native, kernels
from dimladder.numerics.native.kernels import FUNCTION_TYPES
from dimladder.numerics.native.machine import translated
from dimladder.numerics.nested import nested_points
from dimladder.numerics.ode import workspace
from dimladder.numerics.sign_patterns import information, pattern_chances
from dimladder.numerics.threshold_path import threshold_path


def every_kernel() -> dict[str, Kernel]:
    """Return the functions of the library that are compiled with a signature, by where they stand."""
    modules = (m.name for m in pkgutil.walk_packages(dl.__path__, "dimladder.") if "__main__" not in m.name)
    found = [k for name in modules for k in vars(importlib.import_module(name)).values() if isinstance(k, Kernel)]
    return {f"{k.__module__}.{k.__name__}": k for k in found if k.signature}


def test_no_kernel_is_left_to_numba() -> None:
    found = every_kernel()
    assert len(found) > 40
    for kernel in found.values():
        assert kernel.signature is not None
        translated([(kernel.__name__, kernel, kernel.signature)], FUNCTION_TYPES)


# Small problems that call the kernels between them.
TIMES = {"grid.time": [0.0, 0.1, 0.11, 0.12, 0.4], "solver.rtol": 1e-6, "solver.atol": 1e-8}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "explicit": ("online-erf", TIMES),
    "bdf": ("online-erf", {**TIMES, "solver.method": "bdf"}),
    "rodas": ("online-erf", {**TIMES, "solver.method": "rodas"}),
    "map": ("hierarchical-flow", {"algorithm.map": True, "grid.time": [0.0, 1.0, 2.0]}),
    "mixture": ("estimation-mixture", {"grid.sample_ratio": [0.5, 2.0]}),
    "huber": ("estimation-huber", {"grid.sample_ratio": [2.0], "data.spectrum.levels": 4}),
    "threshold": ("truncation-flow", {"grid.time": [0.0, 1.0]}),
    "labels": (
        "estimation-random-features",
        {
            "grid.sample_ratio": [2.0],
            "target.formula": "sign(z)",
            "loss.function": "logistic",
        },
    ),
}


def _patterns() -> None:
    v = np.array([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.9]])
    chances, slopes, info, out = np.empty(8), np.empty((8, 3)), np.empty((3, 3)), np.empty(2)
    pattern_chances.compiled(np.array([0.3, -0.6, 0.2]), v, chances, slopes)
    information.compiled(0.7 * np.eye(3), v, np.array([0, 1, 1, 0, 1, 0, 0, 1]), 2, 1.2, 3.0, info, out)


RANDOM = np.random.default_rng(4).normal(size=(2, 40))
DIRECT: dict[str, Callable[[], Any]] = {
    "nodes": lambda: nested_points(np.array([[1.0, 0.4], [0.4, 0.7]]), [[0.2], []], step=0.8, order=4),
    "march": lambda: threshold_path(RANDOM[0], RANDOM[1], -0.5, np.array([0.0, 0.3, 2.0, 30.0])),
    "patterns": _patterns,
}


class Recorder:
    """Notes the first call of every kernel from Python: its arguments before and after, and its answer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.kernel_of: dict[int, Kernel] = {}
        self.alive: list[Native] = []
        self.calls: dict[str, tuple[Kernel, list[Any], list[Any], Any]] = {}
        compile_, call = kernels.compiled, Native.__call__

        def compiled(stamp: str, wanted: Any, *rest: Any) -> dict[str, Native]:
            found = compile_(stamp, wanted, *rest)
            if len(rest) < 2:
                for name, kernel, _ in wanted:
                    self.alive.append(found[name])
                    self.kernel_of[id(found[name])] = kernel
            return found

        def recorded(function: Native, *arguments: Any) -> Any:
            kernel = self.kernel_of.get(id(function))
            name = "" if kernel is None else f"{kernel.__module__}.{kernel.__name__}"
            if kernel is None or name in self.calls or not name.startswith("dimladder."):
                return call(function, *arguments)
            before = _copied(arguments)
            answer = call(function, *arguments)
            self.calls[name] = kernel, before, _copied(arguments), answer
            return answer

        patch.setattr(kernels, "compiled", compiled)
        patch.setattr(Native, "__call__", recorded)
        patch.setattr(Native, "bound", lambda function, *first: lambda *rest: function(*first, *rest))

    def interpret(self, patch: pytest.MonkeyPatch) -> None:
        """Have code that is interpreted interpret the kernels whose addresses it is given."""
        at = FromAddresses.__call__

        def function(form: FromAddresses, c_address: int, native_address: int) -> Any:
            found = at(form, c_address, native_address) if native_address else None
            kernel = self.kernel_of.get(id(found))
            # Printed functions stay: Python raises where they answer with NaN.
            return kernel.py_func if kernel is not None and kernel.__module__.startswith("dimladder.") else found

        patch.setattr(FromAddresses, "__call__", function)


def _copied(arguments: Any) -> list[Any]:
    return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every kernel compiled, or read from the cache, again."""
    found = every_kernel().values()
    kept = {k: {n: vars(k).pop(n) for n in ("native", "compiled") if n in vars(k)} for k in found}
    # A kept workspace holds functions that are looked up already.
    workspace._idle.clear()
    yield
    workspace._idle.clear()
    for kernel, values in kept.items():
        vars(kernel).update(values)


# A step takes functions, which numba hands on in its own way: integrators are compiled by one or the other as a whole.
INTEGRATED = ("explicit", "bdf", "rodas", "threshold")
APART = [name for name in [*CALLS, *DIRECT] if name not in INTEGRATED]
NUMBA = [pytest.param(name, True, marks=pytest.mark.nightly, id=f"{name}-numba") for name in APART]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("name", "numba"), [*((name, False) for name in [*CALLS, *DIRECT]), *NUMBA])
def test_kernels_mean_what_python_and_numba_make_of_them(
    name: str, numba: bool, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that follow one another amplify rounding, in how long the next one is most."""
    with monkeypatch.context() as patch:
        recorder = Recorder(patch)
        if name in DIRECT:
            DIRECT[name]()
        else:
            run, overrides = CALLS[name]
            dl.solve(dl.load(runs / f"{run}.toml", overrides))
    assert recorder.calls
    recorder.interpret(monkeypatch)
    for where, (kernel, before, after, answer) in recorder.calls.items():
        with np.errstate(all="ignore"):
            again = (kernel.by_numba if numba else kernel.py_func)(*before)
        assert again == answer, where
        for native, other in zip(after, before, strict=True):
            if isinstance(native, np.ndarray):
                size = np.abs(native[np.isfinite(native)]).max(initial=0.0)
                np.testing.assert_allclose(native, other, rtol=1e-5, atol=1e-12 * size, err_msg=where)


@pytest.mark.nightly
@pytest.mark.parametrize("name", INTEGRATED)
def test_curves_by_numba_alone_are_the_same(name: str, runs: Path) -> None:
    run, overrides = CALLS[name]
    command = [sys.executable, "-m", "dimladder", "solve", str(runs / f"{run}.toml"), "--json", "-q"]
    command += [f"--set={key}={json.dumps(value)}" for key, value in overrides.items()]
    answers = []
    for native in "10":
        environment = {**os.environ, "DIMLADDER_NATIVE": native}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        answers.append(json.loads(done.stdout)["variables"])
    for variable, one in answers[0].items():
        other = np.array(answers[1][variable]["values"], dtype=float)
        np.testing.assert_allclose(np.array(one["values"], dtype=float), other, rtol=1e-9, atol=1e-13, err_msg=variable)
