"""Files that survive: written whole or not at all, sealed by a checksum, in folders of one process at a time."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ResultFileError, UsageError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there.
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("dimladder.files")
LOCK = ".lock"
# HDF5 reads its file from the front and does not mind what follows its end.
_SEAL = b"\ndimladder sha256 "
_SEAL_LENGTH = len(_SEAL) + 64 + 1


def write_atomically(target: Path, write: Callable[[Path], None], *, sealed: bool = False) -> None:
    """Call `write` on a temporary name in the folder of `target`, then rename.

    An interrupt from the keyboard waits until the file is there. With `sealed` a checksum is appended, which
    `check_seal` demands.

    Raises
    ------
    ResultFileError
        When the disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary: Path | None = None
    with _interrupts_wait():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:60]}.", suffix=".tmp")
            os.close(handle)
            temporary = Path(name)
            write(temporary)
            if sealed:
                _seal(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, target)
            temporary = None
        except OSError as error:
            raise _not_written(error, target) from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def write_arrays(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as an npz file, whole or not at all; see `write_atomically`."""
    import numpy as np

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.savez(stream, **arrays)

    write_atomically(target, write)


def forget(target: Path) -> None:
    """Delete a file, where there is one, and what killed processes left of writing it."""
    for unfinished in target.parent.glob(f".{glob.escape(target.name[:60])}.*.tmp"):
        unfinished.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _not_written(error: OSError, target: Path) -> ResultFileError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ResultFileError(
        "the result cannot be written", where=str(target),
        why="no space is left on the device" if full else (error.strerror or str(error)),
        hint="free some space and run again with --resume; what was finished is kept"
        if full
        else "choose another folder",
    )  # fmt: skip


def write_text(target: Path, text: str) -> None:
    """Write text atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(target, write)


def _seal(path: Path) -> None:
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(_SEAL + digest + b"\n")


def check_seal(path: Path) -> None:
    """Make sure that a sealed file holds what was written.

    Raises
    ------
    ResultFileError
        When the seal is missing or broken, or the file cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(size - _SEAL_LENGTH, 0))
            seal = file.read(_SEAL_LENGTH)
        whole = seal.startswith(_SEAL) and seal[len(_SEAL) : -1] == _digest(path, size - _SEAL_LENGTH)
    except OSError as error:
        raise ResultFileError("the result file cannot be read", where=str(path), why=error.strerror) from None
    if whole:
        return
    if seal.startswith(_SEAL):
        why = "its content does not match its checksum"
    else:
        why = "its checksum is missing at the end: it was cut, or another program wrote it" if size else "it is empty"
    raise ResultFileError(
        "the result file cannot be read", where=str(path), why=why,
        hint="it is damaged: run the command that wrote it again",
    )  # fmt: skip


def _digest(path: Path, length: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.hexdigest().encode()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Deliver an interrupt from the keyboard at the end of the block: inside HDF5 it would leave half a file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None):
        yield
        return
    pending: list[Any] = []

    def remember(number: int, frame: Any) -> None:
        # Who insists is heard at once.
        if pending:
            raise KeyboardInterrupt
        pending.append(frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


# Folders that this process holds, with the number of holders.
_held: dict[Path, int] = {}


@contextmanager
def run_folder(folder: Path, *, resume: bool = False, force: bool = False) -> Iterator[Path]:
    """Hold a run folder while it is written: made if missing, locked against other processes, left-overs removed.

    A holder may enter again, as a verb and the function it calls do.

    Raises
    ------
    ResultFileError
        When it is not empty and neither `resume` nor `force` was asked for, another process is writing it, or it
        cannot be made.
    UsageError
        For `resume` and `force` together.
    """
    if resume and force:
        raise UsageError(
            "--resume and --force exclude each other", hint="resume keeps what is there, force discards it"
        )
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        found = [p.name for p in place.iterdir() if p.name != LOCK]
    except (OSError, ValueError) as error:
        a_file = isinstance(error, FileExistsError | NotADirectoryError)
        raise ResultFileError(
            "the run folder cannot be used", where=str(folder),
            why="a file has that name" if a_file else (getattr(error, "strerror", None) or str(error)),
            hint="choose another folder",
        ) from None  # fmt: skip
    if found and not (resume or force or place in _held):
        raise ResultFileError(
            "the run folder is not empty", where=str(folder), hint="--resume continues it, --force writes over it"
        )
    if place in _held:
        _held[place] += 1
        try:
            yield folder
        finally:
            _held[place] -= 1
        return
    handle = _lock(place, folder)
    _held[place] = 1
    try:
        for unfinished in place.rglob(".*.tmp"):
            # Left by a process that was killed while it wrote; nobody else writes here now.
            with suppress(OSError):
                unfinished.unlink()
        yield folder
    finally:
        del _held[place]
        if handle is not None:
            with suppress(OSError):
                (place / LOCK).unlink()
            os.close(handle)
        if new:
            # Nothing came of it: only an empty folder can be removed.
            with suppress(OSError):
                place.rmdir()


def _lock(place: Path, shown: Path) -> int | None:
    """Return an open, locked file of the folder; None where the file system has no locks."""
    if fcntl is None:
        return None
    while True:
        handle = None
        try:
            handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another holder may have removed the file between the two calls: then this lock guards nothing.
            if os.path.samestat(os.fstat(handle), os.stat(place / LOCK)):
                return handle
            os.close(handle)
        except FileNotFoundError:
            if handle is not None:
                os.close(handle)
        except BlockingIOError:
            if handle is not None:
                os.close(handle)
            raise ResultFileError(
                "another process is writing this run folder", where=str(shown),
                hint="wait until it has finished, or choose another folder",
            ) from None  # fmt: skip
        except OSError as error:
            if handle is None:
                raise ResultFileError(
                    "the run folder cannot be written", where=str(shown), why=error.strerror,
                    hint="choose another folder",
                ) from None  # fmt: skip
            os.close(handle)
            log.warning("%s cannot be locked (%s): do not run twice into it", shown, error.strerror)
            return None
