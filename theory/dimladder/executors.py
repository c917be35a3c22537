"""Tasks in this process, in local processes, on a cluster or any executor; a process that dies costs its own task."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import SolveError, UsageError

log = logging.getLogger("dimladder.executors")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Seconds after which an address that does not answer is called wrong.
PATIENCE = 5.0
# Pools in a row that end before any task was finished: then it is not a task that kills them.
MOST_BARREN = 3
DIED = "its process was killed: out of memory?"


@dataclass(frozen=True)
class Remote:
    """An executor that is not ours to start or to mend, and how many tasks it runs at the same time, where known."""

    executor: Executor
    cores: int | None = None


@dataclass(frozen=True)
class Place:
    """A folder as workers are told of it, who write what they finish there.

    Attributes
    ----------
    folder : str
    token : str
        Name of a file there, by which a worker knows that it sees the same folder; unique to the computation.
    arrays : bool
        Whether what is written is wanted back besides.
    """

    folder: str
    token: str
    arrays: bool = False

    def seen(self) -> bool:
        """Whether this process sees the folder; without it, what is finished has to be sent back."""
        found = (Path(self.folder) / self.token).is_file()
        if not found:
            log.warning("%s is not seen from here: what is finished is sent back to be written", self.folder)
        return found


@contextmanager
def marked(folder: Path | None, arrays: bool = False) -> Iterator[Place | None]:
    """Mark a folder, made if missing, so that a worker can tell whether it sees it."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    # What a killed process leaves of that name, the next one clears.
    token = f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
    (folder / token).touch()
    try:
        yield Place(str(folder.resolve()), token, arrays)
    finally:
        (folder / token).unlink(missing_ok=True)


def each(
    function: Callable[[Any], Any], tasks: Sequence[Any], executor: str | Executor = "local:1"
) -> Generator[tuple[int, Any], None, None]:
    """Call a function for each task, in any order, and yield (number of the task, result or the exception raised).

    Processes find the function by its name, so it stands at the top of a module. When a process dies, the tasks that
    were under way are tried once more, one at a time; the others go on in a new pool.

    Raises
    ------
    UsageError
        For an executor that does not exist, or a cluster that does not answer.
    """
    workers = local_workers(executor)
    if workers is None:
        with remote(executor) as found:
            yield from _results({found.executor.submit(function, task): n for n, task in enumerate(tasks)})
    elif workers == 1:
        for number, task in enumerate(tasks):
            try:
                yield number, function(task)
            except Exception as error:
                yield number, error
    else:
        with one_thread_each(), terminable():
            yield from _mended(function, tasks, workers)


