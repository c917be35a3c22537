"""Written update rules: spellings that mean the same row, and texts that mean none."""

from __future__ import annotations

import math

import pytest

from dimladder.problem.update_text import gradient_part, read_update

SGD = "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d)"


@pytest.mark.parametrize(
    "text",
    [
        SGD,
        "w - x*sqrt(1/d)*learning_rate*a*dg(lambda_w)*error",
        "w - d^(-0.5)*learning_rate*a*dg(lambda_w)*error*x",
        "w - (learning_rate/sqrt(d))*(a*dg(lambda_w)*error*x)",
        "-(learning_rate*x)*error*dg(lambda_w)*a/d**(1/2) + w",
        "w - learning_rate*(a*dg(lambda_w)*error*x*sqrt(d))/d",
        "w - learning_rate*a*dg(lambda_w)*error*x*sqrt(4*d)/(2*d)",
        "2*w - w - learning_rate*a*dg(lambda_w)*error*x*d/sqrt(d^3)",
    ],
)
def test_spellings_of_one_row(text: str) -> None:
    row = read_update({"w": text}, {})["w"]
    assert not row.drift
    assert row.sample is not None
    part = gradient_part(row.sample)
    assert part is not None
    assert part.evaluate(math, learning_rate=0.3) == pytest.approx(0.3, rel=1e-14)


@pytest.mark.parametrize(
    ("text", "decay"), [("w*(1 - 0.3/d)", -0.3), ("w - 0.6*w/(2*d)", -0.3), ("w + (w - w*1.3)/d", -0.3), ("w", 0.0)]
)
def test_drifts_are_collected(text: str, decay: float) -> None:
    drift = read_update({"w": text}, {})["w"].drift
    assert (drift["w"].evaluate(math) if drift else 0.0) == pytest.approx(decay, abs=1e-14)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"w": ""}, "is not a formula"),
        ({"w": "w := 3"}, "is not a formula"),
        ({"w": "w - x/sqrt(d)*\x00"}, "is not a formula"),
        ({"w": "lambda: w"}, "'lambda: w' is not linear"),
        ({"w": "w*w"}, "'w \\* w' multiplies two vectors"),
        ({"w": "w - x*x/d"}, "multiplies two vectors"),
        ({"w": "w - w*x/d"}, "'w \\* x' multiplies two vectors"),
        ({"w": "w - x^2/d"}, "'x \\*\\* 2' is not linear"),
        ({"w": "w - sqrt(w)*x/d"}, "'sqrt\\(w\\)' is not linear"),
        ({"w": "w - norm(w)*x/sqrt(d)"}, "'norm\\(w\\)' is not linear"),
        ({"w": "w - x"}, "neither a drift"),
        ({"w": "w - x/d"}, "neither a drift"),
        ({"w": "w - x/sqrt(d)**3"}, "neither a drift"),
        ({"w": "w - error"}, "neither a drift"),
        ({"w": "w - d**d*x"}, "exponent that is not a number"),
        ({"w": "w - x/(1 + d)"}, "divides by more than powers of d"),
        ({"w": "0.9*w - x/sqrt(d)"}, "small steps"),
        ({"w": "w - x/sqrt(d)/0"}, "coefficient of x"),
        ({"w": "w - 1e400*x/sqrt(d)"}, "coefficient of x"),
        ({"w": "w - nan*x/sqrt(d)"}, "unknown name 'nan'"),
        ({"w": "w - __import__('os').getcwd()*x/sqrt(d)"}, "coefficient of x"),
        ({"w": "w - error.real*x/sqrt(d)"}, "error.real"),
        ({"w": "w - lambda_v*x/sqrt(d)"}, "unknown name 'lambda_v'"),
        ({"w": "w - lambda_v^2*w/d"}, "the coefficient of w: .*unknown name 'lambda_v'"),
        ({"w": "w - lambda_w^2*w/sqrt(d)"}, "neither a drift"),
        ({"w": "w - zeta/d"}, r"'-1\*zeta\*d\^\(-1\)' is neither a drift"),
        ({"w": "w - lambda_w*zeta/sqrt(d)"}, "that of zeta holds numbers, constants and learning_rate only"),
        ({"w": "w - zeta*x/d"}, "'zeta \\* x' multiplies two vectors"),
        ({"w": SGD, "zeta": "zeta"}, "cannot be a vector"),
        ({"w": "w - dg(error)*x/sqrt(d)"}, "taken at a field"),
        ({"v": SGD}, "no row for the trained weights"),
        ({"w": SGD, "error": "error"}, "cannot be a vector"),
    ],
)  # fmt: skip
def test_texts_that_are_no_row_say_why(rows: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_update(rows, {})


def test_drifts_that_depend_on_the_sample_and_noise() -> None:
    row = read_update({"w": "w + learning_rate*(f*x/sqrt(d) - f^2*w/d) + sqrt(2*T)*zeta/sqrt(d)"}, {"T": 0.5})["w"]
    assert not row.drift
    assert row.sampled_drift["w"].evaluate(math, learning_rate=0.3, f=2.0) == pytest.approx(-1.2, rel=1e-14)
    assert row.noise is not None
    assert row.noise.evaluate(math) == pytest.approx(1.0, rel=1e-14)


def test_constants_are_used() -> None:
    with pytest.raises(ValueError, match="constants: 'gamma' is not used"):
        read_update({"w": SGD}, {"gamma": 1.0})
