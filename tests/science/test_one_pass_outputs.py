"""One-pass SGD of students with several outputs: vector targets and classes, against laws found otherwise."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import scipy.special

import dimladder as dl
from dimladder.problem import state
from dimladder.problem.update_table import table
from dimladder.theories.one_pass.general.table_flow import GeneralFlow
from dimladder_validation.simulate import simulate, streams
from dimladder_validation.simulate.base import Backend, backend_for
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array

Array = np.ndarray
START = {"Q": [[0.5, 0.1], [0.1, 0.4]], "M": [[0.3, -0.1], [0.05, 0.2]]}
CLUSTERS = {
    "kind": "mixture", "weights": [0.3, 0.25, 0.45], "means": [[1.0, 0.0], [0.0, 1.2], [-1.0, -0.7]],
    "variances": [0.8, 1.0, 0.6],
}  # fmt: skip
VECTOR: dict[str, Any] = {
    "target": {"kind": "committee", "outputs": 2, "readout": [[1.0, 0.5], [-0.4, 0.8]], "noise": 0.3},
    "student": {"kind": "two-layer", "width": 2, "readout": [[0.7, 1.0], [0.5, -0.6]], "train_readout": True},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.6, "readout_learning_rate": 0.4},
    "initial": START,
    "grid": {"time": [0.0, 1.0, 3.0]},
}
CLASSES = VECTOR | {
    "data": CLUSTERS,
    "target": {"kind": "cluster-labels"},
    "student": {"kind": "two-layer", "width": 2, "bias": True, "train_readout": True,
                "readout": [[0.7, 1.0], [0.5, -0.6], [-0.8, 0.2]]},
    "loss": {"function": "cross-entropy", "smoothing": 0.1},
    "initial": {"Q": START["Q"], "means": [[0.3, -0.1], [0.05, 0.2]], "bias": [0.2, -0.3]},
}  # fmt: skip
ARGMAX = VECTOR | {
    "target": {"kind": "vector-index", "formulas": ["z1", "z2", "0.5*z1 - z2"], "argmax": True},
    "student": CLASSES["student"] | {"bias": False},
    "loss": {"function": "cross-entropy"},
}


def changed(problem: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    out = deepcopy(problem)
    for name, keys in sections.items():
        out[name] = {**out.get(name, {}), **keys}
    return out


def flow(problem: dict[str, Any]) -> GeneralFlow:
    return GeneralFlow(dl.problem(**problem, theory="one-pass"))


def velocity(made: GeneralFlow) -> Array:
    return made.velocity(made.initial_state(), made.rule)


def solved(problem: dict[str, Any]) -> Any:
    return dl.solve(dl.problem(**problem, theory="one-pass"))


@pytest.mark.parametrize("by_formula", [False, True])
def test_an_output_that_is_zero_leaves_the_problem_of_one(by_formula: bool) -> None:
    """With a second target and a second row of zeros the equations are those of one output."""
    more = {"algorithm": {"momentum": {"decay": 1.0, "direct": 0.3}, "weight_decay": 0.1, "batch_size": 2}}
    two = changed(VECTOR, target={"readout": [[1.0, 0.5], [0.0, 0.0]], "noise": 0.0},
                  student={"readout": [[0.7, 1.0], [0.0, 0.0]]}, **more)  # fmt: skip
    one = changed(two, target={"outputs": 1, "readout": [1.0, 0.5]}, student={"readout": [0.7, 1.0]})
    if by_formula:
        two = changed(two, loss={"function": "log(cosh(f1 - y1)) + 0.5*(f2 - y2)**2"})
        one = changed(one, loss={"function": "log-cosh"})
    first, second = flow(one), flow(two)
    a, b = velocity(first), second.velocity(second.initial_state(), first.rule if by_formula else second.rule)
    assert np.abs(b[: len(a)] - a).max() < 1e-13
    assert np.abs(b[len(a) :]).max() < 1e-15
    errors = [f.observed(np.zeros(1), f.initial_state()[None])[0, 0, 0, 0] for f in (first, second)]
    assert abs(errors[0] - errors[1]) < 1e-13


def test_outputs_of_units_of_their_own_are_problems_of_their_own() -> None:
    """Each unit feeds one output, whose target is one teacher: two students of one unit, as long as readouts stay."""
    both = changed(VECTOR, target={"readout": [[1.0, 0.0], [0.0, 0.7]], "noise": 0.0},
                   student={"readout": [[0.9, 0.0], [0.0, 1.1]], "train_readout": False})  # fmt: skip
    found = solved(both)
    for unit, (a, readout) in enumerate([(0.9, [1.0]), (1.1, [0.7])]):
        alone = changed(
            both, target={"outputs": 1, "readout": readout}, student={"width": 1, "readout": [a]},
            initial={"Q": [[START["Q"][unit][unit]]], "M": [[START["M"][unit][unit]]]},
        )  # fmt: skip
        expected = solved(alone)
        for name in ("Q", "M"):
            gap = np.asarray(found[name].values)[:, unit, unit] - np.asarray(expected[name].values)[:, 0, 0]
            assert np.abs(gap).max() < 1e-8, name


def test_the_closed_form_is_what_the_quadrature_finds() -> None:
    by_formula = {"function": "0.5*(f1 - y1)**2 + 0.5*(f2 - y2)**2"}
    closed, numeric = flow(VECTOR), flow(changed(VECTOR, loss=by_formula))
    assert (closed.averages.route, numeric.averages.route) == ("closed", "fields")
    a, b = velocity(closed), velocity(numeric)
    assert np.abs(a - b).max() < 2e-7


# What a sample moves everything by, averaged over inputs in full: nothing is regressed, no Stein, no generated code.
ORACLES: dict[str, Any] = {
    "square": lambda f, y: f - y,
    "cross-entropy": lambda f, y: scipy.special.softmax(f, axis=1) - y,
    "hinge": lambda f, y: -y * (y * f < 1),
    "mixed": lambda f, y: np.stack(
        [f[:, 0] - y[:, 0] + 0.5 * f[:, 1] * (1 - np.tanh(f[:, 0] * f[:, 1]) ** 2),
         np.tanh(f[:, 1] - y[:, 1]) + 0.5 * f[:, 0] * (1 - np.tanh(f[:, 0] * f[:, 1]) ** 2)], axis=1),
}  # fmt: skip
PROBLEMS = {
    "vector": (VECTOR, "square"),
    "classes": (CLASSES, "cross-entropy"),
    "one-hot": (changed(CLASSES, loss={"function": "one-hot", "smoothing": 0.0}), "square"),
    "argmax": (ARGMAX, "cross-entropy"),
    "relu": (changed(ARGMAX, student={"activation": "relu"}), "cross-entropy"),
    "hinge": (changed(VECTOR, target={"noise": 0.0, "activation": "sign"}, loss={"function": "hinge"}), "hinge"),
    "rows": (changed(CLASSES, target={"labels": [[1.0, 0.2], [0.0, -1.0], [0.5, 0.5]]}, loss={
        "function": "0.5*(f1 - y1)**2 + log(cosh(f2 - y2)) + 0.5*tanh(f1*f2)", "smoothing": 0.0},
        student={"readout": VECTOR["student"]["readout"]}), "mixed"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_velocities_are_averages_over_samples(name: str) -> None:
    problem, slope = PROBLEMS[name]
    made = flow(problem)
    t, eta = made.table, 0.6
    random, count = np.random.default_rng(5), 200_000
    smoothing = problem.get("loss", {}).get("smoothing", 0.0)
    n, K, M = t.n, t.K, t.M
    root = np.linalg.cholesky(t.gram[0] + 1e-12 * np.eye(n))
    dG, da, squares = np.zeros((n, n)), np.zeros((t.Y, K)), [np.zeros((n, n)), np.zeros((t.Y, K))]
    error = wrong = 0.0
    g = (lambda x: np.maximum(x, 0)) if "relu" in name else (lambda x: scipy.special.erf(x / math.sqrt(2)))
    dg = (lambda x: 1.0 * (x > 0)) if "relu" in name else (lambda x: math.sqrt(2 / math.pi) * np.exp(-(x**2) / 2))
    for c, chance in enumerate(t.probabilities(0.0)):
        normal = random.standard_normal((count, n))
        f = math.sqrt(t.variances[c, 0]) * np.concatenate([normal, -normal]) @ root.T
        f += t.gram[0][:, K + M :] @ t.means[c]
        lam, z = f[:, :K] + t.bias[0], f[:, K : K + M]
        if t.argmax:
            scores = np.stack([z[:, 0], z[:, 1], 0.5 * z[:, 0] - z[:, 1]], axis=1)
            y = np.eye(3)[scores.argmax(axis=1)]
        elif t.teacher is not None:
            unit = np.sign(z) if "sign" in t.teacher.text else scipy.special.erf(z / math.sqrt(2))
            y = unit @ t.teacher_rows[c].reshape(t.Y, M).T
        else:
            y = np.tile(t.labels[c], (len(f), 1))
        out = g(lam) @ t.a.T
        error += chance * 0.5 * np.mean(np.sum((out - y) ** 2, axis=1))
        wrong += chance * np.mean(out.argmax(axis=1) != y.argmax(axis=1))
        label = (1 - smoothing) * y + smoothing / t.Y + t.noise[c] * random.standard_normal(y.shape)
        delta = ORACLES[slope](out, label)
        phi = np.zeros((len(f), n))
        phi[:, :K] = dg(lam) * (delta @ t.a)
        for row in (slice(0, count), slice(count, None)):
            moved, seen = phi[row], f[row]
            one = -eta * (moved.T @ seen + seen.T @ moved) / count
            one += eta**2 * t.variances[c, 0] * moved.T @ moved / count
            readout = -0.4 * delta[row].T @ g(lam[row]) / count
            dG += 0.5 * chance * one
            da += 0.5 * chance * readout
        # Standard errors from the products themselves, antithetic pairs counted as if they were independent.
        size = math.sqrt(2 * count)
        each = eta * np.sqrt((phi**2).T @ f**2 / len(f))
        squares[0] += (chance * (each + each.T) / size) ** 2
        squares[1] += (chance * 0.4 * np.sqrt((delta**2).T @ g(lam) ** 2 / len(f)) / size) ** 2
    found = velocity(made)
    moving, cross, a = made.unpack(found[None])
    assert (np.abs(moving[0, 0] - dG[:K, :K]) < 4.5 * np.sqrt(squares[0][:K, :K]) + 1e-4).all()
    assert (np.abs(cross[0, 0, :, : n - K] - dG[:K, K:]) < 4.5 * np.sqrt(squares[0][:K, K:]) + 1e-4).all()
    assert (np.abs(a[0] - da) < 4.5 * np.sqrt(squares[1]) + 1e-4).all()
    seen = made.observed(np.zeros(1), made.initial_state()[None])[0, 0].T @ t.source_weights(np.zeros(1))[0]
    assert abs(seen[0] - error) < 4e-3 * error
    if t.classes:
        assert abs(seen[1] - wrong) < 4.5 * math.sqrt(0.25 / (2 * count))


HELD_OUT = {
    "vector, momentum, blocks": changed(
        VECTOR, data={"kind": "gaussian", "spectrum": {"variances": [0.5, 1.5], "fractions": [0.6, 0.4]}},
        algorithm={"momentum": {"decay": 1.0}}, target={"noise": 0.1},
    ),
    "tasks of two outputs, heads": changed(
        VECTOR, data={"kind": "gaussian", "tasks": [{"until": 1.0, "weights": [1.0, 0.0]},
                                                    {"until": math.inf, "weights": [0.2, 0.8]}]},
        target={"readout": [[1.0, 0.0], [0.5, 0.3], [0.0, 1.0], [-0.5, 0.4]], "noise": 0.0},
        student={"heads": 2},
    ),
    "softmax of clusters, dropout": changed(CLASSES, student={"dropout": 0.8}),
    "softmax regression": changed(CLASSES, student={}) | {
        "student": {"kind": "linear", "bias": True}, "loss": {"function": "cross-entropy"},
        "initial": {"Q": [[0.3, 0.0, 0.1], [0.0, 0.2, 0.0], [0.1, 0.0, 0.4]],
                    "means": [[0.2, 0.0], [0.0, -0.1], [0.1, 0.1]]},
    },
    "teacher classes": ARGMAX,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_OUT)
def test_curves_are_met_by_the_chain(name: str) -> None:
    """At two sizes: what the theory leaves is a few standard errors, and not more than order 1/d."""
    problem = dl.problem(**HELD_OUT[name], theory="one-pass")
    curve, sizes = dl.solve(problem), (100, 200)
    measured = simulate(problem, d=sizes, replicas=160, seed=11)
    names = [n for n in ("Q", "M", "a", "mean_overlap", "bias", "generalization_error", "classification_error",
                         "test_loss", "error") if n in curve]  # fmt: skip
    assert {"Q", "generalization_error"} <= set(names)
    for n in names:
        gap = np.abs(np.asarray(measured[n].values) - np.asarray(curve[n].values)[None])[:, 1:]
        scatter = np.asarray(measured[f"{n}_se"].values)[:, 1:]
        for d, off, se in zip(sizes, gap, scatter, strict=True):
            assert (off <= 4.5 * se + 1.5 / d * (np.abs(np.asarray(curve[n].values)[1:]) + 0.1)).all(), (n, d)


@pytest.mark.parametrize("method", ["gram", "weights"])
def test_chain_and_weights_start_where_the_theory_does(method: str) -> None:
    problem = dl.problem(**changed(CLASSES, simulation={"method": method}), theory="one-pass")
    curve, measured = dl.solve(problem), simulate(problem, d=[40], replicas=8, seed=2)
    for name in ("Q", "a", "mean_overlap"):
        gap = np.asarray(measured[name].values)[0, 0] - np.asarray(curve[name].values)[0]
        assert np.abs(gap).max() < 1e-12, name
    scatter = np.asarray(measured["classification_error_se"].values)[0, 0]
    assert abs(np.asarray(measured["classification_error"].values)[0, 0] - curve["classification_error"].values[0]) < (
        5 * scatter
    )


@pytest.mark.parametrize("problem", [VECTOR, CLASSES, ARGMAX])
def test_arrays_take_the_steps_of_the_compiled_loop(problem: dict[str, Any]) -> None:
    """The same draws, moved by other code: arrays with outputs along an axis, and of a strict namespace."""
    import array_api_strict as strict

    what = table(dl.problem(**changed(problem, algorithm={"batch_size": 3}), theory="one-pass"))
    times, d = np.array([0.0, 0.7]), 30
    compiled = sgd.weight_sgd(what, times, d, streams(3, "h", "e", d, 0, 2))
    for backend in (backend_for(), Backend(strict)):
        arrays = weight_sgd_array(what, times, d, streams(3, "h", "e", d, 0, 2), backend)
        assert np.abs(compiled.gram - arrays.gram).max() < 1e-12
        assert np.abs(compiled.a - arrays.a).max() < 1e-12


REFUSED = {
    "loss.function": changed(VECTOR, loss={"function": "cross-entropy"}),
    "loss.smoothing": changed(VECTOR, loss={"smoothing": 0.1}),
    "student.readout": changed(VECTOR, student={"readout": [0.7, 1.0]}),
    "initial.a": changed(VECTOR, initial={"a": [[1.0, 2.0]]}),
    "target.labels": changed(CLASSES, target={"labels": [0.0, 1.0, 3.0]}),
    "target.noise": changed(VECTOR, loss={"function": "logistic"}),
    "algorithm.uses": changed(VECTOR, algorithm={"uses": 2}),
    "target.readout": changed(VECTOR, data={"kind": "gaussian", "tasks": [
        {"until": math.inf, "weights": [0.2, 0.3, 0.5]}]}, target={
        "readout": [[1.0, 0.0], [0.5, 0.3], [0.0, 1.0], [-0.5, 0.4]]}),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_refusals_name_their_key(key: str) -> None:
    with pytest.raises(dl.DimladderError) as found:
        dl.problem(**REFUSED[key], theory="one-pass")
    assert key in str(found.value)


def test_other_losses_of_one_output_refuse_classes() -> None:
    scalar = changed(VECTOR, target={"outputs": 1, "readout": [1.0, 0.5]}, student={"readout": "ones"})
    for loss in ("cross-entropy", "0.5*(f1 - y1)**2 + f2**2"):
        with pytest.raises(dl.DimladderError, match="outputs"):
            dl.problem(**changed(scalar, loss={"function": loss}), theory="one-pass")


def test_classes_are_read_from_the_target() -> None:
    found = table(state(CLASSES, None))
    assert found.Y == 3
    assert found.classes
    assert np.array_equal(found.labels, np.eye(3))
    twice = table(
        state(changed(CLASSES, target={"labels": [1.0, 0.0, 1.0]}, student={"readout": [[1, 1], [2, 1]]}), None)
    )
    assert np.array_equal(twice.labels, [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])


def test_the_derivation_defines_what_it_uses() -> None:
    for problem, what in ((VECTOR, "U"), (CLASSES, "G"), (ARGMAX, "score")):
        made = flow(problem)
        labels = [equation.label for step in made.derivation() for equation in step.equations]
        assert what in labels
        assert "loss" in labels
        assert made.equations()
