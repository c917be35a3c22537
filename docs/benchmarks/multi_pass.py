"""Particles in revealed directions against two response-function schemes, at equal error, in one run.

    python docs/benchmarks/multi_pass.py [--case committee] [--json FILE]
    python docs/benchmarks/multi_pass.py --costs

Training on one data set of n = alpha d samples, full batches. Beside the particles stand the causal march in response
functions (`solver.method = "responses"`), with Sobol' points and plain, and the form in which solvers of this kind are
published: whole trajectories are sampled plainly from guessed two-time kernels, averages give new kernels, and the
guess is damped until it stands still. The error is the root mean square, over all times, entries and runs, of Q.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dimladder.problem import Expression
from dimladder.problem.descent import Descent
from dimladder.problem.losses import loss_function
from dimladder.theories.multi_pass.march import March
from dimladder.theories.multi_pass.model import Model
from dimladder.theories.multi_pass.responses import solve_responses
from dimladder.theories.multi_pass.start import draw

ERF, SQUARE, LOGISTIC = Expression("erf(x/sqrt(2))"), *(loss_function(n).expression for n in ("square", "logistic"))
PAIR = {
    "target_gram": np.eye(2), "start_overlap": [[0.3, 0.05], [-0.05, 0.2]], "start_gram": [[0.6, 0.05], [0.05, 0.5]],
}  # fmt: skip
DAMPING, MOST, STILL = 0.7, 100, 1e-4


def case(name: str, steps: int = 60) -> tuple[Descent, Model]:
    """Return a run and its formulas."""
    if name == "logistic":
        descent = Descent.isotropic(
            sample_ratio=2.0, rates=np.full(steps, 2.0), readout_rates=np.zeros(steps), target_gram=np.eye(1),
            start_overlap=np.zeros((1, 1)), start_gram=np.eye(1), start_readout=np.ones(1), ridge=0.02,
        )  # fmt: skip
        return descent, Model(
            1, Expression("x"), LOGISTIC, ("z",), Expression("sign(z + 0.5*n1)", ("z", "n1")), ("n1",)
        )
    model = Model(2, ERF, SQUARE, ("z1", "z2"), unit=ERF, readout=(1.0, 1.0), noise=0.5)
    if name == "committee":
        shared = {"sample_ratio": 1.5, "rates": np.full(steps, 1.5), "start_readout": np.ones(2)}
        return Descent.isotropic(**shared, **PAIR, readout_rates=np.zeros(steps)), model
    if name == "gentle":
        # Three samples a dimension, a lower rate and trained readouts: little overfitting.
        shared = {"sample_ratio": 3.0, "rates": np.full(steps, 0.8), "start_readout": np.array([0.8, 1.2])}
        return Descent.isotropic(**shared, **PAIR, readout_rates=np.full(steps, 0.1), ridge=0.01), model
    raise ValueError(f"no case {name!r}")


def particles(descent: Descent, model: Model, samples: int, stream: np.random.Generator) -> np.ndarray:
    """Return Q(t), by the march in revealed directions."""
    march = March(descent, draw(descent, model, samples, stream), model.module().respond)
    march.run()
    return march.trajectory().grams()[:, 0]


def responses(
    descent: Descent, model: Model, samples: int, stream: np.random.Generator, sampler: Any = "sobol"
) -> np.ndarray:
    """Return Q(t), by the causal march in response functions."""
    return solve_responses(descent, model, samples, stream, sampler=sampler)[0].grams()[:, 0]


def picard(descent: Descent, model: Model, samples: int, stream: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return Q(t) and the number of iterations, by damped iteration of whole trajectories (fixed readouts).

    Every iteration samples all trajectories with the kernels of the last one, from the same normals, so that it can
    settle.
    """
    steps, k, m = descent.steps, descent.students, descent.teachers
    alpha, gram, start = descent.sample_ratio, descent.target_gram[0], descent.start_overlap[0]
    respond = model.curved_module().respond
    normals = stream.standard_normal((m + k * steps, samples))
    noises = stream.standard_normal((model.sources - m, samples))
    z = np.linalg.cholesky(gram) @ normals[:m]
    labels = model.labels(z, noises)
    # The guess: weights stay where they start.
    overlap = np.tile(start, (steps, 1, 1))
    history = np.tile(descent.start_gram[0], (steps, steps, 1, 1))
    weak = np.zeros((steps, steps, k, k))
    grams = np.tile(descent.start_gram[0], (steps + 1, 1, 1))
    iteration, change = 0, np.inf
    while iteration < MOST and change > STILL:
        iteration += 1
        flat = history.transpose(0, 2, 1, 3).reshape(steps * k, steps * k)
        cross = overlap.reshape(steps * k, m)
        along = np.linalg.solve(gram, cross.T).T
        rest = flat - along @ cross.T
        values, vectors = np.linalg.eigh(0.5 * (rest + rest.T))
        root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
        r = (along @ z + root @ normals[m:]).reshape(steps, k, samples)
        u, curve = np.empty((steps, k, samples)), np.empty((steps, k, k, samples))
        jacobian = np.zeros((steps, steps, k, k))
        for t in range(steps):
            lam = r[t] + np.einsum("skl,sln->kn", weak[t, :t], u[:t], optimize=True)
            slope, pull, bend = np.empty((k, samples)), np.empty((k, samples)), np.empty((k, k, samples))
            respond(np.ascontiguousarray(lam), labels, descent.start_readout, slope, pull, bend, np.zeros(2))
            u[t], curve[t] = slope, bend
            jacobian[t, : t + 1] = pathwise(curve[: t + 1], weak[: t + 1])
        flat_u = u.reshape(steps * k, samples)
        correlation = (flat_u @ flat_u.T / samples).reshape(steps, k, steps, k).transpose(0, 2, 1, 3)
        means = (flat_u @ z.T / samples).reshape(steps, k, m)
        rows, new_weak = weights(descent, jacobian, means, overlap)
        inner = np.zeros((rows.shape[2],) * 2)
        inner[: m + k, : m + k] = np.block([[gram, start.T], [start, descent.start_gram[0]]])
        inner[m + k :, m + k :] = alpha * correlation.transpose(0, 2, 1, 3).reshape(steps * k, steps * k)
        new_history = np.einsum("tki,ij,slj->tskl", rows, inner, rows, optimize=True)
        new_overlap = rows[:-1] @ inner[:, :m]
        grams = np.einsum("ttkl->tkl", new_history)
        change = np.abs(new_history[:-1, :-1] - history).max()
        history += DAMPING * (new_history[:-1, :-1] - history)
        overlap += DAMPING * (new_overlap - overlap)
        weak += DAMPING * (new_weak[:-1] - weak)
    return grams, iteration


