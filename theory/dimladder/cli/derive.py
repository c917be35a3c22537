"""``dimladder derive``: the equations of a run file."""

from __future__ import annotations

import argparse

from ..errors import UsageError, did_you_mean
from .verb import Verb, add_run_file, load_problem

FORMATS = ("text", "latex", "sympy", "python")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument("--format", default="text", metavar="FORMAT[,FORMAT]", help=f"any of {', '.join(FORMATS)}")
    parser.add_argument(
        "--columns", type=int, default=1, choices=(1, 2), help="of the page that the LaTeX is broken for (default 1)"
    )
    parser.add_argument("--explain", action="store_true", help="print the derivation, step by step")
    parser.add_argument(
        "--notation", action="store_true",
        help="also print what every symbol means, and its number (formats text and latex)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ..kept_equations import equations_text
    from ..solve import derive

    formats = args.format.split(",")
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"there is no format {name!r}", where="--format", hint=did_you_mean(name, FORMATS))
    if args.notation and not {"text", "latex"} & set(formats):
        raise UsageError("code has no table of notation", where="--notation", hint="use --format text or latex")
    problem = load_problem(args)
    if args.explain:
        print(equations_text(problem, "explain"))
        if formats == ["text"]:
            if args.notation:
                print("Notation\n" + equations_text(problem, "notation as text"), end="")
            return 0
    for name in formats:
        print(derive(problem).python() if name == "python" else equations_text(problem, name, args.columns), end="")
        if args.notation and name in ("text", "latex"):
            print("\n" + equations_text(problem, f"notation as {name}", args.columns), end="")
    return 0


VERB = Verb("derive", "the equations, as text, LaTeX, sympy or the compiled Python", add_arguments, run)
