"""Names to objects: theories, experiments and verbs, from entry points, from one local file, or given in Python.

The only reader of entry points. A local file is executed only when a user names it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from .errors import ConfigError, DimladderError

Group = Literal["theories", "experiments", "verbs"]
# What a local file may hold, and the group it belongs to.
_LOCAL = {"THEORY": "theories", "EXPERIMENT": "experiments"}
# The attribute of an object that is its name in the group.
_NAME = {"theories": "name", "experiments": "theory", "verbs": "name"}
_files: dict[str, str] = {}
_given: dict[str, dict[str, Any]] = {"theories": {}, "experiments": {}, "verbs": {}}


@cache
def _entries(group: Group) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"dimladder.{group}")}


def names(group: Group) -> list[str]:
    """Return the names of a group: installed, and registered in this process."""
    return sorted({*_entries(group), *_given[group]})


def get(group: Group, name: str) -> Any:
    """Return the object of that name, or None where there is none.

    Raises
    ------
    DimladderError
        When its module cannot be imported.
    """
    if name in _given[group]:
        return _given[group][name]
    entry = _entries(group).get(name)
    if entry is None:
        return None
    try:
        return _loaded(entry)
    except Exception as error:  # Whatever a module of somebody else's does when it is executed.
        raise DimladderError(
            f"{name!r} of the group {group} cannot be loaded", where=entry.value,
            why=f"{type(error).__name__}: {error}", hint="reinstall or remove the package that provides it",
        ) from error  # fmt: skip


@cache
def _loaded(entry: EntryPoint) -> Any:
    """Return what an entry point names; metadata takes its time to look that up."""
    return entry.load()


def load_all(group: Group) -> tuple[dict[str, Any], dict[str, DimladderError]]:
    """Return what can be loaded of a group by name, and why the rest cannot: one that is broken spoils no other."""
    found, broken = {}, {}
    for name in names(group):
        try:
            found[name] = get(group, name)
        except DimladderError as error:
            broken[name] = error
    return found, broken


def register(group: Group, item: Any) -> Any:
    """Make an object known under its own name, in this process, and return it.

    Parameters
    ----------
    group : {"theories", "experiments", "verbs"}
    item : Theory, Experiment or Verb
        An object with a name.

    Raises
    ------
    ConfigError
        When an installed one has that name.
    """
    name = getattr(item, _NAME[group])
    if name in _entries(group):
        raise ConfigError(
            f"the name {name!r} is taken", where=f"{type(item).__module__}.{type(item).__qualname__}",
            why=f"an installed one of the group {group} has it", hint="give yours another name",
        )  # fmt: skip
    _given[group][name] = item
    return item


def is_file(name: str) -> bool:
    """Whether a name is a path to a local file rather than the name of something installed."""
    return name.endswith(".py")


def load_file(path: str | Path) -> ModuleType:
    """Execute a local file and register what it holds: ``THEORY`` (with its ``KINDS``), ``EXPERIMENT``.

    A file that has not changed is executed once.

    Raises
    ------
    ConfigError
        When it cannot be read or executed, or holds no ``THEORY``.
    """
    where = Path(path).resolve()
    try:
        content = where.read_bytes()
    except OSError as error:
        raise ConfigError("the theory's file cannot be read", where=str(path), why=error.strerror) from None
    key = f"dimladder_local_{hashlib.sha256(str(where).encode() + content).hexdigest()[:16]}"
    module = sys.modules.get(key)
    if module is None:
        spec = importlib.util.spec_from_file_location(key, where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except DimladderError:
            del sys.modules[key]
            raise
        except Exception as error:
            del sys.modules[key]
            raise ConfigError(
                "the theory's file cannot be executed", where=str(path), why=f"{type(error).__name__}: {error}"
            ) from error
    if not hasattr(module, "THEORY"):
        raise ConfigError("the file holds no theory", where=str(path), hint="set THEORY = MyTheory() in it")
    if hasattr(module, "KINDS"):
        module.THEORY.kinds = module.KINDS
    for attribute, group in _LOCAL.items():
        if hasattr(module, attribute):
            register(group, getattr(module, attribute))  # type: ignore[arg-type]
    _files[module.THEORY.name] = str(where)
    return module


def file_of(theory: str) -> str:
    """Return the local file that a theory was loaded from in this process; "" for any other."""
    return _files.get(theory, "")