def pathwise(curve: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Return <du(t)/dr(s)> for s = 0..t, t the last time of `curve`, by one backward sweep."""
    t, k, samples = len(curve) - 1, curve.shape[1], curve.shape[-1]
    v, out = np.empty((t + 1, k, k, samples)), np.empty((t + 1, k, k))
    v[t] = curve[t]
    out[t] = curve[t].mean(axis=-1)
    for s in range(t - 1, -1, -1):
        through = np.einsum("qjln,qlm->jmn", v[s + 1 :], weak[s + 1 : t + 1, s], optimize=True)
        v[s] = np.einsum("jmn,mkn->jkn", through, curve[s], optimize=True)
        out[s] = v[s].mean(axis=-1)
    return out


def weights(
    descent: Descent, jacobian: np.ndarray, means: np.ndarray, overlap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of w(t) on (w*, w(0), g(0), g(1), ...) and R_w(t, s)."""
    steps, k, m = descent.steps, descent.students, descent.teachers
    alpha, rows = descent.sample_ratio, np.zeros((descent.steps + 1, k, m + k + k * descent.steps))
    rows[0, :, m : m + k] = np.eye(k)
    for t in range(steps):
        star = means[t] - np.einsum("skl,slm->km", jacobian[t, : t + 1], overlap[: t + 1])
        force = alpha * np.einsum("skl,sli->ki", jacobian[t, : t + 1], rows[: t + 1], optimize=True)
        force[:, :m] += alpha * np.linalg.solve(descent.target_gram[0], star.T).T
        force[:, m + k * (t + 1) : m + k * (t + 2)] += np.eye(k)
        rows[t + 1] = (1.0 - descent.rates[t] * descent.ridge) * rows[t] - descent.rates[t] / alpha * force
    weak = rows[:, :, m + k :].reshape(steps + 1, k, steps, k).transpose(0, 2, 1, 3)
    return rows, weak


def costs() -> None:
    """Print what the run files cost at full size, and how exact the linear cases are."""
    import dimladder as dl
    from dimladder.theories.multi_pass.averages import FreshData
    from dimladder.theories.multi_pass.closed import solve_linear, solve_spectral

    runs = Path(__file__).parents[1] / "gallery" / "runs"
    full = {"algorithm.batch_fraction": 1.0, "algorithm.learning_rate": 1.5, "data.sample_ratio": 1.5}
    fixed = full | {"student.train_readout": False}

    def timed(text: str, function: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        print(f"{text:70s} {time.perf_counter() - wall:7.2f} s wall {time.process_time() - cpu:7.2f} s CPU", flush=True)

    for name, change in (("reshuffled tenths", {}), ("full batches", fixed)):
        problem = dl.load(runs / "multi-pass-committee.toml", change)
        dl.solve(problem, samples=64, scrambles=2)
        timed(f"theory, K = 2, T = 60, 32768 particles x 8, {name}", lambda p=problem: dl.solve(p, workers=2))
        ratio = problem.data.ratio
        timed(f"chain, d = 20000, T = 60, K = 2, n = {ratio:g} d, {name}",
              lambda p=problem: one_chain(p))  # fmt: skip
    for alpha, rate, ridge in ((2.0, 0.5, 0.1), (0.5, 0.3, 0.0), (1.3, 0.4, 0.05)):
        descent = Descent.isotropic(
            sample_ratio=alpha, rates=np.full(60, rate), readout_rates=np.zeros(60), target_gram=[[1.0]],
            start_overlap=[[0.0]], start_gram=[[1.0]], start_readout=np.ones(1), ridge=ridge,
        )  # fmt: skip
        model = Model(1, Expression("x"), SQUARE, ("z",), Expression("z", ("z",)), noise=0.5)
        label = FreshData(model, np.eye(1)).label_moments
        one, two = solve_linear(descent, label), solve_spectral(descent, label)
        gap = max(np.abs(getattr(one, n) - getattr(two, n)).max() for n in ("train_loss", "overlaps", "history"))
        print(f"linear, alpha = {alpha}: recursion and spectral integrals differ by {gap:.1e}")


def one_chain(problem: Any) -> None:
    """Run one replica of the chain at d = 20000."""
    from dimladder_validation.simulate.base import backend_for
    from dimladder_validation.simulate.multi_pass.experiment import EXPERIMENT

    EXPERIMENT.run(problem, 20000, [np.random.default_rng(0)], backend_for())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("committee", "logistic", "gentle"), default="committee")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--reference", type=int, default=65536, help="particles of each of eight scrambles")
    parser.add_argument("--most", type=int, default=16384, help="most samples of the march in response functions")
    parser.add_argument("--picard", type=int, default=1024, help="samples of the iteration; 0: leave it out")
    parser.add_argument("--costs", action="store_true", help="what the run files cost, instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.costs:
        costs()
        return
    descent, model = case(options.case, options.steps)
    runs = [particles(descent, model, options.reference, np.random.default_rng([77, i])) for i in range(8)]
    reference = np.mean(runs, axis=0)
    floor = float(np.sqrt(np.mean(np.var(runs, axis=0, ddof=1)) / 8))
    print(
        f"{options.case}, T = {options.steps}: reference N={options.reference} x 8, its error {floor:.1e}", flush=True
    )
    rows: list[dict[str, Any]] = []

    def measure(scheme: str, samples: int, count: int, function: Any) -> None:
        begin, found, notes = time.process_time(), [], []
        for i in range(count):
            value = function(samples, np.random.default_rng([5, samples, i]))
            found.append(value[0] if isinstance(value, tuple) else value)
            notes += [value[1]] if isinstance(value, tuple) else []
        cpu = (time.process_time() - begin) / count
        error = float(np.sqrt(np.mean((np.array(found) - reference) ** 2)))
        rows.append({"scheme": scheme, "samples": samples, "error": error, "cpu": cpu, "iterations": notes})
        own = [r for r in rows if r["scheme"] == "particles"]
        # CPU of particles of this error, log-log between the measured ones, and not below the smallest.
        equal = float(np.exp(np.interp(
            -np.log(error), [-np.log(r["error"]) for r in own], [np.log(r["cpu"]) for r in own])))  # fmt: skip
        rows[-1]["ratio"] = cpu / equal
        more = f"  {notes} iterations" if notes else ""
        print(f"{scheme:24s} N={samples:6d}  rms error of Q {error:.2e}  {cpu:8.4f} s CPU  "
              f"{cpu / equal:6.1f} times the particles of this error{more}", flush=True)  # fmt: skip

    responses(descent, model, 64, np.random.default_rng(0))  # compiles
    for n in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768):
        measure("particles", n, 16, lambda n, g: particles(descent, model, n, g))
    for sampler in ("sobol", "monte-carlo"):
        for n in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            if n <= options.most:
                measure(f"responses, {sampler}", n, 8, lambda n, g, s=sampler: responses(descent, model, n, g, s))
    if options.picard:
        fixed = replace(descent, readout_rates=np.zeros(descent.steps))
        if descent.readout_rates.any():
            print("the iteration keeps its readouts fixed: left out")
        else:
            measure("damped iteration", options.picard, 2, lambda n, g: picard(fixed, model, n, g))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
