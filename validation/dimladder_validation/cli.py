"""The verbs ``simulate``, ``compare`` and ``validate`` of the command line. stdout is data, stderr log and progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimladder.cli.verb import Verb, add_json, add_output, add_run_file, load_problem, output_folder
from dimladder.errors import UsageError

from .measurements import OWN, stored, stored_for

if TYPE_CHECKING:
    from dimladder.problem import Problem
    from dimladder.results import Measurement


HERE = "local:1"
EXIT = {"agree": 0, "disagree": 1, "inconclusive": 3}


def _add_simulation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--d", "--sizes", dest="sizes", metavar="N[,N...]", help="sizes (default: those of the run file)"
    )
    parser.add_argument("--replicas", type=int, metavar="R", help="independent replicas at each size")
    _add_device(parser, "cpu", "float64")
    parser.add_argument("--large", action="store_true", help="allow sizes above a million, whatever they cost")
    parser.add_argument("--seed", type=int, metavar="S", help="root seed; it fixes every replica")
    _add_executor(parser)


def _add_device(parser: argparse.ArgumentParser, device: str | None, dtype: str | None) -> None:
    own = "what the campaign says"
    parser.add_argument(
        "--device", default=device, help=f"cpu, or a torch device: cuda, cuda:1, mps, torch (default {device or own})"
    )
    parser.add_argument("--dtype", default=dtype, choices=("float64", "float32"), help=f"default {dtype or own}")


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"cannot read the sizes {text!r}", where="--d", hint="write them as 256,512,1024") from None


def _simulate(args: argparse.Namespace, problem: Problem, folder: Path | None) -> Measurement:
    from .simulate import simulate

    return simulate(
        problem, _sizes(args.sizes), args.replicas, args.device, args.dtype, args.seed,
        out=folder, resume=args.resume, force=args.force, large=args.large, executor=args.executor,
    )  # fmt: skip


@contextmanager
def _run_folder(args: argparse.Namespace) -> Iterator[Path | None]:
    """Hold the run folder of ``-o``, in which the input is stored at once; None without one."""
    from dimladder.problem import read
    from dimladder.results import write_text

    with output_folder(args) as folder:
        if folder is not None:
            write_text(folder / "input.toml", read(args.run))
        yield folder


def _write(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    _add_simulation(parser)
    add_json(parser)
    add_output(parser)


def _run_simulate(args: argparse.Namespace) -> int:
    problem = load_problem(args)
    with _run_folder(args) as folder:
        measured = _simulate(args, problem, folder)
    if args.json:
        _write(measured.to_json())
    else:
        from dimladder.results import text_table

        _write(text_table(measured))
    return 0


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add_run_file(parser)
    _add_simulation(parser)
    parser.add_argument(
        "--measurement", metavar="PATH|NAME",
        help="compare with this result of simulate instead of a new one: a path, the name of one that comes with the "
        f"package, or {OWN}, the one of this problem",
    )  # fmt: skip
    parser.add_argument("--variables", metavar="NAME[,NAME]", help="compare only these")
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.01,
        help="chance of calling a right theory wrong, over all entries (default 0.01)",
    )
    parser.add_argument(
        "--resolution", type=float, default=0.2,
        help="relative deviation that must have been visible to say agree (default 0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--grid", action="append", default=[], metavar="a.b=lo:hi:n[:log]",
        help="compare at every value of one key: a range, or a list v1,v2,...; may be repeated",
    )  # fmt: skip
    add_json(parser)
    add_output(parser)


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor", default=HERE, metavar="local:N|dask:ADDRESS", help=f"N processes, or a cluster (default {HERE})"
    )


def _compare_along(args: argparse.Namespace, problem: Problem, variables: list[str] | None) -> int:
    """Compare along the grid; one line a point, and the exit status of the worst."""
    import json

    from dimladder.results import write_text
    from dimladder.sweep import parse_grid

    from .along import compare_along, worst
    from .report import along_report

    if args.measurement:
        raise UsageError("--grid and --measurement exclude each other", hint="compare one point, or simulate along")
    grid = dict(parse_grid(text) for text in args.grid)
    options: dict[str, Any] = {
        "d": _sizes(args.sizes), "replicas": args.replicas, "device": args.device, "dtype": args.dtype,
        "seed": args.seed, "alpha": args.alpha, "resolution": args.resolution, "variables": variables,
    }  # fmt: skip
    with _run_folder(args) as folder:
        points = compare_along(
            problem, grid, executor=args.executor, out=folder, resume=args.resume, force=args.force, **options,
        )  # fmt: skip
        report = along_report(problem.theory, points)
        if folder:
            write_text(folder / "report.md", report)
    if args.json:
        rows = [
            {"values": p.values, "verdict": p.verdict, "error": p.error}
            | ({} if p.comparison is None else p.comparison.to_dict())
            for p in points
        ]
        _write(json.dumps({"schema": 1, "verdict": worst(points), "points": rows}, allow_nan=False))
    else:
        _write(report)
    return EXIT.get(worst(points), 2)


def _given(word: str, problem: Problem) -> Any:
    """Return a finished measurement: of a path, or one that comes with the package."""
    from dimladder.results import open_result

    if Path(word).exists() or Path(word).suffix == ".nc" or len(Path(word).parts) > 1:
        return open_result(word)
    return stored_for(problem) if word == OWN else stored(word)


def _run_compare(args: argparse.Namespace) -> int:
    from dimladder.results import Measurement, write_text

    from .compare import check_levels, compare, save
    from .report import comparison_report

    check_levels(args.alpha, args.resolution)
    problem = load_problem(args)
    given: Any = None
    if args.measurement:
        if args.sizes or args.replicas or args.seed is not None or args.executor != HERE:
            raise UsageError("--measurement excludes --d, --replicas, --seed and --executor: it is finished")
        given = _given(args.measurement, problem)
        if not isinstance(given, Measurement):
            raise UsageError(f"{args.measurement} holds a {given.kind}, not a measurement")
    variables = args.variables.split(",") if args.variables else None
    if args.grid:
        return _compare_along(args, problem, variables)
    with _run_folder(args) as folder:
        if given is not None and folder:
            given.save(folder / "result.nc")
            write_text(folder / "resolved.toml", problem.to_toml())
        measured = given if given is not None else _simulate(args, problem, folder)
        comparison = compare(problem, measured, variables=variables, alpha=args.alpha, resolution=args.resolution)
        report = comparison_report(comparison)
        if folder:
            save(comparison, folder)
    _write(comparison.to_json() if args.json else report)
    return EXIT[comparison.verdict]


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaign", metavar="CAMPAIGN.toml", nargs="?", help="a campaign file, or the name of a packaged one"
    )
    parser.add_argument("--list", action="store_true", help="list the packaged campaigns")
    parser.add_argument(
        "--measurement", choices=(OWN,), help="compare with what comes with the package, and simulate nothing"
    )
    _add_device(parser, None, None)
    _add_executor(parser)
    add_json(parser)
    add_output(parser)


def _run_validate(args: argparse.Namespace) -> int:
    import json

    from dimladder.results import jsonable

    from .campaign import exit_status, load_campaign, packaged, validate
    from .campaign_report import FILES
    from .report import campaign_report

    if args.list or args.campaign is None:
        if not args.list:
            raise UsageError("no campaign given", hint=f"name a file, or one of: {', '.join(packaged())}")
        _write("\n".join(packaged()))
        return 0
    campaign, _ = load_campaign(args.campaign)
    with output_folder(args) as folder:
        outcomes = validate(
            args.campaign, args.output, args.resume, args.force, executor=args.executor, device=args.device,
            dtype=args.dtype, stored=args.measurement == OWN,
        )  # fmt: skip
        status = exit_status(outcomes)
        report = campaign_report(campaign.title, outcomes)
        if folder:
            names = ", ".join(str(folder / name) for name in FILES)
            print(f"the report: {names}", file=sys.stderr)
    if args.json:
        from dimladder.problem import to_builtins

        rows = [jsonable(to_builtins(outcome)) for outcome in outcomes]
        _write(json.dumps({"schema": 1, "title": campaign.title, "status": status, "cases": rows}, allow_nan=False))
    else:
        _write(report)
    return status


_STATUS = "exit status: 0 agree (validate: all as expected), 1 disagree, 2 usage or input, 3 inconclusive"
simulate_verb = Verb("simulate", "the finite-size experiment: means and standard errors", _add_simulate, _run_simulate)
compare_verb = Verb(
    "compare", "theory against simulation, with a verdict", _add_compare, _run_compare, _STATUS, failed=2
)
validate_verb = Verb(
    "validate", "a campaign of comparisons with expected verdicts", _add_validate, _run_validate, _STATUS, failed=2
)
