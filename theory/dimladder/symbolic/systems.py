"""The four kinds of system a theory derives, behind one face.

`Flow` dx/dt = F(x, t; p), `Recursion` x[n+1] = F(x[n]; p), `FixedPoint` x = F(x; p), `ClosedForm` x = F(p).
A system holds its equations in symbolic form and computes from them; sympy is needed to print, and to print code
that is not in the store yet, never to solve a problem met before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, SolveError
from .equations import Equation, Equations, OrderParameter, Step

if TYPE_CHECKING:
    from ..problem import Problem
    from .notation import Notation

Array = NDArray[np.float64]

__all__ = [
    "ClosedForm",
    "Equation",
    "Equations",
    "FixedPoint",
    "Flow",
    "Map",
    "OrderParameter",
    "Recursion",
    "Solution",
    "Step",
    "Stepwise",
    "System",
    "Variable",
]


@dataclass(frozen=True)
class Variable:
    """An array with named axes. A repeated name in `dims` is a second index of the same kind."""

    dims: tuple[str, ...]
    values: ArrayLike
    latex: str = ""
    long_name: str = ""
    units: str | None = None


@dataclass
class Solution:
    """What a solve returns, before it is put into a `LearningCurve`."""

    coords: dict[str, Any]
    variables: dict[str, Variable]
    status: str = "success"
    message: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


class System(ABC):
    """Equations of one problem, printable and solvable."""

    kind: ClassVar[str] = "system"
    order_parameters: Sequence[OrderParameter] = ()
    references: Sequence[str] = ()
    assumptions: Sequence[str] = ()
    letters: ClassVar[str] = ""  # what the letters of the equations mean, as `notation` reads it

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def equations(self) -> list[Equation]:
        """Return the equations that are computed, symbolically."""

    def derivation(self) -> list[Step]:
        """Return the steps from the problem to the equations."""
        return [Step("Equations", "The closed equations of the order parameters.", tuple(self.equations()))]

    @abstractmethod
    def solve(self) -> Solution:
        """Compute the prediction for the problem's grid."""

    def settle(self, like: Any = None) -> None:  # noqa: B027
        """Fix what is chosen on the way, such as the points of a quadrature: by a solve, or as another system has it.

        Nothing is to be fixed here; derivatives compare systems that have made the same choices.
        """

    def latex(self, columns: int = 1) -> str:
        """Return the equations as displayed LaTeX (amsmath, amssymb), broken to the width of a column.

        Parameters
        ----------
        columns : {1, 2}
            Columns of the page; with two, equations are broken to the narrow one.

        Notes
        -----
        What is too wide for any line gets a name ``\\Xi_n`` and a line of its own below the equation that needs it; its
        indices are those of that equation.
        """
        from ..typeset import displayed

        # A row that only names a symbol is words; `notation` has them.
        rows = [e.latex for e in self.equations() if "=" in e.latex or not e.label.startswith("symbol ")]
        return displayed(rows, columns)

    def text(self) -> str:
        """Return the equations as lines of Unicode, for a terminal."""
        from ..typeset import plain

        rows = self.equations()
        width = max((len(e.label) for e in rows), default=0)
        return "".join(f"{e.label:<{width}}  {plain(e.latex)}{_noted(e)}\n" for e in rows)

    def notation(self) -> Notation:
        """Return the table of every symbol in the equations: what it means, and its number in this problem."""
        from ..problem import to_builtins
        from .notation import lines, notation

        return notation(self.equations(), lines(self.letters), self.order_parameters, to_builtins(self.problem))

    def _repr_latex_(self) -> str:
        return self.latex()

    def _repr_html_(self) -> str:
        """Return the equations as a table, typeset by the browser itself."""
        from html import escape

        from ..typeset import mathml

        rows = [(escape(e.label), mathml(e.latex, display=True), escape(e.note)) for e in self.equations()]
        cells = "".join(f"<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>" for a, b, c in rows)
        return f"<table>{cells}</table>"

    def sympy(self) -> str:
        """Return one ``lhs = rhs`` line for each equation that has a symbolic form, as sympy prints it."""
        lines = []
        for e in self.equations():
            if e.sympy is None:
                lines.append(f"# {e.label}: {e.latex}")
            elif isinstance(e.sympy, tuple):
                lines.append(f"{e.sympy[0]} = {e.sympy[1]}")
            else:
                lines.append(f"{e.label} = {e.sympy}")
        return "\n".join(lines) + "\n"

    def python(self) -> str:
        """Return the source of the code that computes the prediction."""
        import inspect

        return inspect.getsource(type(self))

    def explain(self) -> str:
        """Return the derivation, the meaning of every order parameter and the assumptions, as text."""
        from ..typeset import plain

        lines = []
        for number, step in enumerate(self.derivation(), 1):
            lines += [f"{number}. {step.title}", *_wrap(step.text)]
            lines += [f"     [{e.label}]  {plain(e.latex)}{_noted(e)}" for e in step.equations]
            lines.append("")
        if self.order_parameters:
            lines.append("Order parameters")
            lines += [
                f"   {p.name}({', '.join(p.dims)})  {plain(p.latex)}  {p.meaning}; {p.scaling}"
                for p in self.order_parameters
            ]
            lines.append("")
        if self.assumptions:
            lines += ["Assumptions", *(f"   - {a}" for a in self.assumptions), ""]
        return "\n".join(lines)


