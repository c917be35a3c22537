"""Schedules are examined before the integration: no jump is stepped across, and no pulse is stepped over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dimladder as dl
from dimladder.numerics.ode import Event, integrate, integrate_batch
from dimladder.problem import Expression
from dimladder.problem.intervals import bounds
from dimladder.problem.schedules import breakpoints, largest, pieces

UNIT = """
schema = 2
[target]
kind = "index"
formula = "erf(z/sqrt(2))"
[student]
kind = "two-layer"
width = 1
activation = "erf"
[algorithm]
kind = "one-pass"
learning_rate = 1.0
schedule = "{schedule}"
[initial]
Q = [[0.5]]
M = [[0.1]]
[grid]
time = [0.0, 25.0, 50.0, 75.0, 100.0]
"""
METHODS = ("auto", "tsit5", "dp5", "dop853", "rodas", "bdf")


def overlap(schedule: str, **changes: Any) -> float:
    return float(dl.solve(dl.loads(UNIT.format(schedule=schedule), changes))["M"].values[-1, 0, 0])


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("step(t - 50) - step(t - 50.5)", [50.0, 50.5]),
        ("sign(3 - t/10)", [30.0]),
        ("abs(t - 7)", [7.0]),
        ("max(0.1, 1 - t/50)", [45.0]),
        ("clip(2 - t/10, 0.2, 1)", [10.0, 18.0]),
        ("0.5**floor(t/30)", [30.0, 60.0, 90.0]),
        ("mod(t, 25)/25", [25.0, 50.0, 75.0]),
        ("relu(cos(pi*t/100))", [50.0]),
        ("hardtanh(t/40 - 1.5)", [20.0, 100.0][:1]),
        ("min(t**2, 16)", [4.0]),
        ("exp(-t)", []),
    ],
)  # fmt: skip
def test_breakpoints_are_exact(text: str, places: list[float]) -> None:
    np.testing.assert_allclose(breakpoints(Expression(text, ("t",)), 0.0, 100.0), places, rtol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_a_pulse_between_two_jumps(method: str) -> None:
    """Half a unit of time of training: M as found by training for that long from the start."""
    pulsed = overlap("step(t - 50) - step(t - 50.5)", **{"solver.method": method})
    trained = dl.solve(dl.loads(UNIT.format(schedule="1"), {"grid.time": [0.5]}))["M"].values[-1, 0, 0]
    assert pulsed == pytest.approx(float(trained), abs=3e-8)
    assert pulsed == pytest.approx(0.25396, abs=1e-5)


@pytest.mark.parametrize("width", [0.1, 0.01, 1e-4])
@pytest.mark.parametrize("method", METHODS)
def test_a_smooth_pulse(method: str, width: float) -> None:
    """Area 2 in the gradient flow: what counts is the area, whatever the width and the place."""
    height = 2 / (width * np.sqrt(2 * np.pi))
    schedule = f"{height:.17g}*exp(-((t - 51.2345)/{width})**2/2)"
    changes = {"algorithm.regime": "gradient-flow", "solver.method": method}
    trained = dl.solve(dl.loads(UNIT.format(schedule="1"), {"algorithm.regime": "gradient-flow", "grid.time": [2.0]}))
    assert overlap(schedule, **changes) == pytest.approx(float(trained["M"].values[-1, 0, 0]), abs=1e-6)


def test_the_pulses_of_a_train_add_up() -> None:
    pulses = overlap("step(0.02 - mod(t, 4))", **{"algorithm.regime": "gradient-flow"})
    together = dl.solve(dl.loads(UNIT.format(schedule="1"), {"algorithm.regime": "gradient-flow", "grid.time": [0.5]}))
    assert pulses == pytest.approx(float(together["M"].values[-1, 0, 0]), abs=1e-8)


@pytest.mark.parametrize(
    ("text", "word"),
    [("1/t", "not finite"), ("tan(t)", "not bounded"), ("sin(1e6*t)", "too often"), ("floor(1e5*t)", "too often")],
)
def test_schedules_that_cannot_be_followed(text: str, word: str) -> None:
    with pytest.raises(dl.DimladderError, match=word):
        overlap(text)


@given(
    st.sampled_from([
        "sin(3*t) - t**2", "exp(-t)*cos(t)", "tanh(t - 1)/(1 + t**2)", "abs(t)**0.5 + floor(t)", "mod(t, 1.3)",
        "clip(t, -1, 2)*sigmoid(t)", "gelu(t) - silu(2*t)", "He3(t/2)", "2**t - t**3", "max(t, cos(t))",
        "log(3 + t**2)",
        "cosh(t)/sinh(4 + t**2)", "atan(t)*softplus(-t)", "sqrt(t**2 + 1)", "t**-2", "leaky_relu(t) - relu(-t)",
    ]),
    st.floats(-3, 3), st.floats(0, 2), st.floats(0, 1),
)  # fmt: skip
@settings(deadline=None, max_examples=400)
def test_bounds_contain_every_value(text: str, low: float, width: float, share: float) -> None:
    formula = Expression(text, ("t",))
    below, above = bounds(formula, "t", np.array([low]), np.array([low + width]))
    with np.errstate(all="ignore"):
        value = float(formula.evaluate(np, t=np.float64(low + share * width)))
    slack = 1e-12 * (1 + abs(value))
    assert not value < below[0] - slack
    assert not value > above[0] + slack


def test_steps_follow_the_variation_and_only_that() -> None:
    assert pieces("1", 0.0, 10.0) == ()
    assert pieces("0.3 + 0*t", 0.0, 10.0) == ((10.0, np.inf),)
    ((end, longest),) = pieces("1 + 0.5*sin(t)", 0.0, 1000.0)
    assert (end, 0.1 < longest < 1.0) == (1000.0, True)
    assert largest("t/(1 + t**2)", 0.0, 100.0) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("verb", ["equilibrium", "follow_equilibrium", "critical_value"])
def test_scheduled_flows_have_no_equilibria(verb: str) -> None:
    problem = dl.loads(UNIT.format(schedule="0.5 + 0.5*exp(-t/10)"))
    key = "algorithm.learning_rate"
    arguments = {"equilibrium": (), "follow_equilibrium": (key, [0.5]), "critical_value": (key, 0.1, 1.0, [1.0, 1.0])}
    with pytest.raises(dl.DimladderError, match="change in time") as caught:
        getattr(dl, verb)(problem, *arguments[verb])
    assert "algorithm.schedule" in str(caught.value)


def test_a_constant_schedule_is_a_rate() -> None:
    """Half the schedule at twice the rate rests at the same point."""
    changes = {"algorithm.learning_rate": 2.0, "target.noise": 0.3}
    half = dl.equilibrium(dl.loads(UNIT.format(schedule="0.5"), changes))
    one = dl.equilibrium(dl.loads(UNIT.format(schedule="1"), {"target.noise": 0.3}))
    assert float(half["Q"].values.item()) == pytest.approx(float(one["Q"].values.item()), rel=1e-9)


@pytest.mark.parametrize("width", [1, 2])
def test_norms_on_the_sphere_are_no_modes(width: int) -> None:
    changes: dict[str, Any] = {
        "algorithm.spherical": True, "student.width": width, "initial.M": [[0.4], [-0.1]][:width],
        "initial.Q": [[1.0, 0.1], [0.1, 1.0]] if width == 2 else [[1.0]], "target.noise": 0.2,
    }  # fmt: skip
    rest = dl.equilibrium(dl.loads(UNIT.format(schedule="1"), changes))
    assert rest.stats["stability"] == ["stable"]
    assert rest["eigenvalue_real"].shape[-1] == width * (width + 1) // 2


def test_floor_and_mod_belong_to_the_time() -> None:
    with pytest.raises(ValueError, match="formulas of the time"):
        Expression("floor(x)", ("x",))


def _driven(t: float, y: Any, dy: Any, p: Any, work: Any) -> None:
    dy[0] = p[0] if t > 1.0 else 0.0


@pytest.mark.parametrize("output", ["interpolate", "step"])
def test_outputs_events_and_dense_curves_across_pieces(output: Any) -> None:
    """dy/dt = 2 after t = 1: times at, beside and between the ends of pieces; a batch gives the same."""
    times = [0.0, 0.5, 1.0, 1.0 + 1e-15, 1.5, 2.0, 3.0]
    split = ((1.0, np.inf), (2.0, 0.1), (5.0, np.inf))
    exact = 2.0 * np.maximum(np.array(times) - 1.0, 0.0)
    result = integrate(_driven, [0.0], times, p=[2.0], pieces=split, output=output, dense=True,
                       events=[Event(_half, direction=1)])  # fmt: skip
    np.testing.assert_allclose(result.y[:, 0], exact, atol=1e-13)
    assert result.status == "success"
    assert len(result.t) == len(times)
    assert [e.t for e in result.events] == pytest.approx([1.25])
    assert result.dense is not None
    np.testing.assert_allclose(result.dense(np.linspace(0, 3, 31))[:, 0], 2.0 * np.maximum(np.linspace(-1, 2, 31), 0),
                               atol=1e-12)  # fmt: skip
    batch = integrate_batch(_driven, [[0.0], [1.0]], times, p=[[2.0], [2.0]], pieces=split, output=output)
    np.testing.assert_allclose(batch.y[:, :, 0], [exact, exact + 1.0], atol=1e-13)
    late = integrate(_driven, [0.0], [2.5], t0=1.5, p=[2.0], pieces=split)
    assert late.y[0, 0] == pytest.approx(2.0, abs=1e-13)
    short = integrate(_driven, [0.0], [3.0], p=[2.0], pieces=split, max_steps=4)
    assert short.status == "max_steps"
    assert len(short.t) == 0


def _half(t: float, y: Any, p: Any) -> float:
    return float(y[0] - 0.5)
