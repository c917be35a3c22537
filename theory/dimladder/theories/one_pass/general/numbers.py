"""The numbers of one problem that the general flow takes: overlaps at the start, and the parameters of its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ....symbolic.times import time_function
from .layout import places, values

if TYPE_CHECKING:
    from ....problem.update_table import Table
    from .table_flow import GeneralFlow

Array = NDArray[np.float64]


def gram(flow: GeneralFlow) -> Array:
    """Return the overlaps by block of all vectors at time 0, biases included, shape (B, n, n)."""
    t = flow.table
    if not flow.biased:
        return t.gram
    n, V = t.n, flow.V
    out = np.zeros((flow.B, n + 1, n + 1))
    out[:-1, :n, :n] = t.gram
    rate, bias = float(t.bias_rate or 0.0), t.bias.ravel()
    out[-1, :V, n] = out[-1, n, :V] = bias
    out[-1, n, n] = rate
    out[-1, :V, :V] = np.outer(bias, bias) / rate if rate else 0.0
    return out


def parameters(flow: GeneralFlow) -> Array:
    """Return the parameters of a flow as its module reads them, a quadrature left out."""
    t, unit = flow.table, np.eye(flow.K)
    tests = (
        np.array([int(np.argmax(t.emitter == c)) for c in range(t.sources)]) if flow.tested else np.zeros(0, dtype=int)
    )
    chosen = np.concatenate([np.arange(len(t.head)), tests]).astype(int)
    extra = len(chosen) - len(t.head)
    stages = np.array([weights for _, weights in t.stages])
    one = np.ones((len(chosen), 1))
    variances, means = t.variances[chosen], t.means[chosen]
    if flow.biased:
        variances, means = np.hstack([variances, 0.0 * one]), np.hstack([means, one])
    masks = t.masks[chosen]
    masks[len(t.head) :] = 1.0
    shares = np.append(t.shares, 0.0) if flow.biased else t.shares
    counts = {
        "K": flow.K, "M": flow.M, "D": flow.D, "S": flow.S, "B": flow.B, "C": len(chosen), "heads": t.heads,
        "switches": len(t.switches), "tested": flow.tested, "Y": t.Y, "entries": 0,
    }  # fmt: skip
    moved = _moved(flow, counts, chosen)
    counts["entries"] = len(moved)
    addresses = [time_function(text).address for text in flow.formulas]
    rates = {"L": np.kron(t.scheduled_drift, unit), "P": np.kron(t.gain[:, None], unit)}
    steady = {"steady_L": np.kron(t.drift, unit), "steady_P": np.kron(t.fixed_gain[:, None], unit)}
    kick = t.kick
    if not flow.scheduled:
        rates = {"L": rates["L"] + steady["steady_L"], "P": rates["P"] + steady["steady_P"]}
        kick = t.kick + t.fixed_kick
    # Noise of the training, which the tests do not see unless it is that of the inputs.
    stir = np.zeros_like(variances)
    stir[: None if t.hidden else len(t.head), : len(t.shares)] = t.input_noise**2
    blur = np.append(np.full(len(t.head), t.weight_noise**2), np.zeros(extra))
    drift, walk = np.zeros((flow.F, flow.F)), np.zeros((flow.F, flow.F, flow.B))
    if t.fixed_drift is not None and t.fixed_noise is not None:
        teachers = np.arange(flow.M)
        drift[: flow.M, : flow.M] = t.fixed_drift
        walk[teachers, teachers, : len(t.shares)] = t.fixed_noise.T
    arrays = {
        "moved": [place for place, _ in moved], "formula": [addresses[k] for _, k in moved],
        "step": _step(t),
        "schedule_at": time_function(t.schedule).address if flow.scheduled else 0.0,
        "length": t.squared_length[chosen],
        "eta_a": t.readout_rate, "kappa_a": t.readout_decay, "batch": t.batch, "switch_times": t.switches,
        "chance": np.hstack([stages, np.zeros((len(stages), extra))]), "share": shares,
        "counts": np.arange(flow.B) < len(t.shares), "s": variances, "nu": means, "label": t.labels[chosen].ravel(),
        "teacher": t.teacher_rows[chosen], "sigma": t.noise[chosen], "head": np.eye(t.heads)[t.head[chosen]],
        "stir": stir, "blur": blur, "drift": drift, "walk": walk,
        "kick": kick, "steady_kick": t.fixed_kick,
        "feedback": np.zeros(flow.K) if t.feedback is None else t.feedback,
        "mask": masks, "fixed": flow.gram[:, flow.V :, flow.V :].transpose(1, 2, 0), "readout": t.a,
    }  # fmt: skip
    return values(counts, arrays | rates | steady)


def _moved(flow: GeneralFlow, counts: dict[str, int], chosen: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (place among the parameters, number of its formula) of the entries that change in time."""
    names = {"chances": "chance", "variances": "s", "noise": "sigma", "batch": "batch"}
    names["squared_length"] = "length"
    found = []
    for entry in flow.table.timed:
        rows = [entry.index]
        if entry.array in ("variances", "noise", "squared_length"):
            rows = [(int(row), *entry.index[1:]) for row in np.flatnonzero(chosen == entry.index[0])]
        found += [(names[entry.array], row, flow.formulas.index(entry.formula.text)) for row in rows]
    where = places(counts | {"entries": len(found)})
    return [
        (where[name][0] + (int(np.ravel_multi_index(at, where[name][1])) if at else 0), formula)
        for name, at, formula in found
    ]


def _step(t: Table) -> float:
    """Return the step that averages see: of a trial, of the first use, or the learning rate of a written rule."""
    return t.displacement or (float(t.gain[0]) if t.uses > 1 else t.learning_rate)
