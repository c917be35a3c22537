"""The erf committee for peer solvers: one function for each, returning (callable, statistics) pairs to be timed.

Every function raises ImportError when its package is missing; the caller prints that and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from erf_rhs import initial_state, rhs_numpy
from numba import njit

import dimladder
from dimladder.numerics.ode import integrate
from dimladder.solve import loads


@dataclass(frozen=True)
class Case:
    """An erf committee of K students and M teachers with the deterministic start of `initial_state`."""

    students: int
    teachers: int
    both_layers: bool
    noise: float
    end: float
    rate: float = 0.5

    @property
    def label(self) -> str:
        layers = "both layers" if self.both_layers else "first layer"
        return f"K={self.students}, M={self.teachers}, {layers}, sigma={self.noise:g}, t={self.end:g}"

    def flow(self) -> Any:
        """The flow that dimladder derives."""
        k, m = self.students, self.teachers
        i, j = np.arange(k)[:, None], np.arange(k)[None, :]
        q = 0.5 * np.eye(k) + 0.02 * np.cos(1 + i + j + i * j)
        r = 0.03 * np.sin(1 + 2 * i + 3 * np.arange(m)[None, :] + i * np.arange(m)[None, :])
        readout_rate = self.rate if self.both_layers else 0.0
        text = f"""
            schema = 2
            title = "Benchmark"
            [target]
            kind = "committee"
            activation = "erf"
            readout = {[1.0] * m}
            overlap = {np.eye(m).tolist()}
            noise = {self.noise}
            [student]
            kind = "two-layer"
            width = {k}
            activation = "erf"
            train_readout = {str(self.both_layers).lower()}
            [algorithm]
            kind = "one-pass"
            learning_rate = {self.rate}
            readout_learning_rate = {readout_rate}
            [initial]
            Q = {q.tolist()}
            M = {r.tolist()}
            a = {[1.0] * k}
            [grid]
            time = [0.0, {self.end}]
        """
        if not self.both_layers:
            text = text.replace(f"readout_learning_rate = {readout_rate}", "")
        return dimladder.derive(loads(text))


Run = Callable[[], tuple[np.ndarray, int]]


class Generated:
    """The generated right-hand side of a case, for any solver."""

    def __init__(self, case: Case) -> None:
        flow = case.flow()
        self.rhs, self.case = flow.module().rhs, case
        self.y0, self.p, self.work_size = flow.initial_state(), flow.parameters(), flow.work_size()
        self.reference = self.ours("dop853", 1e-13)()[0]

    def ours(self, method: str, rtol: float) -> Run:
        def run() -> tuple[np.ndarray, int]:
            result = integrate(
                self.rhs, self.y0, [self.case.end], p=self.p, work_size=self.work_size, method=method, rtol=rtol,
                atol=1e-3 * rtol,
            )  # fmt: skip
            assert result.success, result.message
            return result.y[-1], result.stats["n_rhs"]

        return run

    def scipy(self, method: str, rtol: float) -> Run:
        from scipy.integrate import solve_ivp

        work = np.zeros(self.work_size)

        def run() -> tuple[np.ndarray, int]:
            count = 0

            def f(t: float, y: np.ndarray) -> np.ndarray:
                nonlocal count
                count += 1
                dy = np.empty_like(y)
                self.rhs(t, y, dy, self.p, work)
                return dy

            # A contiguous copy: the Jacobian of the implicit solvers passes columns.
            solution = solve_ivp(
                lambda t, y: f(t, np.ascontiguousarray(y)), (0, self.case.end), self.y0, method=method, rtol=rtol,
                atol=1e-3 * rtol,
            )  # fmt: skip
            assert solution.success, solution.message
            return solution.y[:, -1], count

        return run

    def euler(self, dt: float) -> Run:
        rhs, y0, p, work_size = self.rhs, self.y0, self.p, self.work_size
        steps = round(self.case.end / dt)

        @njit
        def march(y, dy, p, work, steps, dt):
            for _ in range(steps):
                rhs(0.0, y, dy, p, work)
                for i in range(y.size):
                    y[i] += dt * dy[i]

        def run() -> tuple[np.ndarray, int]:
            y = y0.copy()
            march(y, np.empty_like(y), p, np.zeros(work_size), steps, dt)
            return y, steps

        march(y0.copy(), np.empty_like(y0), p, np.zeros(work_size), 1, dt)
        return run

    def euler_cpp(self, dt: float) -> tuple[float, float]:
        """CPU seconds of the plain C++ program of euler.cpp, and its error against the hand-written reference."""
        import shutil
        import subprocess
        import tempfile
        from pathlib import Path

        compiler = shutil.which("g++")
        if compiler is None:
            raise ImportError("g++ is not installed")
        case = self.case
        with tempfile.TemporaryDirectory() as folder:
            program = str(Path(folder) / "euler")
            source = str(Path(__file__).with_name("euler.cpp"))
            subprocess.run([compiler, "-O3", "-std=c++17", source, "-o", program], check=True)
            numbers = (case.students, case.teachers, int(case.both_layers), case.rate, case.noise, case.end, dt)
            runs = [
                subprocess.run([program, *map(str, numbers)], check=True, capture_output=True, text=True).stdout.split()
                for _ in range(3)
            ]
        y = np.array(runs[0][1:], dtype=float)
        error = abs(y - HandWritten(case).reference).max()
        return min(float(run[0]) for run in runs), float(error)

    def numbalsoda(self, method: str, rtol: float) -> Run:
        import numbalsoda
        from numba import carray, cfunc

        n, n_p, work_size, rhs = self.y0.size, self.p.size, self.work_size, self.rhs

        @cfunc(numbalsoda.lsoda_sig)
        def address(t, y, dy, data):
            all_data = carray(data, (n_p + work_size,))
            rhs(t, carray(y, (n,)), carray(dy, (n,)), all_data[:n_p], all_data[n_p:])

        data = np.concatenate([self.p, np.zeros(work_size)])
        solver = getattr(numbalsoda, method)
        times = np.array([0.0, self.case.end])

        def run() -> tuple[np.ndarray, int]:
            y, success = solver(address.address, self.y0, times, data=data, rtol=rtol, atol=1e-3 * rtol)
            assert success
            return y[-1], 0

        return run


class HandWritten:
    """The hand-written form, for solvers that need NumPy, JAX or symbols. State order as in `erf_rhs`."""

    def __init__(self, case: Case) -> None:
        from erf_rhs import rhs, work_size

        self.case, self.y0 = case, initial_state(case.students, case.teachers)
        rate = case.rate if case.both_layers else 0.0
        self.arguments = (case.students, case.teachers, case.rate, rate, case.noise)
        self.p = np.array([case.rate, rate, case.noise, case.students, case.teachers], dtype=float)
        self.rhs, self.work_size = rhs, work_size(case.students, case.teachers)
        self.reference = self.ours("dop853", 1e-13)()[0]

    ours = Generated.ours

    def scipy_numpy(self, method: str, rtol: float) -> Run:
        from scipy.integrate import solve_ivp

        def run() -> tuple[np.ndarray, int]:
            solution = solve_ivp(
                lambda t, y: rhs_numpy(t, y, *self.arguments), (0, self.case.end), self.y0, method=method, rtol=rtol,
                atol=1e-3 * rtol,
            )  # fmt: skip
            return solution.y[:, -1], solution.nfev

        return run

    def diffrax(self, method: str, rtol: float) -> Run:
        import diffrax
        import jax

        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp

        y0 = jnp.asarray(self.y0)

        @jax.jit
        def solve(y: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: rhs_numpy(t, y, *self.arguments, xp=jnp)),
                getattr(diffrax, method)(), 0.0, self.case.end, None, y, max_steps=1_000_000,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol),
                saveat=diffrax.SaveAt(t1=True),
            )  # fmt: skip

        def run() -> tuple[np.ndarray, int]:
            solution = solve(y0)
            y = np.asarray(solution.ys[-1])
            return y, int(solution.stats["num_steps"]) * {"Tsit5": 6, "Dopri8": 13}[method]

        run()
        return run

    def heyoka(self, tolerance: float) -> Run:
        import heyoka as hy

        k, m, eta, eta_v, noise = self.arguments
        n = k + m
        names, c = [], [[None] * n for _ in range(n)]
        for i in range(k):
            for j in range(i, k):
                names.append(f"q{i}_{j}")
                c[i][j] = c[j][i] = hy.expression(names[-1])
        for i in range(k):
            for j in range(m):
                names.append(f"r{i}_{j}")
                c[i][k + j] = c[k + j][i] = hy.expression(names[-1])
        coefficient = []
        for i in range(k):
            names.append(f"v{i}")
            coefficient.append(hy.expression(names[-1]))
        coefficient += [hy.expression(-1.0)] * m
        for i in range(m):
            for j in range(m):
                c[k + i][k + j] = hy.expression(1.0 if i == j else 0.0)
        two_pi = 2 / np.pi
        d = [[hy.expression(0.0)] * n for _ in range(k)]
        for i in range(k):
            base = 1.0 + c[i][i]
            for b in range(n):
                d[i][b] = hy.sum([
                    two_pi * coefficient[a] * (c[a][b] * base - c[i][b] * c[i][a])
                    / (base * hy.sqrt(base * (1.0 + c[a][a]) - c[i][a] * c[i][a])) for a in range(n)])  # fmt: skip
        right = []
        for i in range(k):
            for j in range(i, k):
                if i == j:
                    l4 = 1.0 + 2.0 * c[i][i]
                    f = hy.sqrt(2.0 / l4)
                    u, w = [f * c[i][a] for a in range(n)], [hy.expression(0.0)] * n
                else:
                    l4 = (1.0 + c[i][i]) * (1.0 + c[j][j]) - c[i][j] * c[i][j]
                    root = hy.sqrt(1.0 + c[i][i])
                    f = 1.0 / hy.sqrt(l4 / (1.0 + c[i][i]))
                    u = [c[i][a] / root for a in range(n)]
                    w = [(c[j][a] - c[i][j] * c[i][a] / (1.0 + c[i][i])) * f for a in range(n)]
                r = [1.0 / hy.sqrt(1.0 + c[a][a] - u[a] * u[a] - w[a] * w[a]) for a in range(n)]
                terms = [
                    (1.0 if a == b else 2.0) * coefficient[a] * coefficient[b]
                    * hy.asin((c[a][b] - u[a] * u[b] - w[a] * w[b]) * r[a] * r[b])
                    for a in range(n) for b in range(a + 1)
                ]  # fmt: skip
                g4 = two_pi * (two_pi * hy.sum(terms) + noise**2) / hy.sqrt(l4)
                vi, vj = coefficient[i], coefficient[j]
                right.append(-eta * (vi * d[i][j] + vj * d[j][i]) + eta**2 * vi * vj * g4)
        for i in range(k):
            right += [-eta * coefficient[i] * d[i][k + b] for b in range(m)]
        for i in range(k):
            right.append(-eta_v * two_pi * hy.sum([
                coefficient[a] * hy.asin(c[i][a] / hy.sqrt((1.0 + c[i][i]) * (1.0 + c[a][a]))) for a in range(n)
            ]) if eta_v else hy.expression(0.0))  # fmt: skip
        system = [(hy.expression(name), f) for name, f in zip(names, right, strict=True)]
        integrator = hy.taylor_adaptive(system, self.y0, tol=tolerance, compact_mode=True)

        def run() -> tuple[np.ndarray, int]:
            integrator.time = 0.0
            integrator.state[:] = self.y0
            integrator.propagate_until(self.case.end)
            return integrator.state.copy(), 0

        return run
