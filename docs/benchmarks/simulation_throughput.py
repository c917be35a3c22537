"""Throughput of finite-d one-pass SGD: SGD steps x replicas a second, at d = 784, K = 4, both layers trained.

    python docs/benchmarks/simulation_throughput.py [--d 784] [--width 4] [--steps 4000] [--replicas 16] [--threads 1]

The baseline is what a research code does: one replica, one loop over samples, NumPy vectors of length d. All methods
run in this process, in alternation, and the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.special import erf

import dimladder as dl
from dimladder.problem.update_table import Table, table
from dimladder_validation.simulate import backend_for, streams
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.frames import explicit
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array


def problem(width: int, teachers: int = 4) -> Table:
    """A committee of `width` erf units learning one of `teachers`, both layers trained, label noise 0.1."""
    i, k = np.indices((width, width))
    n, m = np.indices((width, teachers))
    return table(dl.problem(
        "one-pass", target={"kind": "committee", "readout": [1.0] * teachers, "noise": 0.1},
        student={"kind": "two-layer", "width": width, "train_readout": True},
        algorithm={"kind": "one-pass", "learning_rate": 0.5}, grid={"time": [0.0, 1.0]},
        initial={"Q": (0.5 * np.eye(width) + 0.02 * np.cos(1 + i + k + i * k)).tolist(),
                 "M": (0.03 * np.sin(1 + 2 * n + 3 * m + n * m)).tolist()},
    ))  # fmt: skip


def numpy_loop(what: Table, d: int, steps: int) -> None:
    """One replica by a plain NumPy loop, as in published research codes."""
    rng = np.random.default_rng(0)
    start = explicit(what, d, rng)
    teacher, w, v = start.fixed, start.moving, what.a[0].copy()
    root = np.sqrt(2.0)
    for _ in range(steps):
        x = rng.standard_normal(d)
        fields = w @ x
        g = erf(fields / root)
        error = v @ g - erf(teacher @ x / root).sum() - what.noise[0] * rng.standard_normal()
        slope = np.sqrt(2 / np.pi) * np.exp(-0.5 * fields**2)
        w -= np.outer(what.gain[0] / d * error * v * slope, x)
        v -= what.readout_rate / d * error * g


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=784)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    what, d, steps, replicas = problem(args.width), args.d, args.steps, args.replicas
    end = np.array([steps / d])

    def seeds() -> list[np.random.Generator]:
        return streams(0, "benchmark", "throughput", d, 0, replicas)

    methods: dict[str, tuple[int, Callable[[], object]]] = {
        "NumPy loop, one replica": (steps, lambda: numpy_loop(what, d, steps)),
        "weights, Array API (NumPy), batched": (
            steps // 4 * replicas,
            lambda: weight_sgd_array(what, end / 4, d, seeds(), backend_for()),
        ),
        "weights, compiled": (steps * replicas, lambda: sgd.weight_sgd(what, end, d, seeds(), args.threads)),
        "Gram chain": (50 * steps * replicas, lambda: sgd.gram_chain(what, 50 * end, d, seeds(), args.threads)),
    }
    for _, run in methods.values():  # compile and load outside the timings
        run()
    best = dict.fromkeys(methods, np.inf)
    for _ in range(args.repeats):
        for name, (work, run) in methods.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], (time.perf_counter() - start) / work)
    base = best["NumPy loop, one replica"]
    print(f"d = {d}, K = {args.width}, M = 4, both layers, batch 1, {replicas} replicas, {args.threads} thread(s)\n")
    print("| method | us a step and replica | steps x replicas a second | against the loop |")
    print("|---|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {1e6 * seconds:.2f} | {1 / seconds:.3g} | {base / seconds:.1f}x |")


if __name__ == "__main__":
    main()
