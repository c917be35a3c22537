"""The replicas of a simulation in parts: in this process, or as tasks of an executor, whose workers write them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dimladder.errors import DimladderError, SimulationError, SolveError
from dimladder.executors import Place, each, local_workers, marked
from dimladder.progress import Progress, stage

from .base import Backend, Experiment, Sample, backend_for
from .batches import Batch, BatchStore
from .known import experiment
from .memory import plan
from .streams import streams

# A batch is this many tasks of an executor: there are more workers than sizes.
SPLIT = 4


@dataclass(frozen=True)
class Task:
    """Replicas ``first <= r < last`` at one size as they travel to a worker: plain text and values.

    Attributes
    ----------
    run_file, theory_file : str
        The problem, and the file of its theory where that is a local one.
    key : dict
        What every batch shares; the streams follow from it.
    device : str
    size, first, last : int
    place : Place or None
        The run folder.
    """

    run_file: str
    theory_file: str
    key: Mapping[str, Any]
    device: str
    size: int
    first: int
    last: int
    place: Place | None


@dataclass(frozen=True)
class Parts:
    """A simulation that is run part by part.

    Attributes
    ----------
    found : Experiment
    problem : Problem
    sizes : tuple of int
    count : int
        Replicas at each size.
    key : dict
        See `BatchStore`.
    device : str
        As it was asked for.
    backend : Backend
    """

    found: Experiment
    problem: Any
    sizes: tuple[int, ...]
    count: int
    key: dict[str, Any]
    device: str
    backend: Backend

    def run(
        self, store: BatchStore | None, kept: Sequence[Batch], progress: Progress | None, executor: str | Executor
    ) -> list[Batch]:
        """Return all batches, those that are kept among them; with a store, each new one is there when finished.

        Raises
        ------
        SimulationError
            When an experiment fails, or the process of a part is killed, twice; what the others finished is stored.
        UsageError
            For an executor that does not exist, or a cluster that does not answer.
        """
        here = local_workers(executor) == 1
        batches = [batch.take(0, self.count) for batch in kept if batch.size in self.sizes and batch.first < self.count]
        ranges = [
            (size, first, last)
            for size in self.sizes
            for first, last in _missing(self.count, [b for b in batches if b.size == size], self._most(size, here))
        ]
        done, total = sum(b.last - b.first for b in batches), self.count * len(self.sizes)
        with stage("simulating", progress) as tell:
            found = self._one_by_one(ranges, store) if here else self._tasks(ranges, store, executor)
            with closing(found) as finished:
                for size, first, last, batch in finished:
                    done += last - first
                    batches += [] if batch is None else [batch]
                    tell(done, total, f"{self.found.size} = {size}")
        held = {(b.size, b.first, b.last) for b in batches}
        if store is not None and not held.issuperset(ranges):
            # Written by the workers: read once, now that they are wanted.
            batches += [b for b in store.load() if (b.size, b.first, b.last) in set(ranges) - held]
        return batches

    def _most(self, size: int, here: bool) -> int:
        """Return how many replicas are one part: no more than fit into memory."""
        wanted = self.found.batch_size
        if not self.backend.device.startswith("cpu"):
            wanted = self.found.device_batch_size or wanted
        elif not here:
            wanted = -(-wanted // SPLIT)
        return plan(self.found, self.problem, size, self.backend, wanted).replicas

    def _one_by_one(
        self, ranges: Sequence[tuple[int, int, int]], store: BatchStore | None
    ) -> Generator[tuple[int, int, int, Batch | None], None, None]:
        for size, first, last in ranges:
            batch = batch_of(self.found, self.problem, self.key, self.backend, size, first, last)
            if store is not None:
                store.save(batch)
            yield size, first, last, batch

    def _tasks(
        self, ranges: Sequence[tuple[int, int, int]], store: BatchStore | None, executor: str | Executor
    ) -> Generator[tuple[int, int, int, Batch | None], None, None]:
        from dimladder.registry import file_of

        text, file = self.problem.to_toml(), str(file_of(self.problem.theory) or "")
        lost: list[tuple[tuple[int, int, int], BaseException]] = []
        with marked(None if store is None else store.folder.parent) as place:
            tasks = [Task(text, file, self.key, self.device, *part, place) for part in ranges]
            with closing(each(run_task, tasks, executor)) as finished:
                for number, result in finished:
                    if isinstance(result, DimladderError) and getattr(result, "status", "") != "worker-died":
                        raise result
                    if isinstance(result, BaseException):
                        lost.append((ranges[number], result))
                        continue
                    if isinstance(result, Batch) and store is not None:
                        # Of a worker that does not see the folder.
                        store.save(result)
                    yield *ranges[number], result
        if lost:
            raise self._lost(lost, store is not None)

    def _lost(self, lost: Sequence[tuple[tuple[int, int, int], BaseException]], stored: bool) -> SimulationError:
        (size, first, last), error = lost[0]
        died = isinstance(error, SolveError)
        return SimulationError(
            f"{len(lost)} parts of the simulation were lost",
            where=f"{self.found.size} = {size}, replicas {first} to {last - 1}",
            why=str(error.what) if died else f"{type(error).__name__}: {error}",  # type: ignore[attr-defined]
            hint="the others are kept: run again with --resume" if stored else "with a run folder, finished parts stay",
        )


def run_task(task: Task) -> Batch | None:
    """Simulate a part in a worker and write it; return it where the run folder is not seen, or there is none."""
    problem = _problem(task.run_file, task.theory_file)
    found, backend = experiment(task.key["experiment"]), backend_for(task.device, task.key["dtype"])
    batch = batch_of(found, problem, task.key, backend, task.size, task.first, task.last)
    if task.place is None or not task.place.seen():
        return batch
    BatchStore(task.place.folder, dict(task.key)).save(batch)
    return None


@lru_cache(maxsize=4)
def _problem(run_file: str, theory_file: str) -> Any:
    from dimladder.registry import load_file
    from dimladder.solve import loads

    if theory_file:
        load_file(theory_file)
    return loads(run_file, source="simulate")


def batch_of(
    found: Experiment, problem: Any, key: Mapping[str, Any], backend: Backend, size: int, first: int, last: int
) -> Batch:
    """Run the replicas ``first <= r < last`` of one size."""
    generators = streams(key["seed"], key["problem"], key["experiment"], size, first, last)
    return _checked(found.run(problem, size, generators, backend), size, first, last)


def _checked(sample: Sample, size: int, first: int, last: int) -> Batch:
    import numpy as np

    variables = sample.arrays()
    for name, (_, values, _) in variables.items():
        if values.shape[0] != last - first:
            raise SimulationError(
                f"the experiment returned {values.shape[0]} replicas of {name!r} instead of {last - first}"
            )
    return Batch(size, first, last, {k: np.asarray(v) for k, v in sample.coords.items()}, variables)


def _missing(count: int, kept: Sequence[Batch], most: int) -> list[tuple[int, int]]:
    """Return the ranges of replicas below `count` that no kept batch holds, at most `most` replicas each."""
    have = {r for batch in kept for r in range(batch.first, batch.last)}
    ranges: list[tuple[int, int]] = []
    for start in range(0, count, most):
        replica = start
        while replica < min(start + most, count):
            last = replica
            while last < min(start + most, count) and last not in have:
                last += 1
            if last > replica:
                ranges.append((replica, last))
            replica = last + 1
    return ranges
