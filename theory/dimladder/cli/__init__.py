"""The command ``dimladder``: one file a verb. stdout is data, stderr is log and progress.

Exit status: 0 done, 1 the computation failed (``compare``: disagree), 2 usage or input, 3 inconclusive,
130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__, registry
from ..errors import ConfigError, DimladderError, SolveError, UsageError, did_you_mean
from .verb import Verb

# Verb -> module of this package; further verbs come through the registry.
BUILT_IN = ("list", "show", "which", "derive", "solve", "sweep", "check", "export", "cite", "doctor")
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


def _overview() -> str:
    names = [*BUILT_IN, *registry.names("verbs")]
    rows = "\n".join(f"  {name:<10} {_load(name).help}" for name in names)
    return f"""usage: dimladder VERB ... [-v] [-q]

Order-parameter theories of learning in high dimension: derive, solve, simulate, compare, publish.

verbs:
{rows}

  dimladder VERB --help   explains one verb;  dimladder --version   prints the version

example: dimladder solve docs/gallery/runs/online-erf.toml --set algorithm.learning_rate=0.2
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
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_overview(), end="")
            return 0 if arguments else 2
        if arguments[0] in ("-V", "--version"):
            print(f"dimladder {__version__}")
            return 0
        verb = _load(arguments[0])
        parser = argparse.ArgumentParser(
            prog=f"dimladder {arguments[0]}", description=verb.help, epilog=verb.epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.add_argument("-v", "--verbose", action="count", default=0, help="log more on stderr")
        parser.add_argument("-q", "--quiet", action="store_true", help="no log, no progress")
        verb.add_arguments(parser)
        parsed = parser.parse_args(arguments[1:])
        level = (
            logging.ERROR if parsed.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(parsed.verbose, 2)]
        )
        logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("numba").setLevel(logging.WARNING)
        status = verb.run(parsed)
        sys.stdout.flush()
        return status
    except (ConfigError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SolveError as error:
        print(f"error: {error}\n  status: {error.status}", file=sys.stderr)
        return 1
    except DimladderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if type(error).__name__ in ("DomainError", "ResultFileError", "SimulationError") else 1
    except KeyboardInterrupt:
        print("interrupted: what was finished and saved is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout at nothing so that the interpreter's last flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
