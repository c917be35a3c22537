"""Content-addressed store of generated modules: a second process neither derives nor compiles.

A module's source is printed, named by the hash of its key, written to a temporary file and renamed into the user's
cache, then imported from there, so that numba's own on-disk cache has a file to lie beside. Two processes that
race write the same bytes, so no lock is needed. Where the cache cannot be written a per-process folder is used.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger("dimladder.store")
_MODULES: dict[str, ModuleType] = {}


def cache_dir() -> Path:
    """Return the folder of generated modules; ``DIMLADDER_CACHE`` overrides the user's cache folder."""
    chosen = os.environ.get("DIMLADDER_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("dimladder"))


@cache
def code_version(theory_module: str) -> str:
    """Return a hash of the sources that derive and print: an edit there invalidates the modules they printed.

    These are the symbolic engine, the reading of formulas, the functions pasted into generated code, and the module
    `theory_module` (with its whole package when it lives in one of its own).
    """
    root = Path(__file__).resolve().parent.parent
    files = [*(root / "symbolic").glob("*.py"), *(root / "problem").glob("*.py")]
    # Functions of these modules are pasted into generated code.
    files += [root / "numerics" / name for name in ("special.py", "orthant.py", "conditional.py")]
    own = getattr(sys.modules.get(theory_module), "__file__", None)
    if own:
        beside = Path(own).resolve()
        files += beside.parent.glob("*.py") if beside.parent.name != "theories" else [beside]
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def module_key(build: Callable[[], str], *parts: Any) -> str:
    """Return the content key of a module: the parts that decide its source, and the version of the deriving code."""
    text = "\x1f".join([code_version(build.__module__), *map(repr, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def module(parts: tuple[Any, ...], build: Callable[[], str]) -> ModuleType:
    """Return the generated module for a content key.

    Parameters
    ----------
    parts : tuple
        What decides the source (theory, shapes, activations): anything with a faithful ``repr``.
    build : callable
        Derives the equations and returns the module's source. Called only when the store does not have it.
    """
    key = module_key(build, *parts)
    if key not in _MODULES:
        path = _find(key)
        if path is None:
            log.info("deriving and printing module %s", key)
            path = _write(key, build())
        _MODULES[key] = _import(path, key)
    return _MODULES[key]


def source(loaded: ModuleType) -> str:
    """Return the printed source of a generated module."""
    return Path(str(loaded.__file__)).read_text(encoding="utf-8")


def _find(key: str) -> Path | None:
    path = cache_dir() / "generated" / f"dimladder_{key}.py"
    return path if path.is_file() else None


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dimladder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(key: str, text: str) -> Path:
    name = f"dimladder_{key}.py"
    for folder in (cache_dir() / "generated", _scratch()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, folder / name)
        except OSError as error:
            log.warning("cannot write generated code to %s (%s); using a folder of this process", folder, error)
            continue
        return folder / name
    raise OSError("no folder for generated code can be written; set DIMLADDER_CACHE to one that can")


def _import(path: Path, key: str) -> ModuleType:
    name = f"dimladder_{key}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def clear() -> int:
    """Delete every generated module on disk and return how many there were."""
    folder = cache_dir() / "generated"
    count = len(list(folder.glob("dimladder_*.py"))) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    _MODULES.clear()
    return count
