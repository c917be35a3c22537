"""The run folder: input, resolved input, result, equations, generated code, log."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from ..errors import DerivationError, ResultFileError
from ..problem import Problem, read
from ..results import Result, open_result, write_text

log = logging.getLogger("dimladder.run")


def finished(folder: Path, problem: Problem, kind: str) -> Result | None:
    """Return the result of an earlier, successful run of the same problem in this folder, if there is one."""
    if not (folder / "result.nc").exists():
        return None
    try:
        result = open_result(folder)
    except ResultFileError as error:
        log.warning("%s is computed again: %s", error.where, error.why)
        return None
    same = result.provenance.get("problem_hash") == problem.content_hash and result.kind == kind
    return result if same and result.status == "success" else None


def save(folder: Path, problem: Problem, result: Result, source: Path) -> None:
    """Write the run folder. The result itself comes last: a folder with ``result.nc`` is complete."""
    from ..kept_equations import equations_text
    from ..solve import derive

    write_text(folder / "input.toml", read(source))
    write_text(folder / "resolved.toml", problem.to_toml())
    write_text(folder / "equations.tex", equations_text(problem, "latex"))
    with contextlib.suppress(DerivationError, NotImplementedError):
        write_text(folder / "generated.py", derive(problem).python())
    lines = [
        f"{result.kind} {result.theory}: {result.status} {result.message}".strip(),
        f"provenance: {result.provenance}",
    ]
    write_text(folder / "log.txt", "\n".join([*lines, f"stats: {result.stats}"]) + "\n")
    result.save(folder / "result.nc")
