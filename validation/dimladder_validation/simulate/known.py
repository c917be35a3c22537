"""The experiments by the names of their theories: installed, and registered in this process."""

from __future__ import annotations

from dimladder import registry
from dimladder.errors import SimulationError, did_you_mean

from .base import Experiment


def experiments() -> tuple[str, ...]:
    """Return the names of the experiments: installed, and registered in this process."""
    return tuple(registry.names("experiments"))


def experiment(name: str) -> Experiment:
    """Return the experiment of a theory.

    Raises
    ------
    SimulationError
        If no experiment of that name is known.
    """
    found: Experiment | None = registry.get("experiments", name)
    if found is None:
        raise SimulationError(f"no experiment simulates the theory {name!r}", hint=did_you_mean(name, experiments()))
    return found
