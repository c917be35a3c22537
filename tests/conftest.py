"""Settings of every test: no display, one shared cache of compiled code for the whole session."""

from __future__ import annotations

import getpass
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
# As the command line does: tests run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Workers of a parallel run share the folder, which the environment hands down; the name keeps users apart.
if "DIMLADDER_CACHE" not in os.environ:
    os.environ["DIMLADDER_CACHE"] = str(Path(tempfile.gettempdir()) / f"dimladder-tests-{getpass.getuser()}")

# A run in the background of a script ignores SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """Forget what a test registers: the next one may ask for all theories."""
    from dimladder import registry

    given, files = {group: dict(items) for group, items in registry._given.items()}, dict(registry._files)
    yield
    for group, items in registry._given.items():
        items.clear()
        items.update(given[group])
    registry._files.clear()
    registry._files.update(files)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def runs() -> Path:
    """Return the folder of run files."""
    return ROOT / "docs" / "gallery" / "runs"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked ``nightly`` out unless the marker expression names them."""
    if "nightly" in config.option.markexpr:
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
