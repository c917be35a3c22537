"""``dimladder doctor``: versions, BLAS, GPU, cache, threads."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from .verb import Verb, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("--clear-cache", action="store_true", help="delete the generated modules")


def facts() -> dict[str, Any]:
    """Return what decides speed and results on this machine."""
    import numba
    import numpy as np

    from .. import registry
    from ..cache import cache_dir
    from ..results.provenance import git_state, versions

    generated = cache_dir() / "generated"
    blas = np.show_config(mode="dicts")
    broken = {name: str(error.why) for name, error in registry.load_all("theories")[1].items()}
    return {
        "versions": versions(), "git": git_state(),
        "blas": (blas or {}).get("Build Dependencies", {}).get("blas", {}).get("name", "unknown"),
        "cpus": os.cpu_count(), "numba_threads": numba.config.NUMBA_NUM_THREADS, "gpu": _gpu(), "cache": str(generated),
        "cached_modules": len(list(generated.glob("dimladder_*.py"))) if generated.is_dir() else 0,
        "theories": len(registry.names("theories")), "broken_theories": broken,
    }  # fmt: skip


def _gpu() -> str:
    # Asked of another process: the library itself never imports torch.
    import subprocess
    import sys

    question = (
        "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'none (torch on CPU)')"
    )
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "none (install the extra: pip install 'dimladder[gpu]')"


def run(args: argparse.Namespace) -> int:
    if args.clear_cache:
        from ..symbolic.store import clear

        print(f"deleted {clear()} generated modules")
        return 0
    found = facts()
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name.replace('_', ' '):<16} {shown or 'none'}")
    return 1 if found["broken_theories"] else 0


VERB = Verb("doctor", "versions, BLAS, GPU, cache, threads", add_arguments, run)
