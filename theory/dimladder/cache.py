"""Where generated and compiled code lies: one folder of the user, or of this process where that cannot be.

What lies there is executed, so a folder that others may write is not used.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

log = logging.getLogger("dimladder.cache")
_HINT = "set DIMLADDER_CACHE to a folder of your own"


def cache_dir() -> Path:
    """Return the folder of generated and compiled code; ``DIMLADDER_CACHE`` overrides the user's cache folder."""
    chosen = os.environ.get("DIMLADDER_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("dimladder"))


def folder(name: str) -> Path:
    """Return a folder of the cache that exists and can be written: in `cache_dir`, else one of this process."""
    return _folder(cache_dir(), name)


@cache
def _folder(root: Path, name: str) -> Path:
    place = root / name
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        distrust = distrusted(root) or distrusted(place)
        if not distrust:
            tempfile.TemporaryFile(dir=place).close()
            return place
    except OSError as error:
        distrust = f"it cannot be written ({error.strerror})"
    log.warning("the cache %s is not used: %s; everything is compiled anew in this process; %s", place, distrust, _HINT)
    place = scratch() / name
    place.mkdir(exist_ok=True)
    return place


def distrusted(path: Path) -> str:
    """Return why code at this path must not be executed; empty where it may be."""
    if not hasattr(os, "getuid"):
        return ""
    status = path.stat()
    if status.st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    return "everybody may write it" if status.st_mode & stat.S_IWOTH else ""


def digest(paths: Iterable[Path]) -> str:
    """Return a hash of the contents of files, whatever their order: the sources that something kept was made from."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()


@cache
def scratch() -> Path:
    """Return a folder of this process, removed at its end."""
    place = Path(tempfile.mkdtemp(prefix="dimladder-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
