"""Moments of functions of indexed fields, as functions of their own: derived once, called for every index.

``E[g'(f_i) g'(f_k) g(f_a) g(f_b)]`` depends on the indices only through covariances, so it is derived once for distinct
indices and printed as one function of ``(C, K, i, k, a, b)``. Functions with a jump or a kink are singular where two
indices coincide; for them every pattern of equal indices is derived too, and the function chooses.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from .adjoints import adjoint
from .factors import ONE, UNIT, Terms, X, differentiate, expression_of, is_closed, product
from .gaussian import Averager, Law
from .loops import INDENT
from .nodes import Expectation
from .programs import Program, live
from .tensors import Indices

# A function of several fields: sum of products, each a map label -> terms.
Products = Sequence[Mapping[Any, Terms]]


@dataclass(frozen=True)
class Named:
    """A function of one field with the symbol it is printed by, e.g. ``g'``; a bare field has none."""

    latex: str
    terms: Terms

    @classmethod
    def field(cls) -> Named:
        """Return the identity function."""
        return cls("", ((ONE, UNIT.__class__(power=1)),))

    def derivative(self) -> Named:
        """Return the derivative, printed with a prime."""
        return Named(self.latex + "'", differentiate(self.terms))

    @property
    def kinked(self) -> bool:
        """Whether the function, or its derivative, jumps."""
        return any(f.sign or f.delta for _, f in self.terms)


@dataclass(frozen=True)
class Kernel:
    """One moment: one-field functions at index slots, times (optionally) a function of fixed teacher fields.

    ``letters`` are those of the fields, for printing; ``given`` are the arguments that come before the indices.
    """

    name: str
    slots: tuple[Named, ...]
    target: str = ""
    letters: tuple[str, ...] = ()
    given: tuple[str, ...] = ("C", "K")


class MomentCall(sp.Function):  # type: ignore[misc]
    """A kernel at given indices; subclasses carry the kernel, and print as the average they stand for."""

    kernel: Kernel

    def sorted_arguments(self) -> MomentCall:
        """Return the call with the indices of equal functions in a fixed order: the average does not change."""
        arguments = list(self.args)
        for named in set(self.kernel.slots):
            places = [q for q, slot in enumerate(self.kernel.slots) if slot == named]
            for q, value in zip(places, sorted((self.args[q] for q in places), key=str), strict=True):
                arguments[q] = value
        return self.func(*arguments)

    def _latex(self, printer: Any, exp: Any = None) -> str:
        letters = self.kernel.letters or ("f",) * len(self.args)
        fields = [field_latex(a, printer, letter) for a, letter in zip(self.args, letters, strict=True)]
        parts = [f"{slot.latex}({f})" if slot.latex else f for slot, f in zip(self.kernel.slots, fields, strict=True)]
        body = r"\, ".join(parts + ([self.kernel.target] if self.kernel.target else []))
        return rf"\mathbb{{E}}\left[{body}\right]"

    def _sympystr(self, printer: Any) -> str:
        return f"{self.kernel.name}({', '.join(map(str, self.args))})"


def field_latex(label: Any, printer: Any, letter: str = "f") -> str:
    """Return a field in LaTeX: letter and index, unless the label says otherwise by a method ``field_latex``."""
    own = getattr(label, "field_latex", None)
    return str(own(printer)) if own is not None else rf"{letter}_{{{printer._print(label)}}}"


def parameter(label: Any) -> str:
    """Return the name of a label as a parameter of a function."""
    return re.sub(r"\W+", "_", str(label)).strip("_")


@dataclass(frozen=True)
class Core:
    """One average at distinct indices, as straight-line code in its own arguments."""

    name: str
    functions: tuple[Terms, ...]
    target: str
    arguments: tuple[Any, ...]
    program: Program


