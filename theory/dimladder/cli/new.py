"""``dimladder new``: a working run file to begin from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DimladderError, UsageError, did_you_mean
from .examples import run_files, write_new
from .verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a theory (dimladder list), or a run file (dimladder examples)")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: NAME.toml; an existing file is left alone")


def run(args: argparse.Namespace) -> int:
    found = run_files()
    chosen = args.name if args.name in found else _answered_by(args.name, found)
    target = Path(args.output or f"{args.name}.toml")
    head = (
        f"# Written by: dimladder new {args.name}. Solve it by: dimladder solve {target}\n"
        f"# Every key, its values and defaults: dimladder show {_theory(found[chosen], chosen)}\n"
    )
    write_new(head + found[chosen], target)
    print(target)
    return 0


def _theory(text: str, name: str) -> str:
    from ..solve import loads

    return loads(text, source=name).theory


def _answered_by(theory: str, found: dict[str, str]) -> str:
    """Return the run file that a theory names to begin from, else the first that it answers."""
    from ..theories import find, names

    if theory not in names():
        raise UsageError(
            f"there is no theory and no run file {theory!r}", hint=did_you_mean(theory, {*names(), *found})
        )
    first = find(theory).example
    for name, text in sorted(found.items(), key=lambda item: item[0] != first):
        try:
            if _theory(text, name) == theory:
                return name
        except DimladderError:
            continue
    raise UsageError(f"no run file comes with the theory {theory!r}", hint="dimladder examples lists those there are")


VERB = Verb(
    "new", "a working run file to begin from", add_arguments, run,
    epilog="example: dimladder new one-pass -o run.toml && dimladder solve run.toml",
)  # fmt: skip
