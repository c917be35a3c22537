"""``dimladder sweep``: phase diagrams."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .verb import Verb, add_json, add_output, add_run_file, load_problem, output_folder

if TYPE_CHECKING:
    from ..results import PhaseDiagram


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    parser.add_argument(
        "--grid", action="append", required=True, metavar="a.b=lo:hi:n[:log]",
        help="values of one key: a range, or a list v1,v2,...; repeat for more keys, the last varies fastest",
    )  # fmt: skip
    parser.add_argument("--executor", default="local:1", metavar="local:N|dask:ADDRESS", help="default local:1")
    add_json(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    from ..sweep import parse_grid, sweep

    problem, grid = load_problem(args), dict(parse_grid(text) for text in args.grid)
    with output_folder(args) as folder:
        diagram = sweep(problem, grid, executor=args.executor, resume=args.resume, force=args.force, out=folder)
    print(diagram.to_json() if args.json else _table(diagram))
    if diagram.stats["failed"]:
        print(f"{diagram.message}: the variables 'status' and 'message' say why", file=sys.stderr)
    return 1 if diagram.stats["failed"] else 0


def _table(diagram: PhaseDiagram) -> str:
    """Return one line a grid point: its status, and every variable that is one number there (a curve shows its end)."""
    import itertools

    from ..results import main_axis

    data, grid = diagram.dataset, list(diagram.stats["grid"])
    ends = {d: -1 for d in data.dims if d not in grid and d == main_axis(diagram)}
    shown = [n for n in diagram if n != "message" and set(data[n].dims) <= {*grid, *ends}]
    head = [*grid, "status", *(f"{n} (end)" if set(ends) & set(data[n].dims) else n for n in shown if n != "status")]
    rows = [head]
    for index in itertools.product(*(range(data.sizes[a]) for a in grid)):
        at = dict(zip(grid, index, strict=True))
        names = ["status", *(n for n in shown if n != "status")]
        cells = [data[n].isel({**at, **{d: e for d, e in ends.items() if d in data[n].dims}}).values[()] for n in names]
        rows.append([_cell(data.coords[a].values[i]) for a, i in at.items()] + [_cell(c) for c in cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows)


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.6g}"


VERB = Verb(
    "sweep", "a theory over a grid of parameters: phase diagrams", add_arguments, run,
    epilog="example: dimladder sweep run.toml --grid algorithm.learning_rate=0.1:1:10 --grid target.noise=0,0.2 -o out",
)  # fmt: skip
