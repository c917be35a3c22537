"""Where a number comes from: versions, git state, hashes, command line."""

from __future__ import annotations

import datetime
import hashlib
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..problem import Problem

_PACKAGES = ("dimladder", "numpy", "scipy", "numba", "sympy", "xarray")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def git_state() -> str | None:
    """Return the commit of the source tree, with ``+changes`` when it is edited; None outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()


def now() -> str:
    """Return the time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance(problem: Problem | None, generated: str = "", created: str = "") -> dict[str, Any]:
    """Return the record that is stored with every result; `created` is when it was computed, by default now."""
    return {
        "created": created or now(),
        "versions": versions(),
        "git": git_state(),
        "problem_hash": problem.content_hash if problem is not None else None,
        "code_hash": hashlib.sha256(generated.encode()).hexdigest()[:20] if generated else None,
        "machine": platform.machine(),
        "argv": sys.argv,
    }
