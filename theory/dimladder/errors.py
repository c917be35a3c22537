"""The one family of errors: each says what went wrong, where, why, and what to do."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from typing import Any


class DimladderError(Exception):
    """Base of every error the project raises on purpose.

    Parameters
    ----------
    what : str
        What went wrong, in one sentence.
    where : str, optional
        File and key path, equation, time, or component by name.
    why : str, optional
        The reason, with the offending value.
    hint : str, optional
        What to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        lines += [
            f"  {label}: {text}"
            for label, text in (("where", self.where), ("why", self.why), ("try", self.hint))
            if text
        ]
        return "\n".join(lines)


class ConfigError(DimladderError):
    """A run file or an override that does not describe a problem."""


class DerivationError(DimladderError):
    """Equations that cannot be derived for this problem."""


class DomainError(DimladderError):
    """An input or a state outside its domain, such as an overlap matrix that is not positive semi-definite."""


class SolveError(DimladderError):
    """A solve that stopped before its end.

    Attributes
    ----------
    status : str
        Machine-readable reason, such as ``"step-size-underflow"``.
    partial : object
        Whatever was finished: a `Solution` up to the time of failure, or None.
    """

    def __init__(self, what: str, *, status: str = "failed", partial: Any = None, **context: str | None) -> None:
        super().__init__(what, **context)
        self.status, self.partial = status, partial


class SimulationError(DimladderError):
    """A finite-size experiment that cannot run as asked."""


class ResultFileError(DimladderError):
    """A result that cannot be read or written."""


class UsageError(DimladderError):
    """A command or call with arguments that do not fit together."""


def explain_unexpected(error: BaseException) -> DimladderError:
    """Return an exception that nobody foresaw as one of the family: what it was, where, and how to report it.

    The one place where such an exception becomes words; what is foreseen is raised as a member of the family.
    """
    if isinstance(error, DimladderError):
        return error
    reason = (str(error).strip() or "it gave no reason").splitlines()[0][:300]
    if isinstance(error, MemoryError):
        return DimladderError(
            "there is not enough memory for this problem", where=_where(error), why=reason,
            hint="smaller sizes, fewer points of the grid, or a machine with more memory",
        )  # fmt: skip
    if isinstance(error, OSError):
        return DimladderError(
            "the operating system refused", where=error.filename if isinstance(error.filename, str) else _where(error),
            why=error.strerror or reason, hint="check space, permissions and paths, and run again",
        )  # fmt: skip
    return DimladderError(
        f"something went wrong that this program did not foresee ({type(error).__name__})", where=_where(error),
        why=reason, hint="if the input is right this is a fault of dimladder: please report it with the run file and "
        "the traceback, which -vv prints",
    )  # fmt: skip


def _where(error: BaseException) -> str | None:
    """Return file, line and function of the last frame of our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "dimladder" in f.filename] or list(frames)
    if not own:
        return None
    path = own[-1].filename.replace("\\", "/")
    return (
        f"{path[path.rfind('dimladder') :] if 'dimladder' in path else path}, line {own[-1].lineno}, in {own[-1].name}"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for a misspelt `word`: the nearest of `known`, and the whole list when it is short.

    Examples
    --------
    >>> did_you_mean("lerning_rate", ["learning_rate", "steps"])
    "did you mean 'learning_rate'? (known: learning_rate, steps)"
    """
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=2, cutoff=0.55)
    listing = f"known: {', '.join(options)}" if options else ""
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?" + (f" ({listing})" if len(options) <= 12 else "")
    return listing
