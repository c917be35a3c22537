"""``dimladder examples``: the run files that come with the package."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError, UsageError, did_you_mean
from .verb import Verb, add_json


def run_files() -> dict[str, str]:
    """Return name -> text of every run file that comes with the package."""
    import dimladder

    package = Path(dimladder.__file__).resolve().parent
    # In a checkout they lie in the gallery, from where the wheel takes them.
    for folder in (package / "runs", package.parents[1] / "docs" / "gallery" / "runs"):
        found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml"))}
        if found:
            return found
    raise ConfigError("the run files of this installation are missing", where=str(package), hint="install it again")


def title_of(text: str) -> str:
    """Return the title of a run file."""
    import tomllib

    return str(tomllib.loads(text).get("title", ""))


def write_new(text: str, target: Path) -> None:
    """Write a run file that is not there yet.

    Raises
    ------
    UsageError
        When a file of that name exists, or it cannot be written.
    """
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError("the file exists already", where=str(target), hint="choose another name") from None
    except OSError as error:
        raise UsageError("the file cannot be written", where=str(target), why=error.strerror) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="print this run file instead of the list")
    parser.add_argument("--to", metavar="DIR", help="write the run file, or all of them, into a folder")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    found: Mapping[str, str] = run_files()
    if args.name is not None:
        if args.name not in found:
            raise UsageError(f"there is no run file {args.name!r}", hint=did_you_mean(args.name, found))
        found = {args.name: found[args.name]}
    if args.to:
        folder = Path(args.to)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            write_new(text, folder / f"{name}.toml")
            print(folder / f"{name}.toml")
    elif args.name is not None and not args.json:
        print(found[args.name], end="")
    elif args.json:
        print(json.dumps({name: title_of(text) for name, text in found.items()}))
    else:
        width = max(map(len, found))
        print("\n".join(f"{name:<{width}}  {title_of(text)}" for name, text in found.items()))
    return 0


VERB = Verb(
    "examples", "the run files that come with the package", add_arguments, run,
    epilog="example: dimladder examples online-erf > run.toml; dimladder examples --to runs",
)  # fmt: skip
