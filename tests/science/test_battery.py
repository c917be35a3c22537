"""What every registered theory must satisfy, run over all of them without being told which there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import numpy as np
import pytest

import dimladder as dl
from dimladder.choose import candidates
from dimladder.errors import DimladderError
from dimladder.problem import kind_of, parse_document, to_builtins
from dimladder.symbolic.systems import Flow, System
from run_files import FILES, SMALL, THEORY_OF, path_of

# Cheaper settings where a run file is sized for a paper; the other grids stay whole.
LIGHT = {name: SMALL[name] for name in ("mup-tanh", "giant-step-mixture")}
LIGHT["online-multi-index"] = {**SMALL["online-multi-index"], "student.width": 2, "grid.time": [0.1, 1.0]}
LIGHT["staircase"] = {"student.particles": 40, "grid.time": [0.0, 10.0, 60.0]}
# Inputs that rightly change nothing: the leading order is d -> infinity at fixed sample ratios, whatever the exponent.
_INERT = {"target.exponents.0", "target.exponents.1"}
INERT = {f"hierarchical-{name}": _INERT for name in ("layerwise", "branches", "tree")}


# Further problems of a run file, whose keys are tried too: other kinds, and routes that the file does not take.
_LINEAR = {"kind": "index", "formula": "z", "noise": 0.2}
VARIANTS: dict[str, dict[str, Any]] = {
    "deep-linear-posterior: one data set": {
        "data": {"kind": "gaussian", "samples": 12, "dimension": 20, "seed": 2}, "target": _LINEAR,
        "student.width": 15, "algorithm.temperature": 0.1,
    },
    "graph-convolution: self-loop": {"student.self_loop": 0.4, "loss": {"ridge_per_sample": 0.3}},
    "graph-convolution: ridge": {"loss": {"ridge": 0.3}},
    "triple-descent: sizes": {"data": {"kind": "gaussian", "samples": 300, "dimension": 150}},
    "implicit-bias: blocks": {
        "data.spectrum": {"variances": [1.0, 0.1], "fractions": [0.1, 0.9]}, "target.power": [0.7, 0.3],
        "student.direction": "target",
    },
    "truncation-flow: uniform": {
        "data": {"kind": "coordinate", "law": "uniform", "low": 0.2, "high": 1.4, "target": 1.9},
    },
    "mup-tanh: batches of Gaussian inputs": {
        "data": {"kind": "points", "source": "gaussian", "samples": 4, "dimension": 6, "seed": 3},
        "algorithm.batch_size": 2,
    },
    "mup-linear: flow": {"algorithm": {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 3}},
    "giant-step-mixture: conditional": {
        "algorithm.equivalent": "conditional", "algorithm.nodes": 32, "loss": {"function": "square", "ridge": 0.3},
        "data.means": [[0.5, 0.0], [-0.5, 1.0]], "data.alignment": 0.3, "target.noise": 0.1,
    },
    "giant-step-mixture: labels": {
        "target": {"kind": "cluster-labels", "labels": [1.0, 2.0]}, "data.variances": [1.0, 2.0],
    },
}  # fmt: skip


@cache
def problem(name: str) -> Any:
    run, _, _ = name.partition(":")
    return dl.load(path_of(run), {**LIGHT.get(run, {}), **VARIANTS.get(name, {})})


@cache
def curve(name: str) -> Any:
    return dl.solve(problem(name))


@cache
def system(name: str) -> System:
    return dl.derive(problem(name))


def test_every_theory_has_a_run_file() -> None:
    assert set(dl.theory_names()) <= set(THEORY_OF.values())


@pytest.mark.parametrize("name", FILES)
def test_one_theory_answers_a_run_file(name: str) -> None:
    document = parse_document(path_of(name).read_text(), name)
    if document.get("schema") == 1:
        pytest.skip("in the words of schema 1")
    answering = [c.name for c in candidates(document) if c.answers]
    assert answering == [THEORY_OF[name]]


@pytest.mark.parametrize("name", FILES)
def test_problem_round_trips(name: str) -> None:
    again = dl.loads(problem(name).to_toml())
    assert again == problem(name)
    assert again.content_hash == problem(name).content_hash


@pytest.mark.parametrize("name", sorted(dl.theory_names()))
def test_the_card_is_filled_in(name: str) -> None:
    theory = dl.find_theory(name)
    assert theory.name == name
    assert theory.summary.endswith(".")
    assert theory.assumptions
    assert theory.references


@pytest.mark.parametrize("name", FILES)
def test_equations_print_and_balance(name: str) -> None:
    text = system(name).latex()
    assert text.startswith("{\\allowdisplaybreaks")
    for equation in system(name).equations():
        plain = equation.latex.replace("\\{", "").replace("\\}", "")
        assert plain.count("{") == plain.count("}"), equation.label
        assert len(re.findall(r"\\left\b", plain)) == len(re.findall(r"\\right\b", plain)), equation.label
    assert len(system(name).derivation()) >= 2, "explain must show how the equations follow"
    assert system(name).order_parameters
    assert system(name).explain()
    assert system(name).python()
    assert system(name).sympy()


@pytest.mark.parametrize("name", FILES)
def test_solving_twice_gives_the_same_bits(name: str) -> None:
    again = dl.solve(problem(name))
    for variable in curve(name):
        np.testing.assert_array_equal(again[variable].values, curve(name)[variable].values, err_msg=variable)


@pytest.mark.parametrize("name", FILES)
def test_compiled_jacobian_is_the_derivative(name: str) -> None:
    flow = system(name)
    jac = flow.jacobian() if isinstance(flow, Flow) else None
    if jac is None:
        pytest.skip("no compiled Jacobian")
    y, p, work = flow.initial_state(), flow.parameters(), np.zeros(flow.work_size())
    y = y + 0.01 * np.cos(np.arange(len(y)))
    n = len(y)
    jacobian, columns = np.zeros((n, n)), np.zeros((n, n))
    jac(0.3, y, jacobian, p, work)
    for k in range(n):
        h = 1e-6
        high, low = np.zeros(n), np.zeros(n)
        flow.module().rhs(0.3, y + h * np.eye(n)[k], high, p, work)
        flow.module().rhs(0.3, y - h * np.eye(n)[k], low, p, work)
        columns[:, k] = (high - low) / (2 * h)
    np.testing.assert_allclose(jacobian, columns, atol=1e-7 * max(1.0, np.abs(columns).max()))


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Return the dotted keys of every number below the sections that state the model."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [leaf for k, v in enumerate(value[:2]) for leaf in leaves(v, (*path, str(k)))]
    if isinstance(value, float) and np.isfinite(value) and value != 0.0:
        return [(".".join(path), value)]
    return []


@pytest.mark.parametrize("name", FILES)
def test_no_input_is_ignored(name: str) -> None:
    """Changing any number of the model changes the answer, or is refused with a reason."""
    document = to_builtins(problem(name))
    model = {k: v for k, v in document.items() if k in ("target", "student", "algorithm", "data", "initial", "limit")}
    ignored = []
    for key, value in leaves(model):
        try:
            changed = dl.solve(dl.replace(problem(name), {key: value * 1.07}))
        except DimladderError:
            continue
        # A structural change (another number of layers or directions) shows as another shape.
        same = all(
            changed[v].shape == curve(name)[v].shape
            and np.array_equal(changed[v].values, curve(name)[v].values, equal_nan=True)
            for v in curve(name)
            if curve(name)[v].dtype.kind == "f"
        )
        if same and key not in INERT.get(name, ()):
            ignored.append(key)
    assert not ignored, f"these inputs change nothing: {ignored}"


# Networks that no sharp theory follows: how they are trained is read by the experiment alone.
_TRAINED = {
    f"algorithm.{key}": "trained networks are measured"
    for key in ("networks", "recipes", "steps", "second_width", "records")
}
# Keys that rightly change nothing in the problem of a run file, with the reason.
IDLE: dict[str, dict[str, str]] = {
    "giant-step-mixture": {
        "target.hermite": "no Hermite polynomial in the formula",
        "algorithm.nodes": "the ridge readout of the file is not conditional",
    },
    "giant-step-mixture: conditional": {"target.hermite": "no Hermite polynomial in the formula"},
    "giant-step-mixture: labels": {"algorithm.nodes": "the ridge readout is not conditional"},
    "estimation-random-features": {"student.bias": "features of nonzero mean hold a constant at no cost already"},
    "online-multi-index": {"target.hermite": "polynomials of the first degree are the same in every convention"},
    "staircase": {"target.hermite": "no Hermite polynomial in the formula"},
    "mup-tanh": {"algorithm.batch_seed": "the batch is full", "student.abc": "the parametrisation is muP"},
    "mup-linear": {"algorithm.batch_seed": "the batch is full", "student.abc": "the parametrisation is muP"},
    "truncation-states": {"student.assumptions": "none of them is violated"},
    "hierarchical-layerwise": {"target.exponents": "d -> infinity: the exponent is in the units of the axes"},
    "hierarchical-branches": {"target.exponents": "d -> infinity: the exponent is in the units of the axes"},
    "hierarchical-tree": {"target.readout": "d -> infinity: any law of mean square one"},
    **{f"hierarchical-{name}": _TRAINED for name in ("learners", "parity", "protocol", "published")},
    "hierarchical-plateaus": {
        "target.readout": "d -> infinity: any law of mean square one",
        "target.noise": "errors without it",
    },
}
# Run files with keys that are other equations, compiled anew each: minutes in all.
COMPILED = ("online", "mup", "giant", "multi-pass", "staircase", "estimation")


def idle(asked: Any, key: str) -> str:
    """Return why a key rightly changes nothing in this problem; "" where it must change something."""
    student, algorithm = asked.student, asked.algorithm
    if key.endswith(".hermite"):
        written = str(to_builtins(asked)[key.partition(".")[0]])
        return "" if "He" in written else "no Hermite polynomial is written"
    if key in ("algorithm.readout_learning_rate", "algorithm.readout_weight_decay"):
        return "" if getattr(student, "train_readout", False) else "the readout is not trained"
    if key == "algorithm.weight_decay" and getattr(algorithm, "spherical", False):
        return "the sphere takes the decay back; solve says so"
    if key == "algorithm.batching":
        return "" if algorithm.batch_fraction < 1 or algorithm.batch_size else "every batch is the whole data set"
    if key == "target.prior" and kind_of(algorithm) == "minimise":
        return "a fit with |w|^2 sees the second moment of the teacher only"
    return ""


def keys_read(name: str) -> list[tuple[str, Any]]:
    """Return (key path, value) of every key that the theory of a run file claims to read of that problem."""
    asked = problem(name)
    theory = dl.find_theory(asked.theory)
    found = []
    for section, kinds in theory.read_table().items():
        spec = getattr(asked, section)
        keys = kinds.get(kind_of(spec), "").split() if spec is not None and section != "grid" else []
        fields = {f.name: f for f in msgspec.structs.fields(type(spec))} if spec is not None else {}
        found += [(f"{section}.{k}", getattr(spec, k)) for k in (fields if "*" in keys else keys) if k in fields]
    return found


def others(name: str, key: str, value: Any) -> list[Any]:
    """Return values near or beside one of a key; none for a text that is no choice and no formula."""
    section, _, word = key.partition(".")
    field = next(f for f in msgspec.structs.fields(type(getattr(problem(name), section))) if f.name == word)
    choices = [c for t in members(field.type) for c in get_args(t) if get_origin(t) is Literal]
    numbers = [t for t in members(field.type) if t in (int, float)]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [c for c in choices if c != value] or [value + 1]
    if isinstance(value, float):
        return [value * 1.07 if value and np.isfinite(value) else 0.3, 0.7]
    if value is None:
        return [0.3, 3.0] if float in numbers else [3] if int in numbers else []
    if isinstance(value, str) and value in choices:
        return [c for c in choices if c != value]
    if isinstance(value, str):
        # The last, because a one-to-one change of labels without noise tells a Bayesian nothing new.
        words = ("tanh", "erf", "linear", "logistic", "optimal", f"1.3*({value})", "z1*z2 + z1", "exp(-t)")
        return [w for w in (*words, "sign(z + 0.4)") if w != value]
    if isinstance(value, tuple) and value:
        return [nudged(value), list(value[:-1])]
    return []


def nudged(value: Any) -> Any:
    """Return nested numbers with the first one moved."""
    if isinstance(value, tuple):
        return [nudged(value[0]), *value[1:]] if value else []
    if isinstance(value, Mapping):
        (first, number), *rest = value.items()
        return {str(k): v for k, v in [(first, nudged(number)), *rest]}
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return value * 1.07 if isinstance(value, float) and value else 0.1 if isinstance(value, float) else value


def members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def same_answer(one: Any, two: Any) -> bool:
    names = [v for v in one if one[v].dtype.kind == "f"]
    return set(one) == set(two) and all(
        v in two and one[v].shape == two[v].shape and np.array_equal(one[v].values, two[v].values, equal_nan=True)
        for v in names
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly) if name.startswith(COMPILED) else name
        for name in [*FILES, *VARIANTS]
    ],
)
def test_every_key_that_is_read_changes_the_answer(name: str) -> None:
    """A key of `reads` that changes nothing would be silently ignored: a generous table is a fault."""
    ignored = []
    for key, value in keys_read(name):
        tried, changed = 0, False
        for other in others(name, key, value):
            try:
                answer = dl.solve(dl.replace(problem(name), {key: other}))
            except DimladderError:
                continue
            tried += 1
            if not same_answer(curve(name), answer):
                changed = True
                break
        if tried and not changed and key not in IDLE.get(name, {}) and not idle(problem(name), key):
            ignored.append(key)
    assert not ignored, f"{problem(name).theory} says it reads these, and they change nothing: {ignored}"
