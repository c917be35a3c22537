"""Deep linear networks under muP: the order parameters in closed form, to machine precision.

With ``phi(x) = c x`` the single-site process is linear in its Gaussian drives. Time by time,

    h(t) = u(t) + C(t,<t) c z(<t),   z(t) = r(t) + D(t,<t) c h(<t),

so the rows ``h = U_h u + R_h r``, ``z = U_z u + R_z r`` follow from earlier ones, and

    Phi^l = c^2 [U_h Phi^{l-1} U_h^T + R_h G^{l+1} R_h^T],   A^l = c R_h,
    G^l   = c^2 [U_z Phi^{l-1} U_z^T + R_z G^{l+1} R_z^T],   B^l = c U_z,
    gamma f(t) = c diag[U_z Phi^{L-1} U_h^T + R_z G^{L+1} R_h^T](t, t).

Eliminating the rows gives ``h = (I - c^2 C D)^{-1}(u + c C r)``, the usual form (Bordelon, Pehlevan 2022). Cost
O(L (m T)^3), no sampling.
"""

from __future__ import annotations

import numpy as np

from ...problem.training import Training
from .march import OrderParameters, require_finite


def solve_linear(training: Training, slope: float) -> OrderParameters:
    """Return the order parameters of a network with activation ``slope * x``.

    Raises
    ------
    Diverged
        When an output is no longer finite (the learning rate is above the edge of stability).
    """
    out = OrderParameters.empty(training)
    times, layers, m, total, c = training.times, training.layers, training.samples, training.points, slope
    k, kt = times * m, times * total
    train = (np.arange(times)[:, None] * total + np.arange(m)).ravel()  # rows of the training samples
    phi = [np.tile(training.gram, (times, times)), *out.phi]
    g = [*out.g, np.ones((k, k))]
    uh, rh = [np.zeros((kt, kt)) for _ in range(layers)], [np.zeros((kt, k)) for _ in range(layers)]
    uz, rz = [np.zeros((k, kt)) for _ in range(layers)], [np.zeros((k, k)) for _ in range(layers)]
    for t in range(times):
        rows, now = slice(t * total, (t + 1) * total), slice(t * m, (t + 1) * m)
        pt, past = (t + 1) * total, t * m
        seen, a = train[:past], out.rates[:t].ravel()
        for l in range(layers):
            coupling = phi[l][rows][:, seen] * a
            if l > 0:
                coupling = coupling + out.a[l - 1][rows, :past]
            uh[l][rows] = c * coupling @ uz[l][:past]
            uh[l][rows, rows] += np.eye(total)
            rh[l][rows] = c * coupling @ rz[l][:past]
            block = c**2 * (
                uh[l][rows, :pt] @ phi[l][:pt, :pt] @ uh[l][:pt, :pt].T
                + rh[l][rows, :past] @ g[l + 1][:past, :past] @ rh[l][:pt, :past].T
            )
            phi[l + 1][rows, :pt], phi[l + 1][:pt, rows] = block, block.T
            if l < layers - 1:
                out.a[l][rows] = c * rh[l][rows]
        with np.errstate(over="ignore", invalid="ignore"):
            readout = a @ phi[layers][train[:past], rows]  # learned part of z^L against x^L
            # <w_0 x^L(t)>: r of the last layer is w_0 at all times.
            start = c * rh[-1][rows].sum(axis=1)
        out.f[t] = (readout + start) / training.richness
        require_finite(out.f[t], "output f", out, t)
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        out.rates[t] = training.learning_rates[t] * training.richness * training.weights[t] * out.error_signal[t]
        for l in reversed(range(layers)):
            coupling = g[l + 1][now, :past] * a
            if l < layers - 1:
                coupling = coupling + out.b[l][now, :past]
            uz[l][now] = c * coupling @ uh[l][seen]
            rz[l][now] = c * coupling @ rh[l][seen]
            rz[l][now, now] += np.eye(m)
            end = past + m
            block = c**2 * (
                uz[l][now, :pt] @ phi[l][:pt, :pt] @ uz[l][:end, :pt].T
                + rz[l][now, :end] @ g[l + 1][:end, :end] @ rz[l][:end, :end].T
            )
            g[l][now, :end], g[l][:end, now] = block, block.T
            if l > 0:
                out.b[l - 1][now] = c * uz[l][now][:, train]
    first, last = slice(0, total), slice(kt - total, kt)
    for l in range(layers):
        full = out.phi[l] / c**2
        out.pre[l][0], out.pre[l][1] = full[first, first], full[last, last]
        out.change[l][:] = np.diag(full[last, last] - full[last, first] - full[first, last] + full[first, first])
    _pivots(training, out, phi, g)
    return out


def _pivots(training: Training, out: OrderParameters, phi: list[np.ndarray], g: list[np.ndarray]) -> None:
    from ...numerics.causal import CausalGaussian

    m, total = training.samples, training.points
    out.forward_pivots[0, 0] = np.linalg.eigvalsh(training.gram)[0]
    out.backward_pivots[0, -1] = 1.0
    for l in range(training.layers):
        for kernel, size, store in ((phi[l], total, out.forward_pivots), (g[l + 1], m, out.backward_pivots)):
            if (store is out.forward_pivots and l == 0) or (store is out.backward_pivots and l == training.layers - 1):
                continue
            process = CausalGaussian(len(kernel), len(kernel))
            for t in range(training.times):
                rows = slice(t * size, (t + 1) * size)
                store[t, l] = process.extend(kernel[rows, : t * size], kernel[rows, rows])[0]
