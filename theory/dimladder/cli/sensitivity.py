"""``dimladder sensitivity``: derivatives of the predicted curve in numbers of the run file."""

from __future__ import annotations

import argparse

from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument(
        "keys", metavar="a.b", nargs="+", help="a number of the run file, initial.M.0.1, or an array, initial.M"
    )
    parser.add_argument(
        "--variable", dest="variables", metavar="NAME", action="append",
        help="what is differentiated; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--method", default="auto", choices=["auto", "tangents", "adjoint", "implicit", "differences"],
        help="how: adjoint goes from few readings back to many numbers (default: the cheapest exact one)",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..results import text_table
    from ..sensitivity import sensitivity

    found = sensitivity(load_problem(args), args.keys, variables=args.variables, method=args.method)
    print(found.to_json() if args.json else text_table(found).rstrip("\n"))
    return 0


VERB = Verb("sensitivity", "derivatives of the curve in numbers of the problem", add_arguments, run)
