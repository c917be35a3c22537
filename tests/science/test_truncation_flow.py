"""Gradient flows of truncating layers: one threshold, whole stacks, separated clusters, output space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

import dimladder as dl
from dimladder.numerics.rotation_flow import defect, exponential, integrate
from dimladder.numerics.threshold_path import fraction_and_cost, threshold_path
from dimladder.problem.coordinates import ExponentialCoordinate, GaussianCoordinate, UniformCoordinate, draw
from dimladder.problem.truncation import geometry as g
from dimladder.theories.truncation import gradient_flows as gf
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.truncation.flow import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "truncation-flow.toml"
TIMES = [0.0, 0.3, 1.0, 2.5, 5.0, 9.0]
LAWS: dict[str, dict[str, Any]] = {
    "gaussian": {"kind": "coordinate", "law": "gaussian", "mean": -0.4, "std": 0.7, "target": 1.1},
    "uniform": {"kind": "coordinate", "law": "uniform", "low": -1.0, "high": 2.0, "target": 1.4},
    "exponential": {"kind": "coordinate", "law": "exponential", "origin": -0.5, "scale": 0.8, "target": 1.0},
}
LAWS["mixture"] = {
    "kind": "coordinate",
    "law": "mixture",
    "weights": [0.2, 0.3, 0.5],
    "components": [{k: v for k, v in law.items() if k != "kind"} for law in LAWS.values()],
}


def problem(data: dict[str, Any], start: float, times: list[float] = TIMES) -> dl.Problem:
    loaded = dl.replace(
        dl.load(RUN), {"data": data, "initial.threshold": start, "grid.time": times, "solver.rtol": 1e-11}
    )
    return loaded


# ---------------------------------------------------------------------------------------------------- one threshold


def test_the_run_file_gives_the_reference_curve() -> None:
    curve = dl.solve(dl.load(RUN))
    expected = [0.75, 1.074055, 1.555409, 1.772710, 1.853147, 1.893656, 1.899141, 1.899998]
    np.testing.assert_allclose(curve["threshold"], expected, atol=1e-6)
    np.testing.assert_allclose(curve["truncated_fraction"][[0, 3]], [0.1587, 0.9990], atol=5e-5)
    assert float(curve["truncated_fraction"][2]) == pytest.approx(0.9868, abs=5e-5)
    assert np.all(np.diff(curve["cost"]) < 0)


@pytest.mark.parametrize("name", sorted(LAWS))
def test_the_potential_generates_the_flow_and_equals_quadrature(name: str) -> None:
    """c' = F(t)(t - eta), from the printed expressions; F and c against numerical integration of the density."""
    system = dl.derive(problem(LAWS[name], 0.1))
    equations = system.build()
    ((threshold, velocity),) = equations.state.items()
    values = dict(zip(equations.parameters, system.parameter_values(), strict=True))
    for t in (-0.9, -0.2, 0.3, 1.7, 2.6):
        slope = equations.observables["cost"].subs(values).diff(threshold).subs(threshold, t)
        assert float(slope.evalf(30) + velocity.subs(values).subs(threshold, t).evalf(30)) == pytest.approx(
            0.0, abs=1e-14
        )
        z, eta = draw(problem(LAWS[name], 0.1).data, np.random.default_rng(0), 400_000)
        clipped = 0.5 * (np.maximum(z, t) - eta) ** 2
        cost = float(equations.observables["cost"].subs(values).subs(threshold, t).evalf())
        assert abs(clipped.mean() - cost) < 5 * clipped.std() / math.sqrt(z.size) + 1e-12


def test_laws_match_their_densities() -> None:
    densities = [
        (
            GaussianCoordinate(mean=0.3, std=0.5, target=1.0),
            lambda z: math.exp(-((z - 0.3) ** 2) / 0.5) / math.sqrt(0.5 * math.pi),
            (-6, 8),
        ),
        (UniformCoordinate(low=-0.5, high=1.5, target=1.0), lambda z: 0.5, (-0.5, 1.5)),
        (
            ExponentialCoordinate(origin=-0.2, scale=0.4, target=1.0),
            lambda z: math.exp(-(z + 0.2) / 0.4) / 0.4,
            (-0.2, 20),
        ),
    ]
    for law, density, (low, high) in densities:
        for t in (0.1, 0.9):
            expected = quad(
                lambda z, t=t, f=density: 0.5 * (max(z, t) - 1.0) ** 2 * f(z),
                low,
                high,
                points=[t],
                limit=200,
                epsabs=1e-13,
            )[0]
            assert float(law.potential(t, 1.0, *law.values())) == pytest.approx(expected, abs=1e-10)
            assert float(law.cdf(t, *law.values())) == pytest.approx(quad(density, low, t, epsabs=1e-13)[0], abs=1e-10)


