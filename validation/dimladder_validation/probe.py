"""Order parameters of a training loop that is not ours, beside a derived theory, with a verdict.

A `Probe` looks at the first-layer weights of any module (torch, JAX, NumPy: whatever turns into an array) at the times
of a grid; `measured` puts the probes of several runs together into a `Measurement`, which `compare` judges like any
other. Of the loop itself nothing is known: no entry counts as imposed, and how fast the gap closes is estimated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dimladder.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from dimladder.problem import Problem
    from dimladder.results import Measurement

Array = np.ndarray
SOURCE = "probe"


class Probe:
    """Overlaps of one run, recorded as it goes.

    Parameters
    ----------
    teacher : array of shape (teachers, d)
        The hidden directions, in the normalisation of this library: ``z = w*.x/sqrt d``, so that |w*|^2 is about d.
    weights : callable, or object
        Returns, or is, the first layer of shape (students, d); with `layer`, a module, of which it is the parameter of
        that dotted name (``"net.0.weight"``).
    layer : str
    readout : callable or object, optional
        Of shape (students,), or (1, students) as torch has it; a dotted name when `layer` is given.
    scale : {"field", "pytorch"}
        ``"field"``: the network computes ``w.x/sqrt d``. ``"pytorch"``: it computes ``W.x``, and w = W sqrt d.

    Attributes
    ----------
    times : list of float
        When something was recorded, in the theory's unit of time (samples over d, or updates).
    dimension : int
        d.

    Examples
    --------
    >>> import numpy as np
    >>> teacher, student = np.eye(4)[:1] * 2.0, np.eye(4)[:2] * 2.0
    >>> probe = Probe(teacher, lambda: student)
    >>> probe.record(0.0, generalization_error=0.5)
    >>> probe.values["M"][0].tolist()
    [[1.0], [0.0]]
    """

    def __init__(
        self,
        teacher: Any,
        weights: Any,
        layer: str = "",
        readout: Any = None,
        scale: Literal["field", "pytorch"] = "field",
    ) -> None:
        if scale not in ("field", "pytorch"):
            raise UsageError(
                f"there is no scale {scale!r}", where="scale", hint=did_you_mean(scale, ("field", "pytorch"))
            )
        self.teacher = _array(teacher)
        if self.teacher.ndim != 2:
            raise UsageError("the teacher must be a matrix (teachers, d)", why=f"its shape is {self.teacher.shape}")
        self.dimension = int(self.teacher.shape[1])
        module = weights
        self._weights = _reader(module, layer) if layer else _reader(weights)
        self._readout = None if readout is None else _reader(module, readout) if layer else _reader(readout)
        self._factor = np.sqrt(self.dimension) if scale == "pytorch" else 1.0
        self.times: list[float] = []
        self.values: dict[str, list[Array]] = {}

    def record(self, time: float, **observables: float) -> None:
        """Record the overlaps now, and numbers under names of the theory, such as ``generalization_error=0.1``.

        Raises
        ------
        UsageError
            For weights of another dimension than the teacher's, a time that does not follow, or names that come and go.
        """
        w = self._factor * self._weights()
        if w.ndim != 2 or w.shape[1] != self.dimension:
            raise UsageError(
                "the weights do not have the teacher's dimension", where=f"time {time:g}",
                why=f"weights {w.shape}, teacher {self.teacher.shape}", hint="give a matrix (students, d)",
            )  # fmt: skip
        if self.times and not time > self.times[-1]:
            raise UsageError(f"time {time:g} does not come after {self.times[-1]:g}", where="record")
        found = {"Q": w @ w.T / self.dimension, "M": w @ self.teacher.T / self.dimension}
        if self._readout is not None:
            found["a"] = self._readout().reshape(-1)
        found |= {name: np.asarray(float(value)) for name, value in observables.items()}
        if self.times and found.keys() != self.values.keys():
            missing = sorted(found.keys() ^ self.values.keys())
            raise UsageError("every time records the same names", where=f"time {time:g}", why=", ".join(missing))
        self.times.append(float(time))
        for name, value in found.items():
            self.values.setdefault(name, []).append(np.array(value, dtype=float))


DIMS = {"Q": ("time", "student", "student"), "M": ("time", "student", "teacher"), "a": ("time", "student")}


def measured(problem: Problem, probes: Sequence[Probe], closing: float | None = None) -> Measurement:
    """Put the probes of several runs together: means and standard errors over the runs of each dimension.

    Parameters
    ----------
    problem : Problem
        What the runs are thought to realise.
    probes : sequence of Probe
        The same number for each dimension; all recorded at the same times.
    closing : float, optional
        Exponent of 1/d with which you know the gap to close: 1 for SGD from exactly imposed overlaps. Default:
        estimated from the dimensions, which needs more of them, and more runs, before anything can be said.

    Returns
    -------
    Measurement
        For ``compare(problem, measurement)``; the grid of the problem should be the times of the probes.

    Raises
    ------
    UsageError
        When the probes differ in what or when they recorded, or in number.
    """
    from .simulate import measurement_of
    from .simulate.batches import Batch
    from .simulate.ensemble import assemble

    if closing is not None and not closing > 0:
        raise UsageError(f"a gap closes with a positive exponent, got {closing}", where="closing")
    if not probes or not probes[0].times:
        raise UsageError("there is nothing recorded", where="probes")
    first = probes[0]
    for probe in probes:
        if probe.times != first.times or probe.values.keys() != first.values.keys():
            raise UsageError(
                "the probes recorded different things", why=f"{len(probe.times)} and {len(first.times)} times, "
                f"names {sorted(probe.values)} and {sorted(first.values)}", hint="record every run at the same times",
            )  # fmt: skip
    by_size: dict[int, list[Probe]] = {}
    for probe in probes:
        by_size.setdefault(probe.dimension, []).append(probe)
    counts = {d: len(group) for d, group in by_size.items()}
    if len(set(counts.values())) > 1:
        raise UsageError("each dimension needs as many runs as the others", why=f"runs by dimension: {counts}")
    batches = []
    for d, group in by_size.items():
        variables: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {
            name: (DIMS.get(name, ("time",)), np.stack([np.stack(p.values[name]) for p in group]), {})
            for name in first.values
        }
        batches.append(Batch(d, 0, len(group), {"time": np.array(first.times)}, variables))
    count = next(iter(counts.values()))
    record = {"source": SOURCE, "dtype": "float64"} | ({} if closing is None else {"closing": closing})
    ensemble = assemble("d", sorted(by_size), count, batches, record)
    return measurement_of(problem, ensemble)


def _reader(source: Any, name: str = "") -> Callable[[], Array]:
    """Return what gives the present array of a function, of an object, or of a module's parameter of a dotted name."""
    if name:
        parameters: Mapping[str, Any] = dict(source.named_parameters()) if hasattr(source, "named_parameters") else {}
        if parameters and name not in parameters:
            raise UsageError(
                f"the module has no parameter {name!r}", where="layer", hint=did_you_mean(name, parameters)
            )
        if parameters:
            return lambda: _array(parameters[name])
        return lambda: _array(operator.attrgetter(name)(source))
    return (lambda: _array(source())) if callable(source) else (lambda: _array(source))


def _array(value: Any) -> Array:
    """Return any array as NumPy's, in double precision; of a tensor on a device its copy on the host."""
    for step in ("detach", "cpu"):
        if hasattr(value, step):
            value = getattr(value, step)()
    return np.array(value, dtype=float)
