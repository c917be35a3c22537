"""Truncation maps, cones, cumulative parameters and the checker of assumptions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from dimladder.errors import DomainError
from dimladder.problem.truncation import geometry as g
from dimladder.problem.truncation.networks import Network, gradient, relu, squared_cost


def clusters(classes: int, seed: int | None = None, **other: float) -> g.ClusteredData:
    settings = {"separation": 3.0, "mean_jitter": 0.25, "radius": 0.05 if classes == 5 else 0.1} | other
    counts = [30 + 10 * j for j in range(classes)]
    return g.ball_clusters(classes, counts, seed=classes if seed is None else seed, **settings)


def test_the_generator_is_deterministic_and_does_what_it_says() -> None:
    first, second = clusters(3), clusters(3)
    assert all(np.array_equal(a, b) for a, b in zip(first.points, second.points, strict=True))
    rng = np.random.default_rng(3)
    means = 3.0 * np.eye(3) + 0.25 * rng.standard_normal((3, 3))
    np.testing.assert_allclose(first.means, means, atol=1e-14)
    assert not np.array_equal(clusters(3, seed=4).labels, first.labels)
    # Uniform in a ball of radius r in R^Q: covariance r^2/(Q+2), here to 5 standard errors over many points.
    many = g.ball_clusters(3, [20000] * 3, 3.0, 0.0, 0.5, 0)
    assert abs(np.trace(many.covariances[0]) / 3 - 0.25 / 5) < 5 * 0.05 * math.sqrt(2 / 60000)


@pytest.mark.parametrize(
    ("classes", "delta", "opening", "theta", "stretch"),
    [
        (2, 0.10663, 12.12, 96.06, 0.8994),
        (3, 0.10763, 87.71, 133.85, 0.3012),
        (4, 0.11106, 88.95, 134.48, 0.2422),
        (5, 0.05381, 91.28, 135.64, 0.2038),
    ],
)
def test_geometry_of_reference_clusters(
    classes: int, delta: float, opening: float, theta: float, stretch: float
) -> None:
    data = clusters(classes)
    cones = g.cones(data)
    assert data.radius == pytest.approx(delta, abs=6e-6)
    assert math.degrees(cones.openings.max()) == pytest.approx(opening, abs=6e-3)
    assert math.degrees(cones.theta) == pytest.approx(theta, abs=6e-3)
    assert cones.stretch == pytest.approx(stretch, abs=6e-5)
    assert not cones.violations


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_cones_hold_the_balls_they_should(classes: int) -> None:
    """The opening and the reach are largest possible: the balls touch the cone, found by sampling directions on
    their surface.
    """
    data = clusters(classes, radius=0.3)
    cones = g.cones(data)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((classes, 20000))
    directions /= np.linalg.norm(directions, axis=0)
    tightest_opening, tightest_reach = 0.0, 0.0
    for j in range(classes):
        for k in set(range(classes)) - {j}:
            ball = data.means[:, [k]] + 4 * data.radius * directions - data.means[:, [j]]
            cosine = cones.directions[:, j] @ ball / np.linalg.norm(ball, axis=0)
            tightest_opening = max(tightest_opening, 2 * math.acos(cosine.min()))
            near = (
                data.means[:, [k]]
                + data.radius * directions
                - data.means[:, [j]]
                - cones.reach * cones.directions[:, [j]]
            )
            cosine = cones.directions[:, j] @ near / np.linalg.norm(near, axis=0)
            tightest_reach = max(tightest_reach, 2 * math.acos(cosine.min()))
    assert tightest_opening <= cones.openings.max() + 1e-12
    assert tightest_opening == pytest.approx(cones.openings.max(), rel=5e-3)
    assert tightest_reach <= cones.theta + 1e-12
    assert tightest_reach == pytest.approx(cones.theta, rel=5e-3)


def test_the_stretch_maps_the_cone_into_the_orthant() -> None:
    data = clusters(3)
    cones = g.cones(data)
    hidden = g.hidden_layers(data, cones, g.default_shifts(cones))
    rng = np.random.default_rng(1)
    for j in range(3):
        f = cones.directions[:, j]
        v = rng.standard_normal((3, 5000))
        v -= np.outer(f, f @ v)
        v /= np.linalg.norm(v, axis=0)
        edge = math.cos(cones.theta / 2) * f[:, None] + math.sin(cones.theta / 2) * v
        image = hidden.weights[j] @ edge
        assert image.min() > -1e-12
        assert image.min() < 1e-2  # and no narrower than it must be
        assert np.linalg.norm(hidden.weights[j], 2) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_rotation_is_proper_even_at_the_antipode(n: int) -> None:
    rng = np.random.default_rng(n)
    a = rng.standard_normal(n)
    for b in (rng.standard_normal(n), a, -a, -a + 1e-9 * rng.standard_normal(n), -a + 1e-4 * rng.standard_normal(n)):
        r = g.rotation(a, b)
        assert np.abs(r @ r.T - np.eye(n)).max() < 1e-13
        assert np.linalg.det(r) == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(r @ a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-13)


def test_native_and_cumulative_parameters_are_inverse() -> None:
    rng = np.random.default_rng(2)
    w = [rng.standard_normal((4, 4)) for _ in range(5)]
    b = [rng.standard_normal(4) for _ in range(5)]
    back_w, back_b = g.native(*g.cumulative(w, b))
    for a, c in zip((*w, *b), (*back_w, *back_b), strict=True):
        np.testing.assert_allclose(a, c, atol=1e-10)


def test_a_network_is_a_chain_of_truncations() -> None:
    """X^(l) = W^(l) X^(tau,l) + b^(l) for arbitrary parameters: Prop. 2.2."""
    rng = np.random.default_rng(3)
    w = [np.eye(4) + 0.3 * rng.standard_normal((4, 4)) for _ in range(4)]
    b = [0.5 * rng.standard_normal(4) for _ in range(4)]
    x = rng.standard_normal((4, 50))
    total_w, total_b = g.cumulative(w, b)
    tau, layer = x, x
    for l in range(4):
        tau = g.truncate(total_w[l], total_b[l], tau)
        layer = relu(w[l] @ layer + b[l][:, None])
        np.testing.assert_allclose(total_w[l] @ tau + total_b[l][:, None], layer, atol=1e-12)
    # Scaling invariance of the truncation map, (2.66).
    np.testing.assert_allclose(g.truncate(w[0], b[0], x), g.truncate(7.5 * w[0], 7.5 * b[0], x), atol=1e-13)


def test_a_rectangular_truncation_projects_inside_its_cone_and_collapses_behind_it() -> None:
    """Lemma 3.4 of arXiv:2405.07098: W^+ W x on p + C[h], W^+ W p on p + C[-h]."""
    rng = np.random.default_rng(4)
    m, k = 5, 3
    unit = np.full(k, 1 / math.sqrt(k))
    along = np.outer(unit, unit)
    stretch = along + 0.4 * (np.eye(k) - along)
    turn = np.linalg.qr(rng.standard_normal((m, m)))[0]
    w = stretch @ turn[:k]
    h = np.linalg.pinv(w) @ unit
    p = rng.standard_normal(m)
    b = -w @ p
    x = p[:, None] + h[:, None] + 0.05 * rng.standard_normal((m, 40))
    assert (w @ x + b[:, None]).min() > 0
    projector = np.linalg.pinv(w) @ w
    np.testing.assert_allclose(g.truncate(w, b, x), projector @ x, atol=1e-12)
    behind = 2 * p[:, None] - x
    np.testing.assert_allclose(g.truncate(w, b, behind), np.repeat((projector @ p)[:, None], 40, axis=1), atol=1e-12)


def test_violations_name_the_cluster_and_the_condition() -> None:
    data = clusters(3, radius=0.8)
    found = g.cones(data)
    assert {v.condition for v in found.violations} >= {"radius", "opening", "interval"}
    with pytest.raises(DomainError, match="cluster 2"):
        found.require()
    # One class moved onto another: separation fails for exactly these two.
    points = list(clusters(3).points)
    points[1] = points[0] + 0.2
    found = g.cones(g.ClusteredData(tuple(points), np.eye(3)))
    assert {v.cluster for v in found.violations if v.condition == "separation"} == {0, 1}
    dependent = np.eye(3)
    dependent[:, 2] = dependent[:, 0]
    found = g.cones(g.ClusteredData(clusters(3).points, dependent))
    assert [v.condition for v in found.violations] == ["independent labels"]


def test_bad_data_and_bad_networks_are_refused() -> None:
    data = clusters(3)
    with pytest.raises(DomainError, match="two classes"):
        g.ClusteredData((np.ones((2, 3)),), np.eye(1))
    with pytest.raises(DomainError, match="square"):
        g.ClusteredData(data.points, np.eye(2))
    with pytest.raises(DomainError, match="finite"):
        g.ClusteredData((np.full((2, 3), np.nan), np.ones((2, 3))), np.eye(2))
    with pytest.raises(DomainError, match="as many input dimensions"):
        g.cones(g.ClusteredData(tuple(np.vstack([x, x[:1]]) for x in data.points), np.eye(3)))
    with pytest.raises(DomainError, match="2 layers for 3 classes"):
        g.explicit_minimiser(data, 2)
    with pytest.raises(DomainError, match="cluster 1"):
        g.explicit_minimiser(data, shifts=[-0.8, -0.1, -0.8])


def test_backpropagation_equals_finite_differences() -> None:
    rng = np.random.default_rng(5)
    sizes = [3, 4, 4, 2]
    w = [rng.standard_normal((m, n)) for n, m in pairwise(sizes)]
    b = [rng.standard_normal(m) for m in sizes[1:]]
    x, y, weights = rng.standard_normal((3, 9)), rng.standard_normal((2, 9)), rng.random(9)
    grad_w, grad_b = gradient(Network(tuple(w), tuple(b)), x, y, weights)
    step = 1e-6
    for array, slope in zip((*w, *b), (*grad_w, *grad_b), strict=True):
        for index in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                array[index] += sign * step
                values.append(squared_cost(Network(tuple(w), tuple(b)), x, y, weights))
                array[index] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope[index], abs=1e-6)
