"""An appended log of named arrays: what a long computation has finished, readable after any interruption.

A file begins with a line that names the format. A record is two lengths and a checksum (``<IQI``), a JSON header, and
the bytes of the arrays one after the other. Each writer has a file of its own, so no lock is needed; a record that was
cut or damaged is left out when the log is read.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import ResultFileError

log = logging.getLogger("dimladder.records")
_FORMAT = b"dimladder records 1\n"
_LENGTHS = struct.Struct("<IQI")
SUFFIX = ".log"


@dataclass(frozen=True)
class Record:
    """A header of plain values, and arrays of numbers or text."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class RecordWriter:
    """Appends records to a new file of a folder.

    Parameters
    ----------
    folder : Path
        Made if missing.

    Raises
    ------
    ResultFileError
        When the file cannot be made, and by `append` when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._file: io.FileIO | None = None
        self.path = folder / f"{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb", buffering=0)
            self._put(_FORMAT)
        except OSError as error:
            raise self._failed(error) from error

    def append(self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        """Append one record: it is on its way to the disk when this returns, and survives the end of the process."""
        parts: list[Any] = []
        shapes: list[list[Any]] = []
        for name, values in (arrays or {}).items():
            array = np.asarray(values)
            if array.dtype.kind == "O":
                array = array.astype(str)
            shapes.append([name, array.dtype.str, list(array.shape)])
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        head = json.dumps({"header": dict(header), "arrays": shapes}).encode()
        check = zlib.crc32(head)
        for part in parts:
            check = zlib.crc32(part, check)
        try:
            for part in (_LENGTHS.pack(len(head), sum(map(len, parts)), check) + head, *parts):
                self._put(part)
        except OSError as error:
            raise self._failed(error) from error

    def _put(self, data: Any) -> None:
        """Write all of it, past any buffer: a system may take less at a time."""
        assert self._file is not None
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _failed(self, error: OSError) -> ResultFileError:
        return ResultFileError(
            "what was finished cannot be written", where=str(self.path), why=error.strerror,
            hint="free some space or choose another folder, then run again with --resume",
        )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_records(folder: Path) -> Iterator[Record]:
    """Return every whole record of every log of a folder, one at a time; damaged ones are logged and left out."""
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            with path.open("rb") as file:
                yield from _records(file, path)
        except OSError as error:
            log.warning("%s cannot be read (%s): what it holds is computed again", path, error.strerror)


def _records(file: IO[bytes], path: Path) -> Iterator[Record]:
    if file.read(len(_FORMAT)) != _FORMAT:
        log.warning("%s is no log of this program: it is left out", path)
        return
    left = path.stat().st_size - len(_FORMAT)
    while left > 0:
        lengths = file.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            break
        head_length, data_length, check = _LENGTHS.unpack(lengths)
        left -= _LENGTHS.size + head_length + data_length
        if left < 0:  # a damaged length may ask for any amount of memory
            break
        head, data = file.read(head_length), file.read(data_length)
        if zlib.crc32(data, zlib.crc32(head)) == check:
            yield _record(head, data)
        else:
            log.warning("%s: a record does not match its checksum; it is computed again", path)
    else:
        return
    log.warning("%s ends within a record, which is computed again", path)


def _record(head: bytes, data: bytes) -> Record:
    described = json.loads(head)
    arrays, at = {}, 0
    for name, dtype, shape in described["arrays"]:
        kind, count = np.dtype(dtype), math.prod(shape)
        arrays[name] = np.frombuffer(data, kind, count, at).reshape(shape)
        at += kind.itemsize * count
    return Record(described["header"], arrays)
