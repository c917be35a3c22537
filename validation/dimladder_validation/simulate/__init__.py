"""The verb `simulate`: the finite-size experiment of a problem, replica by replica, under the theory's names."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimladder import registry
from dimladder.errors import ResultFileError, SimulationError
from dimladder.problem.checks import sizes as check_sizes
from dimladder.problem.spec import MAX_POINTS
from dimladder.progress import Progress

from .base import DTYPES, Backend, Closing, Experiment, Sample, backend_for, chunks
from .batches import Batch, BatchStore
from .ensemble import Ensemble, assemble
from .known import experiment, experiments
from .parts import Parts
from .streams import stream, stream_hash, streams

if TYPE_CHECKING:
    from dimladder.results import Measurement

__all__ = [
    "DTYPES", "Backend", "Closing", "Ensemble", "Experiment", "Sample", "backend_for", "chunks", "experiment",
    "experiments", "replicate", "simulate", "stream", "stream_hash", "streams",
]  # fmt: skip

log = logging.getLogger("dimladder.simulate")

# Larger sizes are asked for twice; multiplications a second of one core, for the estimate.
LARGE, SPEED = 1_000_000, 1e9


def simulate(
    problem: Any,
    d: int | Sequence[int] | None = None,
    replicas: int | None = None,
    device: str = "cpu",
    dtype: str = "float64",
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    large: bool = False,
    executor: str | Executor = "local:1",
) -> Measurement:
    """Simulate a problem at finite size, and return means and standard errors over independent replicas.

    Parameters
    ----------
    problem : Problem
        What is asked; `dimladder.load` reads it from a run file.
    d : int or sequence of int, optional
        Sizes: input dimensions, or whatever the experiment's size is (samples, width). Default:
        ``problem.simulation.sizes``.
    replicas : int, optional
        Independent replicas at each size. Default: ``problem.simulation.replicas``.
    device : str
        ``"cpu"`` (NumPy and compiled kernels), or a torch device: ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"torch"``.
    dtype : {"float64", "float32"}
    seed : int, optional
        Root seed. The stream of a replica is keyed by (seed, problem, experiment, size, replica): more replicas, more
        sizes or another order never change the old ones. Default: ``problem.simulation.seed``.
    out : path, optional
        Run folder. Each finished batch of replicas is written there at once, so that an interrupted run loses none;
        at the end ``result.nc``.
    resume : bool
        Use the batches already in `out` and run the missing ones only.
    force : bool
        Discard the batches already in `out`.
    progress : callable, optional
        ``progress(done, total, label)`` after each batch; counts are replicas. `dimladder.progress` shows a bar.
    large : bool
        Allow sizes above `LARGE`, which are refused with an estimate of what they cost.
    executor : str or concurrent.futures.Executor
        Who runs the batches: ``"local:N"``, N processes of one thread each (1: this one); ``"dask:ADDRESS"``, a dask
        cluster; or any executor. Workers write their batches themselves where they see `out`. The numbers are those of
        one process: streams belong to replicas. In a script that starts processes, guard the entry with
        ``if __name__ == "__main__":``.

    Returns
    -------
    Measurement
        Each variable has the size as first dimension, and a companion ``<name>_se``: the standard error over replicas
        (standard deviation with n - 1, over sqrt n; NaN for a single replica). ``<name>_skewness``, m3 / m2^(3/2) of
        the replicas, lies in ``.dataset`` beside them; `compare` needs it.

    Raises
    ------
    SimulationError
        For a size, device or experiment that cannot be, or a batch that cannot be written.
    ResultFileError
        If `out` holds batches and neither `resume` nor `force` is given, or batches of another run.
    """
    ensemble = replicate(problem, d, replicas, device, dtype, seed, out, resume, force, progress, large, executor)
    measured = measurement_of(problem, ensemble)
    if out is not None:
        measured.save(Path(out) / "result.nc")
    return measured


def replicate(
    problem: Any,
    d: int | Sequence[int] | None = None,
    replicas: int | None = None,
    device: str = "cpu",
    dtype: str = "float64",
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    large: bool = False,
    executor: str | Executor = "local:1",
) -> Ensemble:
    """Return every replica instead of means: for distributions, escape times, correlations.

    Parameters
    ----------
    problem, d, replicas, device, dtype, seed, out, resume, force, progress, large, executor
        As in `simulate`.

    Returns
    -------
    Ensemble
        ``variables[name]`` is (dims, values, attributes), values of shape ``(sizes, replicas, *dims)``.
    """
    found = experiment(problem.theory)
    section = problem.simulation
    sizes = _sizes(d if d is not None else getattr(section, "sizes", None), found.size)
    if min(sizes) < found.least_size:
        raise SimulationError(
            f"{found.size} = {min(sizes)} is too small", where="simulation.sizes",
            hint=f"simulate {problem.theory} at {found.size} >= {found.least_size}",
        )  # fmt: skip
    count = int(replicas if replicas is not None else getattr(section, "replicas", 16))
    root = int(seed if seed is not None else getattr(section, "seed", 0))
    if not 1 <= count <= MAX_POINTS:
        raise SimulationError(f"replicas must be at least 1 and at most {MAX_POINTS}, got {count}")
    if max(sizes) > LARGE and not large:
        raise _too_large(found, max(sizes), min(count, found.batch_size), 8 if dtype == "float64" else 4)
    if root < 0:
        raise SimulationError(f"the seed must not be negative, got {root}")
    if resume and force:
        raise SimulationError(
            "resume and force exclude each other", hint="resume keeps what is there; force discards it"
        )
    if out is None and (resume or force):
        raise SimulationError("no run folder to resume or to overwrite", hint="give the run folder as out")
    backend = backend_for(device, dtype)
    if found.on_host and device != "cpu":
        log.warning("%s runs on the CPU, whatever the device: %s", problem.theory, found.on_host)
    key = {
        "problem": stream_hash(problem), "experiment": problem.theory, "seed": root, "dtype": dtype,
        # Draws on an accelerator are other numbers: never mixed with those of the CPU.
        "device": device.split(":")[0], "format": 1,
    }  # fmt: skip
    with _held(out) as folder:
        store = None if folder is None else BatchStore(folder, key)
        kept = _stored(store, resume, force) if store is not None else []
        if folder is not None:
            from dimladder.results import write_text

            write_text(folder / "resolved.toml", problem.to_toml())
        parts = Parts(found, problem, sizes, count, key, device, backend)
        batches = parts.run(store, kept, progress, executor)
    return assemble(found.size, sizes, count, batches, {**key, **backend.facts()})


def _too_large(found: Experiment, size: int, batch: int, width: int) -> SimulationError:
    """Return the refusal of a size that is most likely a slip, with the least that it would cost."""
    memory, work = size * batch * width / 2**30, float(size) ** 2 * batch
    cost = f"a vector of each of {batch} replicas takes {memory:.3g} GiB, {size} steps on them {work:.1g} operations"
    return SimulationError(
        f"{found.size} = {size} is more than {LARGE}", where="simulation.sizes",
        why=f"{cost}: {work / SPEED / 3600:.3g} hours a batch, or more",
        hint="smaller sizes: the gap to the limit closes as a power of the size; or ask for it with --large",
    )  # fmt: skip


def _held(out: str | os.PathLike[str] | None) -> AbstractContextManager[Path | None]:
    """Hold the run folder against other processes; what it may hold already is told by its batches."""
    if out is None:
        return nullcontext(None)
    from dimladder.results import run_folder

    return run_folder(Path(out), resume=True)


def _stored(store: BatchStore, resume: bool, force: bool) -> list[Batch]:
    if not store.any():
        return []
    if force:
        store.clear()
        return []
    if resume:
        return store.load()
    raise ResultFileError(
        "the folder already holds simulated batches",
        where=str(store.folder),
        hint="resume to go on from them, or force to discard them",
    )


def _sizes(given: int | Sequence[int] | None, name: str) -> tuple[int, ...]:
    if given is None:
        raise SimulationError("no sizes to simulate", hint="give d=..., or set simulation.sizes")
    sizes = tuple(int(s) for s in given) if isinstance(given, Sequence) else (int(given),)
    try:
        check_sizes(name, sizes)
    except ValueError as error:
        raise SimulationError(str(error), where=name) from None
    return sizes


def measurement_of(problem: Any, ensemble: Ensemble) -> Measurement:
    """Return means, standard errors and skewness of an ensemble as a result that belongs to a problem."""
    from dimladder.results import Measurement

    coords = {ensemble.size_name: list(ensemble.sizes), **ensemble.coords}
    variables = {}
    for name, (dims, _, attributes) in ensemble.variables.items():
        mean, se = ensemble.mean_and_se(name)
        own = (ensemble.size_name, *dims)
        latex, text, units = (attributes.get(k, "") for k in ("latex", "long_name", "units"))
        variables[name] = (own, mean, latex, text, units or None)
        variables[f"{name}_se"] = (own, se, "", f"standard error of {text or name}", units or None)
        skewness = ensemble.skewness(name)
        variables[f"{name}_skewness"] = (own, skewness, "", f"skewness of the replicas of {text or name}", None)
    stats = {"size": ensemble.size_name, **ensemble.provenance}
    # An experiment may stand alone.
    coordinates = getattr(registry.get("theories", problem.theory), "coordinates", {})
    return Measurement.build(
        problem, coords, variables, stats=stats, extra={"simulation": ensemble.provenance}, coordinates=coordinates,
    )  # fmt: skip
