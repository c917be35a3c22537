"""Executors: local processes, a dask cluster that loses a worker, addresses that are wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import ResultFileError, UsageError
from dimladder.executors import MOST_BARREN, each, remote
from dimladder.results import open_result
from dimladder.sweep import sweep
from dimladder.workers import recorded
from dimladder_validation import simulate
from executor_tasks import die, slow_square
from run_files import SMALL, TANH_UNIT, path_of

# A busy machine is slow to make folders, of which dask warns; that is no failure here.
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories:UserWarning")


def test_a_pool_is_made_anew_and_only_suspects_are_tried_alone(tmp_path: Path) -> None:
    tasks = [(n, str(tmp_path / "died")) for n in range(12)]
    assert dict(each(slow_square, tasks, "local:2")) == {n: n**2 for n in range(12)}


def test_pools_that_always_die_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    found = dict(each(die, list(range(20)), "local:2"))
    assert {getattr(error, "status", "") for error in found.values()} == {"worker-died"}
    assert sorted(found) == list(range(20))
    assert caplog.text.count("a worker process died") == MOST_BARREN + 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "from dimladder.executors import each\nfrom executor_tasks import wait_for_ever\n"
        f"if __name__ == '__main__': list(each(wait_for_ever, [{str(tmp_path)!r}] * 2, 'local:2'))"
    )
    (tmp_path / "program.py").write_text(program)
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    process.kill()
    process.wait()
    workers = [int(file.stem) for file in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(alive(pid) for pid in workers))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is waited for by nobody does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_pool_of_somebody_else_that_breaks_is_told() -> None:
    with ProcessPoolExecutor(1) as pool:
        found = dict(each(die, [0, 1], pool))
    assert {n: getattr(error, "status", "") for n, error in found.items()} == {0: "worker-died", 1: "worker-died"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine that is busy, or has no network
        found = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with found:
        yield found


@pytest.mark.parametrize(
    ("address", "text"),
    [("", "needs the scheduler's address"), ("nowhere", "no scheduler 'nowhere'"), ("tcp://x:y", "no scheduler")],
)
def test_an_address_that_is_none_is_refused_at_once(address: str, text: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match=text), remote(f"dask:{address}"):
        pass


def test_nobody_at_an_address_is_said_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (tmp_path / "run.toml").write_text(TANH_UNIT)
    arguments = [str(tmp_path / "run.toml"), "--executor", f"dask:tcp://127.0.0.1:{port}"]
    for verb in (["sweep", *arguments, "--grid", "algorithm.learning_rate=0.1,0.2"], ["simulate", *arguments]):
        begin = time.monotonic()
        assert main(verb) == 2
        assert time.monotonic() - begin < 20  # dask alone tries for thirty seconds
        assert "no dask scheduler answers there" in capsys.readouterr().err


def test_a_cluster_that_loses_a_worker_gives_what_one_process_gives(cluster: Any, tmp_path: Path) -> None:
    tasks = [(n, str(tmp_path / "died")) for n in range(12)]
    assert dict(each(slow_square, tasks, f"dask:{cluster.scheduler_address}")) == {n: n**2 for n in range(12)}


def test_workers_of_a_cluster_write_and_the_head_does_not(cluster: Any, runs: Path, tmp_path: Path) -> None:
    problem = dl.load(runs / "truncation-flow.toml", {"grid.time": [0.0, 1.0, 4.0]})
    grid = {"data.target": [1.5, 1.7, 1.9], "initial.threshold": [0.6, 0.75, 0.9]}
    here = sweep(problem, grid)
    there = sweep(problem, grid, executor=f"dask:{cluster.scheduler_address}", out=tmp_path / "d")
    np.testing.assert_array_equal(here["threshold"].values, there["threshold"].values)
    logs = [path.name for path in (tmp_path / "d" / "points").iterdir()]
    assert 1 <= len(logs) <= 2
    assert not any(name.startswith(f"{os.getpid()}-") for name in logs)
    assert len(recorded(tmp_path / "d" / "points")[0]) == 9
    np.testing.assert_array_equal(open_result(tmp_path / "d")["threshold"].values, here["threshold"].values)


@pytest.fixture(scope="module")
def networks() -> dl.Problem:
    """Linear networks: a worker imports little, and the replicas of a batch are multiplied together."""
    return dl.load(path_of("mup-linear"), SMALL["mup-linear"])


OPTIONS: dict[str, Any] = {"d": [24, 48], "replicas": 24, "seed": 5}


def simulated(problem: dl.Problem, kill: list[int] | None = None, **options: Any) -> Any:
    """Simulate in parts, and kill the processes given, or all children, when the first part is finished."""
    killed = list[int]()

    def progress(done: int, total: int, label: str) -> None:
        if not killed:
            for pid in kill or [p.pid for p in multiprocessing.active_children()]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    measured = simulate(problem, **OPTIONS, progress=progress, **options)
    assert killed
    return measured


def test_replicas_do_not_depend_on_who_simulates_them(networks: dl.Problem, tmp_path: Path) -> None:
    here = simulate(networks, **OPTIONS)
    there = simulated(networks, executor="local:2", out=tmp_path / "out")
    for name in here:
        np.testing.assert_array_equal(there[name].values, here[name].values, err_msg=name)
    assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(ResultFileError, match="already holds"):
        simulate(networks, **OPTIONS, executor="local:2", out=tmp_path / "out")


def test_replicas_on_a_cluster_that_loses_a_worker_are_the_same_and_resume(
    cluster: Any, networks: dl.Problem, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster) as client:
        pid = next(iter(client.run(os.getpid).values()))
    address, out = f"dask:{cluster.scheduler_address}", tmp_path / "out"
    here = simulate(networks, **OPTIONS)
    there = simulated(networks, [pid], executor=address, out=out)
    # A worker killed while it writes leaves an unfinished file beside them.
    written = {path.name: path.stat().st_mtime_ns for path in (out / "batches").glob("*.npz")}
    assert len(written) == 12
    (out / "batches" / "24-0-4.npz").unlink()
    again = simulate(networks, **OPTIONS, executor=address, out=out, resume=True)
    unseen = simulate(networks, **OPTIONS, executor=address)
    for name in here:
        for measured in (there, again, unseen):
            np.testing.assert_array_equal(measured[name].values, here[name].values, err_msg=name)
    new = {path.name for path in (out / "batches").glob("*.npz") if path.stat().st_mtime_ns != written[path.name]}
    assert new == {"24-0-4.npz"}
