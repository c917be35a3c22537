"""Finished batches on disk: one file for each (size, range of replicas), written atomically, read back on resume."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimladder.errors import ResultFileError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("dimladder.simulate")
FOLDER = "batches"
_NAME = re.compile(r"(?P<size>\d+)-(?P<first>\d+)-(?P<last>\d+)\.npz")


@dataclass(frozen=True)
class Batch:
    """Replicas ``first <= r < last`` at one size: coordinates, and variables with the replica axis first."""

    size: int
    first: int
    last: int
    coords: dict[str, np.ndarray]
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]

    def take(self, first: int, last: int) -> Batch:
        """Return the part of the batch inside a range of replicas."""
        low, high = max(first, self.first), min(last, self.last)
        part = slice(low - self.first, high - self.first)
        return Batch(self.size, low, high, self.coords, {k: (d, v[part], a) for k, (d, v, a) in self.variables.items()})


class BatchStore:
    """The folder ``batches`` of a run.

    Parameters
    ----------
    folder : path
        The run folder.
    key : dict
        What every batch must share (problem hash, experiment, seed, dtype, device kind). A batch of another key is
        refused, never mixed in.
    """

    def __init__(self, folder: str | os.PathLike[str], key: dict[str, Any]) -> None:
        self.folder = Path(folder) / FOLDER
        self.key = key

    def any(self) -> bool:
        """Whether a batch is stored."""
        return self.folder.is_dir() and any(_NAME.fullmatch(p.name) for p in self.folder.iterdir())

    def clear(self) -> None:
        """Remove the stored batches."""
        for path in self._paths():
            path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)) if self.folder.is_dir() else []

    def save(self, batch: Batch) -> None:
        """Write a batch to a temporary name, then rename it: a file that exists is whole.

        Raises
        ------
        ResultFileError
            When the disk is full or the folder cannot be written; the batches finished before stay.
        """
        import numpy as np

        from dimladder.results import write_atomically

        meta = {
            "key": self.key,
            "dims": {k: list(dims) for k, (dims, _, _) in batch.variables.items()},
            "attributes": {k: attributes for k, (_, _, attributes) in batch.variables.items()},
        }
        arrays = {f"c:{k}": v for k, v in batch.coords.items()} | {
            f"v:{k}": v for k, (_, v, _) in batch.variables.items()
        }
        path = self.folder / f"{batch.size}-{batch.first}-{batch.last}.npz"

        def write(temporary: Path) -> None:
            # A stream, because savez would append its own suffix to a name.
            with open(temporary, "wb") as stream:
                np.savez(stream, meta=np.asarray(json.dumps(meta)), **arrays)  # type: ignore[arg-type]

        write_atomically(path, write)

    def load(self) -> list[Batch]:
        """Return the stored batches, refusing those of another problem, experiment, seed or dtype.

        A damaged file counts as a batch that was never finished: it is simulated again.
        """
        return [batch for path in self._paths() if (batch := self._read(path)) is not None]

    def _read(self, path: Path) -> Batch | None:
        import numpy as np

        match = _NAME.fullmatch(path.name)
        assert match is not None
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                if stored.zip.testzip() is not None:
                    raise ValueError("a checksum does not match")
                meta = json.loads(str(stored["meta"]))
                coords = {k[2:]: stored[k] for k in stored.files if k.startswith("c:")}
                variables = {
                    k: (tuple(dims), stored[f"v:{k}"], dict(meta["attributes"][k])) for k, dims in meta["dims"].items()
                }
        except Exception as error:  # whatever zip, NumPy and JSON raise for a damaged file
            log.warning("%s is simulated again: it cannot be read (%s)", path, error)
            return None
        if meta["key"] != self.key:
            differing = [k for k in self.key if meta["key"].get(k) != self.key[k]]
            raise ResultFileError(
                "a stored batch belongs to another run",
                where=str(path),
                why="; ".join(f"{k} is {meta['key'].get(k)!r} there, {self.key[k]!r} here" for k in differing),
                hint="use another folder, or --force to discard what is there",
            )
        return Batch(int(match["size"]), int(match["first"]), int(match["last"]), coords, variables)
