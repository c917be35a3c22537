"""Blocks of the inputs: dimladder's flow against a JAX and diffrax script of the same equations, at equal error.

    python -m venv jax-venv && jax-venv/bin/pip install jax diffrax
    python docs/benchmarks/one_pass_blocks_jax.py --python jax-venv/bin/python

An erf committee, K = M = 2, eigenvalues k^-1.5 of unit mean, to t = 50, ten output times. Of each solver the loosest
tolerance whose overlaps come within `ERROR` of a reference at all times. *first*: the first curve after the imports
(dimladder's one module serves every number of blocks, and is read from its cache); *warm*: the least of ten more. CPU
seconds. "integrator" is dimladder without problem, checks and result, as a prepared loop would call it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS, ERROR, TOLERANCES = (1, 8, 32, 100), 1e-6, (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
ETA, NOISE, TIMES = 0.3, 0.2, np.linspace(0.0, 50.0, 11)
Q, M = np.array([[0.5, 0.02], [0.02, 0.4]]), np.array([[0.1, 0.05], [0.02, 0.2]])
Solver = Callable[[float], np.ndarray]


def spectrum(blocks: int) -> np.ndarray:
    """Return the eigenvalues."""
    s = np.arange(1.0, blocks + 1) ** -1.5
    return np.asarray(s / s.mean())


def problem_of(blocks: int) -> Any:
    """Return the problem."""
    import dimladder as dl

    return dl.problem(
        "one-pass", data={"spectrum": {"exponent": 0.5, "levels": blocks}},
        target={"kind": "committee", "readout": [1.0, 1.0], "noise": NOISE},
        student={"kind": "two-layer", "width": 2}, algorithm={"kind": "one-pass", "learning_rate": ETA},
        initial={"Q": Q.tolist(), "M": M.tolist()}, grid={"time": TIMES.tolist()},
    )  # fmt: skip


def by_dimladder(blocks: int) -> Solver:
    """Return a solver: Q and M by block, (times, blocks, 2, 4), to a relative tolerance."""
    import dimladder as dl

    problem = problem_of(blocks)

    def solve(rtol: float) -> np.ndarray:
        curve = dl.solve(problem, rtol=rtol, atol=1e-3 * rtol)
        if blocks == 1:
            return np.concatenate([curve["Q"].values, curve["M"].values], axis=-1)[:, None]
        return np.concatenate([curve["Q_block"].values, curve["M_block"].values], axis=-1)

    return solve


def by_integrator(blocks: int) -> Solver:
    """Return the same by the compiled integrator alone."""
    import dimladder as dl
    from dimladder.numerics.ode import integrate

    flow = dl.derive(problem_of(blocks))
    start, parameters, asked = flow.initial_state(), flow.parameters(), flow.integration()
    safety = asked["rtol"] / flow.problem.solver.rtol

    def solve(rtol: float) -> np.ndarray:
        options = {**asked, "rtol": safety * rtol, "atol": 1e-3 * safety * rtol}
        states = integrate(y0=start, p=parameters, **options).y
        moving, cross, _ = flow.unpack(states)
        return np.concatenate([moving, cross], axis=-1)

    return solve


def by_diffrax(blocks: int, method: str) -> Solver:
    """Return the same of a script: overlaps by block in JAX arrays."""
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    s, share = jnp.asarray(spectrum(blocks)), 1.0 / blocks
    fixed = share * jnp.eye(2)
    weights = jnp.array([1.0, 1.0, -1.0, -1.0])
    i, k = (jnp.asarray(x) for x in np.indices((2, 2)))

    def velocity(t: Any, y: Any, args: Any) -> Any:
        top = y
        below = jnp.concatenate([jnp.swapaxes(y[:, :, 2:], 1, 2), jnp.broadcast_to(fixed, (blocks, 2, 2))], axis=2)
        gram = jnp.concatenate([top, below], axis=1)
        C = jnp.einsum("b,bpq->pq", s, gram)
        d = 1.0 + jnp.diag(C)
        tilted = d[None, :] - C[:2] ** 2 / d[:2, None]
        S = -(2.0 / jnp.pi) / d[:2] ** 1.5 * jnp.sum(weights * C[:2] / jnp.sqrt(tilted), axis=1)
        own = jnp.arange(2)
        H = weights * (2.0 / jnp.pi) / jnp.sqrt(d[:2, None] * d[None, :] - C[:2] ** 2)
        H = H.at[own, own].set(weights[:2] * (2.0 / jnp.pi) / jnp.sqrt(1.0 + 2.0 * jnp.diag(C)[:2]) + S)
        same = i == k
        det = jnp.where(same, 1.0 + 2.0 * C[i, i], d[i] * d[k] - C[i, k] ** 2)
        one, two = C[i], C[k]
        # Covariance tilted by both slopes; twice by the same one where i = k.
        outer = lambda u, v: u[..., :, None] * v[..., None, :]  # noqa: E731
        apart = (
            d[k][..., None, None] * outer(one, one)
            + d[i][..., None, None] * outer(two, two)
            - C[i, k][..., None, None] * (outer(one, two) + outer(two, one))
        ) / det[..., None, None]
        both = C - jnp.where(same[..., None, None], 2.0 * outer(one, one) / det[..., None, None], apart)
        r = 1.0 / jnp.sqrt(1.0 + jnp.diagonal(both, axis1=-2, axis2=-1))
        arcs = 2.0 / jnp.pi * jnp.arcsin(both * r[..., :, None] * r[..., None, :])
        N = 2.0 / jnp.pi / jnp.sqrt(det) * (jnp.einsum("p,ikpq,q->ik", weights, arcs, weights) + NOISE**2)
        drift = ETA * s[:, None, None] * jnp.einsum("ip,bpq->biq", H, gram)
        dq = ETA**2 * share * s[:, None, None] * N - drift[:, :, :2] - jnp.swapaxes(drift[:, :, :2], 1, 2)
        return jnp.concatenate([dq, -drift[:, :, 2:]], axis=2)

    start = jnp.asarray(np.broadcast_to(np.concatenate([Q, M], axis=1) / blocks, (blocks, 2, 4)))

    @jax.jit
    def integrated(rtol: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(velocity), getattr(diffrax, method)(), 0.0, TIMES[-1], None, start, max_steps=1_000_000,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol),
            saveat=diffrax.SaveAt(ts=jnp.asarray(TIMES)),
        ).ys  # fmt: skip

    return lambda rtol: np.asarray(integrated(rtol))


def first_of(solver: Solver) -> float:
    """Return the time of a first curve."""
    begin = time.process_time()
    solver(TOLERANCES[0])
    return time.process_time() - begin


def timed(solver: Solver, reference: np.ndarray, first: float) -> dict[str, float]:
    """Return tolerance, error and times of one solver."""
    for rtol in TOLERANCES:
        error = float(abs(solver(rtol) - reference).max())
        if error <= ERROR:
            break
    warm = []
    for _ in range(10):
        begin = time.process_time()
        solver(rtol)
        warm.append(time.process_time() - begin)
    return {"rtol": rtol, "error": error, "first": first, "warm": min(warm)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable, help="Python of an environment with jax and diffrax")
    parser.add_argument("--method", default="", help="run this method of diffrax against the reference on stdin")
    parser.add_argument("--blocks", type=int, default=0)
    args = parser.parse_args()
    if args.method:
        reference = np.array(json.load(sys.stdin))
        script = by_diffrax(args.blocks, args.method)
        print(json.dumps(timed(script, reference, first_of(script))))
        return
    print("| blocks | solver | rtol | error | first, s | warm, ms |\n|---|---|---|---|---|---|")
    for blocks in BLOCKS:
        ours, bare = by_dimladder(blocks), by_integrator(blocks)
        first = first_of(ours)
        reference = ours(1e-12)
        rows = {"dimladder": timed(ours, reference, first), "integrator": timed(bare, reference, first_of(bare))}
        for method in ("Tsit5", "Dopri8"):
            command = [args.python, str(Path(__file__).resolve()), "--method", method, "--blocks", str(blocks)]
            done = subprocess.run(
                command, input=json.dumps(reference.tolist()), capture_output=True, text=True, check=True
            )
            rows[f"diffrax {method}"] = json.loads(done.stdout.splitlines()[-1])
        for name, row in rows.items():
            shown = f"{row['rtol']:.0e} | {row['error']:.1e} | {row['first']:.2f} | {1e3 * row['warm']:.2f}"
            print(f"| {blocks} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
