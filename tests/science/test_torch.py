"""Every experiment on torch: the numbers of NumPy on the CPU, the law of NumPy on an accelerator.

The accelerator is pretended: tensors that live "on cuda" are on the CPU but refuse to meet host tensors and arrays, and
draw from generators of their own, so that what would fail or differ on a device fails or differs here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student_t

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import SimulationError
from dimladder.problem import Expression, activation
from dimladder_validation import replicate, simulate
from dimladder_validation.simulate import experiment, streams
from dimladder_validation.simulate.base import Backend, backend_for
from dimladder_validation.simulate.hierarchical import algorithm_one as one
from dimladder_validation.simulate.hierarchical import training as hierarchical_training
from dimladder_validation.simulate.hierarchical.features import solve
from dimladder_validation.simulate.hierarchical.replicas import Realizations
from dimladder_validation.simulate.hierarchical.target import Realization
from dimladder_validation.simulate.model_code import derivative
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.experiment import finite
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array
from run_files import SIMULATED, SMALL, THEORY_OF, arguments, check_contract, path_of, size_of
from tables import plain as plain_table

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # the tensors are small, and tests may run side by side
MODULE = sys.modules["dimladder_validation.simulate"]

# Algorithms that no run file of the gallery asks for.
VARIANTS: dict[str, dict[str, Any]] = {
    "mup-tanh": {
        "algorithm": {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 3}, "loss": {"function": "logistic"},
        "student.activation": "gelu",
    },
    "mup-linear": {"algorithm.batch_size": 2, "student.parametrization": "ntp", "student.activation": "softplus"},
    "online-erf": {
        "algorithm.batch_size": 3, "algorithm.weight_decay": 0.1, "algorithm.schedule": "1/(1 + t)",
        "student.activation": "clip(x, -1, 1)",
    },
    "online-multi-index": {"loss.function": "correlation"},
    "giant-step-mixture": {"loss.function": "logistic", "target": {"kind": "cluster-labels"}},
    "hierarchical-layerwise": {
        "algorithm.second.ridge": 0.0, "grid.second_ratio": [0.5], "algorithm.third.samples": 500,
        "algorithm.first.label_transform": "optimal", "target.link": "h", "target.noise": 1.0,
    },
    "hierarchical-flow": {"target.noise": 0.3, "target.readout": "rademacher"},
    "online-update": {
        "algorithm.update.w": "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d) - error^2*wbar/d + 0.3*zeta/sqrt(d)",
        "algorithm.schedule": "1/(1 + t)",
    },
    "online-reuse": {"target.noise": 0.2},
    "online-look-ahead": {"target.noise": 0.2, "student.activation": "tanh"},
    "triple-descent": {"student.readout_variance": 0.0, "student.layers": [{"activation": "erf"}]},
    "multi-pass-ridge": {"algorithm": {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 3}},
    "multi-pass-committee": {
        "algorithm.temperature": 0.3, "algorithm.batch_fraction": 0.5, "algorithm.momentum": {"beta": 0.3},
    },
}  # fmt: skip
# Those that compute on the device; the others say why they do not.
THERE = [name for name in SIMULATED if not experiment(THEORY_OF[name]).on_host]
SHORT = SMALL | {"implicit-bias": {"grid.time": [0.5, 2.0]}}
CASES = {name: (name, SHORT.get(name, {})) for name in THERE} | {
    f"{name}, variant": (name, {**SHORT.get(name, {}), **more}) for name, more in VARIANTS.items() if name in THERE
}
# What runs on torch, where NumPy has a faster law by default.
EXPLICIT = {"one-pass": {"simulation.method": "weights"}, "multi-pass": {"simulation.method": "dense"}}
# Slow, and what they add happens on the host.
SLOW = ("giant-step-mixture, variant", "hierarchical-layerwise, variant")


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("online-look-ahead")])
def test_the_same_numbers_as_numpy(case: str) -> None:
    """A look-ahead has no such pair: the Gram chain on NumPy, weights on torch."""
    name, settings = CASES[case]
    settings = {**settings, **EXPLICIT.get(THEORY_OF[name], {})}
    problem = dl.load(path_of(name), settings)
    plain, tensors = (simulate(problem, d=size_of(name), replicas=3, device=device) for device in ("cpu", "torch"))
    assert set(plain) == set(tensors)
    for variable in plain:
        a, b = plain[variable].values, tensors[variable].values
        assert np.isfinite(a).any(), variable
        # Orders of additions, amplified by the dynamics and by the condition of the linear systems.
        # The scatter of what is constant up to rounding is measured against the constant.
        scale = np.nanmax(np.abs(plain[variable.removesuffix("_se")].values))
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-9 * scale, err_msg=variable)


# Fits without a ridge, or next to none: rounding moves their solutions.
SINGULAR = ("hierarchical-layerwise, variant", "triple-descent, variant")


@pytest.mark.parametrize("case", [case for case in CASES if case not in SINGULAR])
def test_single_precision_has_the_same_random_numbers(case: str) -> None:
    """Replica by replica the numbers of double precision, rounded: far closer than replicas are to each other."""
    name, settings = CASES[case]
    problem = dl.load(path_of(name), {**settings, **EXPLICIT.get(THEORY_OF[name], {})})
    double, single = (
        replicate(problem, d=size_of(name), replicas=6, device="torch", dtype=dtype) for dtype in ("float64", "float32")
    )
    for variable, (_, values, _) in double.variables.items():
        scatter = np.sqrt(np.nanmean(values[0].var(axis=0)))
        gap = np.sqrt(np.nanmean((single.variables[variable][1][0] - values[0]) ** 2))
        assert gap <= 0.05 * scatter + 2e-5 * np.nanmax(np.abs(values[0])), (variable, gap, scatter)


class Far(torch.Tensor):
    """A tensor on the pretended device."""

    device = property(lambda self: "cuda")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        assert function not in (torch.Tensor.numpy, torch.Tensor.__array__), "a tensor on a device is no NumPy array"
        for value in _leaves([args, kwargs or {}]):
            assert not isinstance(value, np.ndarray) or value.ndim == 0, f"{function}: an array meets the device"
            host = isinstance(value, torch.Tensor) and not isinstance(value, Far) and value.ndim > 0
            assert not host, f"{function}: a host tensor meets the device"
        return super().__torch_function__(function, types, args, kwargs or {})


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


class Creation(torch.overrides.TorchFunctionMode):
    """Put what is created with ``device="cuda"`` on the pretended device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") != "cuda":
            return function(*args, **kwargs)
        return function(*args, **{**kwargs, "device": "cpu"}).as_subclass(Far)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import array_api_compat.torch as xt

    generator, to_numpy = torch.Generator, Backend.to_numpy

    def checked(backend: Backend, x: Any) -> np.ndarray:
        assert isinstance(x, Far), "this was computed on the host"
        assert x.dtype == backend.float, "the floating type was lost on the way"
        return to_numpy(backend, x)

    monkeypatch.setattr(torch, "Generator", lambda device: generator())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
    monkeypatch.setattr(MODULE, "backend_for", lambda device, dtype: Backend(xt, device, dtype))
    monkeypatch.setattr(Backend, "to_numpy", checked)
    with Creation():
        yield


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("case", [case for case in CASES if case not in SLOW])
def test_an_accelerator_in_single_precision_has_the_law_of_numpy(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = CASES[case]
    if THEORY_OF[name] == "multi-pass":
        settings = {**settings, **EXPLICIT["multi-pass"]}
    problem, count = dl.load(path_of(name), settings), 40
    options: dict[str, Any] = {"d": size_of(name), "replicas": count, "device": "cuda", "dtype": "float32"}
    there = replicate(problem, **options)
    again = replicate(problem, **{**options, "replicas": 3})
    for variable, (_, values, _) in again.variables.items():
        # The same replicas, whoever else is in the batch; the order of additions may change with its size.
        first = there.variables[variable][1][:, :3]
        np.testing.assert_allclose(values, first, rtol=0, atol=2e-3 * np.nanmax(np.abs(first)), err_msg=variable)
    monkeypatch.undo()
    here = replicate(problem, d=size_of(name), replicas=count, seed=1 + problem.simulation.seed)
    z = []
    for variable, (_, values, _) in here.variables.items():
        a, b = there.variables[variable][1][0], values[0]
        # What a network does not have is NaN on both sides.
        np.testing.assert_array_equal(np.isnan(a).any(axis=0), np.isnan(b).any(axis=0), err_msg=variable)
        rounding = 1e-4 * np.nanmax(np.abs(b), initial=0.0)
        se = np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / count)
        gap = a.mean(axis=0) - b.mean(axis=0)
        z.append(np.where(np.abs(gap) <= rounding, 0.0, gap / np.maximum(se, 1e-300)).ravel())
    joined = np.concatenate(z)
    joined = joined[~np.isnan(joined)]
    # Two-sided Student at a joint level of 1e-3 (Bonferroni).
    assert np.abs(joined).max() < student_t.isf(0.5e-3 / joined.size, count - 1)


