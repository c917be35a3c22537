"""The command ``dimladder``: one file a verb. stdout is data, stderr is log and progress.

Exit status: 0 done, 1 the computation failed (``compare`` and ``validate``: disagree), 2 usage, input or anything not
foreseen (``compare`` and ``validate``: a failed computation too), 3 inconclusive, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from .. import __version__, registry
from ..errors import DerivationError, DimladderError, SolveError, UsageError, did_you_mean, explain_unexpected
from ..progress import progress
from .verb import Verb

# Verb -> module of this package; further verbs come through the registry.
BUILT_IN = (
    "list", "show", "which", "derive", "solve", "sweep", "sensitivity", "fit", "optimise", "check", "escape",
    "thresholds", "export", "report", "cite", "doctor", "examples", "new",
    "completion",
)  # fmt: skip
INTERRUPTED = 130
_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _load(name: str) -> Verb:
    if name in BUILT_IN:
        module = import_module(f"{__name__}.{'list_' if name == 'list' else name}")
        verb: Verb = module.VERB
        return verb
    loaded: Verb | None = registry.get("verbs", name)
    if loaded is None:
        raise UsageError(f"there is no verb {name!r}", hint=did_you_mean(name, [*BUILT_IN, *registry.names("verbs")]))
    return loaded


def _about(name: str) -> str:
    try:
        return _load(name).help
    except DimladderError as error:
        return f"cannot be loaded ({error.why})"


def _overview() -> str:
    names = [*BUILT_IN, *registry.names("verbs")]
    rows = "\n".join(f"  {name:<11} {_about(name)}" for name in names)
    return f"""usage: dimladder VERB ... [-v] [-q]

Order-parameter theories of learning in high dimension: derive, solve, simulate, compare, publish.

verbs:
{rows}

  dimladder VERB --help   explains one verb;  dimladder --version   prints the version

example: dimladder new online-erf -o run.toml && dimladder solve run.toml --set algorithm.learning_rate=0.2
"""


def _one_blas_thread() -> None:
    """Give BLAS one thread, unless the user has said how many: it reads the number when numpy is imported.

    Our matrices are small: threads that wait for each other gain nothing on an idle machine, and cost a factor of ten
    and more on one that others use too.
    """
    if "numpy" not in sys.modules and not any(name in os.environ for name in (*_BLAS, "OMP_NUM_THREADS")):
        os.environ.update(dict.fromkeys(_BLAS, "1"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    _one_blas_thread()
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb: Verb | None = None
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_overview(), end="")
            status = 0 if arguments else 2
        elif arguments[0] in ("-V", "--version"):
            print(f"dimladder {__version__}")
            status = 0
        else:
            verb = _load(arguments[0])
            status = _run(verb, arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader (head, less) has gone.
        _close_stdout()
        return 0
    except (KeyboardInterrupt, Exception) as error:
        if _interrupted(error):
            _say("interrupted: what was finished and saved is kept")
            return INTERRUPTED
        if "-vv" in arguments and not isinstance(error, DimladderError):
            _say("".join(traceback.format_exception(error)).rstrip())
        told = explain_unexpected(error)
        _say(f"error: {told}" + (f"\n  status: {told.status}" if isinstance(told, SolveError) else ""))
        return _status(told, error, verb)
    finally:
        # What cannot be written now (a full disk) must not become a second message at the interpreter's end.
        try:
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError):
            _close_stdout()


def _run(verb: Verb, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"dimladder {arguments[0]}", description=verb.help, epilog=verb.epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more on stderr")
    parser.add_argument("-q", "--quiet", action="store_true", help="no log, no progress")
    verb.add_arguments(parser)
    parsed = parser.parse_args(arguments[1:])
    level = logging.ERROR if parsed.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(parsed.verbose, 2)]
    logging.basicConfig(level=level, format="%(name)s: %(message)s", handlers=[_Log()])
    progress(None if parsed.quiet or not sys.stderr.isatty() else True)
    for handler in logging.getLogger().handlers:
        # Of our own handler alone, and anew for every command: whoever else listens hears everything.
        if isinstance(handler, _Log):
            handler.filters[:] = [_Once()]
    logging.getLogger("numba").setLevel(logging.WARNING)
    warnings.showwarning = _log_warning
    return verb.run(parsed)


class _Log(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever stderr is at the time: a bar that is shown there moves out of the way."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        return None


class _Once(logging.Filter):
    """Lets a line of the log pass once: the points of a sweep, or a finer solve, have the same to say."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.name, record.getMessage()
        new = line not in self._said
        self._said.add(line)
        return new


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    logging.getLogger("warning").warning("%s (%s)", message, category.__name__)


def _status(told: DimladderError, error: BaseException, verb: Verb | None) -> int:
    """Return 2 for input and for what was not foreseen, else what the verb says of a computation that failed."""
    failed = isinstance(told, SolveError | DerivationError) or type(told) is DimladderError
    return (verb.failed if verb is not None else 1) if failed and told is error else 2


def _interrupted(error: BaseException | None) -> bool:
    """Say whether an interrupt from the keyboard is the cause: libraries wrap it in exceptions of their own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush is silent."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
