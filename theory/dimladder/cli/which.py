"""``dimladder which``: who answers a run file, and why the others do not."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .verb import Verb, add_json, add_run_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..choose import candidates, row
    from ..problem import apply_overrides, parse_document, parse_override, read

    overrides: dict[str, Any] = dict(parse_override(text) for text in args.overrides)
    document = apply_overrides(parse_document(read(args.run), args.run), overrides, args.run)
    found = candidates(document, args.run)
    if args.json:
        rows = {
            c.name: {
                "answers": c.answers, "refusals": [{"path": r.path, "why": r.why, "hint": r.hint} for r in c.refusals],
            }
            for c in found
        }  # fmt: skip
        chosen = next((c.name for c in found if c.answers), None)
        print(json.dumps({"chosen": chosen, "theories": rows}, default=str))
    else:
        print("\n".join(row(c) for c in found))
    return 0 if any(c.answers for c in found) else 1


VERB = Verb(
    "which", "who answers a run file, and why the others do not", add_arguments, run,
    epilog="Exit status 0: some theory answers (the first of the list is taken); 1: none does.",
)  # fmt: skip
