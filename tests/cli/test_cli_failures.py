"""What the command line says when things go wrong in ways that no verb foresees: never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimladder.cli import main
from dimladder.errors import DimladderError, explain_unexpected
from run_files import RUNS

FLOW = str(RUNS / "truncation-flow.toml")


def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 8 PiB"), "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), "did not foresee (RecursionError)"),
        (ZeroDivisionError("division by zero"), "did not foresee (ZeroDivisionError)"),
        (KeyError("x"), "please report it"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (AssertionError(), "it gave no reason"),
    ],
)
def test_what_nobody_foresaw_becomes_one_message(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimladder.cli.solve.load_problem", lambda _: raise_it(error))
    assert main(["solve", FLOW]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert main(["solve", FLOW, "-vv"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_place_is_the_last_line_of_our_own_code() -> None:
    try:
        explain_unexpected([])  # type: ignore[arg-type]
    except AttributeError as error:
        told = explain_unexpected(error)
    assert "dimladder/errors.py" in str(told.where)
    known = DimladderError("known")
    assert explain_unexpected(known) is known


def test_an_interrupt_is_recognised_inside_other_exceptions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapped(_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Unable to flush file") from error

    monkeypatch.setattr("dimladder.cli.solve.load_problem", wrapped)
    assert main(["solve", FLOW]) == 130
    assert capsys.readouterr().err.startswith("interrupted")


@pytest.mark.parametrize("override", ["grid.time=[5.0, 10.0]", "grid.time=[0.0, 10.0]"])
def test_a_solve_that_fails_before_its_first_time_says_why(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["solve", FLOW, "--set", override, "--set", "solver.max_steps=1", "-o", str(tmp_path / "run")]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "status: " in err
    assert (tmp_path / "run" / "result.nc").exists()


def test_verbs_whose_answer_may_be_one_fail_with_another_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", FLOW, "--d", "50", "--replicas", "2", "--set", "solver.max_steps=1", "-q"]) == 2
    assert "status: " in capsys.readouterr().err


def command(*words: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "dimladder", *words], text=True, **options)  # type: ignore[call-overload]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_device_on_stdout_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        child = command("list", stdout=full, stderr=subprocess.PIPE)
        _, err = child.communicate()
    assert child.returncode == 2
    assert err.startswith("error: ")
    assert "No space left" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    with command("list", "functions", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""


@pytest.mark.parametrize(
    ("stop", "executor", "status"), [(signal.SIGINT, "local:1", 130), (signal.SIGTERM, "local:2", 143)]
)
def test_a_sweep_that_is_stopped_keeps_what_was_finished(
    stop: signal.Signals, executor: str, status: int, tmp_path: Path
) -> None:
    folder = tmp_path / "d"
    words = ["sweep", FLOW, "--grid", "data.target=1.2:1.9:100000", "--executor", executor, "-o", str(folder), "-q"]
    child = command(*words, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((folder / "points").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(stop)
    _, err = child.communicate(timeout=30)
    # Where SIGINT struck inside the text of an exec(), Python ends by the signal itself after our own exit: to a shell
    # both are 130.
    assert child.returncode == status or (stop == signal.SIGINT and child.returncode == -stop), err
    assert "Traceback" not in err
    assert "interrupted" in err or stop != signal.SIGINT
    assert list(folder.rglob(".*")) == []
    assert any((folder / "points").iterdir())


@pytest.mark.parametrize("verb", ["solve", "sweep"])
def test_a_full_disk_is_one_message_and_leaves_no_half(verb: str, tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk: HDF5 and our own writes meet it alike.
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from dimladder.cli import main\n"
        "import h5netcdf, h5py, xarray, dimladder.sweep, dimladder.results\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    grid = ["--grid", "data.target=1.5,1.7,1.9"] if verb == "sweep" else []
    child = subprocess.run(
        [sys.executable, "-c", script, verb, FLOW, *grid, "-o", str(tmp_path / "run"), "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 2, child.stderr
    assert child.stderr.startswith("error: ")
    assert "cannot be written" in child.stderr
    assert "Traceback" not in child.stderr
    assert "did not foresee" not in child.stderr
    assert "Exception ignored" not in child.stderr
    assert list(tmp_path.rglob(".*")) == []
    assert not (tmp_path / "run" / "result.nc").exists()
