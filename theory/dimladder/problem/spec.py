"""The base of every section of a problem, and of the problem itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

import msgspec

from .grammar import MAX_DEGREE


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A frozen section: unknown keys are errors, bad values raise `ValueError` in ``__post_init__``.

    Its repr shows what differs from the defaults.
    """

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in away_from_default(self))
        return f"{type(self).__name__}({', '.join(shown)})"


# Longer axes are a slip of the pen: a curve of them can neither be drawn nor stored in reasonable time.
MAX_POINTS = 100_000
# Input dimensions, widths and sample numbers beyond it fit into no memory.
MAX_SIZE = 100_000_000


def away_from_default(spec: Spec) -> list[str]:
    """Return the keys of a section whose value is not the default; a required key always is."""
    return [name for name, required, default in _keys(type(spec)) if required or getattr(spec, name) != default]


@cache
def _keys(kind: type[Spec]) -> tuple[tuple[str, bool, Any], ...]:
    """Return (key, whether it is required, default) of a section: msgspec evaluates annotations at every asking."""
    return tuple((f.name, f.required, None if f.required else _default(f)) for f in msgspec.structs.fields(kind))


def _default(field: Any) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


class Coefficients(Mapping[int, float]):
    """A frozen map degree -> coefficient, written in TOML as ``{ "2" = 0.7, "3" = 0.4 }``."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Any, Any]) -> None:
        pairs = []
        for key, value in items.items():
            if not (str(key).isascii() and str(key).isdecimal() and len(str(key)) < 9 and int(key) <= MAX_DEGREE):
                raise ValueError(f"a degree must be a whole number up to {MAX_DEGREE}, got {str(key)[:20]!r}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"the coefficient of degree {key} must be a finite number, got {value!r}")
            pairs.append((int(key), float(value)))
        self._items = dict(sorted(pairs))

    def __getitem__(self, degree: int) -> float:
        return self._items[degree]

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"Coefficients({self._items})"


class Range(Spec, frozen=True, kw_only=True):
    """``{start, stop, points, spacing}``: an evenly or logarithmically spaced axis, both ends included."""

    start: float
    stop: float
    points: int
    spacing: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        if not 1 <= self.points <= MAX_POINTS:
            raise ValueError(f"points must lie between 1 and {MAX_POINTS}, got {self.points}")
        if not (math.isfinite(self.start) and math.isfinite(self.stop) and math.isfinite(self.stop - self.start)):
            raise ValueError("start and stop must be finite")
        if self.spacing == "log" and min(self.start, self.stop) <= 0:
            raise ValueError(f"a logarithmic axis needs start > 0 and stop > 0, got {self.start} and {self.stop}")


Axis = tuple[float, ...] | Range


@lru_cache(maxsize=64)
def axis_values(axis: Axis) -> tuple[float, ...]:
    """Return the points of an axis; the two ends of a range are exact."""
    if not isinstance(axis, Range):
        if len(axis) > MAX_POINTS:
            raise ValueError(f"an axis has at most {MAX_POINTS} points, got {len(axis)}")
        return tuple(float(v) for v in axis)
    if axis.points == 1:
        return (axis.start,)
    last = axis.points - 1
    if axis.spacing == "log":
        quotient = axis.stop / axis.start
        # The quotient of extreme ends overflows; where it does not, one rounding is better than two.
        ratio = math.log(quotient) if 0 < quotient < math.inf else math.log(axis.stop) - math.log(axis.start)
        inner = [axis.start * math.exp(ratio * k / last) for k in range(1, last)]
    else:
        inner = [axis.start + (axis.stop - axis.start) * k / last for k in range(1, last)]
    return (axis.start, *inner, axis.stop)


class Problem(Spec, frozen=True, kw_only=True):
    """What is asked, in the one language of all theories; `dimladder.problem` and `dimladder.load` build it.

    Two problems with the same content are equal, hash alike, and share `content_hash`.

    Attributes
    ----------
    theory : str
        Who answers.
    data, target, student, loss, algorithm, initial, limit, grid : Spec
        The sections, each of one kind; None where one is absent and has no default (target, student, algorithm).
    solver : Spec or None
        Settings of the theory's method.
    simulation : Simulation or None
        Sizes and statistics of the experiment.
    """

    theory: str
    schema: Literal[2] = 2
    title: str = ""
    data: Any = None
    target: Any = None
    student: Any = None
    loss: Any = None
    algorithm: Any = None
    initial: Any = None
    limit: Any = None
    grid: Any = None
    solver: Any = None
    simulation: Any = None

    @cached_property
    def content_hash(self) -> str:
        """Hexadecimal hash of everything that can change a number (the title cannot)."""
        return hash_of({k: v for k, v in to_builtins(self).items() if k != "title"})

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __repr__(self) -> str:
        # A section that is all defaults, such as ``Gaussian()``, is as good as absent.
        shown = ((name, repr(getattr(self, name))) for name in away_from_default(self))
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown if text[-2:] != '()')})"

    def _repr_html_(self) -> str:
        """Return the title and what differs from the defaults, section by section."""
        from html import escape

        rows = ""
        for name in away_from_default(self):
            value = getattr(self, name)
            if repr(value)[-2:] != "()":
                rows += f"<tr><th>{escape(name)}</th><td><code>{escape(str(value))}</code></td></tr>"
        return f"<table>{rows}</table>"

    def to_toml(self) -> str:
        """Return the run file that loads back to this problem, every default written out."""
        from .toml_writer import dumps

        return dumps(to_builtins(self))


@dataclass(frozen=True)
class Refusal:
    """Why a theory does not answer a problem: the key path, the reason, what to do about it."""

    path: str
    why: str
    hint: str = ""


def to_builtins(spec: Any) -> Any:
    """Return plain dictionaries, lists and numbers (infinities stay floats); absent optional keys are left out."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): clean(v) for k, v in value.items() if v is not None and v != {}}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return value

    def encode(value: Any) -> Any:
        if isinstance(value, Coefficients):
            return {str(k): v for k, v in value.items()}
        raise NotImplementedError(type(value).__name__)

    return clean(msgspec.to_builtins(spec, enc_hook=encode))


def hash_of(value: Any) -> str:
    """Return a hexadecimal hash of plain dictionaries, lists and numbers, whatever the order of their keys."""
    return hashlib.sha256(msgspec.json.encode(_sorted(value))).hexdigest()[:20]


def stated(spec: Spec) -> dict[str, Any]:
    """Return, as plain values, what a section or problem says that is not its default."""
    plain, said = to_builtins(spec), set(away_from_default(spec))
    names = {f.encode_name: f.name for f in msgspec.structs.fields(type(spec))}
    found = {}
    for key, value in plain.items():
        inner = getattr(spec, names[key]) if key in names else None
        if key not in names or names[key] in said:
            found[key] = stated(inner) if isinstance(inner, Spec) else value
    return {key: value for key, value in found.items() if value != {}}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _sorted(value[k]) for k in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(v) for v in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return repr(float(value))
    return value
