"""Two causal marches against damped Picard iteration over whole trajectories, at equal accuracy, in one run.

    python docs/benchmarks/mup_march.py [--samples 256] [--json FILE]

Two hidden tanh layers, m = 4, T = 20, eta = 0.5 (`docs/gallery/runs/mup-tanh.toml`). The Picard scheme is written
here from the equations, in the plain form in which dynamical mean-field solvers of this kind are published: the kernels
of all pairs of times are guessed, single-site trajectories and per-sample Jacobians are found by inner fixed-point
iteration in batches of 50 samples, averages are taken by Monte Carlo, and the guess is damped. Outputs are read off as
averages, so that all programs solve exactly the same equations. Of the marches one reveals weights direction by
direction (`particles`), the other samples response functions (`responses`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

import dimladder as dl
from dimladder.problem.training import Training, training_of
from dimladder.theories.mup.responses import ResponseMarch
from dimladder.theories.mup.revealed import RevealedMarch
from dimladder.theories.mup.sampling import sampled_nodes

RUN = Path(__file__).parents[1] / "gallery" / "runs" / "mup-tanh.toml"
BATCH = 50


def normals(rows: int, samples: int, generator: np.random.Generator, sampler: str) -> np.ndarray:
    """Return standard normals, shape (rows, samples)."""
    if sampler == "monte-carlo":
        return generator.standard_normal((rows, samples))
    points = qmc.Sobol(rows, scramble=True, rng=generator).random(samples)
    return ndtri(points.T + 2.0**-31)


def picard(
    run: Training, samples: int, generator: np.random.Generator, sampler: str, damping: float = 0.6, most: int = 60
) -> tuple[np.ndarray, int]:
    """Return the outputs (T, m) and the number of outer iterations."""
    layers, times, m = run.layers, run.times, run.samples
    k = times * m
    time_of = np.arange(k) // m
    earlier = time_of[:, None] > time_of[None, :]
    not_later = time_of[:, None] >= time_of[None, :]
    drives = [normals(2 * k, samples, generator, sampler) for _ in range(layers)]
    phi = [np.tile(run.gram, (times, times)) for _ in range(layers + 1)]
    g = [np.ones((k, k)) for _ in range(layers + 1)]  # g[l] is G^{l+1}
    a = [np.zeros((k, k)) for _ in range(layers + 1)]  # a[l] is A^l
    b = [np.zeros((k, k)) for _ in range(layers + 1)]  # b[l] is B^{l+1}
    f = np.zeros((times, m))
    for iteration in range(1, most + 1):
        rate = (run.learning_rates[:, None] * run.richness * run.weights * run.error_signal(f)).ravel()
        change, new_f = 0.0, f
        for l in range(layers):
            c = np.where(earlier, a[l] + phi[l] * rate, 0.0)
            d = np.where(not_later, b[l + 1], 0.0) + np.where(earlier, g[l + 1] * rate, 0.0)
            u = root(phi[l]) @ drives[l][:k]
            r = root(g[l + 1]) @ drives[l][k:]
            sums = [np.zeros((k, k)) for _ in range(4)]
            output = np.zeros(k)
            for start in range(0, samples, BATCH):
                part = slice(start, start + BATCH)
                x, z, gradient, slope, curve = trajectories(run, u[:, part], r[:, part], c, d)
                sums[0] += x @ x.T
                sums[1] += gradient @ gradient.T
                output += (x * z).sum(axis=1)
                if l < layers - 1:
                    sums[2] += jacobian(c, d, slope, curve, "dx/dr").sum(axis=0)
                if l > 0:
                    sums[3] += jacobian(c, d, slope, curve, "dg/du").sum(axis=0)
            updates = [(phi, l + 1, sums[0]), (g, l, sums[1])]
            updates += [(a, l + 1, sums[2])] if l < layers - 1 else []
            updates += [(b, l, sums[3])] if l > 0 else []
            for store, index, total in updates:
                fresh = total / samples
                change = max(change, np.linalg.norm(fresh - store[index]) / max(np.linalg.norm(fresh), 1e-12))
                store[index] = damping * fresh + (1 - damping) * store[index]
            if l == layers - 1:
                new_f = output.reshape(times, m) / samples / run.richness
        moved = np.abs(new_f - f).max()
        f = damping * new_f + (1 - damping) * f
        if change < 1e-4 and moved < 1e-5:
            return f, iteration
    return f, most


def root(kernel: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a covariance: continuous in the kernel, or the iteration would not settle."""
    values, vectors = np.linalg.eigh(0.5 * (kernel + kernel.T))
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def trajectories(run: Training, u: np.ndarray, r: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, ...]:
    """Solve h = u + C g, z = r + D x by iteration from the driven fields."""
    h, z = u, r
    while True:
        x, slope, second = run.activation(h)
        new_h, new_z = u + c @ (z * slope), r + d @ x
        change = max(np.abs(new_h - h).max(), np.abs(new_z - z).max())
        h, z = new_h, new_z
        if change < 1e-10:
            x, slope, second = run.activation(h)
            return x, z, z * slope, slope, second * z