def _noted(equation: Equation) -> str:
    return f"   ({equation.note})" if equation.note else ""


def _wrap(text: str) -> list[str]:
    import textwrap

    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, 110, initial_indent="   ", subsequent_indent="   ")
    ]


class Stepwise(System):
    """A system whose equations are those of its derivation, step by step."""

    def equations(self) -> list[Equation]:
        return [row for step in self.derivation() for row in step.equations]

    @abstractmethod
    def derivation(self) -> list[Step]:
        """Return the steps from the problem to the equations, which they hold."""


class Flow(System):
    """dx/dt = F(x, t; p): subclasses give the compiled module, the initial state and the read-out of variables.

    The generated module holds ``rhs`` and, where it is cheap, ``jac`` (signatures in the developer documentation).
    """

    kind = "flow"
    time_unit: ClassVar[str | None] = None

    @abstractmethod
    def module(self) -> ModuleType:
        """Return the generated module."""

    @abstractmethod
    def initial_state(self) -> Array:
        """Return the state at time 0, shape (n,)."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the name of each component of the state, such as ``Q[0,1]``."""

    @abstractmethod
    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        """Turn states of shape (time, n) into named variables."""

    def parameters(self) -> Array:
        """Return the parameter vector handed to the compiled right-hand side."""
        return np.zeros(0)

    def work_size(self) -> int:
        """Return the length of the scratch array handed to the compiled right-hand side."""
        return int(getattr(self.module(), "WORK_SIZE", 0))

    def jacobian(self) -> Any:
        """Return the compiled Jacobian ``jac(t, y, J, p, work)``, or None where there is none."""
        return getattr(self.module(), "jac", None)

    def times(self) -> Array:
        """Return the output times of the problem's grid."""
        return self._times

    @cached_property
    def _times(self) -> Array:
        return _axis(self.problem.grid.time)

    @property
    def schedule_texts(self) -> dict[str, str]:
        """The formulas in t that rates are multiplied by, by key path; none where the equations are autonomous."""
        return {}

    @property
    def conserved(self) -> tuple[int, ...]:
        """Components of the state that the flow keeps by construction, such as norms on a sphere."""
        return ()

    def pieces(self) -> tuple[tuple[float, float], ...]:
        """Return the pieces (end, longest step) of the time axis on which the schedules are smooth; see `schedules`.

        Raises
        ------
        ConfigError
            For a schedule that cannot be followed.
        """
        from ..problem import schedules

        last, found = float(self.times()[-1]), []
        for key, text in self.schedule_texts.items():
            try:
                found.append(schedules.pieces(text, 0.0, last))
            except ValueError as error:
                raise ConfigError("the schedule cannot be integrated", where=key, why=str(error)) from None
        return schedules.together(*found)

    @property
    def settled(self) -> bool:
        """Whether `settle` fixes all that `solve` does beyond the integration, so that derivatives may be carried."""
        return type(self).solve is Flow.solve

    def integrator_options(self) -> dict[str, Any]:
        """Return further options of `numerics.ode.integrate`, such as events or the domain."""
        return {}

    def python(self) -> str:
        from .store import source

        return source(self.module())

    def integration(self) -> dict[str, Any]:
        """Return what the integrator is asked: the arguments of `numerics.ode.integrate` but for `y0` and `p`.

        Equations start at time 0, so that time is added in front of a grid that begins later.
        """
        generated, times = self.module(), self.times()
        settings = self.problem.solver
        # First of all: a Jacobian among the options decides the size of the scratch array.
        options = self.integrator_options()
        return {
            "rhs": generated.rhs,
            "t_eval": times if len(times) and times[0] == 0 else np.concatenate([[0.0], times]),
            "work_size": self.work_size(),
            "jac": getattr(generated, "jac", None),
            "method": settings.method,
            "rtol": settings.rtol,
            "atol": settings.atol,
            "max_steps": settings.max_steps,
            "names": self.names,
            "pieces": self.pieces(),
            **options,
        }

    def inherit(self, model: Flow) -> None:
        """Take over what a flow of the same class has found and is the same here; a flow that cannot know does not.

        Many problems that differ in a few numbers are then set up once. `model` is used for nothing else: threads share
        it.
        """

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        """Turn the integrator's answer into named variables.

        Raises
        ------
        SolveError
            When the integrator stopped early; ``partial`` holds what was reached.
        """
        skip = 0 if len(self.times()) and self.times()[0] == 0 else 1
        reached, states = (np.asarray(a)[skip:] if skip else np.asarray(a) for a in (times, states))
        solution = Solution({"time": reached}, self.variables(reached, states), status, message, dict(stats))
        if status not in ("success", "event", "converged"):
            raise SolveError(
                f"the {self.problem.theory} equations could not be integrated to the last time",
                status=status,
                partial=solution,
                where=f"time {stats.get('t_failed', reached[-1] if len(reached) else 0.0):.6g}",
                why=message,
                hint="SolveError.partial holds what was finished; a smaller learning rate or a shorter grid avoids "
                "a blow-up",
            )
        return solution

    def solve(self) -> Solution:
        """Integrate from time 0 over the problem's grid.

        Raises
        ------
        SolveError
            With the status, the time and the component by name; ``partial`` holds what was reached.
        """
        from ..numerics.ode import integrate

        result = integrate(y0=self.initial_state(), p=self.parameters(), **self.integration())
        return self.finish(result.t, result.y, result.status, result.message, result.stats)


