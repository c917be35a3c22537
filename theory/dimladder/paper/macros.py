r"""\newcommand macros: every number of a paper comes from the result file, none is typed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import UsageError
from ..results import Result, short
from ..typeset.words import escape
from .axes import components, curve_axis, is_numeric, size_axis, statistical_names
from .labels import Names
from .runs import Member, Runs, members, said, swept_keys
from .tables import scalars, told
from .tex import macro_name, number, render, rounded

MAX_COMPONENTS = 64


def macros(results: Sequence[Result], note: str, prefix: str = "dl") -> str:
    r"""Return ``\newcommand`` lines.

    Names are the prefix and words of letters only (digits are spelled: ``Q_{01}`` at the end is ``\dlQZeroOneFinal``):

    * ``\dlAlgorithmLearningRate`` ...: each number or word of the run file;
    * ``\dlNullError``, ``\dlNullErrorSe``: each number without axes, and its standard error;
    * ``\dlGeneralizationErrorFinal``: each component of a curve at the last point of its grid; the measured one, at the
      largest size, ends in ``FinalSimulated`` with ``FinalSimulatedSe``;
    * of several runs: the parameters in which they differ, as in ``\\dlNullErrorAtLearningRateZeroPointOne``;
    * ``\dlVersion``, ``\dlProblemHash``.
    """
    rows: dict[str, tuple[str, str]] = {}

    def add(parts: Iterable[str], text: str, comment: str) -> None:
        name = prefix + macro_name(*parts)
        if name in rows and rows[name][0] != text:
            raise UsageError(
                f"two numbers have the same macro name \\{name}", where="macros", why=f"{rows[name][1]}; {comment}",
                hint="export the results one by one, with a --prefix each",
            )  # fmt: skip
        rows[name] = (text, " ".join(comment.split()))

    found = members([r for r in results if not swept_keys(r)])
    runs = Runs(found, Names())
    first = results[0]
    add(
        ["version"],
        escape(str(first.provenance["versions"].get("dimladder", "unknown"))),
        "version that computed the result",
    )
    for member in found or [Member(0, first, {})]:
        words = runs.words(member) if found else []
        if not member.measured or len(found) == 1:
            problem = str(member.result.provenance.get("problem_hash") or "none")
            add(["problem hash", *told(words)], escape(problem), "content hash of the problem")
    shared = [said(r.problem_toml) for r in results]
    for key, value in shared[0].items():
        # What the results have in common; where they differ the names of the numbers say it.
        alike = all(repr(other.get(key)) == repr(value) for other in shared)
        if alike and isinstance(value, bool | int | float | str):
            add(key.split("."), number(value, 12), key)
    for parts, label, value, se in scalars(results):
        _add_value(add, parts, value, se, re.sub(r"[\\$]", "", label))
    for member in found:
        for parts, value, se, comment in _finals(member.result, runs.words(member)):
            _add_value(add, parts, value, se, comment)
    return render("macros.tex", note=note, rows=[(n, t, c) for n, (t, c) in rows.items()])


def _add_value(add: Any, parts: list[str], value: float, se: float, comment: str) -> None:
    if math.isfinite(se):
        shown, error = rounded(value, se)
        add(parts, shown, comment)
        add([*parts, "se"], error, f"standard error of {comment}")
    else:
        add(parts, number(value), comment)


def _finals(result: Result, words: list[str]) -> Iterable[tuple[list[str], float, float, str]]:
    data, size, errors = result.dataset, size_axis(result), statistical_names(result)
    for name in (n for n in result if n not in errors):
        axis = curve_axis(result, name)
        if axis is None or axis == size or not is_numeric(data[name]):
            continue
        items = list(components(result, name, axis))
        if len(items) > MAX_COMPONENTS:
            continue
        last = data.coords[axis].values[-1]
        for _, _, where in items:
            pick = {**where, axis: -1} | ({str(size): -1} if size in data[name].dims else {})
            labels = [short(data.coords[a].values[i]) for a, i in where.items()]
            se = float(data[name + "_se"].isel(pick).values) if name + "_se" in result else math.nan
            ending = ["final"] if size is None else ["final simulated"]
            text = f"{name}[{','.join(labels)}]" if labels else name
            at = f"{text} at {axis} = {short(last)}"
            at += "".join(f", {k} = {v}" for k, v in zip(words[::2], words[1::2], strict=True))
            if size is not None:
                at += f", {size} = {data.coords[size].values[-1]}"
            yield [name, *labels, *ending, *told(words)], float(data[name].isel(pick).values), se, at
