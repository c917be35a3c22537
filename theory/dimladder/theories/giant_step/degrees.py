"""Which degree the equivalent polynomial model needs, from the exponents of learning rate and spikes.

With total beta and split alpha, eta = n^(alpha beta) and theta = n^((1 - alpha) beta). Conditional on the distinguished
projections, neuron i is shifted by s_F = f_i.gamma (gamma.x) ~ n^-dF (initial weights along a spike) and by s_G = eta
w_i
abar v.x/sqrt k ~ n^-dG (the gradient). A monomial s_F^a s_G^b adds a rank-one part of size n^(1 - a dF - b dG) to
features
whose noise has size n^(1/2): it survives if and only if a dF + b dG < 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# How the labels relate to the spikes: a direction that overlaps with them, one that does not, or the clusters
# themselves.
Signal = Literal["aligned", "random", "clusters"]

_EDGE = 1e-9


def shift_exponents(total: float, split: float, signal: Signal, spiked: bool = True) -> tuple[float, float]:
    """Exponents (dF, dG) of the two shifts.

    Parameters
    ----------
    signal : {"aligned", "random", "clusters"}
        Whether the target direction overlaps with the spikes, or the labels are those of the clusters.
    spiked : bool
        Whether the data have spikes; without, theta = 1.
    """
    if not spiked:
        # y ~ 1 and E[y x] ~ xi, |xi| = 1: the gradient's field is of order eta/k.
        return 0.5, 1.0 - total * split
    spike, rate = total * (1.0 - split), total * split
    d_first = 0.5 * (1.0 - spike)
    if signal == "aligned":
        return d_first, 1.0 - total
    if signal == "clusters":
        # y ~ 1 is blind to zero-mean clusters: v.x is sampling noise, of order 1 in the bulk, theta n^-1/2 on the
        # spikes.
        return d_first, 1.0 - rate - max(0.0, spike - 0.5)
    # |xi| = theta^-1/2: the bulk part of v.x is theta^-1/2, the part on the spikes sampled with error theta n^-1/2.
    return d_first, 1.0 - rate - max(-0.5 * spike, spike - 0.5)


def surviving_monomials(
    total: float, split: float, signal: Signal, spiked: bool = True, highest: int = 12
) -> list[tuple[int, int]]:
    """Powers (a, b) of (s_F, s_G) with a dF + b dG < 1/2, a + b at least 1, sorted by degree."""
    d_first, d_gradient = shift_exponents(total, split, signal, spiked)
    # Without spikes the initial weights shift nothing along a distinguished direction.
    powers_first: Sequence[int] = range(highest + 1) if spiked else (0,)
    return [
        (a, degree - a)
        for degree in range(1, highest + 1)
        for a in powers_first
        if a <= degree and a * d_first + (degree - a) * d_gradient < 0.5 - _EDGE
    ]


def needed_degree(total: float, split: float, signal: Signal, spiked: bool = True) -> int:
    """Largest degree of a surviving monomial, at least 1 (the linear part is always kept), not capped below 12.

    Derived for this library; sharper than the published rule (see docs/theory/mixtures.md).
    """
    return max([1] + [a + b for a, b in surviving_monomials(total, split, signal, spiked)])