def _mended(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """Run tasks in a pool of processes that is made anew when one of them dies."""
    waiting, suspects = list(reversed(range(len(tasks)))), list[int]()
    barren = 0
    while waiting or suspects:
        alone = bool(suspects)
        source, most = (suspects, 1) if alone else (waiting, min(workers, len(waiting)))
        under_way: dict[Future[Any], int] = {}
        try:
            with local_pool(most) as pool:
                # No more at a time than are worked on: whoever is under way when a process dies may be the cause.
                while source or under_way:
                    while source and len(under_way) < most:
                        future = pool.submit(function, tasks[source[-1]])
                        under_way[future] = source.pop()
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        result = _result(future)
                        barren = 0
                        yield under_way.pop(future), result
        except BrokenProcessPool as error:
            log.warning("a worker process died (%s): what it had finished is kept", error)
            barren += 1
            lost = list(under_way.values())
            if barren > MOST_BARREN:
                lost += waiting + suspects
                waiting, suspects = [], []
            if alone or barren > MOST_BARREN:
                yield from ((number, SolveError(DIED, status="worker-died")) for number in lost)
            else:
                suspects += lost


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:
        return error


def _results(waiting: Mapping[Future[Any], int]) -> Iterator[tuple[int, Any]]:
    """Yield from an executor that is not ours to mend: what a broken one did not finish are errors."""
    for done in as_completed(waiting):
        try:
            yield waiting[done], _result(done)
        except BrokenProcessPool:
            yield waiting[done], SolveError(DIED, status="worker-died")


def local_workers(executor: str | Executor) -> int | None:
    """Return N of ``local:N``, the number of cores for ``local``, None for any other executor.

    Raises
    ------
    UsageError
        For a word that names none.
    """
    if isinstance(executor, Executor):
        return None
    kind, _, argument = executor.partition(":")
    if kind == "dask":
        return None
    if kind != "local" or not (argument == "" or (argument.isdecimal() and 0 < int(argument[:6]) < 10_000)):
        raise UsageError(f"there is no executor {executor!r}", where="executor", hint="use local:N or dask:ADDRESS")
    return int(argument) if argument else os.cpu_count() or 1


@contextmanager
def remote(executor: str | Executor) -> Iterator[Remote]:
    """Connect to ``dask:ADDRESS`` for as long as it is needed; an executor is taken as it is.

    Raises
    ------
    UsageError
        When the address is none, nobody answers there, or the workers do not have this package.
    """
    if isinstance(executor, Executor):
        yield Remote(executor)
        return
    address = executor.partition(":")[2]
    where = f"executor dask:{address}"
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "the executor dask needs the package distributed", where=where, why=str(error),
            hint="pip install 'dimladder[distributed]'",
        ) from None  # fmt: skip
    told: dict[str, Any] = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    if "address" in told:
        _answers(address, where)
    try:
        client = Client(**told, timeout=PATIENCE)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            "no dask scheduler answers there", where=where, why=str(error) or type(error).__name__,
            hint="give the address that `dask scheduler` prints, as tcp://host:8786, or its --scheduler-file",
        ) from None  # fmt: skip
    try:
        try:
            client.run(_present)
        except Exception as error:  # whatever comes of a function that a worker does not have
            raise UsageError(
                "the workers cannot run dimladder", where=where, why=f"{type(error).__name__}: {error}",
                hint="install the same version in the workers' environment",
            ) from None  # fmt: skip
        cores = sum(client.nthreads().values())
        if not cores:
            log.warning("no worker has joined the cluster at %s yet: waiting", address)
        yield Remote(client.get_executor(pure=False), cores or None)
    finally:
        client.close()


def _present() -> int:
    """What a worker answers that has this package."""
    return os.getpid()


def _answers(address: str, where: str) -> None:
    """Make sure that somebody listens: dask itself would try for half a minute."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UsageError(
            f"there is no scheduler {address!r}" if address else "the executor dask needs the scheduler's address",
            where=where, hint="write it as dask:tcp://host:8786, or dask:scheduler.json, the scheduler's file",
        )  # fmt: skip
    if parts.scheme not in ("tcp", "tls"):
        return
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise UsageError(
            "no dask scheduler answers there", where=where, why=str(error),
            hint="start one with `dask scheduler`, and give the address that it prints",
        ) from None  # fmt: skip


def _worker() -> None:
    """Prepare a process of a pool: Ctrl-C is for the parent, which knows what is finished, and whose end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    # A parent that is killed cannot tell its workers, who would wait for tasks for ever.
    parent.join()
    os._exit(1)


@contextmanager
def terminable() -> Iterator[None]:
    """Leave by an exception when asked to terminate, so that the workers end too.

    Only around waiting: compiled code does not come back to hear it.
    """

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let processes that start meanwhile compute on one thread: N threads each on N cores are too many."""
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def local_pool(workers: int) -> Iterator[Executor]:
    """Start processes, and end them: at once where the block is left by an exception."""
    # Spawned, not forked: a fork would copy the locks of running threads.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_worker)
    finished = False
    try:
        yield pool
        finished = True
    finally:
        if not finished:
            # Interrupted: tasks under way are given up, finished ones are on disk.
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
