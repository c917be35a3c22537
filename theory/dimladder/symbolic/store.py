"""Content-addressed store of generated modules: a second process neither derives nor compiles.

A module's source is printed, named by the hash of its key, written to a temporary file and renamed into the user's
cache, then loaded from there, so that numba's own cache has a file to refer to. Two processes that race write the same
bytes, so no lock is needed. The last line is a checksum: a module that was cut or changed is derived again.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cache import cache_dir, digest, distrusted, folder
from ..progress import stage

log = logging.getLogger("dimladder.store")
_MODULES: dict[str, ModuleType] = {}
_LOCK = threading.RLock()
_SEAL = "\n# sha256 "
MOST_TEXTS = 2000


@cache
def code_version(theory_module: str) -> str:
    """Return a hash of the sources that derive and print: an edit there invalidates the modules they printed.

    These are the symbolic engine, the reading of formulas, the functions pasted into generated code, and the module
    `theory_module` (with its whole package when it lives in one of its own).
    """
    root = Path(__file__).resolve().parent.parent
    files = [*(root / "symbolic").glob("*.py"), *(root / "problem").glob("*.py")]
    # Functions of these modules are pasted into generated code, or compiled into it.
    pasted = ("special.py", "orthant.py", "thresholds.py", "conditional.py", "fields.py", "points.py",
              "basics.py", "denoisers.py", "label_channel.py", "label_rules.py", "proximal.py",
              "resolvents.py", "softmax.py")  # fmt: skip
    files += [root / "numerics" / name for name in pasted]
    own = getattr(sys.modules.get(theory_module), "__file__", None)
    if own:
        beside = Path(own).resolve()
        # Of a package within a package, the outer one prints too.
        package = next((p for p in beside.parents if p.parent.name == "theories"), beside.parent)
        files += package.rglob("*.py") if beside.parent.name != "theories" else [beside]
    return digest({path for path in files if path.is_file()})


def module_key(build: Callable[[], str], *parts: Any) -> str:
    """Return the content key of a module: the parts that decide its source, and the version of the deriving code."""
    return _key(code_version(build.__module__), *map(repr, parts))


def _key(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]


def text(parts: tuple[Any, ...], theory_module: str, build: Callable[[], str]) -> str:
    """Return a text that a theory prints, from the store or from `build`.

    Parameters
    ----------
    parts : tuple
        What decides the text, with a faithful ``repr``.
    theory_module : str
        Where the theory stands: an edit there, or of what typesets, invalidates the text.
    """
    key = _key(code_version(theory_module), _typesetting(), *map(repr, parts))
    path = _find(key, "txt")
    if path is None:
        with stage("deriving, once"):
            path = _write(key, build(), "txt")
        _prune(path.parent)
    return _body(path) or ""


@cache
def _typesetting() -> str:
    """Return a hash of what typesets, and of the names and letters that theories share."""
    root = Path(__file__).resolve().parent.parent
    return digest([*(root / "typeset").rglob("*.py"), *(root / "theories").glob("*.py")])


def _prune(place: Path) -> None:
    """Delete the older half of the texts where there are too many: every problem has its own."""
    texts = list(place.glob("dimladder_*.txt"))
    if len(texts) > MOST_TEXTS:
        for path in sorted(texts, key=lambda p: p.stat().st_mtime)[: len(texts) // 2]:
            path.unlink(missing_ok=True)


def module(parts: tuple[Any, ...], build: Callable[[], str], native: bool = False) -> ModuleType:
    """Return the generated module for a content key.

    Parameters
    ----------
    parts : tuple
        What decides the source (theory, shapes, activations): anything with a faithful ``repr``.
    build : callable
        Derives the equations and returns the module's source. Called only when the store does not have it.
    native : bool
        Compile by `numerics.native` what it understands: for modules whose functions are reached from Python and by
        their addresses only, not called by name from code of numba.
    """
    key = module_key(build, *parts)
    if key not in _MODULES:
        # One thread compiles; a module may ask for another while it is derived.
        with _LOCK:
            if key not in _MODULES:
                path = _find(key)
                if path is None:
                    log.info("deriving and printing module %s", key)
                    with stage("deriving, once"):
                        path = _write(key, build())
                _MODULES[key] = (native and _load_native(path, key)) or _load(path, key)
    return _MODULES[key]


def source(loaded: ModuleType) -> str:
    """Return the printed source of a generated module."""
    return _body(Path(str(loaded.__file__))) or ""


def _find(key: str, ending: str = "py") -> Path | None:
    """Return the file of a module or a text if it is there, whole, and nobody else's."""
    path = folder("generated") / f"dimladder_{key}.{ending}"
    try:
        reason = distrusted(path)
        if not reason and _body(path) is not None:
            return path
    except OSError:
        return None
    log.warning("%s is derived again: %s", path, reason or "its content does not match its checksum")
    return None


def _body(path: Path) -> str | None:
    """Return the text of a stored module without its seal; None where the seal is missing or wrong."""
    try:
        text, _, seal = path.read_text(encoding="utf-8").rpartition(_SEAL)
    except UnicodeDecodeError:
        return None
    return text if seal == _digest(text) + "\n" else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(key: str, text: str, ending: str = "py") -> Path:
    place = folder("generated")
    path = place / f"dimladder_{key}.{ending}"
    handle, temporary = tempfile.mkstemp(dir=place, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + _SEAL + _digest(text) + "\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _load(path: Path, key: str) -> ModuleType:
    """Execute a stored module, without byte code on disk, which nothing would check."""
    from ..numerics.native import Kernel

    text, name = path.read_text(encoding="utf-8"), f"dimladder_{key}"
    if "from numba import" in text:
        from ..numerics import jit  # noqa: F401  (tells numba where compiled code lies)
    loaded = ModuleType(name)
    loaded.__file__ = str(path)
    sys.modules[name] = loaded
    try:
        exec(compile(text, str(path), "exec"), loaded.__dict__)
        vars(loaded).update({n: k.by_numba for n, k in vars(loaded).items() if isinstance(k, Kernel) and k.signature})
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def _load_native(path: Path, key: str) -> ModuleType | None:
    """Execute a stored module with functions that are translated without numba; None where it is not so simple."""
    from ..numerics import native

    if not native.enabled():
        return None
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "numba":
            statement.module = native.__name__
    loaded = ModuleType(f"dimladder_{key}")
    loaded.__file__ = str(path)
    try:
        exec(compile(tree, str(path), "exec"), loaded.__dict__)
        vars(loaded).update(native.module_functions(vars(loaded), _digest(text)))
    except native.Refused as refused:
        log.info("module %s is compiled by numba: %s", key, refused)
        return None
    sys.modules[loaded.__name__] = loaded
    return loaded


def clear() -> int:
    """Delete every generated module on disk, with all compiled code, and return how many modules there were."""
    place = cache_dir() / "generated"
    count = len(list(place.glob("dimladder_*.py"))) if place.is_dir() else 0
    for part in (place, cache_dir() / "compiled"):
        for path in part.glob("*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    _MODULES.clear()
    return count
