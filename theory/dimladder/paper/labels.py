"""How names, indices and coordinates are typeset. Files count indices from 0, print counts them from 1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from ..results import Result
from .tex import safe_mathematics, words

_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "lambda", "mu", "nu", "rho", "sigma", "tau",
    "phi", "psi", "omega",
)  # fmt: skip
_SUBSCRIPT = re.compile(r"_(?:\{([^{}]*)\}|(\\[a-z]+|[a-z]))")
_INDEX = re.compile(r"\\(?:mu|nu|alpha|beta|ell)(?![a-z])|[a-z]")


# Parameters whose symbol is one throughout the equations.
_SYMBOLS = {
    "learning_rate": r"learning rate $\eta$", "readout_learning_rate": r"readout learning rate $\eta_a$",
    "noise": r"noise $\sigma$", "ridge": r"ridge $\lambda$", "time": "time $t$", "depth": "depth $L$",
    "batch_size": "batch size $B$", "sample_ratio": "samples per dimension $n/d$", "replicas": "replicas",
}  # fmt: skip


def axis_label(name: str) -> str:
    """Return the label of a coordinate: ``time $t$``, ``$\\kappa$``, ``learning rate $\\eta$``, ``homophily``."""
    *path, short = name.split(".")
    if path and short.isdigit():
        return f"{axis_label(path[-1])} {int(short) + 1}"
    if short in _GREEK:
        return rf"$\{'varepsilon' if short == 'epsilon' else short}$"
    if short in _SYMBOLS:
        return _SYMBOLS[short]
    if len(short) == 1:
        return f"${short}$"
    return words(short)


@dataclass(frozen=True)
class Names:
    """How variables and coordinates are typeset: as the theory says, or as the user does.

    Attributes
    ----------
    labels : mapping
        Name of a variable, or (dotted) key of a parameter -> LaTeX of its symbol, without dollars.
    axes : mapping
        Name of a coordinate or parameter -> text of the axis, LaTeX between dollars.
    theirs : mapping
        The same, as the results say it; see `of`.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)
    theirs: Mapping[str, str] = field(default_factory=dict)

    def of(self, results: Sequence[Result]) -> Names:
        """Return the names with what the results say of their own coordinates, under what the user says."""
        found: dict[str, str] = {}
        for result in results:
            for name, c in result.dataset.coords.items():
                if text := str(c.attrs.get("long_name", "")):
                    unit = str(c.attrs.get("units", ""))
                    found.setdefault(str(name), _safe(f"{text} ({unit})" if unit else text))
        return replace(self, theirs=found)

    def axis(self, name: str) -> str:
        """Return the label of a coordinate or parameter."""
        short = name.rsplit(".", 1)[-1]
        for key in (name, short):
            if key in self.axes:
                return self.axes[key]
            if key in self.labels:
                return f"${self.labels[key].strip('$')}$"
        return self.theirs.get(name) or axis_label(name)

    def value(self, value: Any) -> str:
        """Return a parameter's value for a label."""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float | np.number):
            return plain(value)
        if isinstance(value, list):
            return "[" + ", ".join(map(self.value, value)) + "]"
        return str(value)

    def symbol(self, result: Result, name: str) -> str:
        """Return the symbol of a variable, without dollars, or the empty string."""
        return self.labels[name].strip("$") if name in self.labels else symbol(result, name)

    def variable(self, result: Result, name: str) -> str:
        """Return the label of a variable: its symbol in mathematics, or its name in words."""
        latex = self.symbol(result, name)
        return f"${latex}$" if latex else words(name)

    def component(self, result: Result, name: str, axes: Sequence[str], index: tuple[int, ...]) -> str:
        """Return the label of one component, such as ``$Q_{12}$``, ``deep`` or ``second ratio = 0.5``."""
        counted, spoken = [], []
        for axis, i in zip(axes, index, strict=True):
            values = result.dataset.coords[axis].values
            if is_index(values):
                counted.append(str(i + 1))
            elif np.issubdtype(values.dtype, np.number):
                spoken.append(f"{self.axis(axis.rstrip(chr(39)))} = {plain(values[i])}")
            else:
                spoken.append(words(str(values[i])))
        parts = [f"${with_indices(self.symbol(result, name), name, counted)}$"] if counted else []
        return ", ".join([*parts, *spoken])


def _safe(text: str) -> str:
    """Return a text from a file; mathematics that may not stand in a paper becomes plain words."""
    parts = text.split("$")
    return text if len(parts) % 2 and all(map(safe_mathematics, parts[1::2])) else "".join(parts)


def is_index(values: Any) -> bool:
    """Return whether a coordinate only counts: 0, 1, 2, ..."""
    array = np.asarray(values)
    return bool(np.issubdtype(array.dtype, np.integer) and np.array_equal(array, np.arange(len(array))))


def symbol(result: Result, name: str) -> str:
    """Return the variable's symbol in LaTeX without dollars, or the empty string where it has none that is safe."""
    latex = str(result.dataset[name].attrs.get("latex", "")).strip().strip("$")
    return latex if safe_mathematics(latex) else ""


def with_indices(latex: str, name: str, indices: list[str]) -> str:
    """Put indices on a symbol, in place of the letters that stood for them: ``Q_{il}`` with 1, 2 is ``Q_{12}``.

    A subscript that is no index stays: ``E_{\\rm test}`` with 1 is ``{E_{\\rm test}}_{1}``.
    """
    base = latex or rf"\mathrm{{{name.replace('_', ' ')}}}"
    shown = ("," if any(len(i) > 1 for i in indices) else "").join(indices)
    for found in _SUBSCRIPT.finditer(base):
        inner = found.group(1) if found.group(1) is not None else found.group(2)
        if not _INDEX.sub("", re.sub(r"[\s,]", "", inner)) and len(_INDEX.findall(inner)) == len(indices):
            return f"{base[: found.start()]}_{{{shown}}}{base[found.end() :]}"
    return f"{{{base}}}_{{{shown}}}" if "_" in base else f"{base}_{{{shown}}}"


def plain(value: Any) -> str:
    """Return a coordinate's value for a label."""
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    mantissa, e, exponent = f"{value:.4g}".partition("e")
    if not e:
        return mantissa
    factor = "" if mantissa == "1" else rf"{mantissa}\times"
    return rf"${factor}10^{{{int(exponent)}}}$"


@cache
def _parser() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


def drawable(label: str, fallback: str) -> str:
    """Return `label` if matplotlib can typeset it, in its own dialect of LaTeX, else `fallback`."""
    text = label.replace(r"\operatorname", r"\mathrm").replace(r"\tfrac", r"\frac").replace(r"\text{", r"\mathrm{")
    if "$" not in text:
        return text
    try:
        _parser().parse(text)
    except ValueError:
        return fallback
    return text
