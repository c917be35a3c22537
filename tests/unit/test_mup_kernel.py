"""The march's parts: causal sampling, adjoint responses, and the printed equations against the kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dimladder as dl
from dimladder.errors import SolveError
from dimladder.numerics.causal import CausalGaussian
from dimladder.problem import activation
from dimladder.problem.training import Training, derivatives, training_of
from dimladder.theories.mup import equations, responses, revealed
from dimladder.theories.mup.initial_kernels import initial_kernels
from dimladder.theories.mup.march import March, Nodes
from dimladder.theories.mup.responses import ResponseMarch
from dimladder.theories.mup.revealed import RevealedMarch, Weights
from dimladder.theories.mup.sampling import dimensions, sampled_nodes

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def training(layers=3, times=4, samples=2, formula="tanh(x) + 0.2*x", test_samples=0, eta=0.7, **student) -> Training:
    return training_of(
        dl.load(
            RUNS / "mup-tanh.toml",
            {
                "data.samples": samples, "data.test_samples": test_samples,
                "student.hidden_layers": layers, "student.activation": formula,
                "algorithm.steps": times - 1, "algorithm.learning_rate": eta, **student,
            },
        )
    )  # fmt: skip


def random_nodes(run: Training, samples: int, seed: int = 0) -> list[Nodes]:
    generator = np.random.default_rng(seed)
    weights = generator.random(samples) + 0.5
    return [
        Nodes(generator.normal(size=(u, samples)), generator.normal(size=(r, samples)), weights / weights.sum())
        for u, r in dimensions(run)
    ]


class TestCausalGaussian:
    def test_factor_reproduces_the_covariance_and_pivots_are_schur_complements(self):
        root = np.random.default_rng(1).normal(size=(9, 9))
        covariance = root @ root.T
        process = CausalGaussian(9, 9)
        for t in range(3):
            rows, past = slice(3 * t, 3 * t + 3), slice(0, 3 * t)
            pivots = process.extend(covariance[rows, past], covariance[rows, rows])
            known = covariance[past, past]
            schur = covariance[rows, rows] - covariance[rows, past] @ np.linalg.solve(known, covariance[past, rows])
            assert pivots == pytest.approx(np.linalg.eigvalsh(schur), rel=1e-9)
        factor = process.draw(9, np.eye(9))
        assert factor @ factor.T == pytest.approx(covariance, abs=1e-12 * np.trace(covariance))

    def test_repeated_rows_are_drawn_identically(self):
        root = np.random.default_rng(2).normal(size=(4, 2))
        covariance = np.tile(root @ root.T, (3, 3))
        process = CausalGaussian(12, 12)
        normals = np.random.default_rng(3).normal(size=(12, 50))
        draws = []
        for t in range(3):
            rows = slice(4 * t, 4 * t + 4)
            process.extend(covariance[rows, : 4 * t], covariance[rows, rows])
            draws.append(process.draw(4, normals))
        assert process.rank == 2
        assert draws[1] == pytest.approx(draws[0], abs=1e-10)
        assert draws[2] == pytest.approx(draws[0], abs=1e-10)

    def test_state_goes_round(self):
        root = np.random.default_rng(4).normal(size=(6, 6))
        covariance = root @ root.T
        one, two = CausalGaussian(6, 6), CausalGaussian(6, 6)
        one.extend(np.zeros((3, 0)), covariance[:3, :3])
        two.restore({k: v.copy() for k, v in one.state().items()})
        for process in (one, two):
            process.extend(covariance[3:, :3], covariance[3:, 3:])
        assert np.array_equal(one.draw(6, np.eye(6)), two.draw(6, np.eye(6)))


def compiled(program):
    out = []
    for symbol, rule in program:
        needed = sorted(rule.atoms(sp.Indexed), key=str)
        plain = [sp.Dummy(f"v{i}") for i in range(len(needed))]
        out.append((symbol, needed, sp.lambdify(plain, rule.xreplace(dict(zip(needed, plain, strict=True))))))
    return out


def follow(program, given: dict) -> dict:
    """Evaluate a straight-line program on arrays."""
    known = dict(given)
    for symbol, needed, function in program:
        known[symbol] = function(*(known[s] for s in needed))
    return known


@pytest.mark.parametrize(("times", "samples"), [(4, 1), (3, 2)])
def test_printed_equations_are_what_the_march_computes(times, samples):
    """Evaluate the printed sums, and their derivatives by complex steps, against fields and responses."""
    formula = "tanh(x) + 0.2*x"
    run = training(times=times, samples=samples, formula=formula)
    march = ResponseMarch(run, random_nodes(run, 7), chunk=3, exact_start=False)
    out = march.run()
    program = compiled(equations.unrolled(activation(formula).sympy(x=sp.Symbol("x", real=True)), times, samples))
    pairs = [(mu, t) for t in range(times) for mu in range(1, samples + 1)]
    k, tiny = times * samples, 1e-40
    time = np.arange(k) // samples
    earlier = time[:, None] > time[None, :]
    for index, node in enumerate(march.nodes):
        first, last = index == 0, index == run.layers - 1
        phi_below = np.tile(run.gram, (times, times)) if first else out.phi[index - 1]
        a_below = np.zeros((k, k)) if first else out.a[index - 1]
        g_above = np.ones((k, k)) if last else out.g[index + 1]
        b_above = np.zeros((k, k)) if last else out.b[index]
        rates = out.rates.ravel()
        c = np.where(earlier, a_below + phi_below * rates, 0.0)
        d = b_above + np.where(earlier, g_above * rates, 0.0)
        u = np.tile(march._inputs, (times, 1)) if first else march._u[index].draw(k, node.forward)
        r = np.tile(node.backward[:1], (k, 1)) if last else march._r[index].draw(k, node.backward)
        given = dict(zip([equations.u[p] for p in pairs], u, strict=True))
        given |= dict(zip([equations.r[p] for p in pairs], r, strict=True))
        for i, (mu, t) in enumerate(pairs):
            given |= {equations.C[mu, nu, t, s]: c[i, j] for j, (nu, s) in enumerate(pairs)}
            given |= {equations.D[mu, nu, t, s]: d[i, j] for j, (nu, s) in enumerate(pairs)}
        fields, weights = follow(program, given), node.weights
        assert march.x[index] == pytest.approx(np.array([fields[equations.x[p]] for p in pairs]), rel=1e-10, abs=1e-12)
        assert march.g[index] == pytest.approx(np.array([fields[equations.g[p]] for p in pairs]), rel=1e-10, abs=1e-12)
        for column, q in enumerate(pairs):
            for drive, field, response in (
                (equations.r, equations.x, None if last else out.a[index]),
                (equations.u, equations.g, None if first else out.b[index - 1]),
            ):
                if response is not None:
                    kicked = follow(program, given | {drive[q]: given[drive[q]] + 1j * tiny})
                    slopes = [np.imag(kicked[field[p]]) / tiny @ weights for p in pairs]
                    assert response[:, column] == pytest.approx(np.array(slopes), rel=1e-9, abs=1e-12)
    assert out.f[-1] == pytest.approx((march.readout * march.nodes[-1].weights) @ march.x[-1][-samples:].T, rel=1e-12)


def test_equal_time_gradient_response():
    """B^L(t, t) = <phi'' z> on the diagonal, and zero off it (the readout has no response)."""
    run = training(layers=2, times=3, samples=3)
    march = ResponseMarch(run, random_nodes(run, 64))
    out = march.run()
    for t in range(3):
        rows = slice(3 * t, 3 * t + 3)
        mean = march._curve[1][rows] @ march.nodes[1].weights
        assert out.b[0][rows, rows] == pytest.approx(np.diag(mean), abs=1e-14)


def test_chunks_float32_and_test_samples_do_not_change_training():
    run = training(layers=3, times=5, samples=3)
    nodes = random_nodes(run, 200)
    whole = ResponseMarch(run, nodes, chunk=200).run()
    pieces = ResponseMarch(run, nodes, chunk=37).run()
    single = ResponseMarch(run, nodes, response_dtype="float32").run()
    assert pieces.f == pytest.approx(whole.f, rel=1e-10, abs=1e-13)
    assert single.f == pytest.approx(whole.f, abs=2e-5)
    assert not np.array_equal(single.f, whole.f)


def test_held_out_samples_leave_the_others_alone():
    """Samples with p = 0 are carried along: training agrees to sampling error with a run without them."""
    alone, along = training(layers=2, times=5, samples=2), training(layers=2, times=5, samples=2, test_samples=2)
    f = [
        np.mean(
            [ResponseMarch(r, sampled_nodes(r, 2048, np.random.default_rng(s))).run().f[:, :2] for s in range(4)],
            axis=0,
        )
        for r in (alone, along)
    ]
    assert f[1] == pytest.approx(f[0], abs=4e-3)
    together = training(layers=2, times=5, samples=4)
    weights = np.tile([0.5, 0.5, 0.0, 0.0], (5, 1))
    masked = replace(together, weights=weights, labels=np.r_[along.labels])
    full = ResponseMarch(masked, random_nodes(masked, 300)).run()
    short_nodes = [
        Nodes(
            n.forward,
            n.backward if len(n.backward) == 1 else n.backward.reshape(5, 4, 300)[:, :2].reshape(10, 300),
            n.weights,
        )
        for n in random_nodes(masked, 300)
    ]
    short = ResponseMarch(along, short_nodes).run()
    # The last layer has no backward Gaussian of its own, the first one draws r(t) for two samples instead of four.
    assert short.f[0] == pytest.approx(full.f[0], abs=1e-12)
    assert short.phi[0][:4, :4] == pytest.approx(full.phi[0][:4, :4], abs=1e-12)


def test_one_hidden_layer_has_no_responses_and_needs_no_second_derivative():
    run = training(layers=1, times=4, samples=2, formula="relu(x)")
    with_responses, without = (
        ResponseMarch(run, random_nodes(run, 100), responses=flag).run() for flag in (True, False)
    )
    assert np.array_equal(with_responses.f, without.f)


def test_derivatives_by_sympy_against_finite_differences():
    grid, step = np.linspace(-3, 3, 41), 1e-5
    for name in (
        "tanh",
        "erf",
        "sigmoid",
        "silu",
        "gelu",
        "softplus",
        "sin",
        "linear",
        "tanh(x) + 0.1*x",
        "x*exp(-x**2)",
    ):
        evaluate = derivatives(activation(name))
        value, first, second = evaluate(grid)
        up, down = evaluate(grid + step), evaluate(grid - step)
        assert value == pytest.approx(activation(name).evaluate(np, x=grid), abs=1e-14)
        assert first == pytest.approx((up[0] - down[0]) / (2 * step), abs=1e-8)
        assert second == pytest.approx((up[1] - down[1]) / (2 * step), abs=1e-8)


class TestInitialKernels:
    gram = training().gram

    @pytest.mark.parametrize("name", ["erf", "linear"])
    def test_closed_form_is_the_quadrature(self, name):
        closed, numeric = (initial_kernels(self.gram, 3, activation(name), closed_form=flag) for flag in (True, False))
        assert numeric.tangent == pytest.approx(closed.tangent, rel=1e-12)

    def test_relu_arc_cosine_against_monte_carlo(self):
        kernels = initial_kernels(self.gram, 1, activation("relu"))
        u = np.linalg.cholesky(self.gram) @ np.random.default_rng(0).normal(size=(2, 400_000))
        x, slope = np.maximum(u, 0), (u > 0).astype(float)
        # standard errors of the two means: about 1e-3 and 8e-4
        assert kernels.phi[1] == pytest.approx(x @ x.T / u.shape[1], abs=5e-3)
        assert kernels.g[0] == pytest.approx(slope @ slope.T / u.shape[1], abs=4e-3)

    def test_kinks_without_closed_form_are_refused(self):
        with pytest.raises(ValueError, match="kinks"):
            initial_kernels(self.gram, 1, activation("hard-tanh"))


def weights(width, directions, generator):
    return Weights(*(generator.standard_normal((directions, width)) for _ in range(2)))


class TestRevealedWeights:
    def test_products_are_consistent(self):
        """One matrix stands behind every product: bilinear forms agree from both sides, linear relations hold."""
        generator = np.random.default_rng(0)
        matrix = weights(60, 20, generator)
        x, v = generator.normal(size=(3, 60)), generator.normal(size=(4, 60))
        wx, _ = matrix.forward(x)
        wv, _ = matrix.backward(v)
        assert v @ wx.T == pytest.approx(wv @ x.T, rel=1e-10)
        y = generator.normal(size=(2, 60))
        wy, new = matrix.forward(np.vstack([y, [1.0, -2.0, 0.5] @ x]))
        assert v @ wy[:2].T == pytest.approx(wv @ y.T, rel=1e-10)
        assert wy[2] == pytest.approx([1.0, -2.0, 0.5] @ wx, rel=1e-10)
        assert new[0] < 1e-20 < 0.1 < new[1]
        for basis, count in zip(matrix.bases, matrix.count, strict=True):
            assert basis[:count] @ basis[:count].T / 60 == pytest.approx(np.eye(count), abs=1e-13)

    def test_repeated_directions_reveal_nothing_new(self):
        matrix = weights(30, 5, np.random.default_rng(1))
        x = np.ones((1, 30))
        first, _ = matrix.forward(x)
        assert matrix.forward(np.vstack([x, 2 * x]))[0] == pytest.approx(np.vstack([first, 2 * first]), rel=1e-14)
        assert list(matrix.count) == [1, 0]

    def test_entries_are_standard_normal_over_the_root_of_the_width(self):
        full = weights(200, 200, np.random.default_rng(2)).forward(np.eye(200))[0] * np.sqrt(200)
        # 4e4 entries: five standard errors
        assert abs(full.mean()) < 5 / 200
        assert abs(full.var() - 1) < 5 * np.sqrt(2) / 200

    def test_a_forgotten_direction_is_seen(self, monkeypatch):
        """What the rows of W share with its columns is the response of the theory: without it, no agreement."""
        run = training(layers=2, times=6, samples=2)

        def outputs(seed):
            return np.mean(
                [
                    RevealedMarch(run, sampled_nodes(run, 1024, np.random.default_rng([seed, i]))).run().f
                    for i in range(4)
                ],
                axis=0,
            )

        exact = np.mean(
            [ResponseMarch(run, sampled_nodes(run, 1024, np.random.default_rng([9, i]))).run().f for i in range(4)],
            axis=0,
        )
        assert np.abs(outputs(1) - exact).max() < 4e-3
        whole = Weights._apply

        def forgetful(self, side, rows):
            counts = self.count.copy()
            self.count[1 - side] = 0
            found = whole(self, side, rows)
            self.count[1 - side] = counts[1 - side]
            return found

        monkeypatch.setattr(Weights, "_apply", forgetful)
        assert np.abs(outputs(1) - exact).max() > 0.04


class TestRuns:
    small = {"solver.samples": 128, "solver.scrambles": 3, "algorithm.steps": 7}  # noqa: RUF012

    def problem(self, **extra):
        return dl.load(RUNS / "mup-tanh.toml", {**self.small, **extra})

    def test_repeatable_by_seed_and_independent_of_workers(self):
        one, two = dl.solve(self.problem()), dl.solve(self.problem(), workers=3)
        other = dl.solve(self.problem(), seed=1)
        for name in one:
            assert np.array_equal(one[name].values, two[name].values), name
        assert not np.array_equal(one["f"].values, other["f"].values)

    @pytest.mark.parametrize("method", ["particles", "responses"])
    def test_interrupted_march_goes_on_bit_for_bit(self, method, tmp_path, monkeypatch):
        problem = self.problem(**{"solver.method": method})
        whole = dl.solve(problem)
        step, calls = March._step, []

        def failing(self, t):
            calls.append(t)
            if len(calls) == 13:
                raise KeyboardInterrupt
            step(self, t)

        options = {"checkpoint": str(tmp_path), "checkpoint_every": 3}
        monkeypatch.setattr(March, "_step", failing)
        with pytest.raises(KeyboardInterrupt):
            dl.solve(problem, **options)
        assert len(list(tmp_path.glob("*.npz"))) == 2
        monkeypatch.setattr(March, "_step", step)
        resumed = dl.solve(problem, **options)
        assert np.array_equal(resumed["f"].values, whole["f"].values)
        assert np.array_equal(resumed["gradient_kernel"].values, whole["gradient_kernel"].values)
        assert not list(tmp_path.glob("*.npz"))

    def test_memory_limit_is_respected_and_the_estimate_is_right(self):
        with pytest.raises(SolveError) as caught:
            dl.solve(self.problem(), samples=4096, memory_limit=0.001)
        assert caught.value.status == "memory"
        run = training(layers=3, times=6, samples=3)
        nodes = random_nodes(run, 500)
        march = ResponseMarch(run, nodes)
        march.run()
        own = sum(n.forward.nbytes + n.backward.nbytes for n in nodes)
        held = sum(v.nbytes for v in march.state().values()) + own
        assert responses.memory(run, 500) == pytest.approx(held, rel=0.1)
        particles = RevealedMarch(run, nodes)
        # Images take the place of the nodes.
        held = sum(v.nbytes for v in particles.state().values())
        assert revealed.memory(run, 500) == pytest.approx(held, rel=0.1)

    def test_divergence_is_an_error_with_time_and_partial_result(self):
        with pytest.raises(SolveError) as caught:
            dl.solve(dl.load(RUNS / "mup-linear.toml", {"algorithm.learning_rate": 30.0}))
        assert caught.value.status == "diverged"
        assert "t = " in str(caught.value)
        finished = caught.value.partial
        assert finished is not None
        assert np.isfinite(finished["loss"].values).all()
        assert 1 < finished.dataset.sizes["time"] < 25

    def test_single_scramble_has_no_error_bar(self):
        curve = dl.solve(self.problem(), scrambles=1)
        assert np.isnan(curve["loss_se"].values).all()

    def test_space_time_output(self):
        curve = dl.solve(self.problem(), output="space-time")
        assert curve["feature_kernel_history"].shape == (2, 8, 4, 8, 4)
        last = curve["feature_kernel_history"].values[:, -1, :, -1]
        assert np.array_equal(last, curve["feature_kernel"].values)
        assert not curve["gradient_response"].values[0].any()
        assert curve["gradient_response"].values[1].any()
