"""The hidden manifold: its limits, and SGD on inputs x = f(F c/sqrt D) as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DimladderError
from dimladder.problem.manifold import manifold_blocks, unit_moments
from dimladder_validation import simulate

LINEAR = {"activation": "x", "latent_ratio": 0.5}
START = {"Q": [[0.5, 0.02], [0.02, 0.4]], "M": [[0.2, 0.05], [0.02, 0.25]]}


def problem(data: dict[str, Any] | None, **sections: Any) -> Any:
    given: dict[str, Any] = {
        "target": {"kind": "committee", "activation": "erf", "readout": [1.0, 1.0], "noise": 0.1},
        "student": {"kind": "two-layer", "width": 2, "activation": "erf"},
        "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
        "initial": START,
        "grid": {"time": [0.0, 1.0, 5.0, 10.0]},
    }
    if data is not None:
        given["data"] = {"kind": "hidden-manifold", **data}
    return dl.problem(**(given | sections))


def test_moments_of_a_unit() -> None:
    mean, a, b = unit_moments("sign(x)")
    assert (mean, a, b) == (0.0, pytest.approx(math.sqrt(2 / math.pi), rel=1e-12), pytest.approx(1 - 2 / math.pi))
    assert unit_moments("x")[1:] == (pytest.approx(1.0, rel=1e-13), 0.0)


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_blocks_have_the_moments_of_the_law(ratio: float) -> None:
    values, shares = manifold_blocks("x", ratio, 12)
    psi = 1.0 / ratio
    # E rho^k of Marchenko and Pastur: 1, 1 + psi, 1 + 3 psi + psi^2.
    for k, moment in enumerate((1.0, 1.0, 1.0 + psi, 1.0 + 3 * psi + psi**2)):
        assert shares @ values**k == pytest.approx(moment, rel=1e-12)
    assert shares[values == 0.0].sum() == pytest.approx(1.0 - ratio, abs=1e-14)


@pytest.mark.parametrize("ratio", [1e-4, 1e-6])
def test_few_latent_dimensions_are_isotropic_inputs_of_them(ratio: float) -> None:
    """D << d and a linear image: x hides nothing of c, and time passes d/D times as fast; the rest is of order D/d."""
    times = np.array([1.0, 5.0, 20.0])
    solver = {"rtol": 1e-10, "atol": 1e-15}
    manifold = dl.solve(
        problem(LINEAR | {"latent_ratio": ratio}, grid={"time": (ratio * times).tolist()}, solver=solver)
    )
    # What lies along E[x z] counts in the field, and vanishes in the norm.
    M = np.array(START["M"])
    start = {"Q": (np.array(START["Q"]) + M @ M.T).tolist(), "M": START["M"]}
    plain = dl.solve(problem(None, initial=start, grid={"time": times.tolist()}, solver=solver))
    for name in ("generalization_error", "M"):
        assert manifold.dataset[name].values == pytest.approx(plain.dataset[name].values, rel=2.5 * ratio)


def test_nodes_are_enough() -> None:
    few, many = (
        dl.solve(problem({"activation": "sign(x)", "latent_ratio": 0.5, "nodes": n})).dataset for n in (24, 60)
    )
    for name in ("generalization_error", "Q", "M"):
        assert few[name].values == pytest.approx(many[name].values, rel=1e-7)


@pytest.mark.parametrize(("activation", "ratio"), [("sign(x)", 0.5), ("erf", 1.0)])
def test_sgd_on_the_manifold_itself(activation: str, ratio: float) -> None:
    overlapping = {"kind": "committee", "readout": [1.0, -0.5], "overlap": [[1.0, 0.3], [0.3, 0.8]], "noise": 0.2}
    sections: dict[str, Any] = {"target": overlapping} if activation == "erf" else {}
    asked = problem({"activation": activation, "latent_ratio": ratio}, **sections)
    theory, found = dl.solve(asked).dataset, simulate(asked, d=150, replicas=24, seed=2).dataset
    for name in ("generalization_error", "Q", "M"):
        gap = np.abs(found[name].values[0] - theory[name].values)
        allowed = 4.5 * found[f"{name}_se"].values[0] + 1.0 / 150
        assert (gap < allowed).all(), (name, gap / allowed)
    if activation == "sign(x)":
        # The same correlations without what is left of f beyond its linear part: fields of other sizes.
        linear = dl.solve(problem({"activation": f"{unit_moments(activation)[1]}*x", "latent_ratio": ratio})).dataset
        missed = np.abs(linear["generalization_error"].values - found["generalization_error"].values[0])
        assert missed.max() > 12.0 * found["generalization_error_se"].values[0].max()


@pytest.mark.parametrize(
    ("data", "sections", "words"),
    [
        ({"activation": "relu", "latent_ratio": 0.5}, {}, "mean"),
        ({"activation": "sign(x)", "latent_ratio": 1.5}, {}, "latent_ratio must be at most 1"),
        ({"activation": "He3(x)", "latent_ratio": 0.5}, {}, "no linear part"),
        (LINEAR, {"algorithm": {"kind": "one-pass", "learning_rate": 0.1, "input_noise": 0.2}}, "hidden manifold"),
        (LINEAR, {"initial": {"Q": START["Q"], "M": [[0.9, 0.0], [0.0, 0.9]]}}, "no such covariances"),
    ],
)
def test_what_is_refused(data: dict[str, Any], sections: dict[str, Any], words: str) -> None:
    with pytest.raises(DimladderError, match=words):
        problem(data, **sections)
