"""``dimladder sensitivity``: derivatives of the predicted curve in numbers of the run file."""

from __future__ import annotations

import argparse

from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument("keys", metavar="a.b", nargs="+", help="a number of the run file, such as initial.M.0.1")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..results import text_table
    from ..sensitivity import sensitivity

    found = sensitivity(load_problem(args), args.keys)
    print(found.to_json() if args.json else text_table(found).rstrip("\n"))
    return 0


VERB = Verb("sensitivity", "derivatives of the curve in numbers of the problem", add_arguments, run)
