"""Campaigns: many comparisons in one file, each with the verdict it is expected to come to. The verb `validate`."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dimladder.errors import ConfigError, DimladderError, UsageError, did_you_mean
from dimladder.problem import Problem, Spec, convert, parse_document, read
from dimladder.progress import Progress, stage

if TYPE_CHECKING:
    from .compare import Comparison

log = logging.getLogger("dimladder.validate")
Expected = Literal["agree", "disagree", "inconclusive"]
OUTCOME = "outcome.json"
PACKAGED = Path(__file__).parent / "campaigns"


class Case(Spec, frozen=True, kw_only=True):
    """One comparison.

    Attributes
    ----------
    name : str
        Unique in the campaign; the folder of its results.
    run : str
        A run file, relative to the campaign file; or `problem`, the run file's content as a table.
    set : table
        Overrides, dotted keys to values.
    theory_set : table
        Overrides of the theory's problem alone: a deliberate error, which must be caught.
    sizes : list of int
        Default: the run file's.
    replicas, seed : int
    expect : {"agree", "disagree", "inconclusive"}
    variables : list of str
        Compare only these.
    alpha, resolution : float
        As in `compare`.
    device, dtype : str
        As in `simulate`.
    """

    name: str
    run: str = ""
    problem: dict[str, Any] = msgspec.field(default_factory=dict)
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    theory_set: dict[str, Any] = msgspec.field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    replicas: int | None = None
    seed: int | None = None
    expect: Expected = "agree"
    variables: tuple[str, ...] = ()
    alpha: float = 0.01
    resolution: float = 0.2
    device: str = "cpu"
    dtype: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in "/\\") or self.name.startswith("."):
            raise ValueError(f"name must be usable as a folder name, got {self.name!r}")
        if bool(self.run) == bool(self.problem):
            raise ValueError(f"case {self.name!r} needs either run (a file) or problem (a table)")


class Campaign(Spec, frozen=True, kw_only=True):
    """A campaign file: ``[[case]]`` tables."""

    case: tuple[Case, ...]
    schema: Literal[1] = 1
    title: str = "campaign"

    def __post_init__(self) -> None:
        names = [case.name for case in self.case]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names:
            raise ValueError("a campaign needs at least one [[case]]")
        if twice:
            raise ValueError(f"case names must differ; repeated: {', '.join(twice)}")


class Outcome(Spec, frozen=True, kw_only=True):
    """What a case came to.

    Attributes
    ----------
    name, theory, expected, verdict : str
        The verdict ``error`` says that the case failed.
    as_expected : bool
    max_z, p_value : float
        Largest |z| at the largest size, and the family-wise chance of what was judged.
    exponent, exponent_se : float
        Of the closing of the gap, where it is known.
    headline : str
        What the verdict is worth.
    reasons : tuple of str
    origin : str
        Problem, seed, sizes, replicas and versions behind the numbers.
    seconds : float
    """

    name: str
    theory: str
    expected: str
    verdict: str
    as_expected: bool
    max_z: float = math.nan
    p_value: float = math.nan
    exponent: float = math.nan
    exponent_se: float = math.nan
    headline: str = ""
    reasons: tuple[str, ...]
    origin: str = ""
    seconds: float


def packaged() -> list[str]:
    """Return the names of the campaigns that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def load_campaign(name_or_path: str | os.PathLike[str]) -> tuple[Campaign, Path]:
    """Read a campaign file, or one that comes with the package by its name; return it with its folder.

    Raises
    ------
    ConfigError
        With file, key path, value and a suggestion.
    """
    path = Path(name_or_path)
    if not path.exists() and path.suffix != ".toml":
        found = PACKAGED / f"{name_or_path}.toml"
        if not found.exists():
            raise ConfigError(
                f"there is no campaign {str(name_or_path)!r}", hint=did_you_mean(str(name_or_path), packaged())
            )
        path = found
    document = parse_document(read(path), str(path))
    return convert(document, Campaign, str(path)), path.parent


def problem_of(case: Case, folder: Path, extra: Mapping[str, Any] | None = None) -> Problem:
    """Return the problem of a case with its overrides, and `extra` ones, applied."""
    from dimladder.choose import build_problem

    source = str(folder / case.run) if case.run else f"case {case.name}"
    document = parse_document(read(folder / case.run), source) if case.run else case.problem
    return build_problem(document, {**case.set, **(extra or {})}, source, folder)


def run_case(
    case: Case, folder: Path, out: Path | None = None, resume: bool = False, force: bool = False, stored: bool = False
) -> Comparison:
    """Simulate, or take what is stored, and compare; with a folder, keep the comparison and its figure there."""
    from .campaign_report import draw
    from .compare import compare, save
    from .measurements import stored_for
    from .simulate import simulate

    problem = problem_of(case, folder)
    if stored:
        measured = stored_for(problem, case.sizes, case.replicas, case.seed)
        if out is not None:
            measured.save(out / "result.nc")
    else:
        measured = simulate(
            problem, case.sizes or None, case.replicas, case.device, case.dtype, case.seed,
            out=out, resume=resume and out is not None, force=force and out is not None,
        )  # fmt: skip
    theory = problem_of(case, folder, case.theory_set) if case.theory_set else problem
    comparison = compare(
        theory, measured, variables=case.variables or None, alpha=case.alpha, resolution=case.resolution
    )  # fmt: skip
    if out is not None:
        save(comparison, out)
        draw(comparison, out)
    return comparison


