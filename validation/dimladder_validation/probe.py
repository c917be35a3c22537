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
Dims = tuple[str, ...] | None
SOURCE = "probe"


class Probe:
    """Order parameters of one run, recorded as it goes.

    Parameters
    ----------
    teacher : array of shape (teachers, d), optional
        The hidden directions, in the normalisation of this library: ``z = w*.x/sqrt d``, so that |w*|^2 is about d.
        Without them there are no overlaps M.
    weights : callable, or object, optional
        Returns, or is, the first layer of shape (students, d); with `layer`, a module, of which it is the parameter of
        that dotted name (``"net.0.weight"``). Without it no overlaps are recorded, only what `record` is told.
    layer : str
    readout : callable or object, optional
        Of shape (students,), or (outputs, students) as torch has it; a dotted name when `layer` is given.
    scale : {"field", "pytorch"}
        ``"field"``: the network computes ``w.x/sqrt d``. ``"pytorch"``: it computes ``W.x``, and w = W sqrt d.
    size : int, optional
        The size of this run, as the theory's experiment counts it (d, or the width n). Default: d of the teacher, or of
        the weights.

    Attributes
    ----------
    times : list of float
        When something was recorded, in the theory's unit of time (samples over d, or updates).
    values : dict
        Name -> one array a time.
    final : dict
        Name -> array, of what was recorded once.
    dims : dict
        Name -> axes besides the time, where they were said.

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
        teacher: Any = None,
        weights: Any = None,
        layer: str = "",
        readout: Any = None,
        scale: Literal["field", "pytorch"] = "field",
        size: int | None = None,
    ) -> None:
        if scale not in ("field", "pytorch"):
            raise UsageError(
                f"there is no scale {scale!r}", where="scale", hint=did_you_mean(scale, ("field", "pytorch"))
            )
        self.teacher = None if teacher is None else _array(teacher)
        if self.teacher is not None and self.teacher.ndim != 2:
            raise UsageError("the teacher must be a matrix (teachers, d)", why=f"its shape is {self.teacher.shape}")
        if weights is None and (teacher is not None or layer or readout is not None):
            raise UsageError("there are no weights to be measured", hint="give a module, or a function")
        module = weights
        self._weights = None if module is None else _reader(module, layer) if layer else _reader(weights)
        self._readout = None if readout is None else _reader(module, readout) if layer else _reader(readout)
        self._scale = scale
        self._size = size
        self.times: list[float] = []
        self.values: dict[str, list[Array]] = {}
        self.final: dict[str, Array] = {}
        self.dims: dict[str, Dims] = {}

    @property
    def size(self) -> int:
        """The size of the run: as it was given, or the dimension of the inputs.

        Raises
        ------
        UsageError
            When neither is known.
        """
        if self._size is not None:
            return self._size
        if self.teacher is not None:
            return int(self.teacher.shape[1])
        if self._weights is not None:
            return int(self._weights().shape[-1])
        raise UsageError("the size of the run is not known", where="probe", hint="give it as size=...")

    def record(self, time: float, **observables: Any) -> None:
        """Record the overlaps now, and what else was measured, under names of the theory.

        Parameters
        ----------
        time : float
        **observables
            Numbers, ``generalization_error=0.1``; arrays of the theory's order parameters, ``f=net(x)``; or
            (dims, array) for any other variable, ``feature_min_eigenvalue=(("layer",), values)``.

        Raises
        ------
        UsageError
            For weights of another dimension than the teacher's, a time that does not follow, or names that come and go.
        """
        if self.times and not time > self.times[-1]:
            raise UsageError(f"time {time:g} does not come after {self.times[-1]:g}", where="record")
        found = self._overlaps(time) | self._told(observables)
        if not found:
            raise UsageError("there is nothing to record", where=f"time {time:g}", hint="give weights, or observables")
        if self.times and found.keys() != self.values.keys():
            missing = sorted(found.keys() ^ self.values.keys())
            raise UsageError("every time records the same names", where=f"time {time:g}", why=", ".join(missing))
        self.times.append(float(time))
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)

    def finish(self, **observables: Any) -> None:
        """Record observables that the theory has without a time, such as ``feature_kernel`` at the end.

        Values are as in `record`.
        """
        self.final |= self._told(observables)

    def _told(self, observables: Mapping[str, Any]) -> dict[str, Array]:
        found = {}
        for name, value in observables.items():
            said = isinstance(value, tuple) and len(value) == 2 and all(isinstance(d, str) for d in value[0])
            self.dims[name] = tuple(value[0]) if said else None
            found[name] = _array(value[1] if said else value)
        return found

    def _overlaps(self, time: float) -> dict[str, Array]:
        if self._weights is None:
            return {}
        w = self._weights()
        d = w.shape[-1] if w.ndim == 2 else 0
        if not d or (self.teacher is not None and d != self.teacher.shape[1]):
            known = "no teacher" if self.teacher is None else f"teacher {self.teacher.shape}"
            raise UsageError(
                "the weights do not have the teacher's dimension", where=f"time {time:g}",
                why=f"weights {w.shape}, {known}", hint="give a matrix (students, d)",
            )  # fmt: skip
        w = w * np.sqrt(d) if self._scale == "pytorch" else w
        found = {"Q": w @ w.T / d}
        if self.teacher is not None:
            found["M"] = w @ self.teacher.T / d
        if self._readout is not None:
            readout = self._readout()
            found["a"] = readout[0] if readout.ndim == 2 and len(readout) == 1 else readout
        return found


def feature_kernels(module: Any, inputs: Any, layers: Sequence[str]) -> Array:
    """Return the kernels of the hidden layers of a torch module: inner products of features over their number.

    Parameters
    ----------
    module : torch.nn.Module
    inputs : tensor of shape (samples, ...)
    layers : sequence of str
        Dotted names of the submodules whose outputs, of shape (samples, neurons), are the features:
        ``["1", "3"]`` for the activations of ``Sequential(Linear, Tanh, Linear, Tanh, Linear)``.

    Returns
    -------
    array of shape (layers, samples, samples)

    Raises
    ------
    UsageError
        For a name that is no submodule.
    """
    import torch

    known = dict(module.named_modules())
    for name in layers:
        if name not in known:
            raise UsageError(f"the module has no part {name!r}", where="layers", hint=did_you_mean(name, known))
    found: dict[str, Array] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            features = _array(output).reshape(len(output), -1)
            found[name] = features @ features.T / features.shape[1]

        return hook

    handles = [known[name].register_forward_hook(keep(name)) for name in layers]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return np.stack([found[name] for name in layers])


def measured(
    problem: Problem,
    probes: Sequence[Probe],
    closing: float | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Measurement:
    """Put the probes of several runs together: means and standard errors over the runs of each size.

    Parameters
    ----------
    problem : Problem
        What the runs are thought to realise.
    probes : sequence of Probe
        The same number for each size; all recorded at the same times.
    closing : float, optional
        Exponent of 1/size with which you know the gap to close: 1 for SGD from exactly imposed overlaps. Default:
        estimated from the sizes, which needs more of them, and more runs, before anything can be said.
    coords : mapping, optional
        Coordinates of axes that the theory does not number from 0: ``{"layer": [1, 2]}``.

    Returns
    -------
    Measurement
        For ``compare(problem, measurement)``; the grid of the problem should be the times of the probes.

    Raises
    ------
    UsageError
        When the probes differ in what or when they recorded, or in number, or the axes of an array are not known.
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
        if (probe.times, _names(probe)) != (first.times, _names(first)):
            raise UsageError(
                "the probes recorded different things", why=f"{len(probe.times)} and {len(first.times)} times, "
                f"names {_names(probe)} and {_names(first)}", hint="record every run at the same times",
            )  # fmt: skip
    by_size: dict[int, list[Probe]] = {}
    for probe in probes:
        by_size.setdefault(probe.size, []).append(probe)
    counts = {size: len(group) for size, group in by_size.items()}
    if len(set(counts.values())) > 1:
        raise UsageError("each size needs as many runs as the others", why=f"runs by size: {counts}")
    known = {parameter.name: tuple(parameter.dims) for parameter in _order_parameters(problem)}
    axes = {"time": np.array(first.times)} | {name: np.asarray(values) for name, values in (coords or {}).items()}
    batches = []
    for size, group in by_size.items():
        variables: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {}
        for name, recorded in first.values.items():
            dims = ("time", *_dims(name, recorded[0], first.dims.get(name), known))
            variables[name] = (dims, np.stack([np.stack(p.values[name]) for p in group]), {})
        for name, value in first.final.items():
            dims = _dims(name, value, first.dims[name], known)
            variables[name] = (dims, np.stack([p.final[name] for p in group]), {})
        batches.append(Batch(size, 0, len(group), axes, variables))
    count = next(iter(counts.values()))
    record = {"source": SOURCE, "dtype": "float64"} | ({} if closing is None else {"closing": closing})
    ensemble = assemble(_size_name(problem), sorted(by_size), count, batches, record)
    return measurement_of(problem, ensemble)


def _names(probe: Probe) -> list[str]:
    return sorted([*probe.values, *probe.final])


def _order_parameters(problem: Problem) -> Sequence[Any]:
    from dimladder.solve import derive

    return derive(problem).order_parameters


def _size_name(problem: Problem) -> str:
    from dimladder import registry

    return str(getattr(registry.get("experiments", problem.theory), "size", "d"))


def _dims(name: str, values: Array, said: Dims, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the axes of what was recorded, besides the time: as they were said, or as the theory has them."""
    if said is not None:
        return said
    if values.ndim == 0:
        return ()
    if len(known.get(name, ())) != values.ndim:
        what = f"the theory has it with {known[name]}" if name in known else "it is no order parameter of the theory"
        raise UsageError(
            f"the axes of {name!r} are not known", where="probe", why=f"its shape is {values.shape}; {what}",
            hint=f'say them: {name}=(("sample",), values)',
        )  # fmt: skip
    return known[name]


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
    """Return any array as NumPy's, in double precision; of a tensor on a device, in any precision, its copy here."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.array(value, dtype=float)
