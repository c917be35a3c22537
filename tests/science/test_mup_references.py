"""Published-style reference values: independent prototypes of each method, with the digits they guarantee."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem import activation
from dimladder.problem.training import training_of
from dimladder.theories.mup.initial_kernels import initial_kernels
from dimladder.theories.mup.quadrature import few_step_nodes
from dimladder.theories.mup.responses import ResponseMarch

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def load(run="mup-tanh", **overrides):
    return dl.load(RUNS / f"{run}.toml", overrides)


def test_deep_linear_run_file_to_machine_precision():
    curve = dl.solve(load("mup-linear", **{"algorithm.steps": 24}))
    loss = curve["loss"].values
    assert curve["time"].values == pytest.approx(np.arange(25))
    assert loss[[1, 2, 5, 10, 24]] == pytest.approx(
        [0.2165139849207, 0.03702618708, 0.005848352201, 9.794419733e-4, 4.670215145e-6], rel=2e-10
    )
    assert curve["feature_kernel"].values[-1, 0, 0] == pytest.approx(1.882890482883, rel=1e-11)
    assert curve["gradient_kernel"].values[0, 0, 0] == pytest.approx(3.986750597211, rel=1e-11)
    assert not curve["loss_se"].values.any()


@pytest.mark.parametrize(
    ("layers", "eta", "gamma", "steps", "times", "expected"),
    [
        (1, 0.25, 1.0, 24, [1, 2, 5, 10, 24],
         [0.397783149359, 0.243027203145, 0.042389435693, 0.008544236742, 0.001526226547]),
        (2, 0.25, 1.0, 24, [1, 2, 5, 10, 24],
         [0.2998860091426, 0.1187138214411, 0.009962625056, 0.003237684103, 1.192920488687e-4]),
        (2, 0.1, 2.0, 19, [1, 2, 5, 10, 19],
         [0.486558945049, 0.355405144952, 0.047201714768, 0.007232576035, 0.001705235476]),
        (3, 0.1, 2.0, 19, [19], [2.185454303352e-4]),
    ],
)  # fmt: skip
def test_deep_linear_losses(layers, eta, gamma, steps, times, expected):
    curve = dl.solve(
        load("mup-linear", **{
            "student.hidden_layers": layers, "student.richness": gamma,
            "algorithm.learning_rate": eta, "algorithm.steps": steps,
        })
    )  # fmt: skip
    # the references are printed with 12 decimals
    assert curve["loss"].values[times] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(
    ("formula", "times", "expected", "tolerance"),
    [
        ("tanh", [1, 2, 5, 10, 20, 39], [0.3204591316, 0.1684060784, 0.0224301911, 0.00208931583, 2.79228661e-4,
        6.28882376e-6], 1e-9),
        ("erf(x)", [1, 5, 10, 39], [0.2763339740, 0.01334385767, 0.001403032975, 1.47565893e-6], 3e-10),
    ],
)  # fmt: skip
def test_one_hidden_layer_by_quadrature(formula, times, expected, tolerance):
    problem = load(**{
        "data.samples": 2, "student.hidden_layers": 1, "student.activation": formula, "algorithm.steps": 39,
    })  # fmt: skip
    curve = dl.solve(problem)
    assert curve.stats["method"] == "quadrature"
    assert curve["loss"].values[times] == pytest.approx(expected, abs=tolerance)
    if formula == "tanh":
        assert curve["f"].values[-1] == pytest.approx([1.0031099025, -1.2460650538], abs=1e-8)
        kernel = curve["feature_kernel"].values[0]
        assert kernel[[0, 0, 1], [0, 1, 1]] == pytest.approx([0.5347666615, -0.4172738735, 0.6181216103], abs=1e-8)


def test_few_steps_of_two_tanh_layers_to_nine_digits():
    explicit = {"kind": "points", "source": "explicit", "inputs": [[1.0]], "labels": [1.0]}
    run = training_of(load(data=explicit, **{"algorithm.learning_rate": 1.0, "algorithm.steps": 2}))
    march = ResponseMarch(run, few_step_nodes(run), chunk=2048, exact_start=False)
    out = march.run()
    assert out.f[:, 0] == pytest.approx([0, 0.561670542975, 0.81231106042], abs=2e-8)
    assert out.a[0][1, 0] == pytest.approx(0.373565897582, abs=2e-8)
    assert out.b[0][1, :2] == pytest.approx([0.5657276782, -0.3840067312], abs=2e-8)
    assert [phi[2, 2] for phi in out.phi] == pytest.approx([0.513835898, 0.449798911], abs=2e-8)
    ablated = ResponseMarch(run, few_step_nodes(run), responses=False, exact_start=False).run()
    assert ablated.f[1, 0] == pytest.approx(0.416101, abs=1e-6)


def test_few_steps_of_two_silu_layers():
    explicit = {"kind": "points", "source": "explicit", "inputs": [[1.0]], "labels": [1.0]}
    curve = dl.solve(
        load(data=explicit, **{"student.activation": "silu", "algorithm.steps": 1, "solver.method": "quadrature"})
    )
    assert curve["f"].values[1, 0] == pytest.approx(0.170401210873, abs=1e-9)


# The references below have their own standard errors; ours are added in quadrature and five of the sum allowed.
def test_two_tanh_layers_run_file():
    curve = dl.solve(load(**{"algorithm.steps": 19}), output="space-time", samples=4096)
    se = curve["loss_se"].values
    times = [1, 2, 5, 10, 19]
    expected = [0.460456, 0.330168, 0.083190, 0.004540, 0.000698]
    gap = np.abs(curve["loss"].values[times] - expected)
    assert (gap < 5 * np.hypot(se[times], 6e-5 * np.sqrt(2 * np.array(expected)))).all()
    assert (se[times] < 3e-4).all()
    f = curve["f"].values[19]
    assert (np.abs(f - [0.99155, -1.14100, 1.13163, -1.21905]) < 5 * np.hypot(curve["f_se"].values[19], 6e-5)).all()
    assert (curve["f_se"].values < 8e-4).all()
    kernels = {2: [0.4105, -0.3808, 0.3065, -0.3689], 1: [0.4456, -0.3076, 0.0947, -0.2320]}
    for layer, row in kernels.items():
        ours, error = (curve[n].values[layer - 1, 0] for n in ("feature_kernel", "feature_kernel_se"))
        assert (np.abs(ours - row) < 5 * np.hypot(error, 1.5e-4)).all()
    response, error = (curve[n].values[0, 19, :, 0][0] for n in ("feature_response", "feature_response_se"))
    assert (np.abs(response - [0.04712, 0.02498, -0.00683, 0.01315]) < 5 * np.hypot(error, 3e-5)).all()
    equal_time, error = (curve[n].values[1, 19, 0, 19, 0] for n in ("gradient_response", "gradient_response_se"))
    assert abs(equal_time + 0.7277) < 5 * np.hypot(error, 1.5e-4)


def test_diagnostics_of_two_tanh_layers():
    curve = dl.solve(load(**{"algorithm.steps": 19}), samples=2048)
    smallest = curve["feature_min_eigenvalue"].values
    kernels = initial_kernels(training_of(load()).gram, 2, activation("tanh"))
    assert smallest[0] == pytest.approx([np.linalg.eigvalsh(k)[0] for k in kernels.phi[1:]], abs=3e-4)
    assert smallest[0] == pytest.approx([0.138644788304, 0.086873284708], abs=3e-4)
    assert smallest[-1] == pytest.approx([0.1160, 0.0468], abs=2e-3)
    assert curve["space_time_min_eigenvalue"].values[1] == pytest.approx(0.0120, abs=3e-4)
    assert curve["relative_feature_change"].values[1] == pytest.approx(1.33, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "losses", "loss_se", "row", "row_error"),
    [
        ("tanh", [0.473144, 0.344695, 0.078261, 0.003794, 0.001281], 2.3e-4, [0.3997, -0.4038, 0.3693, -0.4043], 4e-4),
        ("silu", [0.613227, 0.588055, 0.45280, 0.03082, 2.911e-6], 4e-4, [0.8845, -0.1354, 0.7673, -0.1409], 1e-3),
    ],
)
def test_three_layers(formula, losses, loss_se, row, row_error):
    curve = dl.solve(
        load(**{"student.hidden_layers": 3, "student.activation": formula, "algorithm.steps": 15}), samples=2048
    )
    times = [1, 2, 5, 10, 15]
    # an error d in each f moves the loss by at most sqrt(2 loss) d
    reference_error = np.sqrt(2 * np.array(losses)) * loss_se + loss_se**2
    gap = np.abs(curve["loss"].values[times] - losses)
    assert (gap < 5 * np.hypot(curve["loss_se"].values[times], reference_error)).all()
    ours, error = (curve[n].values[2, 0] for n in ("feature_kernel", "feature_kernel_se"))
    assert (np.abs(ours - row) < 5 * np.hypot(error, row_error)).all()


def test_initial_kernels_of_the_reference_inputs():
    gram = training_of(load()).gram
    kernels = initial_kernels(gram, 3, activation("tanh"))
    assert kernels.phi[1][0] == pytest.approx(
        [0.394294490398, -0.183166776089, -0.105211285391, -0.065386254099], abs=1e-12
    )
    smallest = [np.linalg.eigvalsh(k)[0] for k in kernels.phi]
    assert smallest == pytest.approx([0.309681412939, 0.138644788304, 0.086873284708, 0.062589499265], abs=1e-12)
    assert initial_kernels(gram, 1, activation("erf(x)")).phi[1][0, 0] == pytest.approx(0.464559054398, abs=1e-12)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 0.9065882889), (2.0, 0.9656690832)])
def test_gradient_flow_of_one_linear_layer(gamma, expected):
    """dDelta/dt = -2 sqrt(1 + gamma^2 (y - Delta)^2) Delta, to ten digits, and the O(eta) error of descent."""
    explicit = {"kind": "points", "source": "explicit", "inputs": [[1.0]], "labels": [1.0]}
    flow = {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 2, "substeps": 8, "levels": 6}
    curve = dl.solve(
        load("mup-linear", data=explicit, algorithm=flow, **{"student.hidden_layers": 1, "student.richness": gamma})
    )
    assert curve["time"].values == pytest.approx([0, 0.5, 1])
    assert curve["f"].values[-1, 0] == pytest.approx(expected, abs=2e-10)
    if gamma == 1.0:
        for eta, value in ((0.1, 0.93174), (0.05, 0.91909), (0.025, 0.91282)):
            run = {"student.hidden_layers": 1, "algorithm.learning_rate": eta, "algorithm.steps": round(1 / eta)}
            assert dl.solve(load("mup-linear", data=explicit, **run))["f"].values[-1, 0] == pytest.approx(
                value, abs=1e-5
            )
