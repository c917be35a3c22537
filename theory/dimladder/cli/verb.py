"""What a verb is, and the arguments several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..problem import Problem


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes
    ----------
    name, help : str
        The word, and one line about it.
    add_arguments : callable
        Adds the verb's arguments to an argparse parser.
    run : callable
        Does the work and returns the exit status.
    epilog : str
        Printed below the arguments of ``--help``.
    failed : int
        Exit status where the computation fails; a verb for which 1 is an answer takes another.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
    failed: int = 1


def add_run_file(parser: argparse.ArgumentParser) -> None:
    """Add RUN.toml and ``--set``."""
    parser.add_argument("run", metavar="RUN.toml", help="the run file that states the problem")
    parser.add_argument(
        "--set", dest="overrides", metavar="a.b=VALUE", action="append", default=[],
        help="replace one value (nested key, VALUE in TOML syntax); may be repeated",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``-o``, ``--force`` and ``--resume``."""
    parser.add_argument("-o", "--output", metavar="DIR", help="also keep everything in a run folder")
    parser.add_argument("--force", action="store_true", help="write over a run folder that is not empty")
    parser.add_argument("--resume", action="store_true", help="continue a run folder")


@contextmanager
def output_folder(args: argparse.Namespace) -> Iterator[Path | None]:
    """Hold the run folder of ``-o`` while the verb works; None without one."""
    if not args.output:
        if args.resume or args.force:
            raise UsageError("--resume and --force need a run folder", hint="add -o DIR")
        yield None
        return
    from ..results import run_folder

    with run_folder(Path(args.output), resume=args.resume, force=args.force) as folder:
        yield folder


def load_problem(args: argparse.Namespace) -> Problem:
    """Return the problem of the run file with the overrides applied."""
    from ..problem import parse_override
    from ..solve import load

    return load(args.run, dict(parse_override(text) for text in args.overrides))
