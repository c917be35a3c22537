"""Inputs that no one would write, made from those of the gallery, and the one thing that may come of them."""

from __future__ import annotations

import contextlib
import io
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dimladder.cli import main
from dimladder.errors import DimladderError

# Longest time of one input, in seconds of the processor: what takes longer is a hang.
LIMIT = 60

_NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        3,
        7,
        100,
        10**6,
        10**12,
        2**63 - 1,
        -(2**63),
        0.0,
        -0.0,
        0.5,
        1.0,
        -1.0,
        3.7,
        1e-300,
        1e-12,
        1e12,
        1e300,
        float("nan"),
        float("inf"),
        -float("inf"),
    ]
)
_TEXTS = st.sampled_from(
    [
        "",
        "x",
        "z",
        "h",
        "z1*z2",
        "z1 + z3",
        "He3(z)",
        "He171(z)",
        "tanh(2*h)",
        "1/x",
        "1/h",
        "exp(z**2/3)",
        "relu",
        "erf",
        "9**9**9*z",
        "(-1)**0.5*h",
        "(1/0)*z",
        "z**100",
        "sign(z1*z2)",
        "0*z",
        "optimal",
        "inf",
        "1e-4*k",
        "sign(z)",
        "f - y",
        "logit(z)",
        "../../etc/passwd",
        "\u00e9\u20ac",
        "a\tb",
        "log(x)",
        "x^2",
        "-" * 500 + "x",
        "step(t - 3)",
        "1 - t",
        "nan",
        "gaussian",
        "rademacher",
        "square",
        "logistic",
        "ones",
        "random",
        "two-layer",
        "one-pass",
        "linear",
    ]
)
_FRAGMENTS = st.lists(
    st.sampled_from([*"xzht0123.+-*/^() ", "tanh", "exp", "He", "relu", "sign(", "**", "z1", "max(", ","]), max_size=12
).map("".join)
_SCALARS = st.one_of(_NUMBERS, _TEXTS, _FRAGMENTS, st.booleans(), st.integers(), st.floats())
_AXES = st.fixed_dictionaries(
    {"start": _NUMBERS, "stop": _NUMBERS, "points": st.sampled_from([0, 1, 2, 5, 10**8, -3])},
    optional={"spacing": st.sampled_from(["log", "linear", "cubic"])},
)
VALUES = st.one_of(
    _SCALARS,
    _AXES,
    st.lists(_SCALARS, max_size=4),
    st.lists(st.lists(_NUMBERS, max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["kind", "0", "2", "start", "exponent", "file", "x y"]), _SCALARS, max_size=2),
)
_KEYS = st.sampled_from(
    [
        "kind",
        "noise",
        "width",
        "activation",
        "learning_rate",
        "ridge",
        "Q",
        "M",
        "time",
        "seed",
        "d",
        "sizes",
        "replicas",
        "max_steps",
        "rtol",
        "formula",
        "schedule",
        "batch_size",
        "nonsense",
        "spectrum",
        "overlap",
        "hermite",
        "function",
    ]
)


def documents(runs: Path) -> list[dict[str, Any]]:
    """Return the run files of a folder as nested dictionaries."""
    return [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("*.toml"))]


def paths(document: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the key path of every value, tables included."""
    inner = document.items() if isinstance(document, dict) else ()
    return [found for key, value in inner for found in ((*above, key), *paths(value, (*above, key)))]


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Return values of the same type: what passes the first gate and goes deeper."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.sampled_from([0, 1, 2, 3, 5, 20, 171, 10**4, 10**6, 10**12, -1, 2**63 - 1])
        case float():
            return st.one_of(_NUMBERS.map(float), st.sampled_from([value * f for f in (0.5, 1.3, -1.0, 1e-9, 1e9)]))
        case str():
            return st.one_of(_TEXTS, _FRAGMENTS)
        case [first, *_]:
            same = st.lists(alike(first), min_size=len(value), max_size=len(value))
            return st.one_of(same, st.lists(alike(first), max_size=4))
        case dict() if "start" in value:
            return _AXES
    return VALUES


@st.composite
def changed(draw: Any, originals: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw a run file with one to three of its values replaced, removed or added."""
    document = _copy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        # The words that say who answers are left alone, most of the time.
        known = [
            p for p in paths(document) if p[-1] not in ("theory", "schema", "kind") or draw(st.integers(0, 9)) == 0
        ]
        if not known:
            break
        path = draw(st.sampled_from(known))
        node = document
        for key in path[:-1]:
            node = node[key]
        match draw(st.sampled_from([*["alike"] * 12, "replace", "remove", "add"])):
            case "alike" if not isinstance(node[path[-1]], dict) or "start" in node[path[-1]]:
                node[path[-1]] = draw(alike(node[path[-1]]))
            case "remove":
                del node[path[-1]]
            case "add" if isinstance(node[path[-1]], dict):
                node[path[-1]][draw(_KEYS)] = draw(VALUES)
            case _:
                node[path[-1]] = draw(VALUES)
    return document


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Fail when the block takes longer than `LIMIT`."""

    def late(*_: Any) -> None:
        raise AssertionError(f"no answer after {LIMIT} s")

    # A busy machine is no fault, and a wait for nothing is one: ten times as long on the clock.
    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, LIMIT), signal.SIGALRM: (signal.ITIMER_REAL, 10 * LIMIT)}
    before = {number: signal.signal(number, late) for number in clocks}
    for clock, seconds in clocks.values():
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for number, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


def answered(call: Callable[[], Any]) -> Any:
    """Return what `call` returns, or None where it refuses in the words of this library; anything else is a failure."""
    with no_hang():
        try:
            return call()
        except MemoryError:
            # Said by the command line in words.
            return None
        except DimladderError as error:
            said = str(error)
    assert said.strip()
    assert len(said) < 4000, said
    return None


def command(*words: str) -> int:
    """Run a command line, and make sure that it ends in a status and words that somebody meant."""
    out, err = io.StringIO(), io.StringIO()
    with no_hang(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(words))
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
    said = err.getvalue()
    assert status in (0, 1, 2, 3), said
    assert "Traceback" not in said
    assert "did not foresee" not in said, said
    assert status in (0, 3) or said.strip(), "a failure without a word"
    return status
