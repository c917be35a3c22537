"""The same training in response functions, the form of the literature: for kernels, printing and ablations.

    lam(t) = r(t) + sum_{s<t} R_w(t,s) u(s),   (z, r) Gaussian,   cov(r(t), r(s)) = C(t,s),   cov(r(t), z) = M(t)

The weight side is linear and Gaussian, so it is not sampled: w(t) is a row L(t) on (w*, w(0), g(0), g(1), ...) with the
Gram matrix ``P = [[T, M0^T], [M0, Q0]] + alpha Cu``, hence ``C(t,s) = L(t) P L(s)^T``, and R_w is the part of L on g.
Responses are pathwise: with H the second derivative of the loss of a sample in its fields,

    v(t) = H(t),  v(s) = [sum_{s<s'<=t} v(s') R_w(s',s)] H(s),  R_u(t,s) = <v(s)>,
    R_*(t) = (<u z^T> - sum_s R_u(t,s) M(s)) T^-1  (Stein: labels are never differentiated).

`march.py` gives the same order parameters with less noise: where samples are interpolated, sampled responses are
dominated by rare trajectories that amplify. Operations O(N K^3 T^3/6), memory O(N T K^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...numerics.causal import CausalGaussian
from ...numerics.sampling import Sampler, uniforms
from ...problem.descent import Descent
from .march import Diverged, Trajectory
from .model import Model
from .start import batch_masks, order_of
from .update import advance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernels:
    """Two-time kernels of one set of samples; updates t, s = 0..T-1 unless said otherwise.

    Attributes
    ----------
    weight_response : (T + 1, T, K, K) array
        R_w(t,s), the response of w(t) to a field on the gradient of update s.
    gradient_response, gradient_correlation : (T, T, K, K) arrays
        R_u(t,s) and Cu(t,s).
    target_response : (T, K, M) array
        R_*(t).
    """

    weight_response: Array
    gradient_response: Array
    gradient_correlation: Array
    target_response: Array


def solve_responses(
    descent: Descent, model: Model, samples: int, stream: np.random.Generator, *, sampler: Sampler = "sobol",
    responses: bool = True,
) -> tuple[Trajectory, Kernels]:  # fmt: skip
    """March in response form on inputs of one variance.

    Parameters
    ----------
    descent : Descent
        One block.
    model : Model
        With an activation and a loss that have second derivatives.
    samples : int
    stream : numpy.random.Generator
    sampler : {"sobol", "monte-carlo"}
    responses : bool
        False drops R_u, "gradient independence": wrong at O(1), for ablations.

    Raises
    ------
    Diverged
        When an order parameter is no longer finite.
    """
    from scipy.special import ndtri

    alpha, b, steps = descent.sample_ratio, descent.batch_fraction, descent.steps
    k, m = descent.students, descent.teachers
    gram = descent.target_gram[0]
    noises = model.sources - m
    # Start: z, the noises of the label, r(0); then r(1), r(2), ...
    order = order_of(descent, m + noises + k, k)
    points = uniforms(order.total, samples, stream, sampler)
    masks = batch_masks(descent, points[order.masks])
    normal = ndtri(points)
    start = normal[order.start]
    nodes = np.concatenate([start[:m], start[m + noises :], normal[order.fresh.ravel()]])
    factor = CausalGaussian(m + k * (steps + 1), len(nodes))
    factor.extend(np.zeros((m, 0)), gram)
    z = factor.draw(m, nodes)
    labels = model.labels(z, start[m : m + noises])
    respond = model.curved_module().respond

    # Behind the gradients' noises stand those of Langevin descent.
    basis = m + k + k * steps * (1 + (descent.temperature > 0))
    rows, velocity = np.zeros((steps + 1, k, basis)), np.zeros((k, basis))
    rows[0, :, m : m + k] = np.eye(k)
    inner = np.eye(basis)
    inner[: m + k * (1 + steps), : m + k * (1 + steps)] = 0.0
    cross = descent.start_overlap[0]
    inner[: m + k, : m + k] = np.block([[gram, cross.T], [cross, descent.start_gram[0]]])
    weak = np.zeros((steps + 1, steps, k, k))
    response, noise = np.zeros((steps, steps, k, k)), np.zeros((steps, steps, k, k))
    star = np.zeros((steps, k, m))
    a, readout_velocity = descent.start_readout.copy(), np.zeros(k)
    readouts, train = np.zeros((steps + 1, k)), np.zeros((2, steps + 1))
    history, overlaps = np.zeros((steps + 1, steps + 1, 1, k, k)), np.zeros((steps + 1, 1, k, m))
    u, curve = np.zeros((steps, k, samples)), np.zeros((steps, k, k, samples))
    for t in range(steps + 1):
        past = np.einsum("ki,sli->skl", rows[t] @ inner, rows[: t + 1])
        history[t, : t + 1, 0], history[: t + 1, t, 0] = past, past.transpose(0, 2, 1)
        overlaps[t, 0] = rows[t] @ inner[:, :m]
        readouts[t] = a
        before = np.concatenate([overlaps[t, 0], past[:t].transpose(1, 0, 2).reshape(k, t * k)], axis=1)
        if not np.isfinite(before).all() or not np.isfinite(past).all():
            raise Diverged(t, Trajectory(train[0, :t], train[1, :t], readouts[:t], overlaps[:t], history[:t, :t]))
        factor.extend(before, past[t])
        lam = factor.draw(k, nodes)
        weak[t, :t] = rows[t, :, m + k : m + k + k * t].reshape(k, t, k).transpose(1, 0, 2)
        lam += np.einsum("skl,sln->kn", weak[t, :t], u[:t], optimize=True)
        slope, pull, bend = np.empty((k, samples)), np.empty((k, samples)), np.empty((k, k, samples))
        sums = np.zeros(2)
        respond(np.ascontiguousarray(lam), labels, a, slope, pull, bend, sums)
        train[:, t] = sums / samples
        if t == steps:
            break
        # A mask that is drawn for this update alone is averaged over where u(t) enters to the first power.
        weight = np.full(samples, b) if descent.batching == "fresh" else masks[t].astype(float)
        u[t], curve[t] = slope * masks[t], bend * masks[t]
        first = slope * weight
        noise[t, : t + 1] = np.einsum("kn,sln->skl", first, u[: t + 1], optimize=True) / samples
        noise[t, t] = first @ slope.T / samples
        noise[: t + 1, t] = noise[t, : t + 1].transpose(0, 2, 1)
        if responses:
            response[t, : t + 1] = _pathwise(bend * weight, curve[:t], weak[: t + 1])
        means = first @ z.T / samples - np.einsum("skl,slm->km", response[t, : t + 1], overlaps[: t + 1, 0])
        star[t] = np.linalg.lstsq(gram, means.T, rcond=None)[0].T
        for s in range(t + 1):
            at, to = m + k + k * t, m + k + k * s
            inner[at : at + k, to : to + k] = alpha * noise[t, s]
            inner[to : to + k, at : at + k] = alpha * noise[t, s].T
        force = alpha * np.einsum("skl,sli->ki", response[t, : t + 1], rows[: t + 1])
        force[:, :m] += alpha * star[t]
        force[:, m + k + k * t : m + k + k * (t + 1)] += np.eye(k)
        shake = descent.noise[t] * np.eye(k, basis, m + k + k * (steps + t))
        rows[t + 1], velocity = advance(
            rows[t], velocity, force / (alpha * b), descent.rates[t], descent.ridge, descent.momentum, shake
        )
        push = (pull * weight).mean(axis=1) / b
        a, readout_velocity = advance(
            a, readout_velocity, push, descent.readout_rates[t], descent.readout_ridge, descent.momentum
        )
    trajectory = Trajectory(train[0], train[1], readouts, overlaps, history)
    return trajectory, Kernels(weak, response, noise, star)


def _pathwise(last: Array, curve: Array, weak: Array) -> Array:
    """Return R_u(t, s) for s = 0..t by one backward sweep.

    Parameters
    ----------
    last : (K, K, N) array
        H(t).
    curve : (t, K, K, N) array
        H(s), s < t.
    weak : (t + 1, T, K, K) array
        R_w(s', s).
    """
    t, k, samples = len(curve), len(last), last.shape[2]
    # v[s, l, k]: how u_k(t) answers to a shift of lam_l(s).
    v = np.empty((t + 1, k, k, samples))
    v[t] = last.transpose(1, 0, 2)
    out = np.empty((t + 1, k, k))
    out[t] = last.mean(axis=2)
    for s in range(t - 1, -1, -1):
        later = v[s + 1 :].reshape((t - s) * k, k * samples)
        through = weak[s + 1 :, s].reshape((t - s) * k, k).T @ later
        v[s] = np.einsum("mkn,mjn->jkn", through.reshape(k, k, samples), curve[s])
        out[s] = v[s].mean(axis=2).T
    return out
