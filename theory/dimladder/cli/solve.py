"""``dimladder solve``: the predicted curve of a run file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import SolveError
from .verb import Verb, add_json, add_output, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    add_json(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    from ..results import Result, open_result, text_table
    from ..solve import solve
    from .run_folder import finished, save

    problem = load_problem(args)
    folder = Path(args.output) if args.output else None
    curve: Result | None = finished(folder, problem, "learning-curve") if folder and args.resume else None
    if curve is None:
        if folder:
            from ..results import claim_folder

            claim_folder(folder, resume=args.resume, force=args.force)
        try:
            curve = solve(problem)
        except SolveError as error:
            # What was reached is worth keeping: it is data, marked with its status.
            if folder and isinstance(error.partial, Result):
                save(folder, problem, error.partial, Path(args.run))
                curve = open_result(folder)
            elif isinstance(error.partial, Result):
                curve = error.partial
            if curve is not None:
                print(curve.to_json() if args.json else text_table(curve), end="\n" if args.json else "")
            raise
        if folder:
            save(folder, problem, curve, Path(args.run))
    print(curve.to_json() if args.json else text_table(curve), end="\n" if args.json else "")
    return 0


VERB = Verb("solve", "the theory's curve", add_arguments, run)