def jacobian(c: np.ndarray, d: np.ndarray, slope: np.ndarray, curve: np.ndarray, which: str) -> np.ndarray:
    """Solve dh = [du] + C dg, dz = [dr] + D dx, dx = phi' dh, dg = phi' dz + phi'' z dh, by iteration."""
    k = len(c)
    s, q = slope.T[:, :, None], curve.T[:, :, None]
    dh = np.zeros((slope.shape[1], k, k))
    dz = np.zeros_like(dh)
    direct_h, direct_z = (np.eye(k), 0.0) if which == "dg/du" else (0.0, np.eye(k))
    while True:
        new_h, new_z = direct_h + c @ (s * dz + q * dh), direct_z + d @ (s * dh)
        change = max(np.abs(new_h - dh).max(), np.abs(new_z - dz).max())
        dh, dz = new_h, new_z
        if change < 1e-8:
            return s * dz + q * dh if which == "dg/du" else s * dh


MARCHES = {"particles": RevealedMarch, "responses": ResponseMarch}


def march(run: Training, samples: int, generator: np.random.Generator, method: str = "responses") -> np.ndarray:
    """Return the outputs of one march."""
    return MARCHES[method](run, sampled_nodes(run, samples, generator)).run().f


def timed(function, *arguments):
    """Return the result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256, help="samples of the Picard iteration")
    parser.add_argument(
        "--reference", type=int, default=16384, help="samples of each of four scrambles of the reference"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = training_of(dl.load(RUN, {"algorithm.steps": 19}))
    runs = [march(run, options.reference, np.random.default_rng([77, i])) for i in range(4)]
    runs += [march(run, options.reference, np.random.default_rng([78, i]), "particles") for i in range(16)]
    means = [np.mean(part, axis=0) for part in (runs[:4], runs[4:])]
    reference = np.mean(means, axis=0)
    rows = []

    def record(scheme, samples, error, wall, cpu, note=""):
        rows.append({"scheme": scheme, "samples": samples, "rms_error": float(error), "wall": wall, "cpu": cpu})
        print(
            f"{scheme:20s} N={samples:6d}  rms error in f {error:.2e}  {wall:8.3f} s wall {cpu:8.3f} s CPU  {note}",
            flush=True,
        )

    def rms(values):
        return np.sqrt(np.mean((np.asarray(values) - reference) ** 2))

    print(f"reference, N={options.reference}: the two marches differ by {rms(means[0]) * 2:.1e} rms", flush=True)
    for method in MARCHES:
        for n in sorted({32, 64, 128, options.samples, 1024, 2048, 4096, 8192, 16384, 32768}):
            outputs, wall, cpu = timed(
                lambda n=n, method=method: [march(run, n, np.random.default_rng([5, n, i]), method) for i in range(8)]
            )
            record(method, n, rms(outputs), wall / 8, cpu / 8)
    for sampler in ("sobol", "monte-carlo"):
        (f, iterations), wall, cpu = timed(picard, run, options.samples, np.random.default_rng(9), sampler)
        record(f"Picard, {sampler}", options.samples, rms(f), wall, cpu, f"{iterations} iterations")
    for row in rows[-2:]:
        for method in MARCHES:
            # The cheapest march that is at least as accurate as this Picard run.
            own = [r for r in rows if r["scheme"] == method]
            equal = min((r for r in own if r["rms_error"] <= row["rms_error"]), key=lambda r: r["cpu"])
            row[f"ratio_{method}"] = row["cpu"] / equal["cpu"]
            print(f"{row['scheme']}: {row[f'ratio_{method}']:.0f} times the CPU of {method} at N={equal['samples']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
