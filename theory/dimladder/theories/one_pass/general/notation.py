"""Symbols of the general flow and the ranges of their indices.

Vectors V_p are the moving ones, species by species (K of each; the weights first), then the fixed ones: teachers, then
the directions of the means. Block overlaps are Gamma[b, p, q] = V_p . Pi_b V_q / d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from ....symbolic.tensors import Indices, Range

VECTORS = Range("vectors", "n", "0", "n")
MOVING = Range("moving", "n_v", "0", "V")
FIXED = Range("fixed", "F", "V", "n")
FIELDS = Range("fields", "n_f", "0", "N")
DIRECTIONS = Range("directions", "D", "0", "D")
UNITS = Range("units", "K", "0", "K")
BLOCKS = Range("blocks", "B", "0", "B")
SOURCES = Range("sources", "n_c", "0", "C")
HEADS = Range("heads", "n_h", "0", "heads")
OUTPUTS = Range("outputs", "Y", "0", "Y")

b, c, h, o = sp.symbols("b c h o", integer=True)
i, k = sp.symbols("i k", integer=True)
p, q = sp.symbols("p q", integer=True)
# A moving vector, a field and another one, a direction of the means, a fixed vector.
r, l, j, m, f = sp.symbols("r l j m f", integer=True)
# Other fixed vectors.
u, v = sp.symbols("m1 m2", integer=True)

# Overlaps by block, shares of the blocks, eigenvalues and means by source, who emits the next sample.
Gamma, share, s, nu, pi = (sp.IndexedBase(name) for name in ("Gamma", "gamma", "s", "nu", "pi"))
# What mixes vectors, what a gradient moves; masks and heads of a source, readouts.
L, P, mask, head, a = (sp.IndexedBase(name) for name in ("L", "P", "chi", "delta", "a"))
# Per source: covariance and mean of the fields, readouts of the units, averages of the gradient.
C, mu, w, G, H, N2, R = (sp.IndexedBase(name) for name in ("C", "mu", r"\hat{a}", "G", "H", "N", "R"))
# What pulls a unit in the place of its readout; noise of inputs and of weights, and which fields see it; how fixed
# vectors drift, and what their noise adds.
pull, phi, stir, blur, seen = (sp.IndexedBase(name) for name in (r"\hat{\phi}", r"\phi", "e", r"\tau^{2}", r"\upsilon"))
W, walk = sp.IndexedBase("W"), sp.IndexedBase(r"\omega")
# Drifts that depend on the sample: their average given the source, and over all; the covariance of a step's own noise.
sampled, mean_L, Omega = sp.IndexedBase(r"\Lambda"), sp.IndexedBase(r"\bar{\Lambda}"), sp.IndexedBase(r"\Omega")
# Averages over sources: of gradient times field, and of two gradients times |x|^2/d.
X, Z = sp.IndexedBase("X"), sp.IndexedBase("Z")
# Growth of the norm, and what counts in it: every block but that of the biases.
growth, norm, rate, counts = (sp.IndexedBase(name) for name in ("J", "Q", r"\varrho", "theta"))
dGamma, da = sp.IndexedBase(r"\dot{\Gamma}"), sp.IndexedBase("da")

eta_a, kappa_a, batch = sp.symbols("eta_a kappa_a B_s", positive=True)


def indices() -> Indices:
    """Return the index symbols and their ranges."""
    return Indices(
        {b: BLOCKS, c: SOURCES, h: HEADS, o: OUTPUTS, i: UNITS, k: UNITS, p: MOVING, q: VECTORS, r: MOVING, l: FIELDS,
         j: FIELDS, m: DIRECTIONS, f: FIXED, u: FIXED, v: FIXED}
    )  # fmt: skip


def total(expression: Any, *over: Any) -> Any:
    """Return a sum over the whole range of each index, outermost first."""
    ranges = indices().ranges
    for index in reversed(over):
        stop = sp.Symbol(ranges[index].latex_stop, integer=True, positive=True)
        expression = sp.Sum(expression, (index, 1, stop))
    return expression


@dataclass(frozen=True)
class Form:
    """What decides the form of the equations; numbers and counts are parameters of the compiled code.

    Attributes
    ----------
    train_readout, spherical : bool
    written : bool
        Whether the update is a formula of its own, phi_p a sample, instead of gains P times the gradient.
    centred : bool
        Whether no source has a mean and no unit a bias.
    vector : bool
        Whether the student has several outputs: what a sample moves a unit by then holds its readouts.
    regime : {"classical", "gradient-flow", "noise-dominated"}
    schedule : sympy expression in ``t``
        Factor of all learning rates.
    timed : bool
        Whether further numbers change in time, by formulas that are parameters themselves.
    feedback : bool
        Whether fixed numbers take the place of the readouts in the gradient of the weights.
    stirred, blurred : bool
        Whether a step sees noise on its input, and on the weights.
    drifting : bool
        Whether the fixed vectors drift.
    sampled : int
        Drifts that depend on the sample.
    kicked : bool
        Whether a step adds noise of its own to the moving vectors.
    """

    train_readout: bool = False
    spherical: bool = False
    centred: bool = False
    written: bool = False
    vector: bool = False
    regime: str = "classical"
    schedule: Any = 1
    timed: bool = False
    feedback: bool = False
    stirred: bool = False
    blurred: bool = False
    drifting: bool = False
    sampled: int = 0
    kicked: bool = False
