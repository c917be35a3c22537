"""Second moments of formulas under the Gaussian law: known answers, and what the message says."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from dimladder.problem.config import state
from dimladder.problem.expressions import Expression
from dimladder.problem.moments import moment_faults, require_second_moment, second_moment_fault
from dimladder.theories import Theory

# Text -> the word of the fault. Growth: E exp(2 a z^2) is finite for a < 1/4. Poles: |z|^-b with b < 1/2.
INFINITE = {
    "exp(x**2/3)": "grows", "exp(x**2/4)": "grows", "cosh(x**2)": "grows", "exp(abs(x)**3)": "infinite",
    "exp(exp(x))": "infinite", "1/x": "square-integrable", "tan(x)": "around x = 1.571", "1/(x - 3.7)": "x = 3.7",
    "1/sqrt(abs(x))": "square-integrable", "(x - 1)**-2": "x = 1", "1/(abs(x) - 1)": "square-integrable",
    "1/tanh(x)": "square-integrable", "exp(1/x)": "around", "sqrt(x)": "not a real", "log(1 - x)": "not a real",
    "x**0.5": "not a real number", "x**x": "not a real number", "(-1)**x": "not a real number", "1/(x - x)": "infinite",
    "x**100": "1e187", "He60(x)": "keep a digit", "exp(9*x)": "keep a digit",
}  # fmt: skip
FINITE = [
    "x", "exp(x)", "exp(x**2/5)", "tanh(x)", "abs(x)**-0.4", "log(abs(x))", "sin(x)/x", "relu(x)", "sign(x)", "He10(x)",
    "x**20", "He25(x)", "exp(3*x)", "1/(1 + x**2)", "1/(1e-6 + x**2)", "sin(100*x)", "erf(1000*x)",
    "step(x - 0.3)", "cosh(x)",
    "exp(x**2)*exp(-x**2)", "tan(tanh(x))", "softplus(x)", "3", "exp(x)/(1 + exp(x))",
]  # fmt: skip
INFINITE_PLANES = [
    "1/z1", "1/(z1 - z2)", "exp((z1**2 + z2**2)/3)", "exp(0.6*z1*z2)", "1/(z1*z2)", "tan(z1 + z2)", "sqrt(z1 + z2)",
    "1/(z1**2 + z2**2)", "1/(z1**2 + z2**2)**0.5", "exp(z1**2/3)*z2",
]  # fmt: skip
FINITE_PLANES = [
    "z1*z2", "He2(z1) + z1*z2", "sign(z1*z2*z3)", "max(z1, z2)", "exp(0.4*z1*z2)", "1/(z1**2 + z2**2)**0.4",
    "log(abs(z2))*z1", "1/(z1**2 + z2**2 + z3**2)**0.7", "z1**5*z2**5", "z1/(1 + z2**2)",
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), INFINITE.items())
def test_infinite_second_moments_are_found(text: str, said: str) -> None:
    assert said in second_moment_fault(Expression(text))


@pytest.mark.parametrize("text", FINITE)
def test_finite_second_moments_are_let_through(text: str) -> None:
    assert second_moment_fault(Expression(text)) == ""


def test_several_variables_are_judged_along_lines() -> None:
    for text in INFINITE_PLANES:
        assert second_moment_fault(Expression(text, "z*")), text
    for text in FINITE_PLANES:
        assert second_moment_fault(Expression(text, "z*")) == "", text


def test_the_variance_decides() -> None:
    # E exp(2 z^2/3) with z of variance s^2 is finite for s^2 < 3/4.
    assert second_moment_fault(Expression("exp(x**2/3)"), 0.85) == ""
    assert second_moment_fault(Expression("exp(x**2/3)"), 0.88)
    assert second_moment_fault(Expression("exp(x**2/5)"), 1.13)
    with pytest.raises(ValueError, match=r"the activation '1/x' has no usable second moment"):
        require_second_moment(Expression("1/x"), "the activation")


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"target": {"kind": "index", "formula": "1/z"}}, "target.formula"),
        ({"target": {"kind": "index", "formula": "z1 + exp(z2**2/3)"}}, "target.formula"),
        ({"target": {"kind": "index", "formula": "logit(1/z)"}}, None),
        ({"target": {"kind": "index", "formula": "sign(1/z)"}}, None),
        ({"target": {"kind": "index", "formula": "1/z"}, "data": {"kind": "hypercube"}}, None),
        ({"student": {"kind": "features", "layers": [{"activation": "exp(x**2/3)"}]}}, "student.layers.0"),
        ({"student": {"kind": "two-layer", "activation": "exp(x**2/3)"}}, "student.activation"),
        ({"student": {"kind": "two-layer", "activation": "exp(x**2/3)"}, "initial": {"Q": [[0.5]]}}, None),
    ],
)
def test_what_a_problem_needs(sections: dict[str, dict[str, object]], path: str | None) -> None:
    sections = {"target": {"kind": "index", "formula": "z"}, "student": {"kind": "linear"}, **sections}
    problem = state(sections, None)
    assert [where for where, _ in moment_faults(problem)] == ([] if path is None else [path])


def test_every_theory_refuses_formulas_without_a_second_moment() -> None:
    document = {
        "data": {"sample_ratio": 2.0}, "target": {"kind": "index", "formula": "1/z"}, "student": {"kind": "linear"},
        "algorithm": {"kind": "minimise"}, "grid": {"sample_ratio": [2.0]},
    }  # fmt: skip
    problem = state(document, None)
    (refusal,) = Anything().refusals(problem)
    assert refusal.path == "target.formula"
    assert "no usable second moment" in refusal.why


class Anything(Theory):
    """A theory that reads what the test above asks."""

    name, title, summary = "anything", "", ""
    reads: ClassVar = {
        "data": {"gaussian": "*"}, "target": {"index": "*"}, "student": {"linear": "*"}, "algorithm": {"minimise": "*"},
        "grid": "sample_ratio",
    }  # fmt: skip

    def derive(self, problem: Any) -> Any:
        raise NotImplementedError
