"""``dimladder completion``: verbs, options, theories, run files and keys on the tab key of a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import DimladderError
from .verb import Verb

# What a shell runs on the tab key; each asks `dimladder completion words` for the lines to choose from.
SCRIPTS = {
    "bash": r"""_dimladder() {
    local IFS=$'\n'
    COMPREPLY=($(dimladder completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _dimladder dimladder
""",
    "zsh": r"""#compdef dimladder
_dimladder() {
    local -a found
    found=("${(@f)$(dimladder completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n ${found[1]} ]]; then
        compadd -S '' -M 'r:|=*' -- ${(M)found:#*=}
        compadd -- ${found:#*=}
    else
        _files
    fi
}
compdef _dimladder dimladder
""",
    "fish": r"""complete -c dimladder -a '(dimladder completion words -- (commandline -opc)[2..] (commandline -ct))'
""",
}
_KEYS = ("--set", "--grid", "--control")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=(*SCRIPTS, "words"), metavar="bash|zsh|fish")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.shell == "words":
        # A key that completes nothing is no place for a message.
        with suppress(DimladderError, OSError), redirect_stderr(StringIO()):
            sys.stdout.writelines(f"{line}\n" for line in candidates(args.words))
        return 0
    sys.stdout.write(SCRIPTS[args.shell])
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last of the words of a command line may become."""
    *before, last = words or [""]
    return sorted(dict.fromkeys(c for c in _all(list(before), last) if c.startswith(last)))


def _all(before: list[str], last: str) -> Iterator[str]:
    from .. import registry
    from . import BUILT_IN, _load

    if not before:
        yield from (*BUILT_IN, *registry.names("verbs"), "--help", "--version")
        return
    parser = argparse.ArgumentParser(add_help=True)
    for flags in (("-v", "--verbose"), ("-q", "--quiet")):
        parser.add_argument(*flags, action="store_true")
    _load(before[0]).add_arguments(parser)
    options = {flag: action for action in parser._actions for flag in action.option_strings}
    previous = before[-1]
    if previous in _KEYS:
        yield from (f"{key}=" for key in _keys(before))
    elif previous in options and options[previous].nargs != 0:
        yield from map(str, options[previous].choices or ())
    elif last.startswith("-"):
        yield from options
    elif before[0] in ("show", "new", "examples"):
        from .. import theories
        from .examples import run_files

        yield from theories.names() if before[0] != "examples" else ()
        yield from run_files() if before[0] != "show" else _run_files(last)
    elif before[0] == "completion" and len(before) == 1:
        yield from SCRIPTS
    else:
        yield from (str(c) for a in parser._actions if not a.option_strings for c in a.choices or ())
        if any(a.dest == "run" for a in parser._actions) and not any(w.endswith(".toml") for w in before):
            yield from _run_files(last)


def _run_files(last: str) -> Iterator[str]:
    """Return the run files and folders that a path may become."""
    folder = Path(last.rpartition("/")[0]) if "/" in last else Path()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".toml" or path.is_dir():
            yield f"{path}{'/' if path.is_dir() else ''}"


def _keys(before: Sequence[str]) -> Iterator[str]:
    """Return the dotted keys of the run file on the command line, those at their defaults too."""
    from ..problem import to_builtins
    from ..solve import load

    run = next((word for word in before if word.endswith(".toml")), None)
    if run is not None:
        yield from _dotted(to_builtins(load(run)))


def _dotted(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key


VERB = Verb(
    "completion", "what a shell's tab key needs: verbs, options, keys of run files", add_arguments, run,
    epilog='example: eval "$(dimladder completion bash)"   (in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit;\n'
    "fish: dimladder completion fish > ~/.config/fish/completions/dimladder.fish)",
)  # fmt: skip