@pytest.mark.parametrize("name", sorted(LAWS))
@pytest.mark.parametrize("start", [-0.45, 1.9])
def test_population_flow_is_the_limit_of_exact_empirical_flows(name: str, start: float) -> None:
    """Upwards and downwards; N = 2e5 points at five standard deviations N^-1/2 of an O(1) derivative."""
    p = problem(LAWS[name], start)
    curve = dl.solve(p)
    z, eta = draw(p.data, np.random.default_rng(3), 200_000)
    exact = threshold_path(z, eta, start, np.array(TIMES))
    assert np.abs(exact - curve["threshold"].values).max() < 5 / math.sqrt(200_000) * 2
    fraction, cost = fraction_and_cost(z, eta, exact)
    np.testing.assert_allclose(fraction, curve["truncated_fraction"], atol=0.02)
    np.testing.assert_allclose(cost, curve["cost"], atol=0.02)
    assert np.all(np.diff(curve["cost"].values) <= 1e-12)
    assert np.all(np.diff(cost) <= 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_event_driven_solution_equals_a_brute_force_integration(seed: int) -> None:
    """Mixed targets, both directions, rest at kinks: against Euler steps a thousand times shorter than the events."""
    rng = np.random.default_rng(seed)
    z, eta = np.sort(rng.standard_normal(12)), rng.standard_normal(12)
    start, step, steps = float(rng.uniform(-1, 2)), 1e-4, 60_000
    times = np.linspace(0, step * steps, 7)
    exact = threshold_path(z, eta, start, times)
    t, path = start, [start]
    for n in range(steps):
        t += step * np.where(z <= t, eta - t, 0.0).sum() / z.size
        if (n + 1) % (steps // 6) == 0:
            path.append(t)
    # First order in the step; a threshold resting on a kink chatters by one step.
    assert np.abs(exact - path).max() < 10 * step


def test_event_driven_solution_by_hand() -> None:
    # Two points, both with target 3: from t = 0.5 only z = 0 is truncated (rate 1/2) until t = 1, then rate 1.
    times = np.array([0.0, 0.2, 0.5, 2.0])
    first = 2 * math.log((3 - 0.5) / (3 - 1.0))
    expected = [3 - 2.5 * math.exp(-s / 2) if s < first else 3 - 2 * math.exp(-(s - first)) for s in times]
    np.testing.assert_allclose(threshold_path(np.array([0.0, 1.0]), np.full(2, 3.0), 0.5, times), expected, rtol=1e-14)
    # Nothing truncated: the plateau.
    assert threshold_path(np.array([0.0, 1.0]), np.full(2, 3.0), -0.1, times).tolist() == [-0.1] * 4
    # Downwards past a point, which is released: z = 1 (target -1) and z = 0 (target 0.5) from t = 1.2.
    path = threshold_path(np.array([0.0, 1.0]), np.array([0.5, -1.0]), 1.2, np.array([0.0, 50.0]))
    assert path[-1] == pytest.approx(0.5, abs=1e-9)


def test_empirical_problem_and_its_equations() -> None:
    values = [0.3, -0.2, 1.1, 0.6]
    curve = dl.solve(problem({"kind": "coordinate", "law": "empirical", "values": values, "target": 2.0}, 0.0))
    oracle = solve_ivp(
        lambda s, t: [np.mean(np.array(values) <= t[0]) * (2 - t[0])],
        (0, 9),
        [0.0],
        t_eval=TIMES,
        rtol=1e-9,
        atol=1e-11,
        max_step=2e-3,
    )
    np.testing.assert_allclose(curve["threshold"], oracle.y[0], atol=2e-4)
    text = dl.derive(problem({"kind": "coordinate", "law": "empirical", "values": values, "target": 2.0}, 0.0)).latex()
    assert "theta" in text
    for bad in (
        {"kind": "coordinate", "law": "empirical", "values": values},
        {"kind": "coordinate", "law": "empirical", "values": [], "target": 1.0},
        {**LAWS["gaussian"], "std": 0.0},
    ):
        with pytest.raises(dl.ConfigError):
            problem(bad, 0.0)


def test_deviations_of_finite_samples_fall_as_the_square_root() -> None:
    """Reference: mean sup error .0616 .0341 .0169 .00986 at N = 100, 400, 1600, 6400, 40 seeds (relative error of a
    mean about 8 %).
    """
    law = {"kind": "coordinate", "law": "gaussian", "mean": 1.0, "std": 0.25, "target": 1.9}
    p = problem(law, 0.75, list(np.linspace(0, 14, 57)))
    sizes, means, errors = [100, 400, 1600, 6400], [], []
    for size in sizes:
        streams = [np.random.default_rng([7, size, k]) for k in range(60)]
        sample = EXPERIMENT.run(p, size, streams, backend_for())
        deviation = np.asarray(sample.variables["sup_deviation"][1])
        means.append(deviation.mean())
        errors.append(deviation.std(ddof=1) / math.sqrt(60) / deviation.mean())
        # The mean path agrees with the population flow up to a bias O(1/N).
        paths = np.asarray(sample.variables["threshold"][1])
        se = paths.std(axis=0, ddof=1)[1:] / math.sqrt(60)
        gap = np.abs(paths.mean(axis=0) - dl.solve(p)["threshold"].values)[1:]
        assert np.all(gap < 4.5 * se + 3.0 / size)
    slope, covariance = np.polyfit(np.log(sizes), np.log(means), 1, w=1 / np.array(errors), cov="unscaled")
    assert abs(slope[0] + 0.5) < 4 * math.sqrt(covariance[0, 0])
    reference = np.array([0.0616, 0.0341, 0.0169, 0.00986])
    assert np.all(np.abs(np.array(means) / reference - 1) < 4 * np.hypot(errors, np.array(errors) * math.sqrt(1.5)))


def test_a_wrong_sign_is_seen_by_the_experiment() -> None:
    """Mutation: the flow towards the mirrored target is hundreds of standard errors away."""
    p = problem({"kind": "coordinate", "law": "gaussian", "mean": 1.0, "std": 0.25, "target": 1.9}, 0.75)
    wrong = dl.solve(dl.replace(p, {"data.target": -1.9}))["threshold"].values
    paths = np.asarray(
        EXPERIMENT.run(p, 1600, [np.random.default_rng(k) for k in range(16)], backend_for()).variables["threshold"][1]
    )
    z = np.abs(paths.mean(axis=0) - wrong)[1:] / (paths.std(axis=0, ddof=1)[1:] / 4)
    assert z.min() > 10


# -------------------------------------------------------------------------------------------------- stacks of layers


def random_stack(seed: int, layers: int = 3, q: int = 4, count: int = 40, metric: bool = False) -> gf.TruncationStack:
    rng = np.random.default_rng(seed)
    skew = rng.standard_normal((layers, q, q))
    a = rng.standard_normal((q, q))
    return gf.TruncationStack(
        exponential(skew - np.swapaxes(skew, 1, 2)),
        0.5 * rng.standard_normal((layers, q)),
        rng.standard_normal((q, count)),
        rng.standard_normal((q, count)),
        a.T @ a if metric else None,
    )


@pytest.mark.parametrize(("seed", "metric"), [(1, False), (2, False), (3, True)])
def test_velocities_equal_finite_differences(seed: int, metric: bool) -> None:
    """(E1), (E2) and, with a metric, (E6)."""
    stack = random_stack(seed, metric=metric)
    omega, drift = stack.velocities()
    layers, q = stack.offsets.shape
    step = 1e-6
    for index in np.ndindex(layers, q):
        move = np.zeros((layers, q))
        move[index] = step
        slope = (
            stack.at(stack.rotations, stack.offsets + move).cost()
            - stack.at(stack.rotations, stack.offsets - move).cost()
        ) / (2 * step)
        assert drift[index] == pytest.approx(-slope, abs=1e-8)
    for layer, a, b in np.ndindex(layers, q, q):
        if b < a:
            turn = np.zeros((layers, q, q))
            turn[layer, a, b], turn[layer, b, a] = step, -step
            ahead = stack.at(exponential(turn) @ stack.rotations, stack.offsets).cost()
            back = stack.at(exponential(-turn) @ stack.rotations, stack.offsets).cost()
            assert omega[layer, a, b] == pytest.approx(-(ahead - back) / (2 * step), abs=1e-8)
    assert np.abs(omega + np.swapaxes(omega, 1, 2)).max() < 1e-14


def test_weights_of_a_positive_diagonal_drop_out() -> None:
    """tau_{DR, DR beta} = tau_{R, R beta}: the reason the flow needs rotations only."""
    stack = random_stack(5)
    rng = np.random.default_rng(0)
    x = stack.inputs
    for r, beta in zip(stack.rotations, stack.offsets, strict=True):
        w = np.diag(rng.uniform(0.2, 5.0, 4)) @ r
        x = g.truncate(w, w @ beta, x)
    np.testing.assert_allclose(x, stack.truncated(), atol=1e-12)


def separated(seed: int) -> tuple[g.ClusteredData, gf.TruncationStack]:
    data = g.ball_clusters(3, [30, 40, 50], 6.0, 0.25, 0.5, seed)
    cones = g.cones(data)
    unit = np.full(3, 1 / math.sqrt(3))
    rotations = np.array([g.rotation(cones.directions[:, j], unit) for j in range(3)])
    targets = data.means + 1.6 * cones.directions
    return data, gf.TruncationStack(rotations, -data.means.T.copy(), data.inputs, targets[:, data.classes_of_points])


@pytest.mark.slow
@pytest.mark.parametrize("moving", [False, True])
def test_separated_clusters_collapse_and_relax_at_their_shares(moving: bool) -> None:
    """Reference costs (Q = L = 3); late rates N_l/N; the cost never rises; rotations stay orthogonal to 1e-12."""
    data, start = separated(5)
    times = np.array([0.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0])
    path = gf.flow(start, times, move_rotations=moving, rtol=1e-9, min_step=2e-3)
    fixed = [1.0577, 0.46583, 0.071055, 4.007e-3, 2.143e-5, None, 9.26e-10]
    joint = [1.058, None, None, 4.005e-3, 2.139e-5, 1.38e-7, 9.2e-10]
    for value, expected in zip(path.costs, joint if moving else fixed, strict=True):
        if expected is not None:
            # The reference gives two to four digits.
            assert value == pytest.approx(expected, rel=1e-2)
    assert np.all(np.diff(path.costs) < 0)
    assert path.orthogonality < 1e-12
    if not moving:
        gap = np.linalg.norm(path.offsets + start.targets[:, np.cumsum([0, 30, 40])].T, axis=2)
        rates = np.log(gap[4] / gap[5]) / 10.0
        np.testing.assert_allclose(rates, np.array(data.counts) / 120, atol=1e-4)
        groups = [
            start.at(path.rotations[2], path.offsets[2]).truncated()[:, data.classes_of_points == j] for j in range(3)
        ]
        assert max(float(np.ptp(x, axis=1).max()) for x in groups) < 1e-12
    else:
        assert 1e-3 < np.abs(path.rotations[-1] - start.rotations).max() < 2e-2


def test_the_cost_falls_along_any_flow() -> None:
    for seed in (11, 12):
        stack = random_stack(seed, layers=2, q=3, count=15, metric=seed == 12)
        path = gf.flow(stack, np.linspace(0, 1.5, 7), rtol=1e-6, min_step=2e-3)
        assert np.all(np.diff(path.costs) <= 1e-10)
        assert path.costs[-1] < path.costs[0]
        assert path.orthogonality < 1e-12


def test_one_coordinate_of_a_layer_follows_the_threshold_flow() -> None:
    """(E4): with R held, each rotated coordinate of one layer is its own threshold flow, solved exactly by events."""
    stack = random_stack(21, layers=1, q=3, count=25)
    times = np.linspace(0, 3, 4)
    path = gf.flow(stack, times, move_rotations=False, rtol=1e-6, min_step=3e-3)
    r = stack.rotations[0]
    for k in range(3):
        exact = threshold_path((r @ stack.inputs)[k], (r @ stack.targets)[k], -float((r @ stack.offsets[0])[k]), times)
        np.testing.assert_allclose(-(path.offsets[:, 0] @ r.T)[:, k], exact, atol=2e-3)


def test_fully_truncated_clusters_relax_exponentially_with_the_spectral_gap() -> None:
    """(E5), (E6) on a stack whose data all lie behind the cone; the late rate is share * smallest eigenvalue of W^T
    W.
    """
    rng = np.random.default_rng(6)
    r = g.rotation(rng.standard_normal(3), np.ones(3))
    w = np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    x = r.T @ (-5.0 + rng.uniform(0, 0.5, (3, 20)))
    beta, target = r.T @ np.full(3, 0.5), -(r.T @ np.full(3, 0.6))
    stack = gf.TruncationStack(r[None], beta[None], x, np.repeat(target[:, None], 20, axis=1), w.T @ w)
    times = np.array([0.0, 1.0, 5.0, 20.0, 60.0])
    path = gf.flow(stack, times, move_rotations=False)
    np.testing.assert_allclose(path.offsets[:, 0], gf.collapsed_offset(beta, target, 1.0, times, w.T @ w), atol=1e-8)
    gap = gf.collapsed_offset(beta, target, 0.4, np.array([200.0, 210.0]), w.T @ w) + target
    # Far out only the slowest mode is left.
    lengths = np.linalg.norm(gap, axis=1)
    assert math.log(lengths[0] / lengths[1]) / 10 == pytest.approx(gf.late_rate(0.4, w), rel=1e-6)


def test_output_space_flow_is_a_straight_line_and_parameters_can_follow_it() -> None:
    """A tanh network moved by the adapted direction: its outputs follow x(s) = y + exp(-s/n)(x(0) - y) (A9)."""
    rng = np.random.default_rng(9)
    points, hidden = 6, 40
    inputs = rng.standard_normal((2, points))
    labels = rng.standard_normal(points)
    theta = np.concatenate(
        [rng.standard_normal(2 * hidden), rng.standard_normal(hidden), rng.standard_normal(hidden) / math.sqrt(hidden)]
    )

    def outputs(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, b, a = p[: 2 * hidden].reshape(hidden, 2), p[2 * hidden : 3 * hidden], p[3 * hidden :]
        s = np.tanh(w @ inputs + b[:, None])
        back = a[:, None] * (1 - s**2)
        return a @ s, np.concatenate([back[:, None, :] * inputs[None], back[:, None], s[:, None]], axis=1).transpose(
            2, 0, 1
        ).reshape(points, -1)

    # The Jacobian above orders (w0, w1, b, a) unit by unit; bring the parameters into the same order.
    order = np.array([[2 * k, 2 * k + 1, 2 * hidden + k, 3 * hidden + k] for k in range(hidden)]).ravel()

    def velocity(_: float, p: np.ndarray) -> np.ndarray:
        x, jacobian = outputs(p)
        out = np.empty_like(p)
        out[order] = gf.adapted_direction(jacobian, (x - labels) / points)
        return out

    times = [0.0, 1.0, 3.0, 6.0]
    path = solve_ivp(velocity, (0, 6), theta, t_eval=times, rtol=1e-9, atol=1e-11)
    start = outputs(theta)[0]
    expected = gf.output_path(start[None], labels[None], np.array(times))[:, 0]
    np.testing.assert_allclose([outputs(p)[0] for p in path.y.T], expected, atol=2e-8)
    jacobian = outputs(theta)[1]
    plain = gf.adapted_direction(jacobian, start - labels, mixing=0.0)
    np.testing.assert_allclose(plain, -jacobian.T @ (start - labels))


def test_rotation_integrator_has_order_five_and_stays_on_the_group() -> None:
    """A rigid rotation with time-dependent axis: global error against tolerance, and against a fine scipy solution."""

    def field(t: float, r: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = np.cos(t), 0.7 * np.sin(2 * t), 1.0 + y[0]
        return np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]]), np.array([-y[0] + r[0, 1]])

    def flat(t: float, v: np.ndarray) -> np.ndarray:
        omega, dy = field(t, v[:9].reshape(3, 3), v[9:])
        return np.concatenate([(omega @ v[:9].reshape(3, 3)).ravel(), dy])

    times = np.array([0.0, 4.0])
    oracle = solve_ivp(
        flat, (0, 4), np.concatenate([np.eye(3).ravel(), [0.3]]), rtol=1e-12, atol=1e-13, method="DOP853"
    ).y[:, -1]
    errors, steps = [], []
    for rtol in (1e-5, 1e-7, 1e-9):
        result = integrate(field, np.eye(3), np.array([0.3]), times, rtol=rtol, atol=rtol)
        assert result.status == "success"
        assert result.stats["orthogonality"] < 1e-12
        assert defect(result.rotations) < 1e-13
        errors.append(np.abs(np.concatenate([result.rotations[-1].ravel(), result.vectors[-1]]) - oracle).max())
        steps.append(result.stats["steps"])
    assert errors[-1] < 1e-7
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order > 4.3
    stopped = integrate(field, np.eye(3), np.array([0.3]), times, rtol=1e-9, max_steps=5)
    assert stopped.status == "max-steps"
    assert len(stopped.t) == 1
