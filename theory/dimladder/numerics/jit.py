"""numba's decorators, with compiled code kept in the cache of this library, where a damaged file counts as none.

Importing this module tells numba where the functions of this library and of its generated modules are cached: beside
the generated code, not in the source tree, which may be read-only. Functions of other packages keep numba's own places.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from contextlib import AbstractContextManager
from functools import cache as remember
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core import caching, event

from .. import cache
from ..progress import stage

__all__ = ["Locator", "njit", "types"]

log = logging.getLogger("dimladder.cache")
_ROOTS = tuple(str(Path(__file__).resolve().parents[2] / name) for name in ("dimladder", "dimladder_validation"))
_DIGEST = hashlib.sha256().digest_size


class Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):  # type: ignore[misc]
    """Tells numba where the compiled code of a function of ours lies."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._cache_path = str(cache.folder("compiled") / self.get_suitable_cache_subpath(py_file))

    def get_cache_path(self) -> str:
        return self._cache_path

    def get_source_stamp(self) -> Any:
        """Return what the code was compiled from: of ours the whole folder, for kernels that call their neighbours."""
        if self._py_file.startswith(_ROOTS):
            return _sources(Path(self._py_file).parent)
        return super().get_source_stamp()

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        ours = _is_ours(py_file) and not caching.config.CACHE_DIR
        return super().from_function(py_func, py_file) if ours else None


@remember
def _sources(folder: Path) -> str:
    return cache.digest(folder.glob("*.py"))


def _is_ours(path: str) -> bool:
    path = os.path.realpath(path)
    validation = f"{os.sep}dimladder_validation{os.sep}"
    return path.startswith(_ROOTS) or validation in path or os.path.basename(path).startswith("dimladder_")


class SealedCacheFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """numba's index and data files, each behind its checksum: a cut or changed file is compiled again.

    Without it an empty index is an exception for ever, and a changed byte of machine code a crash.
    """

    def _save_index(self, overloads: Any) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_index(self) -> Any:
        found = self._read(self._index_path)
        if found is None or found[:2] != (self._version, self._source_stamp):
            return {}
        return found[2]

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _load_data(self, name: str) -> Any:
        found = self._read(self._data_path(name))
        if found is None:
            # As numba reports a data file that has gone: the function is compiled again.
            raise FileNotFoundError(name)
        return found

    def _write(self, path: str, content: Any) -> None:
        body = self._dump(content)
        try:
            with self._open_for_write(path) as file:
                file.write(hashlib.sha256(body).digest() + body)
        except OSError as error:
            log.warning("compiled code cannot be kept in %s (%s)", path, error.strerror)

    def _read(self, path: str) -> Any:
        try:
            content = Path(path).read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(body).digest() == digest:
            return pickle.loads(body)
        log.warning("%s is damaged: the function is compiled again", path)
        return None


def _cache_file(cache_path: str, filename_base: str, source_stamp: Any) -> Any:
    ours = cache_path.startswith((str(cache.cache_dir()), str(cache.scratch())))
    return (SealedCacheFile if ours else _numba_cache_file)(cache_path, filename_base, source_stamp)


class _Compiling(event.Listener):  # type: ignore[misc]
    """Says that numba compiles while it does: what the cache holds is not compiled again."""

    def __init__(self) -> None:
        self._open: list[AbstractContextManager[Any]] = []

    def on_start(self, event: Any) -> None:
        self._open.append(stage("compiling, once"))
        self._open[-1].__enter__()

    def on_end(self, event: Any) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)


if Locator not in caching.CacheImpl._locator_classes:
    caching.CacheImpl._locator_classes.insert(0, Locator)
    _numba_cache_file = caching.IndexDataCacheFile
    caching.IndexDataCacheFile = _cache_file
    event.register("numba:compile", _Compiling())