@pytest.mark.usefixtures("accelerator")
def test_draws_on_an_accelerator() -> None:
    import array_api_compat.torch as xt

    backend = Backend(xt, "cuda", "float32")
    generators = [np.random.default_rng(seed) for seed in range(400)]
    draws = backend.to_numpy(backend.normal(generators, (50,))).astype(float)
    more = backend.to_numpy(backend.normal(generators, (50,))).astype(float)
    assert len({*draws.ravel(), *more.ravel()}) > 39_000  # single precision repeats a few
    # Mean and variance of 20000 standard normals, five standard errors.
    assert abs(draws.mean()) < 5 / np.sqrt(20_000)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / 20_000)


@pytest.mark.usefixtures("accelerator")
def test_chunks_of_draws_do_not_depend_on_the_batch() -> None:
    import array_api_compat.torch as xt

    problem = dl.load(path_of("online-erf"), {"grid.time": [0.0, 1.0], "initial.a": [1.0, 0.5, 0.2]})
    what, times, backend = finite(problem), np.array([1.0]), Backend(xt, "cuda", "float64")
    few, many = (
        weight_sgd_array(what, times, 30, streams(1, "h", "e", 30, 0, count), backend, chunk_numbers=300)
        for count in (2, 5)
    )
    np.testing.assert_allclose(few.gram, many.gram[:2], rtol=1e-12)


