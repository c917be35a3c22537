"""dimladder: order-parameter theories of learning in high dimension.

>>> import dimladder as dl
>>> problem = dl.load("run.toml", {"algorithm.learning_rate": 0.1})  # doctest: +SKIP
>>> curve = dl.solve(problem, rtol=1e-9)  # doctest: +SKIP
>>> curve["Q"]  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

# Name -> module. Resolved on first use, so that importing the package costs nothing.
_PUBLIC = {
    "load": "solve", "loads": "solve", "problem": "solve", "replace": "solve", "derive": "solve", "solve": "solve",
    "solve_many": "batch", "check": "accuracy", "equilibrium": "equilibria", "follow_equilibrium": "equilibria",
    "critical_value": "equilibria", "escape_time": "equilibria", "prepare": "prepare", "Prepared": "prepare",
    "sensitivity": "sensitivity", "fit": "fit", "Fit": "fit", "measured_table": "measured", "optimise": "optimise",
    "Optimum": "optimise",
    "sweep": "sweep", "LearningCurve": "results", "Measurement": "results", "PhaseDiagram": "results",
    "open_result": "results", "register": "registry", "Problem": "problem", "Theory": "theories",
    "find_theory": "theories", "theory_names": "theories", "cite": "paper", "export": "publish",
    "figure": "publish", "report": "publish", "style": "paper", "key": "paper", "progress": "progress",
    "errors": "errors",
    "DimladderError": "errors", "ConfigError": "errors", "SolveError": "errors", "DomainError": "errors",
}  # fmt: skip
_RENAMED = {"find_theory": "find", "theory_names": "names", "style": "sheets_of"}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dimladder' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_PUBLIC[name]}", __name__)
    value = module if name == _PUBLIC[name] == "errors" else getattr(module, _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package, in which a function such as ``solve`` is not hidden by the import of a submodule of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _PUBLIC and name != "errors":
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
