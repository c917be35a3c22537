"""``dimladder new``: a working run file to begin from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import DimladderError, UsageError, did_you_mean
from ..registry import is_file
from .examples import run_files, write_new
from .skeleton import compose
from .verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a theory (dimladder list), ./FILE.py that holds one, or a run file (dimladder examples)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="default: NAME.toml; an existing file is left alone")


def run(args: argparse.Namespace) -> int:
    from .. import theories

    found = run_files()
    local = is_file(args.name)
    if args.name not in found and args.name not in theories.names() and not local:
        raise UsageError(
            f"there is no theory and no run file {args.name!r}",
            hint=did_you_mean(args.name, {*theories.names(), *found}) + "; a theory in a file is named ./FILE.py",
        )
    target = Path(args.output or f"{Path(args.name).stem if local else args.name}.toml")
    chosen = None if local else args.name if args.name in found else _answered_by(args.name, found)
    if chosen is not None:
        text, card = found[chosen], _theory(found[chosen], chosen)
    else:
        # The path in the file is relative to the file.
        card = _beside(args.name, target.parent) if local else args.name
        text = compose(theories.find(args.name), card, found)
    head = (
        f"# Written by: dimladder new {args.name}. Solve it by: dimladder solve {target}\n"
        f"# Every key, its values and defaults: dimladder show {card}\n"
    )
    write_new(head + text, target)
    print(target)
    return 0


def _beside(path: str, folder: Path) -> str:
    relative = os.path.relpath(path, folder)
    return relative if relative.startswith("..") else f"./{relative}"


def _theory(text: str, name: str) -> str:
    from ..solve import loads

    return loads(text, source=name).theory


def _answered_by(theory: str, found: dict[str, str]) -> str | None:
    """Return the run file that a theory names to begin from, else the first that it answers."""
    from ..theories import find

    first = find(theory).example
    for name, text in sorted(found.items(), key=lambda item: item[0] != first):
        try:
            if _theory(text, name) == theory:
                return name
        except DimladderError:
            continue
    return None


VERB = Verb(
    "new", "a working run file to begin from", add_arguments, run,
    epilog="example: dimladder new one-pass -o run.toml && dimladder solve run.toml",
)  # fmt: skip
