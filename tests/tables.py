"""Tables of one-pass problems from numbers, for tests of the experiment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dimladder.problem import Expression, Problem, activation, state
from dimladder.problem.losses import loss_function
from dimladder.problem.update_table import Table, table


def plain(
    *, activation: Expression, q: Any, m: Any, t: Any, v: Any, eta: float, teacher: Expression | None = None,
    readout: Any = (), index: Expression | None = None, eta_v: float = 0.0, noise: float = 0.0, loss: str = "square",
    decay: float = 0.0, decay_v: float = 0.0, schedule: str = "1", **changes: Any,
) -> Table:  # fmt: skip
    """Return SGD on standard Gaussian inputs from overlaps, readouts and rates; `changes` are fields of the table."""
    K, M = np.shape(m)
    gram = np.block([[np.asarray(q), np.asarray(m)], [np.asarray(m).T, np.asarray(t)]])[None]
    rows = np.array([readout]) if teacher is not None else np.ones((1, M))
    base = replace(
        _any(), K=K, M=M, activation=activation, teacher=teacher, index=(index,) if index else (),
        noise=np.array([noise]),
        teacher_rows=rows, masks=np.ones((1, K)), drift=np.array([[-decay]]), gain=np.array([eta]),
        learning_rate=eta, readout_rate=eta_v, readout_decay=decay_v, schedule=schedule, loss=loss_function(loss),
        gram=gram, a=np.array([v], dtype=float), bias=np.zeros((1, K)),
    )  # fmt: skip
    return replace(base, **changes)


def _any() -> Table:
    return table(stated({
        "target": {"kind": "committee", "readout": [1.0]}, "student": {"kind": "two-layer"},
        "algorithm": {"kind": "one-pass", "learning_rate": 1.0}, "initial": {"Q": [[1.0]], "M": [[0.0]]},
    }))  # fmt: skip


def stated(document: dict[str, Any]) -> Problem:
    """Return a problem that no theory is asked to answer."""
    return state(document, None)


def erf_committee(readout: Any) -> dict[str, Any]:
    """Return the fields of a teacher committee of erf units."""
    return {"teacher": activation("erf"), "readout": readout}
