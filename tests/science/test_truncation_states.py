"""Explicit minimisers and truncation states: the reference tables, the erratum, and cases away from both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DimladderError, DomainError
from dimladder.problem.truncation import geometry as g
from dimladder.problem.truncation import separable, shallow
from dimladder.problem.truncation.clusters import project
from dimladder.problem.truncation.networks import Network, best_last_layer, gradient, gradient_descent, squared_cost
from dimladder.problem.truncation.stated import given, parse_state
from dimladder.theories.truncation import landscape
from dimladder_validation import compare, simulate

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "truncation-states.toml"
# classes -> (seed, radius) of the clusters with means 6 e_j + jitter behind the table of states.
TABLE = {2: (12, 0.6), 3: (13, 0.6), 4: (14, 0.5)}


def tight(classes: int, seed: int | None = None, noise: float = 1.0) -> g.ClusteredData:
    radius = (0.05 if classes >= 5 else 0.1) * noise
    return g.ball_clusters(
        classes, [30 + 10 * j for j in range(classes)], 3.0, 0.25, radius, classes if seed is None else seed
    )


def wide(classes: int, seed: int | None = None) -> g.ClusteredData:
    own, radius = TABLE[classes]
    return g.ball_clusters(
        classes, [30 + 10 * j for j in range(classes)], 6.0, 0.25, radius, own if seed is None else seed
    )


def state_of(
    data: g.ClusteredData, cones: g.Cones, label: str
) -> tuple[tuple[float, float, float], landscape.StateReport]:
    state = parse_state(label)
    mu = g.default_shifts(cones, state)
    base = g.hidden_layers(data, cones, mu).base_points
    return landscape.formula_costs(data, base, state), landscape.examine(data, cones, mu, state)


# ------------------------------------------------------------------------------------------------ explicit minimisers


@pytest.mark.parametrize(
    ("classes", "seed", "extra"),
    [(2, 2, 0), (3, 3, 0), (4, 4, 0), (5, 5, 0), (3, 3, 2), (4, 91, 1), (6, 17, 0), (7, 18, 2)],
)
def test_zero_loss_by_formula_and_the_layer_identity(classes: int, seed: int, extra: int) -> None:
    data = tight(classes, seed)
    network = g.explicit_minimiser(data, classes + extra)
    assert data.cost(network(data.inputs)) < 1e-12
    slopes = gradient(network, data.inputs, data.outputs, data.weights)
    assert max(float(np.abs(a).max()) for group in slopes for a in group) < 1e-12
    # Prop. 2.2 on every layer: native activations = cumulative affine image of the truncated data.
    total_w, total_b = g.cumulative(network.weights[:-1], network.biases[:-1])
    tau = data.inputs
    for w, b, layer in zip(total_w, total_b, network.hidden(data.inputs), strict=True):
        tau = g.truncate(w, b, tau)
        assert np.abs(w @ tau + b[:, None] - layer).max() < 1e-12
    # The whole ball of radius delta about each mean, not only its points, goes to one point (2.68).
    rng = np.random.default_rng(0)
    v = rng.standard_normal((classes, 500))
    v *= data.radius / np.linalg.norm(v, axis=0)
    for j in range(classes):
        image = network.hidden(data.means[:, [j]] + v)[-1]
        assert np.ptp(image, axis=1).max() < 1e-12


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_every_shift_in_the_capped_box_is_a_minimum(classes: int) -> None:
    data = tight(classes)
    cones = g.cones(data)
    rng = np.random.default_rng(classes)
    lo, hi = cones.interval
    worst = max(
        data.cost(g.explicit_minimiser(data, geometry=cones, shifts=rng.uniform(lo, hi, classes))(data.inputs))
        for _ in range(100)
    )
    assert worst < 1e-12


def test_without_the_cap_the_printed_interval_fails() -> None:
    """With D alone as bound, a point that has been collapsed may leave the cones of later layers: the loss is far
    from zero.
    """
    data = tight(2)
    cones = g.cones(data)
    assert cones.reach > cones.cap
    rng = np.random.default_rng(0)
    costs = [
        data.cost(
            g.explicit_minimiser(
                data, geometry=cones, shifts=rng.uniform(-cones.reach, -cones.threshold, 2), enforce=False
            )(data.inputs)
        )
        for _ in range(100)
    ]
    assert max(costs) > 0.5
    with pytest.raises(dl.DomainError, match="admissible interval"):
        g.explicit_minimiser(data, shifts=[-0.95 * cones.reach] * 2)


@pytest.mark.parametrize(
    ("classes", "ratios", "costs"),
    [
        (2, [0.04164, 0.04098], [0.035425, 0.027731]),
        (3, [0.03899, 0.03886, 0.03970], [0.057871, 0.047860, 0.034267]),
        (4, [0.04096, 0.04848, 0.04971, 0.04577], [0.071913, 0.072373, 0.062306, 0.048286]),
        (5, [0.02089, 0.02108, 0.02214, 0.02329, 0.02224], [0.040161, 0.037094, 0.033147, 0.027388, 0.021137]),
    ],
)
def test_noise_to_signal_and_cost_layer_by_layer(classes: int, ratios: list[float], costs: list[float]) -> None:
    """Reference values; the recursion against the truncation of every single point; the ratio is not monotone for Q
    = 4.
    """
    data = tight(classes)
    cones = g.cones(data)
    hidden = g.hidden_layers(data, cones, g.default_shifts(cones))
    values = landscape.noise_to_signal_by_layer(data, hidden, [True] * classes, classes)
    np.testing.assert_allclose(values[:-1], ratios, atol=6e-6)
    assert values[-1] == 0.0
    for layer in range(classes):
        points = g.truncated(hidden, data.inputs, layer)
        groups = tuple(points[:, data.classes_of_points == j] for j in range(classes))
        now = g.ClusteredData(groups, data.labels)
        assert g.noise_to_signal(now.means, now.fluctuations) == pytest.approx(values[layer], rel=1e-10)
        last, _ = best_last_layer(points, data.outputs, data.weights, offset=np.zeros(classes))
        assert data.cost(last @ points) == pytest.approx(costs[layer], abs=6e-7)
    if classes == 4:
        assert values[1] > values[0]
        assert values[2] > values[1]


@pytest.mark.parametrize(
    ("classes", "factor", "cost"), [(2, 4, 0.0), (3, 4, 0.0), (2, 8, 0.0697219), (3, 8, 0.0174615), (4, 8, 0.0)]
)
def test_inflated_noise_meets_the_network_of_the_small_noise(classes: int, factor: int, cost: float) -> None:
    data = tight(classes)
    cones = g.cones(data)
    noisy = g.ClusteredData(
        tuple(data.means[:, [j]] + factor * data.fluctuations[j] for j in range(classes)), data.labels
    )
    network = g.explicit_minimiser(data)
    assert data.cost(network(noisy.inputs)) == pytest.approx(cost, abs=1e-7 if cost else 1e-12)
    hidden = g.hidden_layers(data, cones, g.default_shifts(cones))
    assert np.array_equal(g.classify(data, hidden, noisy.inputs), noisy.classes_of_points)


def test_upper_bound_ratio_as_the_noise_vanishes() -> None:
    """(1 - C_lin/||Y Delta_1||)/delta_P^2 tends to a constant: .3058 for the wide clusters with Q = 3."""
    ratios = []
    for noise in (1.0, 0.5, 0.25, 0.125):
        base = wide(3)
        data = g.ClusteredData(tuple(base.means[:, [j]] + noise * base.fluctuations[j] for j in range(3)), base.labels)
        report = shallow.bounds(data)
        ratios.append((1 - report.linear_minimum / report.bound) / report.noise_to_signal**2)
    np.testing.assert_allclose(ratios, [0.3042, 0.3054, 0.3057, 0.3058], atol=6e-5)
    # Differences fall as delta_P^2: a factor of four a halving.
    assert (ratios[1] - ratios[0]) / (ratios[2] - ratios[1]) == pytest.approx(4.0, abs=0.2)


# --------------------------------------------------------------------------------------------------------- states

REFERENCE = [  # state, printed, linear, affine
    ("01", 0.07075264, 0.10299167, 0.08510131),
    ("10", 0.06804612, 0.09170969, 0.08248830),
    ("11", 0.09802601, 0.09802601, 0.07655011),
    ("001", 0.07991356, 0.11050874, 0.09581030),
    ("010", 0.07744859, 0.17607381, 0.16996087),
    ("011", 0.11116830, 0.14048214, 0.11724539),
    ("100", 0.08686438, 0.17727000, 0.17037856),
    ("101", 0.11789114, 0.13767889, 0.11405761),
    ("110", 0.11624388, 0.18090586, 0.16980933),
    ("111", 0.14085340, 0.14085340, 0.11488170),
    ("1111", 0.17773321, 0.17773321, 0.15735656),
]


@pytest.mark.parametrize(("label", "printed", "linear", "affine"), REFERENCE)
def test_reference_costs_of_states(label: str, printed: float, linear: float, affine: float) -> None:
    data = wide(len(label))
    formula, _ = state_of(data, g.cones(data), label)
    np.testing.assert_allclose(formula, (linear, affine, printed), atol=6e-9)


@pytest.mark.parametrize(("classes", "seed"), [(2, 12), (3, 13), (4, 14), (3, 77), (5, 501)])
def test_formulas_equal_least_squares_and_only_constant_states_are_critical(classes: int, seed: int) -> None:
    data = wide(classes, seed) if classes < 5 else g.ball_clusters(5, [30, 40, 50, 60, 70], 6.0, 0.25, 0.3, seed)
    cones = g.cones(data)
    assert not cones.violations
    for label in landscape.all_states(classes):
        (linear, affine, printed), found = state_of(data, cones, label)
        constant = len(set(label)) == 1
        assert linear == pytest.approx(found.linear, rel=1e-10, abs=1e-13)
        assert affine == pytest.approx(found.affine, rel=1e-10, abs=1e-13)
        assert affine <= linear
        assert (abs(printed - linear) < 1e-12) == constant
        assert found.critical == constant  # measured
        assert landscape.is_critical(data, parse_state(label), found) == constant  # by the proposition
        if constant:
            assert found.full_gradient < 1e-9
        else:
            assert found.bias_gradient > 1e-4


@pytest.mark.parametrize(
    ("label", "slope"),
    [
        ("01", 2.3e-3),
        ("10", 2.2e-3),
        ("001", 6.4e-3),
        ("010", 3.5e-2),
        ("011", 9.7e-3),
        ("100", 2.9e-2),
        ("101", 7.6e-3),
        ("110", 1.5e-2),
    ],
)
def test_reference_gradients_of_mixed_states(label: str, slope: float) -> None:
    data = wide(len(label))
    assert state_of(data, g.cones(data), label)[1].bias_gradient == pytest.approx(slope, rel=0.03)


def test_mixed_costs_depend_on_the_shift_and_the_all_active_one_does_not() -> None:
    data = wide(3)
    cones = g.cones(data)
    state = parse_state("011")
    values = []
    for mu in (2.357, 3.261, 4.164):
        base = g.hidden_layers(data, cones, [-mu, 6.0, 6.0]).base_points
        values.append(landscape.formula_costs(data, base, state)[0])
    np.testing.assert_allclose(values, [0.128096, 0.140482, 0.160142], atol=3e-5)  # the shifts are given to four digits
    for factor in (1.05, 3.0, 10.0):
        report = landscape.examine(data, cones, [factor * cones.threshold] * 3, parse_state("111"))
        assert report.affine == pytest.approx(0.1148816953, abs=1e-10)
        assert report.critical


def test_the_all_active_state_is_a_local_minimum() -> None:
    data = wide(3)
    report = state_of(data, g.cones(data), "111")[1]
    value = report.affine**2
    rng = np.random.default_rng(0)
    for _ in range(500):
        moved = Network(
            tuple(w + 1e-3 * rng.standard_normal(w.shape) for w in report.network.weights),
            tuple(b + 1e-3 * rng.standard_normal(b.shape) for b in report.network.biases),
        )
        assert squared_cost(moved, data.inputs, data.outputs, data.weights) > value


@pytest.mark.parametrize(("label", "end"), [("111", 0.11488170), ("011", 0.08487421)])
def test_training_all_parameters_leaves_the_mixed_states(label: str, end: float) -> None:
    """Gradient descent, rate 1e-3, 3e4 steps. A saddle or a minimum would keep its cost."""
    data = wide(3)
    start = state_of(data, g.cones(data), label)[1].network
    trained, _ = gradient_descent(start, data.inputs, data.outputs, data.weights, rate=1e-3, steps=30_000)
    # 3e4 steps of round-off 1e-16 on activations near their kinks: ask for six digits.
    assert data.cost(trained(data.inputs)) == pytest.approx(end, abs=2e-7)


def test_erratum_in_exact_arithmetic() -> None:
    """A rational example with Q = 2: the collapsed class has a non-zero residual, so its base point feels a force;
    exact numbers.

    Class 0 is collapsed by a first layer with rational weights, class 1 stays active. The gradient with respect to
    the bias of that layer is taken inside the activation pattern, where the cost is a polynomial.
    """
    import sympy as sp

    active = [sp.Matrix(v) for v in ([0, 3], [sp.Rational(1, 2), 3], [0, sp.Rational(7, 2)])]
    cut = [sp.Matrix(v) for v in ([3, 0], [sp.Rational(7, 2), sp.Rational(1, 4)])]
    w1, base = sp.Matrix([[-2, 1], [-1, 2]]), sp.Matrix([2, 1])
    b1 = -w1 * base
    assert all(max(w1 * x + b1) < 0 for x in cut)
    assert all(min(w1 * x + b1) > 0 for x in active)
    shift = sp.Matrix(sp.symbols("h0 h1"))
    w, b = sp.Matrix(2, 2, sp.symbols("w0:4")), sp.Matrix(sp.symbols("c0 c1"))
    y0, y1 = sp.Matrix([1, 0]), sp.Matrix([0, 1])

    def square(v: sp.Matrix) -> sp.Expr:
        return (v.T * v)[0]

    def gradient_at_optimum(points0: list[sp.Matrix], collapsed: bool) -> tuple[sp.Matrix, sp.Expr]:
        # The first layer gives 0 for a cut point and W x + b for the others; the second is affine.
        hidden0 = [sp.zeros(2, 1) if collapsed else w1 * x + b1 + shift for x in points0]
        hidden1 = [w1 * x + b1 + shift for x in active]
        cost = sum(square(w * h + b - y0) for h in hidden0) / len(hidden0) + sum(
            square(w * h + b - y1) for h in hidden1
        ) / len(hidden1)
        unknowns = [*w, *b]
        still = dict.fromkeys(shift, 0)
        best = sp.solve([sp.diff(cost.subs(still), v) for v in unknowns], unknowns, dict=True)[0]
        force = sp.Matrix([sp.diff(cost, h) for h in shift]).subs(best).subs(still)
        return force.applyfunc(sp.nsimplify), sp.nsimplify(cost.subs(best).subs(still))

    force, cost = gradient_at_optimum(cut, collapsed=True)
    assert cost == sp.Rational(1, 50)
    assert list(force) == [sp.Rational(-1, 1250), sp.Rational(-7, 1250)]  # the numbers of docs/theory/truncation.md
    # With the same data all active (class 0 moved into the positive orthant by a larger bias) the force vanishes
    # exactly.
    b1 = sp.Matrix([100, 100])
    force, cost = gradient_at_optimum(cut, collapsed=False)
    assert force == sp.zeros(2, 1)


# ------------------------------------------------------------------------------------- shallow, separable, run file


@pytest.mark.parametrize("radius", [0.4, 0.2, 0.1])
def test_the_shallow_network_meets_its_bound(radius: float) -> None:
    rng = np.random.default_rng(8)
    dimension, classes = 8, 3
    means = 3.0 * np.eye(dimension)[:, :classes] + 0.25 * rng.standard_normal((dimension, classes))
    noise = rng.standard_normal((classes, dimension, 60))
    noise *= radius / np.linalg.norm(noise, axis=1, keepdims=True) * rng.random((classes, 1, 60)) ** (1 / dimension)
    data = g.ClusteredData(
        tuple(means[:, [j]] + noise[j] for j in range(classes)),
        np.eye(classes) + 0.3 * rng.standard_normal((classes, classes)),
    )
    report = shallow.bounds(data)
    assert data.cost(shallow.network(data)(data.inputs)) == pytest.approx(report.bound, rel=1e-10)
    best = shallow.network(data, optimal=True)
    assert data.cost(best(data.inputs)) == pytest.approx(report.linear_minimum, rel=1e-10)
    assert report.linear_minimum < report.bound <= report.coarse_bound
    # The linear minimum is what least squares finds over last layers tied to the first bias.
    features = best.features(data.inputs)[:classes]
    last, offset = best_last_layer(features, data.outputs, data.weights, offset=best.biases[0][:classes])
    assert data.cost(last @ features + offset[:, None]) == pytest.approx(report.linear_minimum, rel=1e-9)
    # Projected on the span of the means, the deep construction fits the same data exactly.
    inside = project(data)
    assert inside.cost(g.explicit_minimiser(inside)(inside.inputs)) < 1e-12 if not g.cones(inside).violations else True
    with pytest.raises(dl.DomainError, match="too small"):
        shallow.network(data, shift=0.1)


def test_shallow_costs_do_not_see_a_linear_change_of_the_inputs() -> None:
    data = tight(3)
    change = np.random.default_rng(0).standard_normal((3, 3))
    changed = g.ClusteredData(tuple(change @ x for x in data.points), data.labels)
    assert shallow.bounds(changed).linear_minimum == pytest.approx(shallow.bounds(data).linear_minimum, rel=1e-10)


def boxes(dimension: int, seed: int) -> g.ClusteredData:
    """Anisotropic boxes far too long for the balls of the clustered construction."""
    rng = np.random.default_rng(seed)
    points = []
    for j in range(3):
        sides = np.full(dimension, 0.3)
        sides[(j + 1) % dimension] = 2.0
        points.append(4 * np.eye(dimension)[:, [j]] + sides[:, None] * rng.uniform(-1, 1, (dimension, 60)))
    return g.ClusteredData(tuple(points), np.eye(3) + 0.2 * rng.standard_normal((3, 3)))


@pytest.mark.parametrize(("dimension", "seed"), [(3, 0), (3, 1), (5, 2)])
def test_sequentially_separable_boxes_are_fitted_exactly(dimension: int, seed: int) -> None:
    data = boxes(dimension, seed)
    if dimension == 3:
        assert g.cones(data).violations
    cuts = separable.sequential_cuts(data)
    for cut in cuts:
        assert 0 < cut.fraction < 1
        assert (cut.normal @ (data.points[cut.cluster] - cut.point[:, None])).max() <= -cut.margin * (1 - 1e-9)
    network = separable.separable_network(data, cuts)
    assert data.cost(network(data.inputs)) < 1e-12
    noisy = Network(network.weights, (*network.biases[:-1], network.biases[-1] + 0.1))
    variance, bias = separable.cost_split(data, noisy)
    assert variance < 1e-24
    assert variance + bias == pytest.approx(data.cost(noisy(data.inputs)) ** 2, rel=1e-12)
    assert bias == pytest.approx(3 * 3 * 0.01, rel=1e-9)


def test_data_that_no_hyperplane_separates_are_refused() -> None:
    rng = np.random.default_rng(0)
    ring = rng.standard_normal((2, 80))
    ring *= 3 / np.linalg.norm(ring, axis=0)
    data = g.ClusteredData((0.2 * rng.standard_normal((2, 40)), ring), np.eye(2))
    with pytest.raises(dl.DomainError, match="not sequentially"):
        separable.sequential_cuts(data)


def test_polyhedral_cone_form_of_a_truncation() -> None:
    """tau keeps the edge components a_i > 0 and drops the rest."""
    rng = np.random.default_rng(1)
    w, b, x = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal((3, 50))
    point, edges, components = separable.polyhedral_components(w, b, x)
    np.testing.assert_allclose(point[:, None] + edges @ components, x, atol=1e-12)
    np.testing.assert_allclose(point[:, None] + edges @ np.maximum(components, 0), g.truncate(w, b, x), atol=1e-12)


def test_data_in_more_dimensions_than_classes() -> None:
    """Q clusters turned into R^7, with noise in every direction: the projection joins the first layer, widths 7, 3,
    3, 3.
    """
    rng = np.random.default_rng(4)
    frame = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    points = [frame[:, :3] @ x + 0.02 * rng.standard_normal((7, x.shape[1])) for x in tight(3).points]
    data = g.ClusteredData(tuple(points), tight(3).labels)
    network = shallow.lift(data, g.explicit_minimiser(project(data)))
    assert network.weights[0].shape == (3, 7)
    assert data.cost(network(data.inputs)) < 1e-12
    listed = [[list(map(float, x)) for x in p.T] for p in points]
    curve = dl.solve(dl.load(RUN, {"data": {"kind": "points", "source": "classes", "points": listed}}))
    assert float(curve["cost"]) < 1e-12
    with pytest.raises(dl.DomainError, match="at least as many dimensions"):
        project(g.ClusteredData(tuple(x[:2] for x in points), np.eye(3)))


def test_the_run_file_gives_every_state() -> None:
    curve = dl.solve(dl.load(RUN))
    assert [str(s) for s in curve["state"].values] == [format(n, "03b") for n in range(8)]
    assert float(curve["cost"]) < 1e-12
    assert curve["noise_to_signal"].dims == ("layer",)
    assert np.all(curve["affine_cost"].values <= curve["linear_cost"].values + 1e-15)
    assert [bool(c) for c in curve["critical"].values] == [True, *[False] * 6, True]
    assert math.isclose(float(curve["printed_cost"][7]), float(curve["linear_cost"][7]), rel_tol=1e-12)


def test_overrides_reach_every_key_and_bad_values_say_where() -> None:
    problem = dl.load(
        RUN,
        {"data.classes": 2, "data.counts": [20, 30], "student.layers": 4, "grid.state": ["01", "11"], "data.seed": 11},
    )
    curve = dl.solve(problem)
    assert curve["noise_to_signal"].sizes == {"layer": 5}
    assert curve["linear_cost"].sizes == {"state": 2}
    points = [[list(x) for x in tight(2).points[j].T] for j in range(2)]
    given = {"kind": "points", "source": "classes", "points": points, "labels": tight(2).labels.T.tolist()}
    same = dl.solve(dl.replace(problem, {"data": given}))
    assert float(same["cost"]) < 1e-12
    for override, message in (
        ({"student.layers": 2}, "one cluster is cut a layer"),
        ({"data.counts": [1, 2]}, "one number a class"),
        ({"grid.state": ["0x1"]}, "made of 0 and 1"),
        ({"data.radius": -1.0}, "not negative"),
    ):
        with pytest.raises(dl.ConfigError, match=message):
            dl.load(RUN, override)
    with pytest.raises(dl.DomainError, match="cluster"):
        dl.solve(dl.load(RUN, {"data.radius": 0.9}))
    reported = dl.solve(dl.load(RUN, {"data.radius": 0.9, "student.assumptions": "reported"}))
    assert float(reported["cost"]) > 1e-3


CLUSTERS = {"kind": "points", "source": "clusters", "classes": 3, "counts": [30, 40, 50], "separation": 3.0,
            "mean_jitter": 0.25, "radius": 0.5, "seed": 7}  # fmt: skip


def constructed(student: dict, **data: object) -> dl.Problem:
    return dl.problem(schema=2, data={**CLUSTERS, **data}, student=student, algorithm={"kind": "construct"})


@pytest.mark.parametrize("dimension", [3, 5, 11])
def test_the_shallow_network_costs_what_its_formulas_say(dimension: int) -> None:
    """Every cost by a forward pass on all the data; the best last layers by least squares that know no formula."""
    problem = constructed({"kind": "truncation-shallow"}, dimension=dimension)
    curve = dl.solve(problem)
    data = given(problem.data)
    assert data.dimension == dimension
    net = shallow.network(data)
    assert data.cost(net(data.inputs)) == pytest.approx(float(curve["construction_cost"]), rel=1e-11)
    hidden = np.maximum(net.weights[0] @ data.inputs + net.biases[0][:, None], 0.0)
    # Coordinates along the means are linear in the inputs, the others dead.
    assert np.abs(hidden[3:]).max(initial=0.0) == 0.0
    root = np.sqrt(data.weights)
    free = np.concatenate([hidden[:3], np.ones((1, hidden.shape[1]))])
    tied = hidden[:3] - net.biases[0][:3, None]
    for name, design in (("affine_cost", free), ("linear_cost", tied)):
        fit = np.linalg.lstsq((design * root).T, (data.outputs * root).T, rcond=None)[0]
        assert data.cost(fit.T @ design) == pytest.approx(float(curve[name]), rel=1e-10), name
    bounds = [float(curve[n]) for n in ("affine_cost", "linear_cost", "construction_cost", "coarse_bound")]
    assert bounds == sorted(bounds)
    # The best last layer improves on the bound by a relative O(delta_P^2) only.
    ratio = float(curve["noise_to_signal"])
    assert 0 < 1 - bounds[1] / bounds[2] < ratio**2


def test_elongated_classes_are_cut_one_after_the_other() -> None:
    problem = constructed({"kind": "truncation-separable"}, radius=0.3, elongation=5.0, seed=4)
    curve = dl.solve(problem)
    with pytest.raises(DomainError):  # balls would be far too large
        dl.solve(constructed({"kind": "truncation", "layers": 3}, radius=0.3, elongation=5.0, seed=4))
    assert float(curve["cost"]) < 1e-11
    costs = curve["affine_cost"].values
    assert costs[-1] < 1e-12 < 0.05 < costs[0]
    # Without hidden layers: least squares on the inputs themselves.
    data = given(problem.data)
    design, root = np.concatenate([data.inputs, np.ones((1, data.inputs.shape[1]))]), np.sqrt(data.weights)
    fit = np.linalg.lstsq((design * root).T, (data.outputs * root).T, rcond=None)[0]
    assert costs[0] == pytest.approx(data.cost(fit.T @ design), rel=1e-10)
    order = [int(j) for j in curve["cut_class"].values]
    given_order = constructed({"kind": "truncation-separable", "order": order}, radius=0.3, elongation=5.0, seed=4)
    np.testing.assert_allclose(dl.solve(given_order)["margin"], curve["margin"], rtol=1e-9)
    with pytest.raises(DomainError, match="not sequentially linearly separable"):
        dl.solve(constructed({"kind": "truncation-separable"}, radius=8.0))
    with pytest.raises(DimladderError, match="every class from 0 to 2 once"):
        dl.solve(constructed({"kind": "truncation-separable", "order": [0, 1, 1]}))


@pytest.mark.parametrize(
    ("student", "change"),
    [("truncation-shallow", {"data.radius": 0.55}), ("truncation-separable", {"data.radius": 0.55})],
)
def test_the_constructions_are_compared_and_a_wrong_radius_is_caught(student: str, change: dict) -> None:
    problem = constructed({"kind": student}, dimension=3)
    measured = simulate(problem, d=[400, 1600], replicas=12)
    right = compare(dl.solve(problem), measured)
    assert right.verdict == "agree", right.report()
    assert compare(dl.solve(dl.replace(problem, change)), measured).verdict == "disagree"
