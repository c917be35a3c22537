"""The flow of one student from sample averages, with the quadrature refined until the reached states agree."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...symbolic.systems import Flow, Solution
from .averages import SampleAverages, choose_level, module_source

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class AveragedFlow(Flow):
    """Subclasses give the averages, what decides their form, and the numbers of their parameters."""

    time_unit = "samples / d"

    @abstractmethod
    def averages(self) -> SampleAverages:
        """Return the integrands in sympy."""

    @abstractmethod
    def structure(self) -> tuple[Any, ...]:
        """Return what decides the printed code, with faithful ``repr``."""

    @abstractmethod
    def parameter_values(self) -> Sequence[float]:
        """Return the parameters in the order of `SampleAverages.parameters`."""

    @property
    def noise(self) -> float:
        """Standard deviation of the label noise."""
        return float(self.problem.target.noise)  # type: ignore[attr-defined]

    def module(self) -> ModuleType:
        from ...symbolic import store

        return store.module(
            (type(self).__name__, *self.structure()),
            lambda: module_source(self.averages(), f"{type(self).__name__}: {self.structure()}"),
        )

    @property
    def quadrature_rtol(self) -> float:
        """Accuracy of the averages, that of the integrator: ``solver.rtol`` sets both."""
        return float(self.problem.solver.rtol)  # type: ignore[attr-defined]

    def _choose(self, states: Array, least: int = 0) -> tuple[Array, float, int]:
        return choose_level(self.module(), self.parameter_values(), self.noise, states, self.quadrature_rtol, least)

    @cached_property
    def _refined(self) -> dict[str, Any]:
        p, _, level = self._choose(self.initial_state()[None, :])
        return {"p": p, "level": level}

    def parameters(self) -> Array:
        p: Array = self._refined["p"]
        return p

    def solve(self) -> Solution:
        """Integrate; then average the reached states more finely, and integrate again if that changes them."""
        while True:
            solution = super().solve()
            states = self.states(solution)
            finite = states[:: max(1, len(states) // 8)]
            p, error, level = self._choose(finite, self._refined["level"])
            if level == self._refined["level"]:
                solution.stats["quadrature_error"] = error
                return solution
            self._refined |= {"p": p, "level": level}

    @abstractmethod
    def states(self, solution: Solution) -> Array:
        """Return the states (time, n) of a solution."""

    def averaged(self, states: Array) -> dict[str, Array]:
        """Return the observables at the states."""
        generated, p = self.module(), self.parameters()
        values = np.array([generated.observe(np.ascontiguousarray(s), p) for s in states])
        values = values.reshape(len(states), 3 * generated.COUNT)
        return {name: values[:, generated.STATES + k] for k, name in enumerate(generated.OBSERVABLES)}
