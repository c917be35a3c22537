"""Events, ends of integration, failures and their words, and batches."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cfunc, njit

from dimladder.numerics.ode import Event, Interpreted, integrate, integrate_batch

RHS = "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])"
SCALAR = "f8(f8, f8[::1], f8[::1])"
METHODS = ["tsit5", "dop853", "rodas5p", "bdf", "auto"]


@njit(RHS)
def rotation(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = p[0] * y[1]
    dy[1] = -p[0] * y[0]


@njit(SCALAR)
def first(t, y, p):  # type: ignore[no-untyped-def]
    return y[0]


@njit(SCALAR)
def second(t, y, p):  # type: ignore[no-untyped-def]
    return y[1]


@njit(RHS)
def square(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = 0.0
    dy[1] = y[1] * y[1]


@njit(RHS)
def root(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = 1.0
    dy[1] = np.sqrt(1.0 - y[0])


@njit(RHS)
def decay(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = -p[0] * y[0]


@pytest.mark.parametrize("method", METHODS)
def test_events_are_located(method: str) -> None:
    """y = (sin 2t, cos 2t): all zeros of the first, only the falling ones of the second."""
    result = integrate(rotation, [0.0, 1.0], [6.0], p=[2.0], method=method, rtol=1e-10, atol=1e-12,
                       events=[first, Event(second, direction=-1)])  # fmt: skip
    expected = sorted([(k * np.pi / 2, 0) for k in (1, 2, 3)] + [((k + 0.25) * np.pi, 1) for k in (0, 1)])
    assert [e.event for e in result.events] == [which for _, which in expected]
    tolerance = 1e-6 if method in ("bdf", "rodas5p") else 1e-8
    np.testing.assert_allclose([e.t for e in result.events], [t for t, _ in expected], atol=tolerance)
    for e in result.events:
        # The state recorded is that of the root, to rounding in the event function.
        assert abs(e.y[e.event]) < 1e-13
    assert result.status == "success"


@pytest.mark.parametrize("sign", [1, -1])
def test_terminal_event_ends_the_output(sign: int) -> None:
    times = sign * np.linspace(0, 3, 31)
    falling = Event(second, direction=-1, terminal=True)
    options = {"events": [first, falling], "dense": True, "rtol": 1e-10, "atol": 1e-12}
    result = integrate(rotation, [0.0, 1.0], times, p=[1.0], **options)
    assert result.status == "event"
    assert abs(result.t_final - sign * np.pi / 2) < 1e-9
    np.testing.assert_array_equal(result.t, times[np.abs(times) <= np.pi / 2])
    assert [e.event for e in result.events] == [1]
    np.testing.assert_array_equal(result.y_final, result.events[0].y)
    assert result.dense is not None
    np.testing.assert_allclose(result.dense(result.t_final), result.y_final, atol=1e-12)
    with pytest.raises(ValueError, match="outside"):
        result.dense(sign * 1.6)


def test_event_beginning_at_zero_is_not_reported() -> None:
    result = integrate(rotation, [0.0, 1.0], [3.0], p=[1.0], events=[first])
    assert result.events == ()


def test_two_events_in_one_step_come_in_order() -> None:
    early, late = njit(SCALAR)(lambda t, y, p: t - 0.5), njit(SCALAR)(lambda t, y, p: 0.7 - t)
    result = integrate(decay, [1.0], [1.0], p=[1e-3], events=[late, early], rtol=1e-3, method="dop853")
    assert [e.event for e in result.events] == [1, 0]
    np.testing.assert_allclose([e.t for e in result.events], [0.5, 0.7], atol=1e-14)
    stopped = integrate(decay, [1.0], [1.0], p=[1e-3], events=[late, Event(early, terminal=True)], rtol=1e-3)
    assert [e.event for e in stopped.events] == [1]


def test_many_events_outgrow_the_buffer() -> None:
    result = integrate(rotation, [0.0, 1.0], [100.0], p=[10.0], events=[first, second], dense=True, rtol=1e-7)
    assert len(result.events) == 318 + 318


@pytest.mark.parametrize("method", METHODS)
def test_converged(method: str) -> None:
    times = [1.0, 5.0, 1e6]
    result = integrate(decay, [1.0], times, p=[2.0], method=method, converged=1e-6, rtol=1e-9, atol=1e-12)
    assert result.status == "converged"
    assert result.success
    np.testing.assert_array_equal(result.t, times[:2])
    assert 2 * result.y_final[0] <= 1e-6
    assert result.t_final > 0.5 * np.log(2e6) - 1e-3
    at_once = integrate(decay, [0.0], [1.0], p=[2.0], converged=1e-6, method=method)
    assert at_once.status == "converged"


@pytest.mark.parametrize("method", METHODS)
def test_blow_up_names_component_and_time(method: str) -> None:
    result = integrate(square, [1.0, 2.0], [0.25, 1.0], method=method, names=["still", "Q[0,1]"], rtol=1e-9, atol=1e-9)
    assert result.status == "blow_up"
    assert not result.success
    assert "Q[0,1]" in result.message
    assert result.stats["component"] == "Q[0,1]"
    assert abs(result.stats["t_failed"] - 0.5) < 1e-6
    np.testing.assert_allclose(result.y, [[1.0, 4.0]], rtol=1e-7)
    assert result.stats["n_steps"] + result.stats["n_rejected"] < 3000


def test_exponential_growth_stops_at_the_bound() -> None:
    result = integrate(decay, [1.0], [1e3], p=[-1.0], blow_up=1e20)
    assert result.status == "blow_up"
    assert 46 < result.t_final < 46.1


@pytest.mark.parametrize("method", METHODS)
def test_nan_names_component_and_time(method: str) -> None:
    result = integrate(root, [0.0, 0.0], [0.5, 2.0], method=method, names=["x", "M[2]"])
    assert result.status == "nan"
    assert "M[2]" in result.message
    assert result.stats["component"] == "M[2]"
    assert abs(result.stats["t_failed"] - 1.0) < 1e-6
    np.testing.assert_array_equal(result.t, [0.5])


def test_nan_is_only_a_rejected_step_if_it_goes_away() -> None:
    """The first trial step overshoots where log is defined; shorter steps stay inside."""

    @njit(RHS)
    def logarithm(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = -np.log(1.0 + np.sqrt(y[0])) * y[0]

    for method in METHODS:
        result = integrate(logarithm, [1.0], [3.0], method=method, first_step=2.9, rtol=1e-6)
        assert result.status == "success"
        reference = integrate(logarithm, [1.0], [3.0], method="dop853", first_step=1e-3, rtol=1e-12)
        np.testing.assert_allclose(result.y, reference.y, rtol=2e-5)


def test_nan_at_the_start() -> None:
    result = integrate(root, [2.0, 0.0], [1.0])
    assert (result.status, result.stats["component"]) == ("nan", "y[1]")
    assert result.t_final == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_domain(method: str) -> None:
    @njit(SCALAR)
    def domain(t, y, p):  # type: ignore[no-untyped-def]
        return y[0] - 0.5

    result = integrate(decay, [1.0], [0.3, 2.0], p=[1.0], method=method, domain=domain, rtol=1e-9, atol=1e-12)
    assert result.status == "left_domain"
    assert abs(result.t_final - np.log(2)) < 1e-8
    assert result.y_final[0] >= 0.5
    outside = integrate(decay, [0.4], [1.0], p=[1.0], method=method, domain=domain)
    assert (outside.status, outside.t_final) == ("left_domain", 0.0)


def test_max_steps() -> None:
    result = integrate(rotation, [0.0, 1.0], [1.0, 1e4], p=[1.0], max_steps=200)
    assert result.status == "max_steps"
    assert result.stats["n_steps"] + result.stats["n_rejected"] == 200
    assert "200" in result.message
    np.testing.assert_array_equal(result.t, [1.0])


def test_discontinuity_of_infinite_rate_underflows() -> None:
    """An ever faster and larger oscillation: no step meets the tolerance, and the solver says so instead of hanging."""

    @njit(RHS)
    def chirp(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = np.sin(1.0 / (1.0 - t)) / (1.0 - t) ** 4 if t < 1.0 else 0.0

    result = integrate(chirp, [0.0], [2.0], method="dop853", rtol=1e-10, atol=1e-12, max_steps=200_000)
    assert result.status in ("step_underflow", "max_steps", "blow_up")
    assert result.t_final < 1.0


def test_kinds_of_functions() -> None:
    def plain(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = -p[0] * y[0]

    versions = [decay, plain, njit(plain), cfunc(RHS)(plain), Interpreted(lambda t, y, p: -p[0] * y)]
    values = [integrate(f, [1.0], [1.0], p=[2.0], rtol=1e-10).y[0, 0] for f in versions]
    np.testing.assert_allclose(values, np.exp(-2.0), rtol=1e-9)
    assert len(set(values[:4])) == 1


def test_interpreted_exceptions_come_through() -> None:
    def broken(t: float, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        if t > 0.5:
            raise KeyError("lost")
        return -y

    with pytest.raises(KeyError, match="lost"):
        integrate(Interpreted(broken), [1.0], [1.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y0": [np.nan]}, r"y0\[0\] is nan"),
        ({"y0": [[1.0]]}, "y0 must have 1 dimension"),
        ({"y0": []}, "at least one component"),
        ({"t_eval": [1.0, 0.5]}, r"t_eval\[1\] = 0.5 turns back"),
        ({"t_eval": [1.0, np.inf]}, r"t_eval\[1\] is inf"),
        ({"method": "euler"}, "unknown method 'euler'"),
        ({"rtol": 0.0}, "rtol must lie in"),
        ({"atol": 0.0}, "atol must be positive"),
        ({"names": ["a", "b"]}, "2 entries for 1 components"),
        ({"max_steps": 0}, "max_steps"),
        ({"output": "linear"}, "'interpolate' or 'step'"),
    ],
)
def test_bad_arguments(change: dict, words: str) -> None:
    arguments = {"y0": [1.0], "t_eval": [1.0], "p": [1.0]} | change
    with pytest.raises(ValueError, match=words):
        integrate(decay, **arguments)


def test_uncompilable_function() -> None:
    def bad(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = y.no_such_method()

    with pytest.raises(TypeError, match=r"numba cannot compile the right-hand side 'bad'.*Interpreted"):
        integrate(bad, [1.0], [1.0])
    with pytest.raises(TypeError, match="must be a function"):
        integrate(3, [1.0], [1.0])


@pytest.mark.parametrize("method", METHODS)
def test_batch_is_bitwise_serial(method: str) -> None:
    rng = np.random.default_rng(5)
    y0, p = rng.normal(size=(37, 2)), rng.uniform(0.5, 3, size=(37, 1))
    times = np.linspace(0, 10, 7)
    options = {"method": method, "rtol": 1e-7, "events": [Event(second, direction=-1)]}
    one = integrate_batch(rotation, y0, times, p=p, workers=1, **options)
    two = integrate_batch(rotation, y0, times, p=p, workers=2, **options)
    np.testing.assert_array_equal(one.y, two.y)
    for i in range(37):
        alone = integrate(rotation, y0[i], times, p=p[i], **options)
        np.testing.assert_array_equal(one.y[i], alone.y)
        assert one.stats["n_rhs"][i] == alone.stats["n_rhs"]
        assert one.message[i] == alone.message
        assert [(e.t, e.event) for e in one.events[i]] == [(e.t, e.event) for e in alone.events]
    assert one.success
    assert one.failed == ()


def test_batch_keeps_failures_as_rows() -> None:
    batch = integrate_batch(square, [[0.0, 1.0], [0.0, 0.1], [0.0, 4.0]], [0.5, 2.0], names=["a", "b"])
    assert batch.status == ("blow_up", "success", "blow_up")
    assert batch.failed == (0, 2)
    assert "b blows up at t = 1" in batch.message[0]
    np.testing.assert_array_equal(np.isnan(batch.y[:, :, 1]), [[False, True], [False, False], [True, True]])


def test_batch_broadcasts_and_checks() -> None:
    p = np.array([[1.0], [2.0]])
    np.testing.assert_allclose(integrate_batch(decay, [1.0], [1.0], p=p).y[:, 0, 0], np.exp([-1.0, -2.0]), rtol=1e-7)
    shared = integrate_batch(rotation, np.eye(2), [1.0], p=[0.7, 0.0])
    np.testing.assert_array_equal(shared.y[1], integrate(rotation, [0.0, 1.0], [1.0], p=[0.7, 0.0]).y)
    with pytest.raises(ValueError, match="one length of the batch"):
        integrate_batch(decay, np.ones((3, 1)), [1.0], p=p)
    with pytest.raises(TypeError, match="no option 'colour'"):
        integrate_batch(decay, np.ones((2, 1)), [1.0], p=p, colour=1)


def test_threads_of_a_batch_do_not_wait_for_the_interpreter() -> None:
    """How much they gain is measured in docs/benchmarks/ode_solvers.md."""
    from dimladder.numerics.ode import batch

    assert batch.advance_many.targetoptions["nogil"]
    assert integrate_batch(decay, np.ones((5, 1)), [1.0], p=[1.0], workers=2).stats["workers"] == 2


def test_a_new_model_compiles_nothing_but_itself() -> None:
    from dimladder.numerics.ode import driver, explicit

    def fresh(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = -3.0 * y[0]

    integrate(decay, [1.0], [1.0], p=[1.0])
    parts = driver.start, driver.advance, explicit.explicit_step, explicit.explicit_interpolant
    before = [id(f.compiled) for f in parts]
    integrate(fresh, [1.0], [1.0])
    assert [id(f.compiled) for f in parts] == before


def test_exceptions_of_a_compiled_function_come_through() -> None:
    @njit
    def divides(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = 1.0 / int(0 * y[0])

    with pytest.raises(ZeroDivisionError):
        integrate(divides, [1.0], [1.0])
    with pytest.raises(ZeroDivisionError):
        integrate_batch(divides, np.ones((3, 1)), [1.0], workers=2)
