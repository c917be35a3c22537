"""``dimladder optimise``: the schedule of a control that makes the end of the curve best."""

from __future__ import annotations

import argparse
from pathlib import Path

from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument("--control", metavar="a.b", default="algorithm.learning_rate", help="a number of the run file")
    parser.add_argument("--variable", metavar="NAME", default="generalization_error", help="what is minimised")
    parser.add_argument("--intervals", metavar="N", type=int, default=20, help="intervals on which it is constant")
    parser.add_argument("--minimum", metavar="X", type=float, help="lower bound of the control")
    parser.add_argument("--maximum", metavar="X", type=float, help="upper bound (default: ten times its value)")
    parser.add_argument("--to", metavar="FILE", help="write a run file under the schedule")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..optimise import optimise
    from ..results import text_table, write_text

    problem = load_problem(args)
    found = optimise(
        problem, args.control, variable=args.variable, intervals=args.intervals, minimum=args.minimum,
        maximum=args.maximum,
    )  # fmt: skip
    if args.to:
        if found.problem == problem:
            raise UsageError(
                f"a run file cannot state a schedule of {args.control}", where="--to",
                hint="a learning rate without a schedule of its own, and what may be a formula in the time, can be",
            )  # fmt: skip
        write_text(Path(args.to), found.problem.to_toml())
    print(found.curve().to_json() if args.json else text_table(found.curve()).rstrip("\n"))
    return 0


VERB = Verb("optimise", "the schedule of a rate that makes the end of the curve best", add_arguments, run)
