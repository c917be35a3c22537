"""``dimladder solve``: the predicted curve of a run file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SolveError
from .verb import Verb, add_json, add_output, add_run_file, load_problem, output_folder

if TYPE_CHECKING:
    from ..problem import Problem
    from ..results import Result


log = logging.getLogger("dimladder.solve")
# Settings of the solver with an option of their own.
SHORT = {"method": "integrator; auto chooses", "rtol": "relative tolerance", "atol": "absolute tolerance"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    add_json(parser)
    add_output(parser)
    for key, text in SHORT.items():
        parser.add_argument(f"--{key}", metavar=key.upper(), help=f"short for --set solver.{key}=...: {text}")


def run(args: argparse.Namespace) -> int:
    args.overrides += [f"solver.{k}={v}" for k in SHORT if (v := getattr(args, k)) is not None]
    problem = load_problem(args)
    with output_folder(args) as folder:
        curve = _curve(args, problem, folder)
    _print(curve, args.json)
    if "reason" in curve.stats:
        # Asked which method to take, it says why it took this one.
        level = logging.WARNING if args.method else logging.INFO
        log.log(level, "%s: %s", curve.stats.get("method", "solved"), curve.stats["reason"])
    return 0


def _curve(args: argparse.Namespace, problem: Problem, folder: Path | None) -> Result:
    from ..results import Result
    from ..solve import solve
    from .run_folder import finished, save

    kept = finished(folder, problem, "learning-curve") if folder and args.resume else None
    if kept is not None:
        return kept
    try:
        curve = solve(problem)
    except SolveError as error:
        # What was reached is worth keeping: it is data, marked with its status.
        if isinstance(error.partial, Result):
            if folder:
                save(folder, problem, error.partial, Path(args.run))
            _print(error.partial, args.json)
        raise
    if folder:
        save(folder, problem, curve, Path(args.run))
    return curve


def _print(curve: Result, as_json: bool) -> None:
    from ..results import text_table

    print(curve.to_json() if as_json else text_table(curve).rstrip("\n"))


VERB = Verb("solve", "the theory's curve", add_arguments, run)
