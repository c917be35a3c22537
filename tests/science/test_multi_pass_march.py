"""Training on one data set in revealed directions: references, closed form, responses, exact averages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from multi_pass_cases import REFERENCE, SQUARE, linear_case, reference_case

from dimladder.problem import Expression
from dimladder.problem.descent import Descent
from dimladder.symbolic.gaussian import Law, average_expression
from dimladder.theories.multi_pass import march as march_module
from dimladder.theories.multi_pass import update
from dimladder.theories.multi_pass.averages import FreshData
from dimladder.theories.multi_pass.closed import solve_flow, solve_linear, solve_spectral
from dimladder.theories.multi_pass.equations import Terms, linear_steps, sample_gradient
from dimladder.theories.multi_pass.march import March, Trajectory
from dimladder.theories.multi_pass.model import Model
from dimladder.theories.multi_pass.responses import solve_responses
from dimladder.theories.multi_pass.start import draw

STANDARD_ERRORS = 4.0


def marched(descent: Descent, model: Model, samples: int, scrambles: int = 8, seed: int = 0) -> list[Trajectory]:
    out = []
    for i in range(scrambles):
        particles = draw(descent, model, samples, np.random.default_rng([seed, i]))
        march = March(descent, particles, model.module().respond)
        march.run()
        out.append(march.trajectory())
    return out


def mean_and_se(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(values)
    return array.mean(axis=0), array.std(axis=0, ddof=1) / np.sqrt(len(array))


def label_moments(model: Model, descent: Descent) -> Any:
    return FreshData(model, descent.target_gram[0]).label_moments


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_reference_values(name: str) -> None:
    descent, model = reference_case(name)
    runs, expected = marched(descent, model, 8192), REFERENCE[name]
    at = expected["t"]
    found = {
        "train_loss": [r.train_loss[at] for r in runs],
        "Q": [r.grams()[at, 0].reshape(len(at), -1) for r in runs],
        "M": [r.overlaps[at, 0].reshape(len(at), -1) for r in runs],
        "a": [r.readouts[at] for r in runs],
    }
    for key, values in found.items():
        mean, se = mean_and_se(values)
        error = np.hypot(se, np.array(expected[f"{key}_se"])) + 1e-9
        assert np.abs((mean - np.array(expected[key])) / error).max() < STANDARD_ERRORS, key


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_fresh_averages_are_exact(name: str) -> None:
    """At the reference order parameters, to the rounding of their six digits."""
    descent, model = reference_case(name)
    fresh, expected, k = FreshData(model, descent.target_gram[0]), REFERENCE[name], descent.students
    for i in range(len(expected["t"])):
        gram, overlap = np.array(expected["Q"][i]).reshape(k, k), np.array(expected["M"][i]).reshape(k, -1)
        errors = fresh.errors(gram, overlap, np.array(expected["a"][i]), np.random.default_rng(0))
        for key in ("test_loss", "classification_error"):
            assert key not in expected or errors[key] == pytest.approx(expected[key][i], abs=2e-6)


@pytest.mark.parametrize(
    ("case", "generalization_error", "train_loss"),
    [
        ((2.0, 0.5, 0.1, 0.5), (0.366875, 0.12324151, 0.08836665, 0.08838843),
         (0.2621875, 0.09044998, 0.07105715, 0.07035154)),
        ((0.5, 0.3, 0.0, 0.5), (0.6925, 0.59380254, 0.61093483, 0.6242424),
         (0.2325, 0.02348640, 8.33106e-4, 2.74345e-6)),
        ((1.0, 0.4, 0.01, 1.0), (0.597608, 0.53344552, 0.81136773, 1.29146015),
         (0.459208, 0.16305754, 0.07555437, 0.04491796)),
    ],
)  # fmt: skip
def test_full_batches_of_a_linear_student(case: Any, generalization_error: Any, train_loss: Any) -> None:
    descent, model = linear_case(*case, 60)
    label = label_moments(model, descent)
    curves, spectral = solve_linear(descent, label), solve_spectral(descent, label)
    at = [1, 5, 20, 60]
    assert 0.5 * curves.test_square(label, label.clean_square)[at] == pytest.approx(generalization_error, abs=6e-9)
    assert curves.train_loss[at] == pytest.approx(train_loss, abs=6e-9)
    # The edge of the spectrum touches zero at alpha = 1, and the quadrature knows it to 1e-12 only.
    for name in ("train_loss", "overlaps", "history"):
        assert np.abs(getattr(curves, name) - getattr(spectral, name)).max() < (2e-12 if case[0] == 1 else 1e-14)


@pytest.mark.parametrize(
    ("batching", "generalization_error", "train_loss"),
    [
        ("fresh", (0.722575, 0.2936557, 0.17336646, 0.13068282, 0.12396472),
         (0.7311375, 0.25106165, 0.15021153, 0.11882439, 0.11263079)),
        ("epoch", (0.722575, 0.23788644, 0.14252647, 0.11940819, 0.11767947),
         (0.7311375, 0.21847216, 0.13368167, 0.11333231, 0.10991584)),
        ("cyclic", (0.722575, 0.23788644, 0.13835499, 0.11989582, 0.11974571),
         (0.7311375, 0.21847216, 0.12170409, 0.10437982, 0.10199942)),
    ],
)  # fmt: skip
def test_batches_of_a_linear_student(batching: Any, generalization_error: Any, train_loss: Any) -> None:
    descent, model = linear_case(2.0, 0.3, 0.1, 0.5, 40, batch_fraction=0.2, batching=batching)
    label = label_moments(model, descent)
    curves, at = solve_linear(descent, label), [1, 5, 10, 20, 40]
    assert 0.5 * curves.test_square(label, label.clean_square)[at] == pytest.approx(generalization_error, abs=6e-9)
    assert curves.train_loss[at] == pytest.approx(train_loss, abs=6e-9)


def test_gradient_flow_of_a_linear_student() -> None:
    descent, model = linear_case(1.5, 0.1, 0.05, 0.5, 1)
    flow = solve_flow(descent, label_moments(model, descent), np.array([0.0, 6.0]))
    assert flow.overlaps[-1, 0] == pytest.approx(0.827113071307, abs=1e-11)
    assert flow.history[-1, -1] == pytest.approx(0.944022628778, abs=1e-11)


@pytest.mark.parametrize(
    "more",
    [
        {}, {"momentum": 0.6}, {"batch_fraction": 0.25, "batching": "fresh"},
        {"batch_fraction": 0.25, "batching": "epoch", "momentum": 0.4}, {"batch_fraction": 0.5, "batching": "cyclic"},
        {"temperature": 0.5, "momentum": 0.3}, {"temperature": 0.2, "batch_fraction": 0.5, "batching": "epoch"},
    ],
    ids=str,
)  # fmt: skip
def test_particles_meet_the_closed_form(more: Any) -> None:
    descent, model = linear_case(1.3, 0.25, 0.07, 0.4, 20, **more)
    exact = solve_linear(descent, label_moments(model, descent))
    runs = marched(descent, model, 8192)
    for found, expected in (
        ([r.train_loss for r in runs], exact.train_loss),
        ([r.overlaps[:, 0, 0, 0] for r in runs], exact.overlaps[:, 0]),
        ([r.grams()[:, 0, 0, 0] for r in runs], np.diag(exact.history)),
    ):
        mean, se = mean_and_se(found)
        # Beside the errors over scrambles, 1e-5 for what scrambles of matched starts share.
        assert np.abs((mean - expected) / (se + 1e-5)).max() < 5.0


def test_langevin_noise_in_response_form() -> None:
    descent, model = linear_case(1.3, 0.25, 0.07, 0.4, 12, momentum=0.3, temperature=0.6)
    exact = solve_linear(descent, label_moments(model, descent))
    runs = [solve_responses(descent, model, 8192, np.random.default_rng([2, i]))[0] for i in range(8)]
    mean, se = mean_and_se([r.history[:, :, 0, 0, 0] for r in runs])
    assert np.abs((mean - exact.history) / (se + 1e-5)).max() < 5.0
    # Without noise C(12, 12) would be another number.
    quiet = solve_linear(replace(descent, temperature=0.0), label_moments(model, descent))
    assert exact.history[-1, -1] - quiet.history[-1, -1] > 0.2


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("momentum", lambda x, v, g, r, d, m, n=0: update.advance(x, v, g, r, d, -m, n)),
        ("decay", lambda x, v, g, r, d, m, n=0: update.advance(x, v, g, r, -d, m, n)),
        ("gradient", lambda x, v, g, r, d, m, n=0: update.advance(x, v, -g, r, d, m, n)),
    ],
)
def test_a_wrong_sign_of_the_step_is_seen(monkeypatch: pytest.MonkeyPatch, place: str, wrong: Any) -> None:
    descent, model = linear_case(1.3, 0.25, 0.07, 0.4, 8, momentum=0.3)
    exact = solve_linear(descent, label_moments(model, descent))
    monkeypatch.setattr(march_module, "advance", wrong)
    mean, se = mean_and_se([r.grams()[:, 0, 0, 0] for r in marched(descent, model, 4096)])
    assert np.abs((mean - np.diag(exact.history)) / (se + 1e-5)).max() > 50.0, place


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_wrong_new_direction_is_seen(monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    """f_new/sqrt alpha is what the data remember of a gradient."""
    descent, model = linear_case(1.3, 0.25, 0.07, 0.4, 8)
    exact = solve_linear(descent, label_moments(model, descent))
    seen = March._seen
    monkeypatch.setattr(March, "_seen", lambda self, uz, root, fractions: seen(self, uz, sign * root, fractions))
    mean, se = mean_and_se([r.grams()[:, 0, 0, 0] for r in marched(descent, model, 4096)])
    assert np.abs((mean - np.diag(exact.history)) / (se + 1e-5)).max() > 50.0


def test_response_kernels() -> None:
    """Both forms agree, and the kernels of the committee are those of the reference."""
    descent, model = reference_case("committee")
    descent = replace(descent, rates=descent.rates[:7], readout_rates=descent.readout_rates[:7])
    solved = [solve_responses(descent, model, 8192, np.random.default_rng([1, i])) for i in range(8)]
    runs = marched(descent, model, 8192)
    for name in ("train_loss", "overlaps"):
        one, two = (mean_and_se([getattr(r, name) for r in rows]) for rows in ([s[0] for s in solved], runs))
        assert np.abs((one[0] - two[0]) / (np.hypot(one[1], two[1]) + 1e-9)).max() < 5.0, name
    kernels = [s[1] for s in solved]
    expected = {
        ("gradient_response", 0, 0): ([[0.33422, 0.41115], [0.41115, 0.32348]], 1e-5),
        ("gradient_response", 1, 0): ([[-0.11621, -0.10357], [-0.10159, -0.11727]], 2e-4),
        ("gradient_response", 4, 2): ([[0.0109, 0.0231], [0.0233, 0.0112]], 3e-4),
        ("weight_response", 2, 0): ([[-0.86101, 0.29757], [0.29757, -0.86053]], 3e-4),
        ("weight_response", 5, 0): ([[-0.7794, 0.4440], [0.4341, -0.7587]], 5e-4),
        ("gradient_correlation", 0, 0): ([[0.44573, 0.41695], [0.41695, 0.45162]], 1e-5),
        ("gradient_correlation", 4, 0): ([[0.04573, 0.04623], [0.04783, 0.04916]], 2e-4),
        ("gradient_correlation", 4, 4): ([[0.0711, 0.0567], [0.0567, 0.0751]], 3e-4),
    }  # fmt: skip
    for (name, t, s), (values, theirs) in expected.items():
        mean, se = mean_and_se([getattr(k, name)[t, s] for k in kernels])
        assert np.abs((mean - np.array(values)) / (np.hypot(se, theirs) + 1e-5)).max() < 5.0, (name, t, s)


def test_responses_matter() -> None:
    """Gradient independence is wrong at O(1)."""
    descent, model = reference_case("committee")
    descent = replace(descent, rates=descent.rates[:10], readout_rates=descent.readout_rates[:10])
    without, _ = solve_responses(descent, model, 8192, np.random.default_rng(0), responses=False)
    assert without.grams()[[2, 5, 10], 0, 0, 0] == pytest.approx([2.24, 3.51, 5.17], rel=0.03)
    assert REFERENCE["committee"]["Q"][4][0] < 2.2  # t = 10


def test_printed_response_recursion_is_the_computed_one() -> None:
    """R_w of the printed step, with the R_u of the solution, is R_w of the solution."""
    descent, model = linear_case(1.5, 0.3, 0.1, 0.3, 6, momentum=0.4, batch_fraction=0.5, batching="epoch")
    terms = Terms.of(descent)
    left, right = linear_steps(terms)["weight response"]
    now, change, force = (next(a for a in right.atoms(sp.Symbol) if a.name == name) for name in (
        "R_w(t,s)", r"\Delta R_w(t,s)", r"\partial\Gamma(t)/\partial\gamma(s)"))  # fmt: skip
    names = ("eta", "kappa", "beta", "alpha", "b")
    values = [descent.rates[0], descent.ridge, descent.momentum, descent.sample_ratio, descent.batch_fraction]
    order = [next(a for a in right.atoms(sp.Symbol) if a.name == name) for name in names]
    step = sp.lambdify([now, change, force, *order], right)
    _, kernels = solve_responses(descent, model, 4096, np.random.default_rng(0))
    alpha, r_u = descent.sample_ratio, kernels.gradient_response[:, :, 0, 0]
    r_w = np.zeros((descent.steps + 1, descent.steps))
    assert left.name == "R_w(t+1,s)"
    for t in range(descent.steps):
        for s in range(t + 1):
            inner = float(t == s) + alpha * sum(r_u[t, q] * r_w[q, s] for q in range(s + 1, t + 1))
            r_w[t + 1, s] = step(r_w[t, s], r_w[t, s] - r_w[t - 1, s] if t else 0.0, inner, *values)
    assert np.abs(r_w - kernels.weight_response[:, :, 0, 0]).max() < 1e-12


def test_first_step_of_a_quadratic_network_by_wick() -> None:
    """M(1) and C(1,0) of f = lam^2, y = z^2 from the printed gradient, averaged exactly."""
    eta, q, m = 0.05, 0.8, 0.3
    descent = Descent.isotropic(
        sample_ratio=1.7, rates=np.full(1, eta), readout_rates=np.zeros(1), target_gram=[[1.0]],
        start_overlap=[[m]], start_gram=[[q]], start_readout=np.ones(1),
    )  # fmt: skip
    model = Model(1, Expression("x**2"), SQUARE, ("z",), Expression("z**2", ("z",)))
    lam, z = sp.symbols("lam z", real=True)
    gradient, _, _ = sample_gradient(model)
    named = {"f": lam**2, "y": z**2, r"\lambda_k": lam, "a_k": 1}
    u = gradient.subs({s: named[s.name] for s in gradient.free_symbols})
    law = Law.of_matrix(sp.Matrix([[sp.Float(q), sp.Float(m)], [sp.Float(m), 1]]))
    drift = {x: float(average_expression(u * x, {lam: 0, z: 1}, law)) for x in (lam, z)}
    assert drift[z] == pytest.approx(6.0 * m * (q - 1.0))
    march = March(descent, draw(descent, model, 65536, np.random.default_rng(0)), model.module().respond)
    march.run()
    run = march.trajectory(two_time=True)
    assert run.overlaps[1, 0, 0, 0] == pytest.approx(m - eta * drift[z], abs=2e-4)
    assert run.history[1, 0, 0, 0, 0] == pytest.approx(q - eta * drift[lam], abs=2e-4)
    # The step is seen by its own past and by the target alike, particle by particle.
    assert run.history[1, 1, 0, 0, 0] > run.history[1, 0, 0, 0, 0] ** 2 / q


@pytest.mark.parametrize("power", [1, 2])
def test_two_steps_of_the_printed_equations_by_wick(power: int) -> None:
    """The response form, unrolled and averaged exactly for f = lam^p, y = z^p: a polynomial in eta and 1/alpha."""
    eta, alpha, q, m = 0.06, 1.7, 0.8, 0.3
    descent = Descent.isotropic(
        sample_ratio=alpha, rates=np.full(2, eta), readout_rates=np.zeros(2), target_gram=[[1.0]],
        start_overlap=[[m]], start_gram=[[q]], start_readout=np.ones(1),
    )  # fmt: skip
    text = "x" if power == 1 else "x**2"
    model = Model(1, Expression(text), SQUARE, ("z",), Expression(text.replace("x", "z"), ("z",)))
    lam, z, r0, r1 = sp.symbols("lam z r0 r1", real=True)
    gradient, bend, _ = sample_gradient(model)
    named = {"f": lam**power, "y": z**power, r"\lambda_k": lam, "a_k": sp.Integer(1)}
    u, curve = (e.subs({s: named[s.name] for s in e.free_symbols}) for e in (gradient, bend))
    rules = {label: right for label, (_, right) in linear_steps(Terms.of(descent)).items()}

    def step(label: str, now: float, push: float) -> float:
        numbers = {"eta": eta, "alpha": alpha}
        kept = [a for a in rules[label].atoms(sp.Symbol) if a.name not in numbers]
        change = {a: (push if r"\Gamma" in a.name or "langle" in a.name else now) for a in kept}
        return float(rules[label].subs(change | {a: numbers[a.name] for a in rules[label].free_symbols - set(kept)}))

    def mean(expression: Any, law: Law, order: tuple[Any, ...]) -> float:
        return float(average_expression(sp.expand(expression), {s: i for i, s in enumerate(order)}, law))

    start, first = Law.of_matrix(sp.Matrix([[sp.Float(q), m], [m, 1]])), (r0, z)
    u0 = u.subs(lam, r0)
    to_z, to_lam, square = (mean(u0 * x, start, first) for x in (z, r0, u0))
    own = mean(curve.subs(lam, r0), start, first)  # R_u(0, 0)
    star = to_z - own * m  # R_*(0): Stein
    m1, c10 = step("target overlap", m, to_z), step("two-time overlap", q, to_lam)
    # w(1) = step of w(0) by g(0) + alpha R_u w(0) + alpha R_* w_*, cov(g) = alpha C_u.
    basis = np.array([step("weights", 1.0, alpha * own), step("weights", 0.0, alpha * star), step("weights", 0.0, 1.0)])
    c11 = basis @ np.array([[q, m, 0.0], [m, 1.0, 0.0], [0.0, 0.0, alpha * square]]) @ basis
    memory = step("weight response", 0.0, 1.0)
    assert memory == pytest.approx(-eta / alpha)
    later = Law.of_matrix(sp.Matrix([[sp.Float(q), c10, m], [c10, c11, m1], [m, m1, 1]]))
    lam1 = r1 + memory * u0
    u1 = u.subs(lam, lam1)
    m2 = step("target overlap", m1, mean(u1 * z, later, (r0, r1, z)))
    c21 = step("two-time overlap", c11, mean(u1 * lam1, later, (r0, r1, z)))
    if power == 1:
        exact = solve_linear(descent, label_moments(model, descent))
        assert [m1, m2] == pytest.approx(exact.overlaps[1:, 0], abs=1e-12)
        assert [c10, c11, c21] == pytest.approx(exact.history[[1, 1, 2], [0, 1, 1]], abs=1e-12)
        return
    runs = []
    for i in range(8):
        march = March(descent, draw(descent, model, 32768, np.random.default_rng([4, i])), model.module().respond)
        march.run()
        run = march.trajectory(two_time=True)
        history = run.history[:, :, 0, 0, 0]
        runs.append([run.overlaps[1, 0, 0, 0], run.overlaps[2, 0, 0, 0], history[1, 0], history[1, 1], history[2, 1]])
    found, se = mean_and_se(runs)
    assert (np.abs(found - [m1, m2, c10, c11, c21]) < 5.0 * se + 1e-5).all()
    # What the data remember is far above the error: without R_w(1, 0) the second step would differ.
    forgotten = step("two-time overlap", c11, mean(u.subs(lam, r1) * r1, later, (r0, r1, z)))
    assert abs(c21 - forgotten) > 20.0 * se[-1]


def test_printed_identities_hold_on_the_particles() -> None:
    """M(t+1) and C(t+1, s) move by the printed step with averages over samples, to rounding."""
    descent, model = reference_case("mini_epoch")
    descent = replace(
        descent, rates=descent.rates[:6] * np.linspace(1.0, 0.5, 6), readout_rates=np.zeros(6), momentum=0.3, ridge=0.2
    )
    march = March(descent, draw(descent, model, 3000, np.random.default_rng(0)), model.module().respond)
    masks = march._masks.reshape(6, -1)
    march.run()
    run = march.trajectory(two_time=True)
    rows = march._z.transpose(1, 0, 2).reshape(march._z.shape[1], -1)
    lam = march.weights @ rows
    labels, a = march._labels.ravel(), descent.start_readout
    slope, pull = model.activation.derivative("x"), model.loss.derivative("f")
    z = march._teacher @ rows
    for label, name, history, seen in (
        ("target overlap", "M(t)", run.overlaps[:, 0], z), ("two-time overlap", "C(t,s)", run.history[:, 1, 0], lam[1]),
    ):  # fmt: skip
        _, right = linear_steps(Terms.of(descent))[label]
        symbols = {s.name: s for s in right.free_symbols}
        push = next(s for s in symbols if "langle" in s)
        order = (name, rf"\Delta {name}", push, "eta", "kappa", "beta", "b")
        step = sp.lambdify([symbols[s] for s in order], right)
        for t in range(1, 6):
            u = masks[t] * pull(f=model.output(np, lam[t], a), y=labels) * a[:, None] * slope(x=lam[t])
            after = step(
                history[t], history[t] - history[t - 1], u @ seen.T / march.samples, descent.rates[t], descent.ridge,
                descent.momentum, descent.batch_fraction,
            )  # fmt: skip
            assert after == pytest.approx(history[t + 1], abs=1e-12), (label, t)


@pytest.mark.parametrize(
    ("shift", "gram", "overlap"),
    [("0", (0.7379, 0.7445, 0.7995), 0.3122), ("1", (None, None, 1.1394), 0.3198)],
)
def test_relu_keeps_its_delta(shift: str, gram: Any, overlap: float) -> None:
    """The second derivative of ReLU is a delta function, which no response is sampled for: alpha = 5, K = M = 2."""
    descent = Descent.isotropic(
        sample_ratio=5.0, rates=np.full(7, 1.0), readout_rates=np.zeros(7), target_gram=np.eye(2),
        start_overlap=np.zeros((2, 2)), start_gram=np.eye(2), start_readout=np.array([1.0, -1.0]) / np.sqrt(2.0),
    )  # fmt: skip
    target = Expression(f"tanh(z1 + z2**3 - 3*z2 + {shift})", ("z1", "z2"))
    model = Model(2, Expression("relu(x)"), SQUARE, ("z1", "z2"), target)
    runs = marched(descent, model, 16384, 8)
    mean, se = mean_and_se([r.grams()[[2, 4, 7], 0, 0, 0] for r in runs])
    for value, found, error in zip(gram, mean, se, strict=True):
        assert value is None or abs(found - value) < STANDARD_ERRORS * np.hypot(error, 2e-4)
    mean, se = mean_and_se([r.overlaps[7, 0, 0, 0] for r in runs])
    assert abs(mean - overlap) < STANDARD_ERRORS * np.hypot(se, 2e-4)


def test_a_march_goes_on_bit_for_bit() -> None:
    descent, model = reference_case("mini_epoch")
    descent = replace(descent, rates=descent.rates[:12], readout_rates=descent.readout_rates[:12])

    def fresh() -> March:
        return March(descent, draw(descent, model, 1000, np.random.default_rng(3)), model.module().respond)

    whole, first, second = fresh(), fresh(), fresh()
    whole.run()
    first.run(until=5)
    second.restore({name: array.copy() for name, array in first.state().items()})
    second.run()
    for name in ("train_loss", "readouts", "overlaps", "history"):
        assert np.array_equal(getattr(whole.trajectory(), name), getattr(second.trajectory(), name))


@pytest.mark.parametrize("name", ["phase", "committee", "logistic"])
def test_gradients_stay_orthonormal(name: str) -> None:
    """Also where they are nearly known: errors must not compound from update to update."""
    descent, model = reference_case(name)
    march = March(descent, draw(descent, model, 2048, np.random.default_rng(0)), model.module().respond)
    march.run()
    f = np.concatenate([block[:, :count].T for block, count in zip(march._f, march._counts, strict=True)])
    gram = f.T @ f / march.samples
    kept = np.diag(gram) > 0.5
    assert kept.sum() >= 30
    assert np.abs(gram[np.ix_(kept, kept)] - np.eye(kept.sum())).max() < 1e-13


@pytest.mark.parametrize(
    ("sampler", "more", "low", "high"),
    [
        ("sobol", {}, 0.0, 0.1),
        ("monte-carlo", {"batch_fraction": 0.25, "batching": "fresh"}, 0.8, 1.3),
        ("monte-carlo", {"batch_fraction": 0.25, "batching": "epoch"}, 0.8, 1.3),
        ("sobol", {"batch_fraction": 0.25, "batching": "epoch"}, 0.3, 1.3),
    ],
)  # fmt: skip
def test_a_new_gradient_meets_known_directions_by_chance(sampler: Any, more: Any, low: float, high: float) -> None:
    """v = N var <f Z_i>: 1 for independent particles and batches, which is why known coordinates are left out then."""
    descent, model = linear_case(1.5, 0.3, 0.1, 0.5, 14, **more)
    products, samples = [], 1024
    for i in range(40):
        particles = draw(descent, model, samples, np.random.default_rng([9, i]), sampler)
        march = March(descent, particles, model.module().respond)
        march.run()
        f, z = (rows.transpose(1, 0, 2).reshape(rows.shape[1], -1) for rows in (march._f, march._z))
        products.append([(f[t] @ z[: march._first + t].T / samples)[:10] for t in range(10, 14)])
    # Forty variances of forty values: a standard error of 0.04 where they are one.
    assert low <= samples * np.var(products, axis=0, ddof=1).mean() < high
    left_out = march._first * descent.sample_ratio / samples if more else 0.0
    assert march._fractions(march._first)[0] == 1.0 - left_out
