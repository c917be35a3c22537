"""Flows of a few scalars, written down in sympy: everything else follows from the equations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .equations import Equation, Equations, in_words
from .systems import Flow, Variable

Array = NDArray[np.float64]


class ExplicitFlow(Flow):
    """A flow of few scalars whose right-hand sides are plain sympy expressions: everything follows from `build`.

    Subclasses give `build()` (the `Equations`), `structure` (what decides the printed code), `initial_values`,
    `parameter_values`, and declare `order_parameters` in the order of the state.
    """

    shown: ClassVar[Mapping[str, str]] = {}  # observable -> its LaTeX, where it has a symbol

    @abstractmethod
    def build(self) -> Equations:
        """Return the equations in sympy."""

    @abstractmethod
    def structure(self) -> tuple[Any, ...]:
        """Return what decides the equations' form, with faithful ``repr``; numbers belong to the parameters."""

    @abstractmethod
    def initial_values(self) -> Sequence[float]:
        """Return the state at time 0, in the order of `Equations.state`."""

    @abstractmethod
    def parameter_values(self) -> Sequence[float]:
        """Return the parameters, in the order of `Equations.parameters`."""

    def module(self) -> ModuleType:
        from . import store

        return store.module((type(self).__name__, *self.structure()), self._source, native=True)

    def _source(self) -> str:
        from .printing import flow_module

        return flow_module(self.build(), title=f"{type(self).__name__}: {self.structure()}")

    # The store watches the file where the equations are written.
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

        def _source(self: ExplicitFlow) -> str:
            return ExplicitFlow._source(self)

        _source.__module__ = cls.__module__
        cls._source = _source  # type: ignore[method-assign]

    def initial_state(self) -> Array:
        return np.array(self.initial_values(), dtype=float)

    def parameters(self) -> Array:
        return np.array(self.parameter_values(), dtype=float)

    def names(self) -> list[str]:
        return [p.name for p in self.order_parameters]

    def equations(self) -> list[Equation]:
        import sympy as sp

        system = self.build()
        rows = [
            Equation.of(p.name, rf"\frac{{\mathrm{{d}} {sp.latex(symbol)}}}{{\mathrm{{d}} t}}", rhs)
            for p, (symbol, rhs) in zip(self.order_parameters, system.state.items(), strict=True)
        ]
        return rows + [Equation.of(n, self.shown.get(n, in_words(n)), e) for n, e in system.observables.items()]

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        out = {
            p.name: Variable(("time",), states[:, k], p.latex, p.meaning, p.units)
            for k, p in enumerate(self.order_parameters)
        }
        generated = self.module()
        if generated.OBSERVABLES:
            p = self.parameters()
            values = np.empty((len(times), len(generated.OBSERVABLES)))
            for t, y, row in zip(times, states, values, strict=True):
                generated.observe(t, y, p, row)
            for k, name in enumerate(generated.OBSERVABLES):
                out[name] = Variable(("time",), values[:, k], long_name=name.replace("_", " "))
        return out