def validate(
    campaign: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    executor: str | Executor = "local:1",
    device: str | None = None,
    dtype: str | None = None,
    stored: bool = False,
) -> list[Outcome]:
    """Run a campaign.

    Parameters
    ----------
    campaign : str or path
        A campaign file, or the name of one that comes with the package.
    out : path, optional
        Folder of the results, one sub-folder a case, and of the report in HTML, Markdown and LaTeX. A finished case is
        not run again with `resume`; an unfinished one goes on from its finished batches.
    progress : callable, optional
        ``progress(done, total, name)`` after each case.
    executor : str or concurrent.futures.Executor
        Cases run at the same time: ``"local:N"``, ``"dask:ADDRESS"`` or an executor, as in `dimladder.sweep`.
    device, dtype : str, optional
        Those of every case, in place of what the campaign says.
    stored : bool
        Compare with the measurements that come with the package instead of simulating; a case that has none fails.

    Returns
    -------
    list of Outcome
        A case that raised, whatever it raised, counts as ``error``, with the message as its reason; the others still
        run, also where its process was killed. A stored outcome that cannot be read is made again from the stored
        replicas.
    """
    from dimladder.executors import each

    from .campaign_report import write_report

    if stored and (device is not None or dtype is not None):
        raise UsageError("what is stored is finished: it excludes device and dtype", where="validate")
    read_campaign, folder = load_campaign(campaign)
    given = {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
    cases = [msgspec.structs.replace(case, **given) for case in read_campaign.case]
    root = Path(out) if out is not None else None
    outcomes: dict[str, Outcome] = {}
    for case in cases:
        kept = _kept(root / case.name / OUTCOME, case, folder) if resume and root is not None else None
        if kept is not None:
            outcomes[case.name] = kept
    missing = [case for case in cases if case.name not in outcomes]
    tasks = [(case, folder, None if root is None else root / case.name, resume, force, stored) for case in missing]
    with stage("validating", progress) as tell:
        for number, result in each(_run_task, tasks, executor):
            case = missing[number]
            outcome = result if isinstance(result, Outcome) else _failed(case, "?", result, 0.0)
            outcomes[case.name] = outcome
            if root is not None and outcome.verdict != "error":
                _store(root / case.name / OUTCOME, case, folder, outcome)
            tell(len(outcomes), len(cases), case.name)
    found = [outcomes[case.name] for case in cases]
    if root is not None:
        write_report(read_campaign.title, found, root)
    return found


def _run_task(task: tuple[Case, Path, Path | None, bool, bool, bool]) -> Outcome:
    return _outcome(*task)


def _store(file: Path, case: Case, folder: Path, outcome: Outcome) -> None:
    from dimladder.problem import to_builtins
    from dimladder.results import write_text

    content = {k: v for k, v in to_builtins(outcome).items() if not (isinstance(v, float) and not math.isfinite(v))}
    write_text(file, json.dumps({"key": _key(case, folder), "outcome": content}))


def _kept(stored: Path, case: Case, folder: Path) -> Outcome | None:
    """Return the stored outcome of a case; None where there is none, or of another problem, or it cannot be read."""
    try:
        saved = json.loads(stored.read_text(encoding="utf-8"))
        if saved["key"] != _key(case, folder):
            return None
        return convert(saved["outcome"], Outcome, str(stored))
    except FileNotFoundError:
        return None
    except DimladderError as error:
        log.warning("%s: %s", case.name, str(error).splitlines()[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the outcome of %s cannot be read and is made again (%s: %s)", case.name, stored, error)
    return None


def _key(case: Case, folder: Path) -> str:
    """What a stored outcome must share to be used again: the case and the content of its problems."""
    from dimladder.problem import to_builtins

    hashes = [problem_of(case, folder, extra).content_hash for extra in ({}, case.theory_set)]
    return json.dumps([to_builtins(case), hashes], sort_keys=True, default=str)


def _failed(case: Case, theory: str, error: BaseException, seconds: float) -> Outcome:
    reason = str(error) if isinstance(error, DimladderError) else f"{type(error).__name__}: {error}"
    return Outcome(
        name=case.name, theory=theory, expected=case.expect, verdict="error", as_expected=False,
        reasons=(reason,), seconds=seconds,
    )  # fmt: skip


def _outcome(
    case: Case, folder: Path, place: Path | None, resume: bool, force: bool, stored: bool = False
) -> Outcome:
    start = time.perf_counter()
    theory = "?"
    try:
        theory = problem_of(case, folder).theory
        comparison = run_case(case, folder, place, resume, force, stored)
    except Exception as error:  # one case must not end the campaign, whatever is wrong with it
        log.debug("case %s", case.name, exc_info=True)
        return _failed(case, theory, error, time.perf_counter() - start)
    from .report import headline, origin

    fit = comparison.finite_size
    exponent, exponent_se = (math.nan if fit[k] is None else fit[k] for k in ("exponent", "exponent_se"))
    return Outcome(
        name=case.name, theory=theory, expected=case.expect, verdict=comparison.verdict,
        as_expected=comparison.verdict == case.expect, max_z=comparison.max_z,
        p_value=comparison.p_value, exponent=exponent, exponent_se=exponent_se, headline=headline(comparison),
        reasons=tuple(comparison.reasons), origin=origin(comparison),
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def exit_status(outcomes: list[Outcome]) -> int:
    """0 all as expected; 1 a case came to a wrong verdict or failed; 3 only undecided ones are left."""
    wrong = [o for o in outcomes if not o.as_expected]
    if not wrong:
        return 0
    return 3 if all(o.verdict == "inconclusive" for o in wrong) else 1
