"""Generated modules of online SGD: self-contained, shared by all widths, and computing what is printed."""

from __future__ import annotations

import ast
import math
import time

import numpy as np
import pytest

import dimladder as dl
from dimladder.theories.one_pass.conventions import convert
from generated import interpreted

TEXT = """
schema = 2
[target]
kind = "committee"
activation = "erf"
readout = [1.0, 1.0]
noise = 0.1
[student]
kind = "two-layer"
width = 2
activation = "erf"
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.5
[initial]
Q = [[0.5, 0.0], [0.0, 0.5]]
M = [[0.1, 0.0], [0.0, 0.1]]
[grid]
time = [1.0]
"""


def wider(width: int) -> dl.Problem:
    return dl.replace(
        dl.loads(TEXT),
        {
            "student.width": width,
            "initial.Q": (0.5 * np.eye(width)).tolist(),
            "initial.M": np.full((width, 2), 0.05).tolist(),
        },
    )


def test_one_module_serves_every_width_and_number() -> None:
    first = dl.derive(wider(2)).module()
    other = dl.derive(dl.replace(wider(5), {"algorithm.learning_rate": 0.1, "target.noise": 0.7})).module()
    assert other is first


@pytest.mark.parametrize("variances", [(0.4, 0.9), (0.4, 6.0), (3.0, 6.0)])
def test_the_short_arcsine_is_used_where_it_holds(variances: tuple[float, float]) -> None:
    """Whichever units leave its range, the equations are those with the library's arcsine everywhere."""
    flow = dl.derive(dl.replace(wider(3), {"initial.Q": np.diag([*variances, 1.0]).tolist()}))
    state, p = flow.initial_state(), flow.parameters()
    text = flow.python().replace("def asin", "def unused_asin")
    plain = interpreted(text)
    plain["asin"] = plain["asin_short"] = math.asin
    expected, found = np.empty_like(state), np.empty_like(state)
    plain["rhs"](0.0, state, expected, p, np.zeros(flow.work_size()))
    flow.module().rhs(0.0, state, found, p, np.zeros(flow.work_size()))
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_generated_module_is_self_contained() -> None:
    tree = ast.parse(dl.derive(wider(2)).python())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    imported = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes}
    assert imported <= {"math", "numpy", "numba"}


def test_a_module_that_changes_form_is_another_module() -> None:
    p = dl.loads(TEXT)
    flow = dl.derive(p)
    for change in ({"student.activation": "relu"}, {"algorithm.spherical": True}, {"student.train_readout": False}):
        assert dl.derive(dl.replace(p, change)).structure() != flow.structure()


