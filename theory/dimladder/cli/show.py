"""``dimladder show``: a theory's card, or the facts of one run file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .verb import Verb, add_json, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="THEORY|RUN.toml", help="the name of a theory, or a run file")
    parser.add_argument("--set", dest="overrides", metavar="a.b=VALUE", action="append", default=[], help="see solve")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from .. import theories
    from ..problem.spec import stated
    from ..problem.targets import expanded
    from ..problem.toml_writer import dumps
    from .keys import theory_lines

    facts: dict[str, Any] = {}
    if args.what.endswith(".toml") or Path(args.what).is_file():
        args.run = args.what
        problem = load_problem(args)
        theory = theories.find(problem.theory)
        facts = {"title": problem.title, "hash": problem.content_hash, **theory.describe(problem)}
        facts |= {"target": text} if (text := expanded(problem.target)) else {}
    else:
        theory = theories.find(args.what)
    card = {
        "name": theory.name, "title": theory.title, "summary": theory.summary, "assumptions": list(theory.assumptions),
        "limits": list(theory.limits), "references": list(theory.references),
    }  # fmt: skip
    if args.json:
        print(json.dumps({**card, "problem": facts} if facts else card, default=str))
        return 0
    print(f"{theory.name}: {theory.title}\n\n{theory.summary}\n")
    for label in ("assumptions", "limits"):
        if card[label]:
            print(f"{label.capitalize()}\n" + "\n".join(f"  - {line}" for line in card[label]) + "\n")
    print(f"References: {', '.join(theory.references) or 'none'}\n")
    if facts:
        print(f"This problem ({args.what})")
        for name, value in facts.items():
            print(f"  {name}: {value}")
        print("\nAs it was read, without what is at its default (resolved.toml of a run folder has all)")
        print("\n".join(f"  {line}" for line in dumps(stated(problem)).splitlines() if line))
    else:
        print("Sections of a run file")
        print("\n".join(theory_lines(theory)))
    return 0


VERB = Verb("show", "a theory's card: assumptions, limits, references, keys", add_arguments, run)