def test_a_recorded_step_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay of a CUDA graph is pretended by the call that is recorded: buffers, the counter, rates, a restart."""
    from dimladder_validation.simulate import rows

    overrides = {"grid.time": [0.0, 0.5, 1.0, 2.0], "algorithm.schedule": "1/(1 + t)", "target.noise": 0.2}
    what, times = finite(dl.load(path_of("online-erf"), overrides)), np.array([0.0, 0.5, 1.0, 2.0])
    backend = backend_for("torch")

    def run() -> sgd.Trajectories:
        return weight_sgd_array(what, times, 30, streams(1, "h", "e", 30, 0, 3), backend, chunk_numbers=300)

    plain = run()
    recorded = []

    def pretend(once: Any, restart: Any, device: str) -> Any:
        once()
        restart()
        recorded.append(device)
        return once

    monkeypatch.setattr(rows, "_captures", lambda backend: True)
    monkeypatch.setattr(rows, "_recorded", pretend)
    again = run()
    assert len(recorded) == 1
    for a, b in ((plain.gram, again.gram), (plain.a, again.a)):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "case",
    ["mup-tanh", "mup-tanh, variant", "multi-pass-committee, variant", "multi-pass-ridge, variant", "implicit-bias",
     "hierarchical-learners"],
)  # fmt: skip
def test_training_by_recorded_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, of every other experiment whose steps are recorded: what was read before is not written over."""
    from dimladder_validation.simulate import rows

    name, settings = CASES[case]
    problem = dl.load(path_of(name), {**settings, **EXPLICIT.get(THEORY_OF[name], {})})
    options: dict[str, Any] = {"d": size_of(name), "replicas": 2, "device": "torch"}
    plain = replicate(problem, **options)
    recorded = []

    def pretend(once: Any, restart: Any, device: str) -> Any:
        once()
        restart()
        recorded.append(device)
        return once

    monkeypatch.setattr(rows, "_captures", lambda backend: True)
    monkeypatch.setattr(rows, "_recorded", pretend)
    again = replicate(problem, **options)
    assert recorded
    for variable, (_, values, _) in plain.variables.items():
        scale = np.nanmax(np.abs(values))
        np.testing.assert_allclose(again.variables[variable][1], values, rtol=0, atol=1e-11 * scale, err_msg=variable)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_as_trained_in_practice(dtype: str) -> None:
    problem = dl.load(path_of("hierarchical-layerwise"))
    results = []
    for device in ("cpu", "torch"):
        backend, rng = backend_for(device, dtype), np.random.default_rng(8)
        truth = Realization.draw(problem.target, 36, rng, backend)
        plan = one.AlgorithmOne("tanh(x) + 0.3*x", p1=20, p2=10, n1=300, n2=60, n3=80, steps=2)
        recipe, options = hierarchical_training.REPOSITORY, {"steps": (3, 3), "records": 2}
        done = one.train(truth, plan, rng, backend)
        both = Realizations.of([truth, Realization.draw(problem.target, 36, rng, backend)])
        own = [np.random.default_rng(seed) for seed in (9, 10)]
        layer = hierarchical_training.train_layerwise(both, 60, recipe, own, **options)
        joint = hierarchical_training.train_joint(both, 60, recipe, own, steps=3, records=2)
        two = hierarchical_training.train_two_layer(both, 60, recipe, own, steps=3)
        kernel = hierarchical_training.polynomial_kernel_ridge(truth, 60, rng, backend)
        features = hierarchical_training.random_feature_ridge(truth, 60, 90, rng, backend)
        trained = [r.test_error[i] for r in (layer, joint, two) for i in range(2)]
        results.append([done.test_error, done.feature_overlap, kernel, features, *trained])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9 if dtype == "float64" else 2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "text",
    [
        "erf", "relu", "leaky-relu", "tanh", "sigmoid", "softplus", "gelu", "silu", "hard-tanh", "abs", "step", "sign",
        "gaussian", "He3(x) - 0.1*He2(x)", "clip(x, -1, 1)", "min(x, max(-1, 0.5*x))", "e**(-x) + 2**x", "atan(x)",
    ],
)  # fmt: skip
def test_formulas_and_their_derivatives(text: str, dtype: str) -> None:
    import array_api_compat.torch as xt

    x = np.linspace(-3.1, 2.9, 25)
    for formula in (activation(text), derivative(activation(text))):
        values = formula.evaluate(xt, x=torch.asarray(x, dtype=getattr(torch, dtype))) + 0.0
        assert values.dtype == getattr(torch, dtype)
        wanted = formula.evaluate(np, x=x)
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-13 if dtype == "float64" else 2e-5, atol=1e-6)


