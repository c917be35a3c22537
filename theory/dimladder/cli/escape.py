"""``dimladder escape``: when a curve first crosses a level, as a table."""

from __future__ import annotations

import argparse
import json
import re

from ..errors import UsageError
from .tabulate import add_table, problems, write
from .verb import Verb, add_json, add_run_file, load_problem

_COMPONENT = re.compile(r"([A-Za-z_]\w*)(?:\[\s*(\d+(?:\s*,\s*\d+)*)\s*\])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument("--variable", required=True, metavar="NAME[i,j]", help="such as generalization_error or M[0,0]")
    parser.add_argument("--level", required=True, type=float, metavar="X", help="the value to be crossed")
    parser.add_argument("--t-max", type=float, metavar="T", help="where to give up (default: ten times the grid's end)")
    add_table(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..equilibria import escape_time
    from ..problem import axis_values

    match = _COMPONENT.fullmatch(args.variable.strip())
    if match is None:
        raise UsageError(f"cannot read {args.variable!r}", where="--variable", hint="write NAME or NAME[i,j]")
    index = tuple(int(k) for k in match[2].split(",")) if match[2] else ()
    keys: list[str] = []
    rows = []
    for values, problem in problems(load_problem(args), args.grid):
        keys = list(values)
        grid = getattr(problem.grid, "time", None)
        if grid is None:
            raise UsageError("there is no time here", where=args.run, hint="escape times belong to flows in time")
        last = args.t_max if args.t_max is not None else 10.0 * float(axis_values(grid)[-1])
        rows.append([*values.values(), escape_time(problem, match[1], args.level, last, index)])
    if args.format == "tex":
        from ..paper.tex import words

        keys = [words(key) for key in keys]
    name = f"time until {args.variable.replace('_', ' ')} = {args.level:g}"
    if args.json:
        from ..results import jsonable

        print(json.dumps([dict(zip([*keys, "escape_time"], jsonable(row), strict=True)) for row in rows]))
    else:
        print(write([*keys, name], rows, args.format, "infinite: not before the last time asked for"), end="")
    return 0


VERB = Verb(
    "escape", "when a curve first crosses a level, for one problem or over a grid", add_arguments, run,
    epilog="example: dimladder escape run.toml --variable 'M[0,0]' --level 0.5 --grid algorithm.learning_rate=0.1,1",
)  # fmt: skip