@dataclass
class KernelSet:
    """The kernels one system of equations calls.

    Parameters
    ----------
    indices : Indices
        Ranges of the index symbols: two slots can coincide only if their ranges overlap.
    covariance : callable
        ``covariance(a, b)`` for index symbols or the integers that label fixed teacher fields (counted from 1).
    guard : {"schur", "given"}
        How covariances of kinked functions are conditioned, see `gaussian.Law`.
    mean : callable, optional
        ``mean(a)`` of the same labels, an entry of an array that kernels then read too; zero when left out.
    """

    indices: Indices
    covariance: Callable[[Any, Any], Any]
    kernels: dict[Any, tuple[Any, tuple[Any, ...], Products]] = field(default_factory=dict)
    cores: dict[Any, Core] = field(default_factory=dict)
    guard: str = "schur"
    mean: Callable[[Any], Any] | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The arguments of a kernel before its indices."""
        return ("C", "K") if self.mean is None else ("C", "mu", "K")

    def moment(self, slots: Sequence[tuple[Any, Named]], products: Products = ({},), target: str = "") -> Any:
        """Return ``E[prod slot(f_index) x sum of products]`` as a call.

        Parameters
        ----------
        slots : sequence of (index, Named)
        products : sequence of mappings
            The further factor, a function of fixed teacher fields: a sum of products of one-field functions.
        target : str
            How that factor is printed.
        """
        ranges = tuple(self.indices.ranges[a].name for a, _ in slots)
        key = (tuple(named for _, named in slots), ranges, target)
        if key not in self.kernels:
            name = f"moment{len(self.kernels) + 1}"
            letters = tuple(self.indices.ranges[a].field for a, _ in slots)
            kernel = Kernel(name, key[0], target, letters, self.given)
            call = type(name, (MomentCall,), {"kernel": kernel, "nargs": len(slots)})
            self.kernels[key] = (call, tuple(a for a, _ in slots), tuple(products))
        return self.kernels[key][0](*(a for a, _ in slots))

    def closed_form(self, key: Any) -> Any:
        """Return the closed form of a kernel at distinct indices."""
        call, labels, products = self.kernels[key]
        averager = Averager(Law(self.covariance, self.mean))
        return _average(averager, tuple(zip(labels, call.kernel.slots, strict=True)), products)

    @property
    def closed(self) -> bool:
        """Whether no average is left in any kernel."""
        for key in self.kernels:
            for _, core, _ in self.branches(key):
                if any(expectation_of(value) for _, value in live(core.program)) or expectation_of(core.program.value):
                    return False
        return True

    def branches(self, key: Any) -> list[tuple[tuple[int, ...], Core, tuple[Any, ...]]]:
        """Return, for each pattern of coinciding indices, the first slot of each class, the core and its arguments.

        Slots that coincide multiply to one function of one field, so different patterns often share a core.
        """
        call, labels, products = self.kernels[key]
        slots = call.kernel.slots
        kinked = any(s.kinked for s in slots)
        patterns = self._patterns(labels) if kinked else iter([tuple(range(len(labels)))])
        out = []
        for pattern in patterns:
            merged: dict[Any, Terms] = {}
            for named, first in zip(slots, pattern, strict=True):
                label = labels[first]
                merged[label] = product(merged[label], named.terms) if label in merged else named.terms
            order = sorted(merged, key=lambda label: (str(merged[label]), str(label)))
            core = self._core(tuple(merged[label] for label in order), products, call.kernel.target, kinked)
            out.append((pattern, core, tuple(order)))
        return out

    def _core(self, functions: tuple[Terms, ...], products: Products, target: str, kinked: bool) -> Core:
        key = (functions, target)
        if key not in self.cores:
            arguments = tuple(sp.Symbol(f"p{q}", integer=True) for q in range(len(functions)))
            program = _program(arguments, functions, products, self.fixed, self.guard if kinked else "", self.mean)
            self.cores[key] = Core(f"average{len(self.cores) + 1}", functions, target, arguments, program)
        return self.cores[key]

    def _patterns(self, labels: Sequence[Any]) -> Iterator[tuple[int, ...]]:
        """Yield every way in which indices of overlapping ranges can coincide, the most coincident first."""
        count = len(labels)
        found = []
        for pattern in itertools.product(range(count), repeat=count):
            if all(pattern[q] <= q and pattern[pattern[q]] == pattern[q] for q in range(count)) and all(
                self._overlap(labels[p], labels[q])
                for p, q in itertools.combinations(range(count), 2)
                if pattern[p] == pattern[q]
            ):
                found.append(pattern)
        return iter(sorted(found, key=lambda p: len(set(p))))

    def _overlap(self, a: Any, b: Any) -> bool:
        names = {self.indices.ranges[a].name, self.indices.ranges[b].name}
        return len(names) == 1 or ("units" in names and names <= {"units", "students", "teachers"})

    def fixed(self, a: Any, b: Any) -> Any:
        """Covariance of two fields by their place in C: fixed teacher fields are numbered by integers."""
        if sp.sympify(a).is_Integer and sp.sympify(b).is_Integer:
            return self.covariance(a, b)
        return sp.IndexedBase("C")[a, b]


def _program(
    labels: Sequence[Any],
    functions: Sequence[Terms],
    products: Products,
    covariance: Callable[[Any, Any], Any],
    guarded: str,
    mean: Callable[[Any], Any] | None = None,
) -> Program:
    out = Program()
    seen: dict[Any, Any] = {}

    def name(hint: str, value: Any) -> Any:
        if value not in seen:
            seen[value] = sp.Symbol(f"{hint}{len(out.statements)}", real=True)
            out.statements.append((seen[value], value))
        return seen[value]

    law = Law(covariance, mean, name=name, guarded=guarded)
    slots = tuple((a, Named("", terms)) for a, terms in zip(labels, functions, strict=True))
    out.value = _average(Averager(law, name), slots, products)
    return out


def _average(averager: Averager, slots: tuple[tuple[Any, Named], ...], products: Products) -> Any:
    base = {a: named.terms for a, named in slots}
    return sp.Add(*(averager.average(base | dict(p)) for p in products))


def has_closed_form(named: Sequence[Named]) -> bool:
    """Whether every function is made of factors that are averaged exactly."""
    return all(is_closed(n.terms) for n in named)


class KernelWriter:
    """Prints the kernels of a set as njit functions ``name(C, K, index...)``, ``name(C, mu, K, index...)`` with means.

    Parameters
    ----------
    kernels : KernelSet
    scalar : callable
        Prints a scalar expression, covariances as elements of ``C``.
    decorator : str
    """

    def __init__(self, kernels: KernelSet, scalar: Callable[[Any], str], decorator: str) -> None:
        self.kernels, self._scalar, self._decorator = kernels, scalar, decorator

    def source(self) -> list[str]:
        """Return the source of every kernel, the averages at distinct indices first."""
        branches = {key: self.kernels.branches(key) for key in self.kernels.kernels}
        calls = Counter(core.name for found in branches.values() for _, core, _ in found)
        heads: list[str] = []
        alone = set()
        for key, (call, labels, _) in self.kernels.kernels.items():
            kernel = call.kernel
            names = [parameter(label) for label in labels]
            slots = zip(names, kernel.slots, strict=True)
            shown = [f"{s.latex}(f_{a})" if s.latex else f"f_{a}" for a, s in slots]
            doc = f"E[{' '.join(shown + ([kernel.target] if kernel.target else []))}]"
            if len(branches[key]) == 1 and calls[branches[key][0][1].name] == 1:
                # Its only average, and the average's only kernel: one function, in the average's own arguments.
                ((_, core, arguments),) = branches[key]
                alone.add(core.name)
                own = dict(zip(arguments, core.arguments, strict=True))
                heads += [*self._head(kernel.name, [own[label] for label in labels], doc), *self._body(core), "", ""]
                continue
            heads += self._head(kernel.name, names, doc)
            for pattern, core, arguments in branches[key]:
                tests = [f"{names[q]} == {names[first]}" for q, first in enumerate(pattern) if first != q]
                value = f"return {core.name}({', '.join([*self.kernels.given, *map(parameter, arguments)])})"
                heads += [f"{INDENT}if {' and '.join(tests)}:", INDENT * 2 + value] if tests else [INDENT + value]
            heads += ["", ""]
        lines: list[str] = []
        for core in self.kernels.cores.values():
            if core.name in alone:
                continue
            parts = [
                f"({expression_of(f, sp.Symbol(f'f_{p}'))})"
                for p, f in zip(core.arguments, core.functions, strict=True)
            ]
            doc = f"E[{' '.join(parts)}{' ' + core.target if core.target else ''}]"
            lines += [*self._head(core.name, core.arguments, doc), *self._body(core), "", ""]
        return lines + heads

    def gradient_source(self) -> list[str]:
        """Return functions ``name_gradient(C, K, index..., weight, G)``.

        Each adds weight times the derivative in every entry of C to the same entry of G, and returns the average. An
        average reads one of the two entries of a pair only: the derivative in a symmetric entry is the sum of both.
        """
        lines: list[str] = []
        branches = {key: self.kernels.branches(key) for key in self.kernels.kernels}
        for core in self.kernels.cores.values():
            back = adjoint(core.program)
            lines += self._head(f"{core.name}_gradient", [*core.arguments, "weight", "G"], "The average; adds to G.")
            statements = [*live(core.program), *back.statements]
            lines += [f"{INDENT}{name} = {self._scalar(value)}" for name, value in statements]
            for entry, value in back.gradient.items():
                place = self._scalar(entry).replace("C[", "G[", 1)
                lines.append(f"{INDENT}{place} += weight * ({self._scalar(value)})")
            lines += [f"{INDENT}return {self._scalar(core.program.value)}", "", ""]
        for key, (call, labels, _) in self.kernels.kernels.items():
            names = [parameter(label) for label in labels]
            lines += self._head(f"{call.kernel.name}_gradient", [*names, "weight", "G"], "The average; adds to G.")
            for pattern, core, arguments in branches[key]:
                tests = [f"{names[q]} == {names[first]}" for q, first in enumerate(pattern) if first != q]
                own = ", ".join(["C", "K", *map(parameter, arguments), "weight", "G"])
                value = f"return {core.name}_gradient({own})"
                lines += [f"{INDENT}if {' and '.join(tests)}:", INDENT * 2 + value] if tests else [INDENT + value]
            lines += ["", ""]
        return lines

    def _body(self, core: Core) -> list[str]:
        lines = [f"{INDENT}{name} = {self._scalar(value)}" for name, value in live(core.program)]
        return [*lines, f"{INDENT}return {self._scalar(core.program.value)}"]

    def _head(self, name: str, labels: Sequence[Any], doc: str) -> list[str]:
        escaped = doc.replace("\\", "\\\\")
        arguments = ", ".join([*self.kernels.given, *map(str, labels)])
        return [self._decorator, f"def {name}({arguments}):", f'{INDENT}"""{escaped}"""']


def expectation_of(expression: Any) -> bool:
    """Whether an expression holds an average without closed form."""
    return bool(expression.has(Expectation))


def text_of(named: Named) -> Any:
    """Return the function as a sympy expression in `factors.X`."""
    return expression_of(named.terms, X)
