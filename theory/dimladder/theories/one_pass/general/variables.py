"""What the states of the general flow mean: order parameters, and the variables of a solution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....symbolic.equations import OrderParameter
from ....symbolic.systems import Variable
from ..flow import QUADRATIC

if TYPE_CHECKING:
    from .table_flow import GeneralFlow

Array = NDArray[np.float64]


def order_parameters(flow: GeneralFlow) -> tuple[OrderParameter, ...]:
    """Return the order parameters: overlaps, by block too where there are several, readouts and biases."""
    t = flow.table
    unit = "vector" if t.outputs else "student"
    blocks = len(t.shares) > 1
    who = "vector" if t.outputs else "student"
    out = [OrderParameter("Q", (unit, unit), "Q_{ik}", f"{who}-{who} overlap w_i.w_k/d, all blocks", symmetric=True)]
    if flow.M:
        meaning = f"{who}-teacher overlap w_i.w*_m/d"
        if t.hidden:
            meaning = "covariance of a student's field with a latent one"
        out.append(OrderParameter("M", (unit, "teacher"), "M_{im}", meaning))
    if flow.drifting:
        meaning = "overlap of the teachers w*_m.w*_n/d, all blocks"
        out.append(OrderParameter("T", ("teacher", "teacher"), "T_{mn}", meaning, symmetric=True))
    if blocks and not t.hidden:
        meaning = "student-student overlap in a block, w_i.Pi_b w_k/d"
        out.append(OrderParameter("Q_block", ("block", "student", "student"), "Q^b_{ik}", meaning, symmetric=True))
        if flow.M:
            meaning = "student-teacher overlap in a block, w_i.Pi_b w*_m/d"
            out.append(OrderParameter("M_block", ("block", "student", "teacher"), "M^b_{im}", meaning))
    if t.D:
        out.append(OrderParameter("mean_overlap", ("student", "direction"), "R_{ir}", "overlap with means w_i.r/d"))
    dims = tuple(readout_shape(flow))
    letters = "".join({"head": "h", "output": "o", "student": "i"}[name] for name in dims)
    out.append(OrderParameter("a", dims, f"a_{{{letters}}}", "student readout"))
    if flow.biased:
        out.append(OrderParameter("bias", ("student",), "b_{i}", "bias of a student unit"))
    return tuple(out)


def readout_shape(flow: GeneralFlow) -> dict[str, int]:
    """Return the axes of the readouts: heads and outputs where there are several."""
    sizes = {"head": flow.table.heads, "output": flow.table.Y}
    return {name: size for name, size in sizes.items() if size > 1} | {"student": flow.K}


def unpack(flow: GeneralFlow, states: Array) -> tuple[Array, Array, Array]:
    """Return overlaps by block, (time, B, V, V) and (time, B, V, F), and readouts (time, heads Y, K)."""
    count, steps = flow.V * (flow.V + 1) // 2, len(states)
    p, q = np.tril_indices(flow.V)
    moving = np.empty((steps, flow.B, flow.V, flow.V))
    pairs = states[:, : count * flow.B].reshape(steps, count, flow.B).transpose(0, 2, 1)
    moving[:, :, p, q] = moving[:, :, q, p] = pairs
    end = (count + flow.V * flow.F) * flow.B
    cross = states[:, count * flow.B : end].reshape(steps, flow.V, flow.F, flow.B).transpose(0, 3, 1, 2)
    end += flow.F * (flow.F + 1) // 2 * flow.B if flow.drifting else 0
    shape = (steps, *flow.table.a.shape)
    return moving, cross, states[:, end:].reshape(shape) if flow.trained else np.broadcast_to(flow.table.a, shape)


def teachers(flow: GeneralFlow, states: Array) -> Array | None:
    """Return the overlaps of the teachers, all blocks, (time, M, M), where they drift."""
    if not flow.drifting:
        return None
    first = (flow.V * (flow.V + 1) // 2 + flow.V * flow.F) * flow.B
    f, g = np.tril_indices(flow.F)
    out = np.empty((len(states), flow.F, flow.F))
    pairs = states[:, first : first + len(f) * flow.B].reshape(len(states), len(f), flow.B)
    out[:, f, g] = out[:, g, f] = pairs.sum(axis=2)
    return out[:, : flow.M, : flow.M]


def variables(flow: GeneralFlow, times: Array, states: Array) -> dict[str, Variable]:
    """Return what a solution is made of."""
    t, K, M = flow.table, flow.K, flow.M
    moving, cross, a = unpack(flow, states)
    seen = flow.observed(times, states)
    means = np.einsum("tskv,tk->tsv", seen, t.source_weights(times))
    e = r"\varepsilon_g"
    out = {"generalization_error": Variable(("time",), means[:, 0, 0], e, "E[(f* - f)^2]/2 without label noise")}
    for name in t.outputs:
        meaning = f"E[(f* - f)^2]/2 of the network of {name}, without label noise"
        value = means[:, t.species.index(name), 0]
        out[f"generalization_error_{name}"] = Variable(("time",), value, rf"{e}[{name}]", meaning)
    if t.sources > 1:
        meaning = "E[(f* - f)^2]/2 on the samples of one source"
        out["error"] = Variable(("time", "source"), seen[:, 0, :, 0], r"\varepsilon_c", meaning)
    if t.signs or t.classes:
        meaning = "P(sign f != sign f*)" if t.signs else "P(argmax f != argmax y)"
        out["classification_error"] = Variable(("time",), means[:, 0, 1], r"\varepsilon_{01}", meaning)
    loss: Any = t.loss
    if not (loss.quadratic if t.Y > 1 else loss.name in QUADRATIC):
        meaning = "E[loss(f, y)], label noise included"
        out["test_loss"] = Variable(("time",), means[:, 0, 2], r"\mathbb{E}[\ell]", meaning)
    used = flow.V if t.outputs else K
    whole = slice(0, len(t.shares))
    field = t.variances[0] if t.hidden else np.ones(len(t.shares))
    values = {
        "Q": moving[:, whole, :used, :used].sum(axis=1),
        "M": np.einsum("b,tbim->tim", field, cross[:, whole, :used, :M]),
        "Q_block": moving[:, whole, :K, :K], "M_block": cross[:, whole, :K, :M],
        "mean_overlap": cross[:, whole, :K, M : M + t.D].sum(axis=1),
        "a": a.reshape(len(a), *readout_shape(flow).values()),
        "bias": cross[:, -1, :K, -1] if flow.biased else None, "T": teachers(flow, states),
    }  # fmt: skip
    for op in flow.order_parameters:
        out[op.name] = Variable(("time", *op.dims), values[op.name], op.latex, op.meaning)
    return out