def test_cost_grows_no_faster_than_the_number_of_pairs() -> None:
    """From K = 6 to K = 12 (M = 2) the arcsines grow 10.5-fold; the time may grow 1.6 times that."""
    from numba import njit

    from dimladder.numerics.addresses import addresses
    from dimladder.numerics.ode import layout

    both = addresses(dl.derive(wider(2)).module().rhs, layout.RHS)

    as_rhs = layout.as_rhs.numba_form

    @njit
    def repeat(addresses, y, dy, p, work, times):  # type: ignore[no-untyped-def]
        rhs = as_rhs(*addresses)
        for _ in range(times):
            rhs(0.0, y, dy, p, work)

    best = {}
    for width in (6, 12):
        flow = dl.derive(wider(width))
        y, p, work = flow.initial_state(), flow.parameters(), np.zeros(flow.work_size())
        dy = np.empty_like(y)
        repeat(both, y, dy, p, work, 1)
        spans = []
        for _ in range(60):
            began = time.perf_counter()
            repeat(both, y, dy, p, work, 20)
            spans.append(time.perf_counter() - began)
        best[width] = min(spans)
    pairs = {K: K * (K + 1) // 2 * (K + 2) * (K + 3) // 2 for K in best}
    assert best[12] / best[6] < 1.6 * pairs[12] / pairs[6]


def test_printed_moments_are_the_compiled_ones() -> None:
    """Evaluate the printed N_ik (sympy, with its auxiliary vectors) at a state and compare with the compiled flow."""
    import sympy as sp

    p = wider(2)
    flow = dl.derive(p)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((4, 9)) / 3
    C = W @ W.T
    C[2:, 2:] = np.eye(2)
    c = np.array([0.9, 1.1, -1.0, -1.0])
    y = np.concatenate([C[:2, :2][np.tril_indices(2)], C[:2, 2:].ravel(), c[:2]])
    velocity, parameters = np.empty_like(y), flow.parameters()
    flow.module().rhs(0.0, y, velocity, parameters, np.zeros(flow.work_size()))
    derived = flow.derived
    vectors = derived.indices.vectors

    def evaluate(expression: sp.Expr, at: dict) -> float:
        if isinstance(expression, sp.Indexed):
            name, places = str(expression.base), [int(at.get(i, i)) for i in expression.indices]
            if name in vectors:
                lhs, rhs = vectors[name].lhs, vectors[name].rhs
                return evaluate(rhs, dict(zip(lhs.indices, places, strict=True)))
            return float(c[places[0]] if len(places) == 1 else C[places[0], places[1]])
        if isinstance(expression, sp.Sum):
            inner = [limit[0] for limit in expression.limits]
            return sum(
                evaluate(expression.function, {**at, **dict(zip(inner, ab, strict=True))})
                for ab in np.ndindex(*[4] * len(inner))
            )
        if not expression.args:
            return {"sigma": 0.1}.get(str(expression), float(expression) if expression.is_number else np.nan)
        return float(expression.func(*(sp.Float(evaluate(a, at), 17) for a in expression.args)))

    tensors = {str(t.lhs.base): t for t in derived.moments}
    moment = lambda name, *at: evaluate(tensors[name].rhs, dict(zip(tensors[name].lhs.indices, at, strict=True)))  # noqa: E731
    a, eta = c[:2], 0.5
    drift = a[1] * moment("D", 1, 0) + a[0] * moment("D", 0, 1)
    assert velocity[1] == pytest.approx(-eta * drift + eta**2 * a[0] * a[1] * moment("N", 1, 0), abs=1e-14)
    assert velocity[3] == pytest.approx(-eta * a[0] * moment("D", 0, 2), abs=1e-14)
    assert velocity[7] == pytest.approx(-eta * moment("H", 0), abs=1e-14)


def test_latex_has_the_flow_and_no_leftovers() -> None:
    text = dl.derive(wider(2)).latex()
    for part in (r"\frac{\mathrm{d}Q_{ik}}{\mathrm{d}t}", r"\varepsilon_{g}", r"\arcsin"):
        assert part in text
    assert "Indexed" not in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("source", "readout", "unit"), [("saad-solla", 1.0, 1.0), ("veiga", 0.25, 1.0), ("arnaboldi", 0.25, 8.0)]
)
def test_conventions(source: str, readout: float, unit: float) -> None:
    """Veiga et al.: f = (1/p) sum g at gamma = 0.5, Delta = 0.04; Arnaboldi et al. count time as steps gamma/(p d)."""
    numbers = convert(source, width=4, teachers=2, learning_rate=0.5, noise=0.04)
    assert numbers.student_readout == readout
    assert numbers.time_per_unit == unit
    assert numbers.noise == (0.04 if source == "saad-solla" else pytest.approx(0.2))
    p = dl.replace(wider(4), numbers.overrides(4, 2))
    assert p.initial.a == (readout,) * 4
    with pytest.raises(dl.ConfigError, match="unknown convention"):
        convert("saad", width=1, teachers=1, learning_rate=1.0)


@pytest.mark.parametrize("activation", ["erf", "tanh", "relu"])
def test_printed_equations_define_their_symbols(activation: str) -> None:
    """Everything the moments use is defined in `latex()` alone, the schedule of the code included."""
    p = dl.replace(wider(2), {"student.activation": activation, "algorithm.schedule": "1/(1 + t/50)"})
    text = dl.derive(p).latex().replace("&", "")
    # A sum of erfs is averaged term by term.
    slope = r"\varphi'" if activation == "tanh" else "g'"
    for part in (
        r"\Delta = \partial_{f}", r"\lambda_{k} = w_{k}", r"\lambda_{K + m} = z_{m}", r"y = f_{\star}", "s(t) = ",
        rf"\mathbb{{E}}\left[ {slope}(\lambda_{{i}})\,\lambda_{{\beta}}\,\Delta \right]", r"\frac{t}{50} + 1",
    ):  # fmt: skip
        assert part in text
    assert r"\eta s(t)" in text
    assert "f_{i}" not in text
    assert "0 + " not in text
    # One name, one function: the teacher's erf is not called g where the student's is something else.
    assert text.count("  g(x) =") == 1
    assert (r"\tilde{g}(x) =" in text) == (activation != "erf")
