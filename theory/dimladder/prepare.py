"""A problem of which a few values vary, made ready to be solved again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .batch import MOST_TOGETHER, in_chunks, is_plain_flow, solutions
from .choose import find
from .errors import SolveError, UsageError
from .problem import Problem, to_builtins
from .problem.config import apply_overrides, check_values, convert_sections, refused, value_at
from .problem.kinds import SECTIONS
from .problem.overlaps import mirrored
from .problem.spec import hash_of
from .solve import derive, for_theory, with_solver

if TYPE_CHECKING:
    from .symbolic.systems import Flow, Solution, System
    from .theories import Theory

__all__ = ["Prepared", "arrays_of", "prepare"]

Array = NDArray[np.float64]
Values = Mapping[str, Any] | Sequence[Any] | Array


def prepare(problem: Problem, vary: Sequence[str], *, theory: str | Theory | None = None, **solver: Any) -> Prepared:
    """Make a problem ready to be solved for many values of a few keys.

    What does not vary is read, checked, derived and compiled once. The answer is arrays, without the labelled container
    and its provenance; it is bitwise that of `solve`.

    Parameters
    ----------
    problem : Problem
        Of any theory.
    vary : sequence of str
        Dotted keys of the values that change from call to call, e.g. ``["algorithm.learning_rate", "initial.M"]``:
        numbers, lists or formulas, but no ``kind``. An entry of a symmetric matrix, ``initial.Q.0.1``, moves with its
        mirror image.
    theory : str or Theory, optional
        Who answers, instead of the problem's own theory.
    **solver
        Fields of the problem's ``[solver]`` section to replace.

    Returns
    -------
    Prepared
        ``solver(values)`` returns arrays by name. It may be called from several threads at once.

    Raises
    ------
    ConfigError
        For a key that the problem does not have.
    UsageError
        For keys that repeat, none at all, or one that decides the kind of a section or the theory.

    Examples
    --------
    >>> import dimladder as dl
    >>> solver = dl.prepare(problem, ["algorithm.learning_rate"])  # doctest: +SKIP
    >>> [solver([rate])["generalization_error"][-1] for rate in (0.1, 0.2, 0.4)]  # doctest: +SKIP
    """
    problem = with_solver(problem if theory is None else for_theory(problem, theory), solver)
    return Prepared(problem, vary)


class Prepared:
    """A solver of one problem with some of its values left open; `prepare` makes it, and says more.

    It holds no state that a call changes, so that threads may share it.

    Attributes
    ----------
    problem : Problem
        With the values it had when it was prepared.
    vary : tuple of str
        The keys, in the order of `values`.
    """

    def __init__(self, problem: Problem, vary: Sequence[str]) -> None:
        self.problem, self.vary = problem, tuple(vary)
        if not self.vary or isinstance(vary, str):
            raise UsageError(
                "there is nothing to vary", where="prepare", hint='give a list of keys, ["algorithm.learning_rate"]'
            )
        if len(set(self.vary)) != len(self.vary):
            raise UsageError("a key is given twice", where="prepare", why=", ".join(self.vary))
        for key in self.vary:
            section, _, rest = key.partition(".")
            if section not in SECTIONS or not rest or rest.split(".")[-1] == "kind":
                raise UsageError(
                    f"{key!r} cannot vary", where="prepare",
                    why="a prepared problem keeps its theory and the kinds of its sections",
                    hint="name a value within a section, such as algorithm.learning_rate",
                )  # fmt: skip
            value_at(problem, key)
        self._theory = find(problem.theory)
        self._sections = {key.partition(".")[0]: getattr(problem, key.partition(".")[0]) for key in self.vary}
        self._read = [name for name in SECTIONS[:-2] if name in self._sections]
        pairs = [key.split(".") for key in self.vary]
        self._flat = [(p[0], p[1]) for p in pairs] if all(len(p) == 2 for p in pairs) else []
        # What systems of one class inherit from; nobody else has it.
        self._model: Flow | None = None
        self._document = {name: to_builtins(section) for name, section in self._sections.items()}

    def base_values(self) -> list[Any]:
        """Return the values that the problem was prepared with (None: an optional key that is not given)."""
        return [value_at(self.problem, key) for key in self.vary]

    def at(self, values: Values) -> Problem:
        """Return the problem with these values, checked as a run file is.

        Raises
        ------
        ConfigError
            For a value that its key, or the theory, does not take.
        UsageError
            When there are more or fewer values than keys.
        """
        given = self._by_key(values)
        if self._flat:
            # No table within a section is entered: the others stay as they are.
            check_values(given, "values")
            document = {name: dict(section) for name, section in self._document.items()}
            for (name, key), value in zip(self._flat, given.values(), strict=True):
                document[name][key] = value
        else:
            document = apply_overrides(self._document, given, "values")
        sections = convert_sections(document, {n: type(s) for n, s in self._sections.items()}, "values")
        problem = msgspec.structs.replace(self.problem, **sections)
        refusals = self._theory.refusals(problem, self._read)
        if refusals:
            raise refused(self._theory.name, refusals, "values")
        return problem

    def rest_hash(self) -> str:
        """Return a hash of the problem without the open values."""
        content = apply_overrides(to_builtins(self.problem), dict.fromkeys(self.vary), "problem")
        content.pop("title", None)
        return hash_of(content)

    def system(self, values: Values) -> System:
        """Return the equations with these values."""
        return self.system_of(self.at(values))

    def system_of(self, problem: Problem) -> System:
        """Return the equations of a problem that `at` returned."""
        system = derive(problem)
        if is_plain_flow(system):
            if type(self._model) is not type(system):
                self._model = derive(problem)  # type: ignore[assignment]
            system.inherit(self._model)  # type: ignore[arg-type]
        return system

    def solution(self, values: Values) -> Solution:
        """Solve, and return coordinates, variables, status and statistics of the method.

        Parameters
        ----------
        values : mapping or sequence
            One for each key of `vary`: by name, or in its order.

        Raises
        ------
        SolveError
            As `solve` does, but for ``.partial``, which is a Solution.
        """
        return self.system(values).solve()

    def __call__(self, values: Values) -> dict[str, Array]:
        """Solve with these values.

        Parameters
        ----------
        values : sequence, array or mapping
            One value a key, in the order of `vary`, or by key.

        Returns
        -------
        dict
            Arrays by the names of the theory's coordinates and variables, shaped as in `solve`.

        Raises
        ------
        ConfigError
            For values that state no problem of the theory.
        SolveError
            When the computation stops early; ``.partial`` is the Solution of what was reached.
        """
        return arrays_of(self.solution(values))

    def many(self, rows: Sequence[Values] | Array, workers: int | None = None) -> list[dict[str, Array] | SolveError]:
        """Solve for many rows of values; a failure is an entry of the answer.

        Flows that share their compiled equations are integrated together on threads, as by `solve_many`.

        Parameters
        ----------
        rows : sequence of values, or array (rows, keys)
        workers : int, optional
            Number of threads; default: the processors available to this process.
        """

        def solved(numbers: Sequence[int], threads: int | None = 1) -> list[tuple[int, dict[str, Array] | SolveError]]:
            answers = solutions([self.system(rows[k]) for k in numbers], threads)
            return [
                (k, a if isinstance(a, SolveError) else arrays_of(a)) for k, a in zip(numbers, answers, strict=True)
            ]

        from .numerics.ode.api import processors

        numbers = range(len(rows))
        if len(rows) < MOST_TOGETHER or not is_plain_flow(self.system(rows[0])):
            return [answer for _, answer in solved(numbers, workers)]
        chunks = in_chunks(solved, numbers, workers or processors())
        return [answer for _, answer in sorted(chain.from_iterable(chunks), key=itemgetter(0))]

    def _by_key(self, values: Values) -> Mapping[str, Any]:
        given = dict(values) if isinstance(values, Mapping) else dict(zip(self.vary, values, strict=False))
        if set(given) != set(self.vary) or len(values) != len(self.vary):
            raise UsageError(
                f"{len(values)} values for {len(self.vary)} keys", where="values",
                hint=f"give one each of {', '.join(self.vary)}",
            )  # fmt: skip
        # As TOML has it: no NumPy scalars.
        found = {key: value.tolist() if hasattr(value := given[key], "tolist") else value for key in self.vary}
        return {mirrored(key): value for key, value in found.items()} | found


def arrays_of(solution: Solution) -> dict[str, Array]:
    """Return coordinates and variables of a solution by name."""
    found = {name: np.asarray(values) for name, values in solution.coords.items()}
    return found | {name: np.asarray(variable.values) for name, variable in solution.variables.items()}
