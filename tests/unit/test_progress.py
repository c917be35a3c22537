"""What is said of a long computation: to whom, in which words, and nothing to a script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import dimladder as dl
from dimladder import progress as public
from dimladder.progress import Page, stage
from dimladder_validation import simulate

watching = sys.modules["dimladder.progress"]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, int | None]]]:
    lines: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr(watching, "_watcher", lambda *line: lines.append(line))
    yield lines
    public(None)


def test_the_outer_stage_that_counts_is_the_bar_and_the_inner_ones_its_text(heard: list) -> None:
    with stage("sweeping") as outer:
        outer(1, 3, "")
        with stage("simulating") as inner:
            inner(16, 32, "d = 500")
            with stage("compiling, once"), stage("compiling, once"):
                pass
    assert ("sweeping", 1, 3) in heard
    assert ("sweeping · simulating 16 of 32 d = 500", 1, 3) in heard
    assert ("sweeping · simulating 16 of 32 d = 500 · compiling, once", 1, 3) in heard
    assert heard[-1] == ("", 0, None)


def test_a_failure_ends_what_is_said(heard: list) -> None:
    with pytest.raises(ZeroDivisionError), stage("solving"):
        _ = 1 / 0
    assert heard[-1] == ("", 0, None)


def test_replicas_are_counted_and_handed_on(heard: list, runs: object) -> None:
    problem = dl.load(f"{runs}/truncation-flow.toml")
    told = []
    simulate(problem, d=[50, 100], replicas=4, progress=lambda *line: told.append(line))
    assert told[-1] == (8, 8, "samples = 100")
    assert any(text.startswith("simulating") and total == 8 for text, _, total in heard)
    dl.solve(problem)
    assert any(text.startswith("solving") for text, _, _ in heard)


def test_a_script_hears_nothing_and_a_notebook_does(monkeypatch: pytest.MonkeyPatch) -> None:
    public(None)
    assert watching._chosen() is watching._silent
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert isinstance(watching._chosen(), Page)
    public(False)
    assert watching._chosen() is watching._silent
    public(None)


def test_an_element_of_a_page_is_replaced_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    module = SimpleNamespace(HTML=lambda text: text, display=lambda page, display_id: shown.append(page) or handle)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    page = Page()
    page("simulating <d>", 1, 4)
    page("simulating <d>", 2, 4)  # too soon to be drawn again
    page("compiling, once", 2, 4)
    page("", 0, None)
    assert [text.partition(" max")[0] for text in shown] == ['<progress value="1"', '<progress value="2"', ""]
    assert "&lt;d&gt; 1 of 4" in shown[0]


def test_a_line_in_a_terminal_appears_after_a_while_and_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    line = watching.Terminal()
    line("solving", 0, None)
    assert line._timer is not None
    line._timer.join(10.0)
    line("solving more", 1, 2)
    line("", 0, None)
    assert "solving" in capsys.readouterr().err
    assert line._bar is None
