"""``dimladder fit``: numbers of a run file from a measurement."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument(
        "result", metavar="RESULT",
        help="a measurement: the folder or file of simulate -o, or a table (CSV: time,NAME,NAME_se; JSON of --json)",
    )  # fmt: skip
    parser.add_argument("keys", metavar="a.b", nargs="+", help="a number of the run file; its value is the start")
    parser.add_argument(
        "--variable", dest="variables", metavar="NAME", action="append",
        help="what is fitted; may be repeated (default: generalization_error, else all)",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..fit import fit
    from ..measured import measured_table
    from ..results import open_result

    problem = load_problem(args)
    measurement: Any
    if Path(args.result).suffix.lower() in (".csv", ".json"):
        problem, measurement = measured_table(args.result, problem)
    else:
        measurement = open_result(args.result)
    found = fit(problem, measurement, args.keys, args.variables)
    if args.json:
        print(json.dumps(found.to_dict()))
        return 0
    width = max(map(len, found.values))
    for key, value in found.values.items():
        print(f"{key:<{width}}  {value:.8g} +- {found.errors[key]:.2g}")
    print(f"chi^2 = {found.chi_squared:.4g} of {found.degrees} degrees of freedom")
    return 0


VERB = Verb("fit", "numbers of a run file from a measurement, with standard errors", add_arguments, run)
