"""``dimladder list``: what is installed."""

from __future__ import annotations

import argparse
import json

from .verb import Verb, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        default="theories",
        choices=["theories", "activations", "functions"],
        help="default: theories",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from .. import registry
    from ..problem import ACTIVATIONS
    from ..problem.grammar import FUNCTIONS

    if args.what == "theories":
        found, broken = registry.load_all("theories")
        rows = {name: theory.title for name, theory in found.items()}
        rows |= {name: f"cannot be loaded ({error.why})" for name, error in broken.items()}
    elif args.what == "activations":
        rows = dict(ACTIVATIONS)
    else:
        rows = {n: f"{arity} argument{'s' if arity > 1 else ''}" for n, (arity, _) in FUNCTIONS.items()}
        rows["HeN"] = "Hermite polynomial of degree N; the target's hermite key sets the convention"
    if args.json:
        print(json.dumps(rows))
    else:
        width = max(map(len, rows), default=0)
        print("\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    return 0


VERB = Verb("list", "theories, activations, functions", add_arguments, run)
