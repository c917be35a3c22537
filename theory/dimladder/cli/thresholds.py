"""``dimladder thresholds``: what is known of a problem before it is solved, as a table."""

from __future__ import annotations

import argparse
import json

from .tabulate import add_table, problems, write
from .verb import Verb, add_json, add_run_file, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    add_table(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from .. import theories

    found = []
    for values, problem in problems(load_problem(args), args.grid):
        found.append((values, theories.find(problem.theory).describe(problem)))
    if args.json:
        from ..results import jsonable

        print(json.dumps([{**v, "facts": jsonable(facts)} for v, facts in found], default=str))
        return 0
    keys = list(found[0][0])
    if not keys:
        rows = [[name, value] for name, value in found[0][1].items()]
        print(write(["quantity", "value"], rows, args.format), end="")
        return 0
    # Over a grid: one column for each fact that is numbers in every row.
    names = [n for n, x in found[0][1].items() if all(_numeric(f.get(n)) for _, f in found) and _numeric(x)]
    rows = [[*values.values(), *(facts[n] for n in names)] for values, facts in found]
    print(write([*keys, *names], rows, args.format), end="")
    return 0


def _numeric(value: object) -> bool:
    many = isinstance(value, list | tuple)
    return all(_numeric(v) for v in value) if many else isinstance(value, int | float)  # type: ignore[attr-defined]


VERB = Verb(
    "thresholds", "exponents, thresholds and assumptions of a problem, before it is solved", add_arguments, run,
    epilog="example: dimladder thresholds run.toml --grid data.subspace_exponent=0.4:0.6:5 --format tex",
)  # fmt: skip
