"""How many replicas are simulated together: as many as the experiment wants and the memory holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimladder.errors import SimulationError

from .base import Backend, Experiment

log = logging.getLogger("dimladder.simulate")

# Part of the free memory that is used: estimates leave out what libraries hold for themselves.
SHARE = 0.6
GIB = 2.0**30


@dataclass(frozen=True)
class Plan:
    """What was chosen, and why.

    Attributes
    ----------
    replicas : int
        Run together.
    each : float
        Bytes that a replica needs, as the experiment estimates; 0 where it does not.
    free : float or None
        Bytes free on the device; None where that is not known.
    wanted : int
        Replicas that the experiment would run together in unlimited memory.
    """

    replicas: int
    each: float
    free: float | None
    wanted: int

    def __str__(self) -> str:
        text = f"{self.replicas} replicas at a time"
        if self.each:
            text += f" in {self.replicas * self.each / GIB:.2g} GiB"
        if self.free is not None:
            text += f" of {self.free / GIB:.3g} GiB free"
        return text if self.replicas == self.wanted else f"{text} ({self.wanted} would not fit)"


def plan(found: Experiment, problem: Any, size: int, backend: Backend, wanted: int) -> Plan:
    """Choose how many replicas of one size run together, at most `wanted`, and log the choice.

    Raises
    ------
    SimulationError
        If not even one replica fits into the free memory.
    """
    each = float(found.numbers(problem, size, backend)) * (8 if backend.dtype == "float64" else 4)
    free = free_memory(backend)
    fit = wanted if free is None or not each else int(SHARE * free / each)
    if fit < 1:
        assert free is not None
        raise SimulationError(
            f"one replica at {found.size} = {size} does not fit into memory", where="simulation.sizes",
            why=f"it takes about {each / GIB:.3g} GiB, and {SHARE:.0%} of {free / GIB:.3g} GiB free on "
            f"{backend.device} may be used",
            hint="a smaller size" + (", or --dtype float32" if backend.dtype == "float64" else ""),
        )  # fmt: skip
    chosen = Plan(min(wanted, fit), each, free, wanted)
    log.info("%s = %d on %s: %s", found.size, size, backend.device, chosen)
    return chosen


def free_memory(backend: Backend) -> float | None:
    """Return the bytes that are free on the device of a backend; None where the system does not say."""
    if backend.device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(backend.device)[0]) if torch.cuda.is_available() else None
    if backend.device.startswith("mps"):
        import torch

        return float(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * float(kilobytes[0]) if kilobytes else None
