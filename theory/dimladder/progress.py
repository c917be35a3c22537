"""What a long computation is doing, told to whoever watches: the command line in a terminal, and notebooks.

A script that imports the library hears nothing, unless it asks for it by ``dimladder.progress(True)``.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# (what is done, how much of it, of how much); an empty text says that nothing is under way.
Watcher = Callable[[str, int, int | None], None]
Progress = Callable[[int, int, str], None]
# Before so many seconds nothing is shown; pages of notebooks are changed no more often than this.
PATIENCE, PAUSE = 0.4, 0.2


@dataclass
class _Stage:
    text: str
    done: int = 0
    total: int | None = None
    label: str = ""

    def told(self, counted: bool) -> str:
        """Return the stage in words, its count among them where no bar shows it."""
        count = f"{self.done} of {self.total}" if counted and self.total is not None else ""
        return " ".join(filter(None, [self.text, count, self.label]))


_stages: list[_Stage] = []
_watcher: Watcher | None = None
_asked: bool | None = None


def progress(on: bool | None) -> None:
    """Show what is being done on stderr or in the notebook (True), never (False), or where somebody watches (None).

    Parameters
    ----------
    on : bool or None
        None, the start: notebooks and the interactive shell of IPython show it, scripts do not.
    """
    global _asked, _watcher
    _asked, _watcher = on, None


@contextmanager
def stage(text: str, progress: Progress | None = None) -> Iterator[Progress]:
    """Say what is being done while the block runs; the value takes (done, total, label) and hands them to `progress`.

    Stages may stand in each other: the outer one that counts is the bar, the inner ones are its text. Only the main
    thread is watched.
    """

    def tell(done: int, total: int, label: str) -> None:
        if progress is not None:
            progress(done, total, label)
        own.done, own.total, own.label = done, total, label
        _tell()

    own = _Stage(text)
    if threading.current_thread() is not threading.main_thread():
        yield tell
        return
    _stages.append(own)
    _tell()
    try:
        yield tell
    finally:
        _stages.remove(own)
        _tell()


def _tell() -> None:
    global _watcher
    if threading.current_thread() is not threading.main_thread():
        return
    if _watcher is None:
        _watcher = _chosen()
    if _watcher is _silent:
        return
    bar = next((s for s in _stages if s.total is not None), _Stage(""))
    # One that compiles may have another compiled: it is said once.
    parts = dict.fromkeys(s.told(s is not bar) for s in _stages)
    _watcher(" · ".join(parts), bar.done, bar.total)


def _silent(text: str, done: int, total: int | None) -> None:
    return None


def _chosen() -> Watcher:
    shell = _shell()
    if _asked is False or (_asked is None and not shell):
        return _silent
    return Page() if shell == "ZMQInteractiveShell" else Terminal()


def _shell() -> str:
    """Return the kind of IPython that runs this, if one does."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return "" if shell is None else type(shell).__name__


class Terminal:
    """A line on stderr that goes away when the work is done. It appears after `PATIENCE` seconds of work."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        self._now: tuple[str, int, int | None] = ("", 0, None)

    def __call__(self, text: str, done: int, total: int | None) -> None:
        with self._lock:
            self._now = text, done, total
            if not text:
                self._close()
            elif self._bar is not None:
                self._draw()
            elif self._timer is None:
                self._timer = threading.Timer(PATIENCE, self._open)
                self._timer.daemon = True
                self._timer.start()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with self._lock:
            if not self._now[0] or self._timer is None:
                return
            columns = (
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[counts]}"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._bar.add_task("", total=None, counts="")
            self._draw()
            self._bar.start()

    def _draw(self) -> None:
        text, done, total = self._now
        counts = "" if total is None else f"{done} of {total}"
        self._bar.update(self._task, description=text, completed=done, total=total, counts=counts)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Page:
    """An element of a notebook's page that goes away when the work is done."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._began = self._drawn = 0.0
        self._shown = ""

    def __call__(self, text: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if not text:
            if self._handle is not None:
                self._put("")
            self._handle, self._began, self._shown = None, 0.0, ""
            return
        self._began = self._began or now
        # A new text is shown at once: what it announces may leave no time for a later one.
        if text == self._shown and now - self._drawn < PAUSE:
            return
        self._drawn, self._shown = now, text
        bar = "<progress></progress>" if total is None else f'<progress value="{done}" max="{total}"></progress>'
        counts = "" if total is None else f" {done} of {total}"
        self._put(f"{bar} {html.escape(text)}{counts}, {now - self._began:.0f} s")

    def _put(self, page: str) -> None:
        from importlib import import_module

        # Present wherever a notebook is, and nowhere else.
        page_of: Any = import_module("IPython.display")

        if self._handle is None:
            self._handle = page_of.display(page_of.HTML(page), display_id=True)
        else:
            self._handle.update(page_of.HTML(page))
