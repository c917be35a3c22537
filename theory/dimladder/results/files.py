"""Writing files so that an interruption leaves the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import ResultFileError


def write_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary name in the folder of `target`, then rename.

    Raises
    ------
    ResultFileError
        When the disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ResultFileError(
            "the result cannot be written", where=str(target),
            why="no space is left on the device" if full else (error.strerror or str(error)),
            hint="free some space and run again with --resume; what was finished is kept"
            if full
            else "choose another folder",
        ) from error  # fmt: skip
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write text atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(target, write)


def claim_folder(folder: Path, *, resume: bool, force: bool) -> None:
    """Make sure a run folder may be written.

    Raises
    ------
    ResultFileError
        When it exists, is not empty, and neither `resume` nor `force` was asked for.
    """
    if folder.exists() and not folder.is_dir():
        raise ResultFileError("the run folder is a file", where=str(folder), hint="choose another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (resume or force):
        raise ResultFileError(
            "the run folder is not empty", where=str(folder), hint="--resume continues it, --force writes over it"
        )
