"""The translation to LLVM against interpreted Python and against numba: the language, and every printed module."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest

import dimladder as dl
from dimladder.numerics import native
from dimladder.numerics.addresses import FromAddresses, addresses, packed
from dimladder.numerics.native import Refused, njit
from dimladder.numerics.native.types import F64
from dimladder.numerics.ode import layout
from dimladder.numerics.rows import over_rows
from dimladder.problem.losses import loss_function
from dimladder.symbolic import store
from dimladder.theories.estimation.channel import Loss
from dimladder.theories.estimation.equations import algebra

OPTIONS = {"error_model": "numpy"}
STEPS = np.array([0.5, -0.25, 2.0])
DEPTH = 3


@njit(**OPTIONS)
def halves(a, b):  # type: ignore[no-untyped-def]
    return a // 2, b % 4


@njit(**OPTIONS)
def clipped(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)


@njit(**OPTIONS)
def fill(row, value):  # type: ignore[no-untyped-def]
    for i in range(row.size):
        row[i] = value * i


@njit("void(f8[::1], i8[::1], f8[:, ::1])", **OPTIONS)
def everything(x, k, out):  # type: ignore[no-untyped-def]
    """One of each: what is printed, and what the integrators are written in."""
    place = 0
    for a in range(-7, 8):
        for b in range(3, -4, -1):
            if b == 0:
                continue
            out[0, place] = a // b + 10 * (a % b)
            place += 1
    first, second = halves(k[0], k[1])
    out[1, 0], out[1, 1] = first, second
    out[1, 2] = k[0] // k[1] + 100 * (k[0] % k[1])
    view = x[1 : x.size - 1]
    out[1, 3], out[1, 4], out[1, 5] = view[0], view[-1], view.size
    square = x[:4].reshape((2, 2))
    out[1, 6] = square[1, 0] + square.shape[1]
    fill(out[2], 0.5)
    total = 0.0
    for i in range(x.size):
        if x[i] < 0.0:
            continue
        if x[i] > 1e3:
            break
        total += x[i]
    out[3, 0] = total
    n = 0
    while n < 5 and not n * n > 10:
        n += 1
    out[3, 1] = n
    out[3, 2] = x[0] if x[1] > x[0] > -1e9 else math.sqrt(abs(x[1]))
    out[3, 3] = clipped(x[0], -0.5, 0.5) + min(3, 1, 2) + max(k[0], 2.5)
    out[3, 4] = x[0] ** 3 + x[0] ** -2 + abs(x[0]) ** 0.3 + k[1] ** 2 + x[0] ** 0
    out[3, 5] = STEPS[1] * DEPTH + math.pi
    out[3, 6] = int(2.9 * x[2]) + float(k[0]) / 3
    out[3, 7] = math.floor(x[1]) + math.ceil(x[1])
    out[3, 8] = 1.0 if math.isfinite(x[0] / (x[0] - x[0])) or math.isnan(x[0]) else -1.0
    out[3, 9] = math.erf(x[0]) + math.erfc(x[0]) + math.tanh(x[0]) + math.log1p(abs(x[1])) + math.atan2(x[0], x[1])
    out[3, 10] = math.copysign(2.0, x[0]) - -x[1] + (not x[0] > 0.0) + (k[0] == -7)
    out[3, 11] = -k[0] + abs(k[0])
    big = x if x[0] > 0.0 else view
    out[3, 12] = big[0]
    out[3, 13:20] = x[2]
    out[3, 20:23] = 4
    out[3, 23] = (k[1] >> 1) + 10 * (k[0] & 6) + 100 * (1 << 3)
    out[3, 24] = np.int64((int(x[2]) + 1023) << 52).view(np.float64)
    counts = np.empty(2, np.int64)
    counts[0], counts[1] = k[0], 2
    out[3, 25] = counts[0] // counts[1]
    out[3, 26] = (x[0] > 0.0 and k[1] > 5) or (x[1] < 0.0 and not k[0] > 0)
    u = v = x[3]
    u, v = (v + 1.0, 2) if k[1] > 0 else (0.0, u)
    out[3, 27] = u + 3.0 * v


@njit("void(f8[::1], f8[::1])", **OPTIONS)
def functions(x, out):  # type: ignore[no-untyped-def]
    a, b = x[0], x[1]
    out[0] = a * b / (1.0 + b**2) - 3 * a + STEPS[1] * b
    out[1] = math.sqrt(a) + math.exp(b) + math.log(a) + math.sin(b) * math.cos(a)
    out[2] = abs(-b) + math.copysign(a, -b) + max(a, b) * min(a, b)
    out[3] = a**0.3 + a**b + b**-3
    out[4] = math.erf(a) + math.erfc(b) + math.tanh(b) + math.tan(a)
    out[5] = math.asin(a) * math.acos(a) + math.atan(b) + math.atan2(a, b) + math.hypot(a, b)
    out[6] = math.sinh(a) + math.cosh(b) + math.asinh(b) + math.acosh(1.0 + b) + math.atanh(a)
    out[7] = math.expm1(a) + math.log1p(b) + math.log2(a) + math.log10(b)
    out[8] = (a if a > b else b) * math.floor(b) + int(a) * b


def test_tangents_are_derivatives_and_values_stay() -> None:
    from dimladder.numerics.differences import derivative
    from dimladder.numerics.native.kernels import FUNCTION_TYPES
    from dimladder.numerics.native.machine import compiled
    from dimladder.numerics.native.tangents import LANES, Tangents

    tangents = compiled("test", [("functions", functions, functions.signature)], FUNCTION_TYPES, Tangents)
    x, directions = np.array([0.4, 1.7]), np.array([[1.0, 0.0], [0.0, 1.0], [0.3, -2.0]])
    given, out = np.zeros((2, LANES)), np.zeros((9, LANES))
    given[:, 0], given[:, 1:] = x, directions.T
    tangents["functions"](given.ravel(), out.reshape(-1))

    def values(x: np.ndarray) -> np.ndarray:
        found = np.zeros(9)
        functions.py_func(x, found)
        return found

    np.testing.assert_allclose(out[:, 0], values(x), rtol=4e-16)
    for k, d in enumerate(directions):
        exact, _ = derivative(lambda step, d=d: values(x + step * d), 0.0, 0.05)
        np.testing.assert_allclose(out[:, k + 1], exact, rtol=1e-10, atol=1e-11)


def test_a_tape_read_backwards_is_the_transpose_of_the_tangents() -> None:
    from dimladder.numerics.native.kernels import FUNCTION_TYPES
    from dimladder.numerics.native.machine import compiled
    from dimladder.numerics.native.tangents import LANES, Tangents
    from dimladder.numerics.native.tape import LANES as PLACED
    from dimladder.numerics.native.tape import ROW, Recorded

    entry = [("functions", functions, functions.signature)]
    tangents = compiled("test", entry, FUNCTION_TYPES, Tangents)["functions"]
    recorded = compiled("test", entry, FUNCTION_TYPES, Recorded)["functions"]
    x = np.array([0.4, 1.7])
    given, forwards = np.zeros((2, LANES)), np.zeros((9, LANES))
    given[:, 0], given[:, 1:3] = x, np.eye(2)
    tangents(given.ravel(), forwards.reshape(-1))
    placed, out, tape = np.zeros((2, PLACED)), np.zeros((9, PLACED)), np.zeros((400, ROW))
    placed[:, 0], placed[:, 1], tape[0, 0] = x, (1.0, 2.0), 2.0
    recorded(placed.ravel(), out.reshape(-1), tape.reshape(-1))
    used = int(tape[0, 0])
    assert 40 < used < 400
    np.testing.assert_array_equal(out[:, 0], forwards[:, 0])
    # One number of the nine does not depend on x where x is not whole; that it does on x[1] keeps it on the tape.
    assert (out[:, 1] > 2).all()
    for result in range(9):
        cotangents = np.zeros(used + 1)
        cotangents[int(out[result, 1])] = 1.0
        for row in range(used, 2, -1):
            for place, slope in tape[row].reshape(2, 2):
                cotangents[int(place)] += slope * cotangents[row] if cotangents[row] else 0.0
        np.testing.assert_allclose(cotangents[1:3], forwards[result, 1:3], rtol=1e-13, atol=1e-15)
    # A tape that is too short says how long it must be, and nothing is written beyond its end.
    short = np.zeros((20, ROW))
    short[0, 0] = 2.0
    recorded(placed.ravel(), np.zeros((9, PLACED)).reshape(-1), short[:10].reshape(-1))
    assert int(short[0, 0]) == used
    assert not short[10:].any()


FLAGGED = native.value_type("as_flagged", "FLAGGED", "f8(b1, f8)")
as_flagged = FromAddresses(FLAGGED)


@njit("f8(b1, f8)", **OPTIONS)
def flagged(flag, x):  # type: ignore[no-untyped-def]
    return x if flag else -x


@numba.njit("f8(b1, f8)")
def flagged_by_numba(flag, x):  # type: ignore[no-untyped-def]
    return x if flag else -x


@njit("void(f8[::1], i8, f8[::1])", **OPTIONS)
def with_arrays(x, n, out):  # type: ignore[no-untyped-def]
    """Arrays of a size that is known when the function runs, bits of numbers, truth values through an address."""
    bits = x[:2].view(np.int64)
    f = as_flagged(bits[0], bits[1])
    table, row = np.empty((n, 2)), np.empty(n)
    for i in range(n):
        row[i] = f(x[2] > i, 1.5)
        table[i, 0], table[i, 1] = row[i], i
    for i in range(n):
        out[i] = table[n - 1 - i, 0] + 10.0 * table[i, 1]


@pytest.mark.parametrize("called", [flagged, flagged_by_numba])
def test_arrays_of_any_size_and_truth_values_through_addresses(called: Any) -> None:
    x, out = np.append(packed([(called, FLAGGED)]), 2.5), np.zeros(5)
    expected = [1.5 * (1 if 4 - i < 2.5 else -1) + 10 * i for i in range(5)]
    with_arrays.native(x, 5, out)
    np.testing.assert_array_equal(out, expected)
    again = np.zeros(5)
    with_arrays.by_numba(x, 5, again)
    np.testing.assert_array_equal(again, expected)


SCALAR = "f8(f8[::1])"


@njit(SCALAR, **OPTIONS)
def allocates(x):  # type: ignore[no-untyped-def]
    return np.zeros(3)[0] + x[0]


@njit(SCALAR, **OPTIONS)
def two_types(x):  # type: ignore[no-untyped-def]
    a = x[0]
    a = x
    return a[0]


@njit(SCALAR, **OPTIONS)
def widens(x):  # type: ignore[no-untyped-def]
    a = 0
    a += x[0]
    return a


@njit(SCALAR, **OPTIONS)
def doubts(x):  # type: ignore[no-untyped-def]
    a = x[0] > 0.0
    a = x[1]
    return a


@njit(SCALAR, **OPTIONS)
def answers_two_ways(x):  # type: ignore[no-untyped-def]
    if x[0] > 0.0:
        return False
    return x[0]


@njit(SCALAR, **OPTIONS)
def strided(x):  # type: ignore[no-untyped-def]
    return x[::2][0]


@njit(SCALAR, **OPTIONS)
def unknown(x):  # type: ignore[no-untyped-def]
    return elsewhere(x[0])  # type: ignore[name-defined]  # noqa: F821


@njit(SCALAR, **OPTIONS)
def raises(x):  # type: ignore[no-untyped-def]
    if x[0] < 0.0:
        raise ValueError("negative")
    return x[0]


def used(function):  # type: ignore[no-untyped-def]
    return {n: function.__globals__[n] for n in function.__code__.co_names if n in function.__globals__}


def by_numba(kernel: native.Kernel) -> object:
    """The same function compiled by numba, and all that it calls."""
    function = kernel.py_func
    scope = {n: by_numba(v) if isinstance(v, native.Kernel) else v for n, v in used(function).items()}
    again = type(function)(function.__code__, scope, function.__name__)
    return numba.njit(error_model="numpy")(again)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_language_means_what_python_means(sign: float) -> None:
    x, k = sign * np.array([0.3, -1.7, 2.2, 0.9, 4000.0, 1.0]), np.array([-7, 3])
    found = []
    for function in (everything.py_func, everything.native, by_numba(everything)):
        out = np.zeros((4, 90))
        with np.errstate(all="ignore"):
            function(x.copy(), k.copy(), out)  # type: ignore[operator]
        found.append(out)
    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(found[1], found[0], rtol=4e-16, atol=0)
    np.testing.assert_allclose(found[1], found[2], rtol=4e-16, atol=0)


@pytest.mark.parametrize(
    "kernel",
    [allocates, two_types, widens, doubts, answers_two_ways, strided, unknown, raises],
    ids=lambda k: k.__name__,
)
def test_what_is_not_in_the_language_is_refused(kernel: native.Kernel) -> None:
    with pytest.raises(Refused):
        _ = kernel.native


def test_division_that_raises_is_refused() -> None:
    with pytest.raises(Refused, match="divides by zero"):
        njit(SCALAR)(lambda x: x[0])


def test_arrays_of_another_kind_are_refused() -> None:
    call = everything.native
    with pytest.raises(TypeError, match="contiguous"):
        call(np.zeros(6, np.float32), np.zeros(2, np.int64), np.zeros((4, 90)))
    with pytest.raises(TypeError, match="contiguous"):
        call(np.zeros(12)[::2], np.zeros(2, np.int64), np.zeros((4, 90)))


# Run file, what is replaced: every generator of flows, and each kind of average that has a code of its own.
MODULES = {
    "erf": ("online-erf", {}),
    "relu": ("online-erf", {"student.activation": "relu", "target.activation": "relu"}),
    "cubic": ("online-erf", {"student.activation": "x**3", "target.activation": "He3(x)"}),
    "tanh": ("online-erf", {"student.activation": "tanh", "solver.quadrature_rtol": 1e-3}),
    "frozen": ("online-erf", {"student.train_readout": False, "algorithm.schedule": "1/(1 + t)"}),
    "spherical": ("online-erf", {"algorithm.spherical": True, "target.noise": 0.0}),
    "index": ("online-multi-index", {}),
    "truncation": ("truncation-flow", {}),
    "hierarchical": ("hierarchical-flow", {}),
    "blocks": ("online-power-law", {"algorithm.schedule": "1/(1 + t)"}),
    "tasks": ("online-continual", {}),
    "written": ("online-update", {}),
    "outputs": ("online-outputs", {}),
    "classes": ("online-classes", {"solver.quadrature_rtol": 1e-2}),
    "feedback": ("online-feedback", {}),
    "drift": ("online-drift", {}),
    "episodes": ("online-episodes", {}),
    "signs": ("online-xor", {}),
    "linear": ("implicit-bias", {}),
    "map": ("hierarchical-flow", {"algorithm.map": True}),
    "conditional": (
        "online-erf",
        {
            "student.activation": "x/(1 + x^2)",
            "target.activation": "relu",
            "solver.quadrature_rtol": 1e-2,
        },
    ),
    "conditional target": (
        "online-multi-index",
        {
            "student.activation": "x/(1 + x^2)",
            "student.width": 2,
            "solver.quadrature_rtol": 1e-2,
        },
    ),
    "fields": (
        "online-erf",
        {
            "loss.function": "logistic",
            "student.width": 1,
            "target.readout": [1.0],
            "target.overlap": [[1.0]],
            "initial.M": [[0.2]],
            "initial.Q": [[0.5]],
            "initial.a": [1.0],
            "solver.quadrature_rtol": 1e-2,
        },
    ),
    "any target": (
        "online-multi-index",
        {
            "target.formula": "tanh(z1 + z2)",
            "student.width": 2,
            "solver.quadrature_rtol": 1e-2,
        },
    ),
    "reuse": ("online-reuse", {}),
    "reuse, noise, schedule": ("online-reuse", {"target.noise": 0.4, "algorithm.schedule": "1/(1 + t)"}),
    "look ahead": ("online-look-ahead", {}),
    "particles": ("staircase", {"student.particles": 6}),
}


DAILY = (
    "erf", "relu", "cubic", "index", "truncation", "frozen", "hierarchical", "blocks", "written", "linear", "map",
    "conditional", "fields", "reuse", "look ahead", "particles",
)  # fmt: skip
NUMBA = [
    pytest.param(name, numba, marks=pytest.mark.nightly, id=f"{name}-{numba}-nightly")
    for name in MODULES
    for numba in (False, True)
]


@pytest.mark.parametrize(("name", "numba"), [*((name, False) for name in DAILY), ("truncation", True), *NUMBA])
def test_every_printed_module_means_what_python_and_numba_make_of_it(
    name: str, numba: bool, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, overrides = MODULES[name]
    caplog.set_level(logging.INFO, "dimladder.store")
    flow = dl.derive(dl.load(runs / f"{run}.toml", overrides))
    module = flow.module()
    assert isinstance(module.rhs, native.Native), caplog.text
    if numba:
        path = Path(str(module.__file__))
        oracle: Any = store._load(path, path.stem.removeprefix("dimladder_"))
    else:
        functions = {n: f.py_func for n, f in vars(module).items() if isinstance(f, native.Native)}
        oracle = SimpleNamespace(**functions)
    p, size = flow.parameters(), flow.work_size()
    rng = np.random.default_rng(5)
    for scale in (0.0, 1e-3):
        y = flow.initial_state() * (1.0 + scale * rng.uniform(size=flow.initial_state().shape))
        velocity = []
        for compiled in (module, oracle):
            dy = np.full_like(y, np.nan)
            compiled.rhs(0.7, y, dy, p, np.zeros(size))
            velocity.append(dy)
        assert np.isfinite(velocity[0]).all()
        np.testing.assert_allclose(*velocity, rtol=1e-12, atol=1e-14 * abs(velocity[0]).max())
        jacobian = getattr(flow, "jacobian", lambda: None)()
        if isinstance(jacobian, native.Native) and not numba:
            both = [np.full((y.size, y.size), np.nan) for _ in range(2)]
            for function, J in zip((jacobian, jacobian.py_func), both, strict=True):
                function(0.7, y, J, p, np.zeros(flow.work_size()))
            np.testing.assert_allclose(*both, rtol=1e-12, atol=1e-13 * abs(both[0]).max())
        if isinstance(getattr(module, "generalization_error", None), native.Native):
            states = np.stack([y, 1.01 * y])
            many = over_rows(module.generalization_error, states, p, np.zeros(size))
            one = [oracle.generalization_error(row, p, np.zeros(size)) for row in states]
            np.testing.assert_allclose(many, one, rtol=1e-12, atol=1e-14)


def test_a_state_that_has_blown_up_needs_no_room(runs: Path) -> None:
    """Nodes without number would not fit on the stack."""
    run, overrides = MODULES["conditional"]
    flow: Any = dl.derive(dl.load(runs / f"{run}.toml", overrides))
    module, y = flow.module(), 1e30 * flow.initial_state()
    dy = np.empty_like(y)
    module.rhs(0.0, y, dy, flow.parameters(), np.zeros(flow.work_size()))
    assert np.isnan(dy).any()
    assert math.isnan(module.generalization_error(y, flow.parameters(), np.zeros(flow.work_size())))


LOSSES = ("logistic", "hinge", "huber(y - f, 0.7)", "abs(y - f) + 0.1*f**2", "quantile(y - f, 0.3)")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_printed_loss_means_what_python_makes_of_it(loss: str) -> None:
    form = loss_function(loss)
    _agree(Loss(form.name, form.expression.text).module(), "value", "slope", "curvature", "roots")


def test_the_printed_algebra_of_estimation_means_what_python_makes_of_it() -> None:
    module = algebra()
    _agree(module, *module.ROWS)


@pytest.mark.parametrize("loss", ["square", "logistic"])
@pytest.mark.parametrize("data", [{}, {"data.means": "opposite", "data.variances": [1.0, 0.4]}])
def test_printed_fixed_points_mean_what_python_makes_of_them(loss: str, data: dict[str, Any], runs: Path) -> None:
    system: Any = dl.derive(dl.load(runs / "estimation-mixture.toml", {"loss.function": loss, **data}))
    module, p = system.module(), system.parameters(1.5, 0.2)
    assert isinstance(module.fmap, native.Native)
    x = np.abs(np.random.default_rng(1).normal(0.5, 0.1, len(module.STATE)))
    for function, size in ((module.fmap, x.size), (module.observe, len(module.OBSERVABLES))):
        both = [np.full(size, np.nan) for _ in range(2)]
        for call, out in zip((function, function.py_func), both, strict=True):
            call(*((x, out, p, np.zeros(max(1, module.WORK))) if function is module.fmap else (x, p, out)))
        assert np.isfinite(both[0]).all()
        np.testing.assert_allclose(*both, rtol=1e-12)


def _agree(module: Any, *names: str) -> None:
    """Compare compiled functions of numbers, and what they write into a last array, with their Python."""
    random = np.random.default_rng(2)
    for name in names:
        function = getattr(module, name)
        assert isinstance(function, native.Native)
        kinds = function.signature.arguments
        for _ in range(20):
            numbers = [float(v) for v in random.uniform(0.1, 2.0, sum(kind == F64 for kind in kinds))]
            arrays = [np.zeros(16) for _ in range(2)] if len(numbers) < len(kinds) else [None, None]
            found = [
                call(*numbers, *([out] if out is not None else []))
                for call, out in zip((function, function.py_func), arrays, strict=True)
            ]
            if found[0] is not None:
                assert found[0] == pytest.approx(found[1], rel=1e-13, abs=1e-14)
            if arrays[0] is not None:
                np.testing.assert_allclose(*arrays, rtol=1e-13, atol=1e-14)


def test_code_of_numba_calls_it_by_its_address(runs: Path) -> None:
    flow = dl.derive(dl.load(runs / "online-erf.toml"))
    y, p, rhs = flow.initial_state(), flow.parameters(), flow.module().rhs

    as_rhs = layout.as_rhs.numba_form

    @numba.njit
    def twice(addresses, y, dy, p, work):  # type: ignore[no-untyped-def]
        function = as_rhs(*addresses)
        function(0.0, y, dy, p, work)
        function(0.0, y + dy, dy, p, work)

    dy, direct, work = np.empty_like(y), np.empty_like(y), np.zeros(flow.work_size())
    twice(addresses(rhs, layout.RHS), y, dy, p, work)
    rhs(0.0, y, direct, p, work)
    rhs(0.0, y + direct, direct, p, work)
    np.testing.assert_array_equal(dy, direct)


def test_object_code_is_kept_and_a_damaged_file_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    text = (
        "from numba import njit, types\n\n\n"
        "@njit(types.float64(types.float64), error_model='numpy')\ndef double(x):\n    return 2.0*x\n"
    )

    def build() -> str:
        return text

    def fresh() -> ModuleType:
        store._MODULES.clear()
        return store.module(("native test",), build, native=True)

    kept = dict(store._MODULES)
    try:
        assert fresh().double(1.5) == 3.0
        (path,) = (tmp_path / "compiled").glob("native_*.o")
        stamp = path.stat().st_mtime_ns
        assert fresh().double(1.5) == 3.0
        assert path.stat().st_mtime_ns == stamp
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)
        assert fresh().double(1.5) == 3.0
        assert "compiled again" in caplog.text
        monkeypatch.setenv("DIMLADDER_NATIVE", "0")
        assert not isinstance(fresh().double, native.Native)
    finally:
        store._MODULES.clear()
        store._MODULES.update(kept)
