"""Write the frozen numbers anew: ``python tests/contract/freeze.py [NAME...]`` (all cases without a name)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES

import dimladder as dl

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "docs" / "gallery" / "runs"
NUMBERS = HERE / "numbers.json"
# Entries kept of a variable, evenly spread.
KEPT = 6


def entries(values: Any) -> list[float | None]:
    """Return a few entries of a variable, evenly spread; None where not finite."""
    flat = np.asarray(values, dtype=float).ravel()
    chosen = flat[np.unique(np.linspace(0, flat.size - 1, min(KEPT, flat.size)).round().astype(int))]
    return [float(v) if np.isfinite(v) else None for v in chosen]


def numbers_of(name: str) -> dict[str, Any]:
    """Solve a case and return variable -> dims, shape, entries."""
    run, overrides = CASES[name]
    curve = dl.solve(dl.load(RUNS / f"{run}.toml", overrides))
    return {
        variable: {
            "dims": list(curve.dims(variable)),
            "shape": list(curve[variable].shape),
            "entries": entries(curve[variable].values),
        }
        for variable in curve
        if curve[variable].dtype.kind in "fiub"
    }


def main(names: list[str]) -> None:
    stored = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    for name in names or CASES:
        begin = time.process_time()
        stored[name] = numbers_of(name)
        print(f"{name}: {time.process_time() - begin:.1f} s", flush=True)
        rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(stored[k], separators=(',', ':'))}" for k in stored)
        NUMBERS.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