@lru_cache(maxsize=64)
def _axis(values: Any) -> Array:
    """Return the values of an axis of the grid, read-only: many problems share one."""
    from ..problem import axis_values

    found = np.asarray(axis_values(values), dtype=np.float64)
    found.flags.writeable = False
    return found


class Recursion(System):
    """x[n+1] = F(x[n]; p).

    Of those that are a `Map`, derivatives are carried along; what a recursion of two times or of samples predicts is
    differentiated by differences.
    """

    kind = "recursion"


class Map(Recursion):
    """A recursion of few numbers by a compiled map: the ``rhs`` of the module writes the next state."""

    @abstractmethod
    def module(self) -> ModuleType:
        """Return the generated module."""

    @abstractmethod
    def initial_state(self) -> Array:
        """Return the state before the first step, shape (n,)."""

    @abstractmethod
    def parameters(self) -> Array:
        """Return the parameter vector handed to the compiled map."""

    @abstractmethod
    def times(self) -> Array:
        """Return the numbers of steps after which the state is asked for."""

    def work_size(self) -> int:
        """Return the length of the scratch array handed to the compiled map."""
        return int(getattr(self.module(), "WORK_SIZE", 0))

    def iterate(self, steps: int) -> Array:
        """Return the states after 0, 1, ..., `steps` steps, shape (steps + 1, n)."""
        from ..numerics.recursion import iterate

        return iterate(self.module().rhs, self.initial_state(), steps, self.parameters(), self.work_size())

    @abstractmethod
    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        """Turn states of shape (time, n) into named variables."""


class FixedPoint(System):
    """x = F(x; p), at every point of a grid.

    Those that give `roots`, `residual` and `variables` are differentiated by the implicit function's theorem, others
    by differences of their solutions.
    """

    kind = "fixed point"

    def roots(self) -> Array | None:
        """Return the solutions, shape (points, n), in coordinates that a change by 0.1 leaves inside the domain.

        None where a point is no root of equations, or has none here.
        """
        return None

    def residual(self, states: Array) -> Array:
        """Return what vanishes at the roots, row by row, shape (points, n); NaN outside the domain."""
        raise NotImplementedError

    def variables(self, states: Array) -> dict[str, Variable]:
        """Turn the roots into named variables, as `solve` does."""
        raise NotImplementedError


class ClosedForm(System):
    """x = F(p)."""

    kind = "closed form"
