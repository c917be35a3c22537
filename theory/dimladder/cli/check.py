"""``dimladder check``: how many digits of the curve are right."""

from __future__ import annotations

import argparse
import json

from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..accuracy import check

    report = check(load_problem(args))
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        print(report.text(), end="")
    return 0


VERB = Verb(
    "check", "rerun with boosted settings: the digits of every curve, and the knob that matters", add_arguments, run
)