def test_a_singular_system_is_solved_by_least_squares() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 6))
    matrix, right = rows.T @ rows, rows.T @ np.ones(3)
    plain, tensors = backend_for("cpu"), backend_for("torch")
    shortest = solve(plain.asarray(matrix), plain.asarray(right), plain)
    np.testing.assert_allclose(rows @ shortest, np.ones(3), rtol=1e-9)
    found = solve(tensors.asarray(matrix), tensors.asarray(right), tensors)
    np.testing.assert_allclose(tensors.to_numpy(found), shortest, rtol=1e-9)


def test_the_device_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", *arguments("online-reuse"), "--d", "20", "--replicas", "3", "--seed", "5", "--json"]
    words += ["--set", "simulation.method=weights"]
    for dtype in ("float32", "float64"):
        answers = []
        for device in ("cpu", "torch", "torch"):
            assert main([*words, "--device", device, "--dtype", dtype]) == 0
            answers.append(check_contract(capsys.readouterr().out, "one-pass")["variables"]["M"]["values"])
        # M starts at zero up to rounding.
        rtol, atol = (1e-12, 1e-14) if dtype == "float64" else (1e-3, 1e-6)
        np.testing.assert_allclose(answers[1], answers[0], rtol=rtol, atol=atol)
        assert answers[1] == answers[2]


@pytest.mark.parametrize(
    ("device", "said"), [("cuda:99", "cuda"), ("cuda:x", "unknown device"), ("torch:1", "unknown device")]
)
def test_devices_that_are_not_there(device: str, said: str) -> None:
    with pytest.raises(SimulationError, match=said) as raised:
        backend_for(device)
    if torch.version.cuda is None and said == "cuda":
        assert "CPU only" in str(raised.value)


def test_what_runs_on_the_host_says_so(caplog: pytest.LogCaptureFixture) -> None:
    problem = dl.load(path_of("truncation-flow"), SMALL["truncation-flow"])
    plain, other = (simulate(problem, d=50, replicas=2, device=device) for device in ("cpu", "torch"))
    assert "truncation-flow runs on the CPU, whatever the device: one threshold" in caplog.text
    np.testing.assert_array_equal(other["threshold"].values, plain["threshold"].values)


def test_a_result_says_what_computed_it() -> None:
    measured = simulate(dl.load(path_of("online-reuse"), SMALL["online-reuse"]), d=20, replicas=2, device="torch")
    assert measured.provenance["simulation"]["torch"] == torch.__version__
    assert measured.provenance["simulation"]["device"] == "torch"


def test_a_constant_target() -> None:
    # Its formula evaluates to a Python number, which must broadcast.
    what = plain_table(
        activation=activation("erf"), index=Expression("1", "z*"), q=np.eye(1), m=np.zeros((1, 1)), t=np.eye(1),
        v=np.ones(1), eta=0.3,
    )  # fmt: skip
    arrays, tensors = (
        weight_sgd_array(what, np.array([0.5]), 20, [np.random.default_rng(0)], backend_for(device))
        for device in ("cpu", "torch")
    )
    np.testing.assert_allclose(tensors.gram, arrays.gram, rtol=1e-12)
