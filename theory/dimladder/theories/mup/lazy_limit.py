"""The lazy limit: kernels frozen at initialisation. An ablation, and the limit gamma -> 0 of the march."""

from __future__ import annotations

import numpy as np

from ...problem import Expression
from ...problem.training import Training
from .initial_kernels import initial_kernels
from .march import OrderParameters, require_finite


def solve_lazy_limit(training: Training, expression: Expression) -> OrderParameters:
    """Return the outputs of kernel gradient descent, ``f(t+1) = f(t) + eta NTK (p Delta)``, with constant kernels."""
    out = OrderParameters.empty(training)
    m, times = training.samples, training.times
    kernels = initial_kernels(training.gram, training.layers, expression)
    for l in range(training.layers):
        out.phi[l][:] = np.tile(kernels.phi[l + 1], (times, times))
        out.g[l][:] = np.tile(kernels.g[l][:m, :m], (times, times))
        out.pre[l][:] = kernels.phi[l]
    out.forward_pivots[0] = [np.linalg.eigvalsh(kernels.phi[l])[0] for l in range(training.layers)]
    out.backward_pivots[0] = [np.linalg.eigvalsh(kernels.g[l + 1][:m, :m])[0] for l in range(training.layers)]
    for t in range(times):
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        step = training.learning_rates[t] * training.weights[t] * out.error_signal[t]
        out.rates[t] = training.richness * step
        if t + 1 < times:
            out.f[t + 1] = out.f[t] + kernels.tangent[:, :m] @ step
            require_finite(out.f[t + 1], "output f", out, t + 1)
    return out
