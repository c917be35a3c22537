"""The march in response functions, the form of the literature: for the kernels A and B, and for ablations.

    h = u + C g,   z = r + D x,   C = A^{l-1} + a Phi^{l-1},   D = B^{l+1} + 1[s<t] a G^{l+1}

The Gaussian drives u and r are drawn given the past by extending a Cholesky factor of their kernels; A and B are
averages of Jacobians over the samples, by one adjoint sweep a time. The equations are those of `equations.py`, and a
test evaluates one against the other. `revealed` gives the same order parameters without A and B, at a lower cost.

Memory: about ``6 L N m T`` numbers for the samples and ``6 L (m T)^2`` for the kernels. Time: at most
``(4/3) (L-1) N (m T)^3`` multiply-adds, half of it for the first and the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...numerics.causal import CausalGaussian
from ...problem.training import Training
from .adjoint import AdjointSweep, Coupling
from .march import March, Nodes, train_columns


class ResponseMarch(March):
    """A march of sampled trajectories with sampled responses.

    Parameters
    ----------
    training, nodes, exact_start
        As of `March`.
    responses : bool
        False drops A and B ("gradient independence"), which is wrong at O(1): for ablations.
    response_samples : int, optional
        Use only this many of the samples for A and B.
    chunk : int
        Samples treated together in the adjoint sweep.
    response_dtype : {"float64", "float32"}
    """

    def __init__(
        self,
        training: Training,
        nodes: Sequence[Nodes],
        *,
        responses: bool = True,
        response_samples: int | None = None,
        chunk: int = 256,
        response_dtype: str = "float64",
        exact_start: bool = True,
    ) -> None:
        super().__init__(training, nodes, exact_start=exact_start)
        self._keep = response_samples
        times, m, total, layers = training.times, training.samples, training.points, training.layers
        k = times * m
        self._sweep = AdjointSweep(times, m, total, chunk, response_dtype) if responses and layers > 1 else None
        self._slope, self._curve = ([np.empty_like(g) for g in self.g] for _ in range(2))
        static_c = Coupling(None, training.gram[:m, :m], self.result.rates)
        static_d = Coupling(None, np.ones((m, m)), self.result.rates)
        self._c = [static_c, *(Coupling(np.zeros((k, k))) for _ in range(layers - 1))]
        self._d = [*(Coupling(np.zeros((k, k))) for _ in range(layers - 1)), static_d]
        # Of the layers above the first and below the last.
        self._u = {i: CausalGaussian(times * total, len(nodes[i].forward)) for i in range(1, layers)}
        self._r = {i: CausalGaussian(k, len(nodes[i].backward)) for i in range(layers - 1)}
        self._row = np.empty(0)

    def _hidden(self, index: int, t: int) -> np.ndarray:
        m, total, out = self.training.samples, self.training.points, self.result
        rows, past, below = slice(t * total, (t + 1) * total), t * total, self.result.phi[index - 1]
        out.forward_pivots[t, index] = self._u[index].extend(below[rows, :past], below[rows, rows])[0]
        self._row = (
            train_columns(below[rows, :past], total, m) * out.rates[:t].ravel() + out.a[index - 1][rows, : t * m]
        )
        self._c[index].dense[t * m : (t + 1) * m, : t * m] = self._row[:m]  # type: ignore[index]
        return self._u[index].draw(total, self.nodes[index].forward) + self._row @ self.g[index][: t * m]

    def _returned(self, index: int, t: int) -> np.ndarray:
        m, total, out = self.training.samples, self.training.points, self.result
        rows, past, above = slice(t * m, (t + 1) * m), t * m, self.result.g[index + 1]
        out.backward_pivots[t, index] = self._r[index].extend(above[rows, :past], above[rows, rows])[0]
        row = out.b[index][rows, : past + m].copy()
        row[:, :past] += above[rows, :past] * out.rates[:t].ravel()
        self._d[index].dense[rows, : past + m] = row  # type: ignore[index]
        x = self.x[index].reshape(self.training.times, total, -1)[: t + 1, :m].reshape(past + m, -1)
        return self._r[index].draw(m, self.nodes[index].backward) + row @ x

    def _forward(self, index: int, t: int) -> None:
        super()._forward(index, t)
        training, m = self.training, self.training.samples
        slope = self._slopes[index][0]
        self._slope[index][t * m : (t + 1) * m] = slope[:m]
        if self._sweep is None or index == training.layers - 1 or t == 0:
            return
        row = np.tile(training.gram[:, :m], t) * self.result.rates[:t].ravel() if index == 0 else self._row
        some, weights = self._for_responses(index)
        self.result.a[index][t * training.points : (t + 1) * training.points, : t * m] = self._sweep.forward(
            t, self._c[index], self._d[index], row, slope[:, some], self._slope[index][: t * m, some],
            self._curve[index][: t * m, some], weights,
        )  # fmt: skip

    def _backward(self, index: int, t: int) -> np.ndarray:
        z, m = super()._backward(index, t), self.training.samples
        rows, end = slice(t * m, (t + 1) * m), (t + 1) * m
        self._curve[index][rows] = z * self._slopes[index][1][:m]
        if self._sweep is None or index == 0:
            return z
        some, weights = self._for_responses(index)
        self.result.b[index - 1][rows, :end] = self._sweep.backward(
            t, self._c[index], self._d[index], self._slope[index][:end, some], self._curve[index][:end, some], weights
        )
        return z

    def _for_responses(self, index: int) -> tuple[slice, np.ndarray]:
        weights = self.nodes[index].weights
        if self._keep is None or self._keep >= len(weights):
            return slice(None), weights
        kept = weights[: self._keep]
        return slice(0, self._keep), kept / kept.sum()

    def arrays(self) -> dict[str, np.ndarray]:
        out = super().arrays()
        for i in range(self.training.layers):
            out |= {f"slope{i}": self._slope[i], f"curve{i}": self._curve[i]}
            for name, coupling in (("c", self._c[i]), ("d", self._d[i])):
                if coupling.dense is not None:
                    out[f"{name}{i}"] = coupling.dense
        return out

    def _drives(self) -> dict[str, CausalGaussian]:
        return {f"u{i}": u for i, u in self._u.items()} | {f"r{i}": r for i, r in self._r.items()}

    def state(self) -> dict[str, np.ndarray]:
        drives = {f"{name}.{k}": v for name, drive in self._drives().items() for k, v in drive.state().items()}
        return super().state() | drives

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        for name, drive in self._drives().items():
            drive.restore({k: state[f"{name}.{k}"] for k in ("size", "factor", "table", "whiteners")})


def memory(training: Training, samples: int) -> int:
    """Return the bytes a march holds at once: samples with their nodes, and kernels."""
    k, kt, layers = training.times * training.samples, training.times * training.points, training.layers
    per_sample = layers * (kt + 3 * k) + (layers - 1) * (kt + k) + training.points + 1
    kernels = layers * (3 * kt * kt + 6 * k * k)
    return 8 * (per_sample * samples + kernels)
