"""Response functions of one layer by the adjoint sweep.

For the single-site process of a layer,

    h(t) = u(t) + sum_{s<t} C(t,s) g(s),   z(t) = r(t) + sum_{s<=t} D(t,s) x(s),   x = phi(h),  g = z phi'(h),

the responses ``A(t,s) = <dx(t)/dr(s)>`` and ``B(t,s) = <dg(t)/du(s)>`` are averages of Jacobians. One sweep backwards
in s carries the adjoints of all outputs at time t:

    lambda_g(s) = sum_{s'>s} C(s',s)^T lambda_h(s'),    lambda_z(s) = phi'(h(s)) lambda_g(s),
    lambda_x(s) = sum_{s'>=s} D(s',s)^T lambda_z(s'),   lambda_h(s) = phi'(h(s)) lambda_x(s) + phi''(h(s)) z(s)
    lambda_g(s).

Started from x(t), ``A = <lambda_z>``; started from g(t), ``B = <lambda_h>``, the equal time s = t included. Samples are
taken in chunks that stay in cache, so the memory is that of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Times whose contributions from the later ones are gathered in one matrix product; rows of that product.
BLOCK_ROWS = 24


@dataclass
class Coupling:
    """A causal matrix coupling, dense or of the form ``kernel[mu, nu] a_nu(s)`` for s < t.

    The latter is that of ``C`` in the first layer and ``D`` in the last, whose kernels do not depend on time: a running
    sum replaces the matrix product.
    """

    dense: np.ndarray | None  # (S m, S m)
    kernel: np.ndarray | None = None  # (m, m)
    rates: np.ndarray | None = None  # (S, m): a_nu(s)


class AdjointSweep:
    """Work space of the sweeps of one march.

    Parameters
    ----------
    times, samples : int
        Number of times, and the number m of training samples.
    outputs : int
        The largest number of outputs at one time: training and test samples.
    chunk : int
        Single-site samples treated together.
    dtype : str
        ``float64``, or ``float32`` to halve the time at an error near 1e-6 in the responses.
    """

    def __init__(self, times: int, samples: int, outputs: int, chunk: int, dtype: str = "float64") -> None:
        self.m, self.chunk, self.dtype = samples, chunk, np.dtype(dtype)
        self._lh = np.empty((times * samples, outputs * chunk), self.dtype)
        self._lz = np.empty_like(self._lh)

    def forward(
        self,
        t: int,
        c: Coupling,
        d: Coupling,
        c_row: np.ndarray,
        slope_out: np.ndarray,
        slope: np.ndarray,
        curve: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Return ``A(t, <t)``, shape ``(outputs, t m)``.

        Parameters
        ----------
        c_row : (outputs, t m) array
            ``C(t, <t)``, test samples included.
        slope_out : (outputs, N) array
            ``phi'(h(t))``.
        slope, curve : (t m, N) arrays
            ``phi'(h(s))`` and ``phi''(h(s)) z(s)`` of the training samples for s < t.
        weights : (N,) array
            Weights of the single-site samples, of sum one.
        """
        return self._run(t, c, d, slope_out, slope, curve, weights, c_row)

    def backward(
        self, t: int, c: Coupling, d: Coupling, slope: np.ndarray, curve: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Return ``B(t, <=t)``, shape ``(m, (t + 1) m)``; `slope` and `curve` include time t."""
        return self._run(t, c, d, None, slope, curve, weights, None)

    def _run(
        self,
        t: int,
        c: Coupling,
        d: Coupling,
        slope_out: np.ndarray | None,
        slope: np.ndarray,
        curve: np.ndarray,
        weights: np.ndarray,
        c_row: np.ndarray | None,
    ) -> np.ndarray:
        outputs = self.m if c_row is None else len(c_row)
        result = np.zeros((outputs, len(slope)))
        total = slope.shape[1]
        c, d = _cast(c, self.dtype), _cast(d, self.dtype)
        row = None if c_row is None else c_row.astype(self.dtype, copy=False)
        for start in range(0, total, self.chunk):
            part = slice(start, min(start + self.chunk, total))
            self._sweep(
                t, c, d,
                None if slope_out is None else slope_out[:, part].astype(self.dtype, copy=False),
                slope[:, part].astype(self.dtype, copy=False),
                curve[:, part].astype(self.dtype, copy=False),
                weights[part].astype(self.dtype, copy=False), row, result,
            )  # fmt: skip
        return result

    def _sweep(
        self,
        t: int,
        c: Coupling,
        d: Coupling,
        slope_out: np.ndarray | None,
        slope: np.ndarray,
        curve: np.ndarray,
        weights: np.ndarray,
        c_row: np.ndarray | None,
        result: np.ndarray,
    ) -> None:
        m, outputs, n = self.m, len(result), slope.shape[1]
        width = outputs * n
        # Behind a running sum only the present adjoint is needed: one block of rows is written over and over, in cache.
        lh, row_h = self._rows(self._lh, c, width)
        lz, row_z = self._rows(self._lz, d, width)
        top = t
        sum_h, sum_z = np.zeros((m, width), self.dtype), np.zeros(width, self.dtype)
        if c_row is None:
            # Outputs g_mu(t): lambda_g(t) = e_mu, and x(t) enters z(t) through the equal-time B of the layer above.
            now = slice(t * m, (t + 1) * m)
            lz_now, lh_now = lz[row_z(t)], lh[row_h(t)]
            zs, hs = lz_now.reshape(m, m, n), lh_now.reshape(m, m, n)
            diagonal = np.arange(m)
            zs[:], hs[:] = 0.0, 0.0
            zs[diagonal, diagonal] = slope[now]
            if d.dense is not None:
                hs[:] = slope[now][:, None] * (d.dense[now, now].T @ lz_now).reshape(m, m, n)
            hs[diagonal, diagonal] += curve[now]
            result[:, now] += (hs @ weights).T
            top = t + 1
            sum_h += lh_now
            sum_z += lz_now.sum(axis=0)
        block = max(1, BLOCK_ROWS // m)
        for high in range(t, 0, -block):
            low = max(0, high - block)
            rows, later = slice(low * m, high * m), slice(high * m, top * m)
            from_h = c.dense[later, rows].T @ lh[later] if c.dense is not None else None
            from_z = d.dense[later, rows].T @ lz[later] if d.dense is not None else None
            for s in range(high - 1, low - 1, -1):
                here, local = slice(s * m, (s + 1) * m), slice((s - low) * m, (s - low + 1) * m)
                inside = slice((s + 1) * m, high * m)
                # lambda_g(s)
                if from_h is not None:
                    lg = from_h[local]
                    if s + 1 < high:
                        lg += c.dense[inside, here].T @ lh[inside]  # type: ignore[index]
                else:
                    lg = (c.kernel * c.rates[s]).T @ sum_h  # type: ignore[index]
                lg3 = lg.reshape(m, outputs, n)
                if c_row is not None:
                    lg3 += c_row[:, here].T[:, :, None] * slope_out
                # lambda_z(s), lambda_x(s), lambda_h(s)
                slope_s = slope[here][:, None]
                z_now, h_now = lz[row_z(s)], lh[row_h(s)]
                z3, h3 = z_now.reshape(m, outputs, n), h_now.reshape(m, outputs, n)
                np.multiply(lg3, slope_s, out=z3)
                if from_z is not None:
                    lx = from_z[local]
                    lx += d.dense[s * m : high * m, here].T @ lz[s * m : high * m]  # type: ignore[index]
                    np.multiply(lx.reshape(m, outputs, n), slope_s, out=h3)
                else:
                    # z of the last layer has no sample index: every row of its kernel is the same.
                    lx = (d.kernel[0] * d.rates[s])[:, None] * sum_z  # type: ignore[index]
                    np.multiply(lx.reshape(m, outputs, n), slope_s, out=h3)
                    sum_z += z_now.sum(axis=0)
                lg3 *= curve[here][:, None]
                h3 += lg3
                if from_h is None:
                    sum_h += h_now
                result[:, here] += ((z3 if c_row is not None else h3) @ weights).T

    def _rows(self, buffer: np.ndarray, coupling: Coupling, width: int) -> tuple[np.ndarray, Callable[[int], slice]]:
        m = self.m
        if coupling.dense is None:
            return buffer.ravel()[: m * width].reshape(m, width), lambda s: slice(0, m)
        return buffer.ravel()[: len(buffer) * width].reshape(-1, width), lambda s: slice(s * m, (s + 1) * m)


def _cast(coupling: Coupling, dtype: np.dtype) -> Coupling:
    def cast(a: np.ndarray | None) -> np.ndarray | None:
        return None if a is None else a.astype(dtype, copy=False)

    return Coupling(cast(coupling.dense), cast(coupling.kernel), cast(coupling.rates))
