"""What processes of the tests are asked to do; they find it by its name, and import nothing else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def slow_square(task: tuple[int, str]) -> int:
    """Kill this process at the task 2, the first time, as the system does when memory is short."""
    number, marker = task
    if number == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number**2


def die(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder: str) -> None:
    """Say which process this is, and do nothing more."""
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(3600)
