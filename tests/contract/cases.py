"""Varied problems whose numbers are frozen: name -> (run file, what is set), in ``cases.json``.

The first of each file is the file itself, on a grid for a test. ``numbers.json`` holds a few entries of every variable,
drawn before the run files had one language; ``python tests/contract/freeze.py NAME...`` draws it anew, which a change
of a number has to justify.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (run, overrides)
    for name, (run, overrides) in json.loads((Path(__file__).parent / "cases.json").read_text()).items()
}
# Run files that take more than a few seconds each.
SLOW = {"online-look-ahead", "online-multi-index", "online-reuse"}
