"""Algorithm 1 of the paper, exactly, and its ablations: layer-wise training of a three-layer network without biases.

f(x) = w3 . s(W2 s(W1 x)) / sqrt(p2). Stage 1: spherical steps of the correlation loss with W2 = identity and fresh
batches. Stage 2: one preconditioned gradient step of W2 from zero. Stage 3: ridge regression of w3. Source: Dandi,
Pesce, Zdeborova, Krzakala, arXiv:2502.13961, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import Expression

from ..base import Backend, chunks, ridge_fit
from .flow import slope
from .replicas import Realizations
from .target import Realization

BLOCK = 8192


@dataclass(frozen=True)
class AlgorithmOne:
    """Settings, with the scalings of the theorem made explicit.

    Attributes
    ----------
    activation : str
        sigma; the theorem wants it admissible (`analysis.admissible_activation`).
    p1, p2 : int
        Widths. Without a second stage of its own W2 = identity needs p1 = p2.
    n1, n2, n3 : int
        Samples of a step of stage 1, of stage 2, of stage 3.
    steps : int
        T1, steps of stage 1.
    step : float
        eta~: the step of stage 1 is eta~ sqrt(p2 d_eff) on the gradient of the loss.
    second_step : float
        eta2 / sqrt(p2).
    second_ridge : float
        lambda2 of the preconditioner.
    third_ridge : float
        The penalty on w3 is third_ridge n3 |w3|^2 with features of order one.
    both_signs : bool
        Half of the readouts of stage 1 are -1: needed for readouts a* of both signs.
    fresh_batches, projection, reinitialize, precondition : bool
        Ablations: one batch for all steps of stage 1; plain steps without the sphere; W2 and w3 kept from stage 1;
        a plain gradient step in stage 2.
    centre_labels : bool
        Subtract the mean label in stages 1 and 2.
    centre_features : bool
        Subtract the mean of each hidden unit before the second layer (a fixed bias; not in the paper). With equal
        readouts h* is a function of |z| alone. Rows of unit length then give it together with a constant that is
        E s(z)/E[s h_2] times d_eff^(1/2) larger, and the preconditioner cannot tell them apart: without this option,
        or an activation of zero mean, stage 2 finds h* only for readouts of mean zero.
    """

    activation: str
    p1: int
    p2: int
    n1: int
    n2: int
    n3: int
    steps: int
    step: float = 0.5
    second_step: float = 1.0
    second_ridge: float = 0.1
    third_ridge: float = 1e-3
    both_signs: bool = False
    fresh_batches: bool = True
    projection: bool = True
    reinitialize: bool = True
    precondition: bool = True
    centre_labels: bool = True
    centre_features: bool = False

    def __post_init__(self) -> None:
        if min(self.p1, self.p2, self.n1, self.n2, self.n3) < 1 or self.steps < 0:
            raise SimulationError("widths and sample numbers must be positive, and steps not negative")
        if not self.reinitialize and self.p1 != self.p2:
            raise SimulationError("without re-initialisation W2 = identity needs p1 = p2")


@dataclass
class Trained:
    """A trained network and what was recorded on the way; iterates are not kept.

    Attributes
    ----------
    w1, w2, w3 : arrays, shapes (p1, d), (p2, p1), (p2,)
    history : list of (step, M_W per branch)
        Root mean square over neurons of |P_W* w|/|w| during stage 1.
    feature_overlap : float
        M_h: root mean square over units of the correlation of h_2 with h* (uncentred, of the first branch).
    test_error : float
        E[(f* - f)^2] on fresh inputs, label noise not included.
    samples : int
        Labels used in all.
    """

    w1: Any
    w2: Any
    w3: Any
    history: list[tuple[int, list[float]]] = field(default_factory=list)
    feature_overlap: float = math.nan
    test_error: float = math.nan
    samples: int = 0


def weight_overlap(w1: Any, truth: Realization, backend: Backend) -> list[float]:
    """Return M_W of every branch: sqrt(mean_i |W*_m w_i|^2/|w_i|^2)."""
    found: list[float] = backend.to_numpy(Realizations.of([truth]).weight_overlap(w1[None, ...]))[0].tolist()
    return found


def feature_overlap(
    second: Callable[[Any], Any], truth: Realization, stream: np.random.Generator, backend: Backend, probes: int = 2000
) -> list[float]:
    """Return M_h of every branch, uncentred, on fresh probes (`Realizations.feature_overlap`).

    Parameters
    ----------
    second : callable
        x -> pre-activations of the second layer, (n, p2).
    """
    batched = Realizations.of([truth]).feature_overlap(lambda x: second(x[0, ...])[None, ...], [stream], probes)
    found: list[float] = backend.to_numpy(batched)[0].tolist()
    return found


def first_layer(
    truth: Realization, settings: AlgorithmOne, stream: np.random.Generator, backend: Backend, compositions: int = 2
) -> tuple[Any, Any, list[tuple[int, list[float]]]]:
    """Run stage 1 and return (W1, signs of the readouts, overlaps at every step)."""
    xp, sigma = backend.xp, Expression(settings.activation)
    d_eff, p = truth.features, settings.p1
    start = stream.standard_normal((p, truth.d))
    w = backend.asarray(start / np.linalg.norm(start, axis=1, keepdims=True))
    signs = backend.asarray(np.where((np.arange(p) % 2 == 1) & settings.both_signs, -1.0, 1.0))
    eta = settings.step * math.sqrt(d_eff)
    history = [(0, weight_overlap(w, truth, backend))]
    reused = None if settings.fresh_batches else _batch(truth, settings.n1, stream, settings.centre_labels)
    for step in range(1, settings.steps + 1):
        batches = [reused] if reused is not None else _blocks(truth, settings.n1, stream, settings.centre_labels)
        gradient = 0.0 * w
        for x, y in batches:
            field_ = xp.matmul(x, xp.permute_dims(w, (1, 0)))
            weight = slope(sigma, field_, compositions, backend) * xp.reshape(y, (-1, 1))
            gradient = gradient + xp.matmul(xp.permute_dims(weight, (1, 0)), x)
        # Minus the gradient of the correlation loss; its 1/sqrt(p2) cancels that of the step.
        ascent = gradient / settings.n1 * xp.reshape(signs, (-1, 1))
        if settings.projection:
            ascent = ascent - xp.sum(ascent * w, axis=1, keepdims=True) * w
            w = w + eta * ascent
            w = w / xp.sqrt(xp.sum(w * w, axis=1, keepdims=True))
        else:
            w = w + eta * ascent
        history.append((step, weight_overlap(w, truth, backend)))
    return w, signs, history


def _batch(truth: Realization, n: int, stream: np.random.Generator, centre: bool) -> tuple[Any, Any]:
    x = truth.inputs(n, stream)
    y = truth.labels(x, stream)
    return x, y - truth.backend.xp.mean(y) if centre else y


def _blocks(truth: Realization, n: int, stream: np.random.Generator, centre: bool) -> list[tuple[Any, Any]]:
    """Draw a batch in blocks; labels are centred by the mean of the whole batch where they fit one block."""
    return [_batch(truth, block, stream, centre) for block in chunks(n, BLOCK)]


def second_layer(
    truth: Realization, settings: AlgorithmOne, w1: Any, signs: Any, stream: np.random.Generator, backend: Backend
) -> tuple[Any, Any]:
    """Run stage 2 and return (W2, mean of the hidden units): one gradient step of the correlation loss."""
    xp, sigma = backend.xp, Expression(settings.activation)
    n = settings.n2
    x, y = _batch(truth, n, stream, settings.centre_labels)
    z = sigma.evaluate(xp, x=xp.matmul(x, xp.permute_dims(w1, (1, 0))))
    centre = xp.mean(z, axis=0) if settings.centre_features else backend.zeros((settings.p1,))
    raw, z = z, z - centre
    if settings.reinitialize:
        w3 = backend.normal([stream], (settings.p2,))[0, ...]
        w2 = backend.zeros((settings.p2, settings.p1))
        at_zero = float(sigma.derivative("x")(x=np.array([0.0]))[0])
        back = xp.reshape(y, (-1, 1)) * (at_zero * xp.reshape(w3, (1, -1)))
    else:
        w3 = signs
        w2 = backend.eye(settings.p1)
        back = xp.reshape(y, (-1, 1)) * slope(sigma, raw, 1, backend) * xp.reshape(w3, (1, -1))
    if settings.precondition:
        # (Z^T Z/n + lam)^-1 Z^T = Z^T (Z Z^T/n + lam)^-1: the smaller of the two systems is solved.
        zt = xp.permute_dims(z, (1, 0))
        lam = settings.second_ridge
        if n < settings.p1:
            system = xp.matmul(z, zt) / n + lam * backend.eye(n)
            update = xp.matmul(xp.permute_dims(xp.linalg.solve(system, back), (1, 0)), z) / n
        else:
            system = xp.matmul(zt, z) / n + lam * backend.eye(settings.p1)
            update = xp.permute_dims(xp.linalg.solve(system, xp.matmul(zt, back) / n), (1, 0))
    else:
        update = xp.matmul(xp.permute_dims(back, (1, 0)), z) / n
    return w2 + settings.second_step * update, centre


def train(truth: Realization, settings: AlgorithmOne, stream: np.random.Generator, backend: Backend) -> Trained:
    """Run the three stages and measure overlaps and test error.

    Returns
    -------
    Trained
    """
    xp, sigma = backend.xp, Expression(settings.activation)
    w1, signs, history = first_layer(truth, settings, stream, backend)
    w2, centre = second_layer(truth, settings, w1, signs, stream, backend)

    def second(x: Any) -> Any:
        hidden = sigma.evaluate(xp, x=xp.matmul(x, xp.permute_dims(w1, (1, 0)))) - centre
        return xp.matmul(hidden, xp.permute_dims(w2, (1, 0)))

    def last(x: Any) -> Any:
        return sigma.evaluate(xp, x=second(x))

    x = truth.inputs(settings.n3, stream)
    y = truth.labels(x, stream)
    w3 = ridge_fit(last(x), y, settings.third_ridge * settings.n3, backend)
    overlap = feature_overlap(second, truth, stream, backend)[0]
    error = fresh_error(lambda x: xp.matmul(last(x), w3), truth, stream)
    stage_one = settings.n1 * (settings.steps if settings.fresh_batches else 1)
    return Trained(w1, w2, w3, history, overlap, error, stage_one + settings.n2 + settings.n3)


def fresh_error(
    predict: Callable[[Any], Any], truth: Realization, stream: np.random.Generator, n: int = 10_000
) -> float:
    """Return E[(f* - f)^2] on n fresh inputs."""
    xp = truth.backend.xp
    total = 0.0
    for block in chunks(n, BLOCK):
        x = truth.inputs(block, stream)
        gap = predict(x) - truth(x)
        total += float(xp.sum(gap * gap))
    return total / n
