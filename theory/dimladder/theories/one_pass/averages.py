"""Averages of the error and its square over the data, as sums over units of averages of one-field functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from ...symbolic.factors import Factor, Terms, X, decompose, product
from ...symbolic.gaussian import Averager, split_product
from ...symbolic.kernels import KernelSet, Named
from ...symbolic.tensors import IndexedLaw, Indices, Range
from .notation import A, C, M, Q, Setting, T, a, alpha, beta, c, j, l, m, n


@dataclass(frozen=True)
class Group:
    """One sum of the error over an index u: weight(u) times a product of one-field functions, by label of the field.

    ``index`` holds two symbols of the index, for the square of the sum.
    """

    index: tuple[Any, Any]
    weight: Callable[[Any], Any]
    slots: Callable[[Any], dict[Any, Named]]

    @classmethod
    def of(cls, index: tuple[Any, Any], weight: Callable[[Any], Any], function: Named) -> Group:
        """Return sum_u weight(u) function(f_u)."""
        return cls(index, weight, lambda u: {u: function})


@dataclass(frozen=True)
class Error:
    """f - f* (or what stands for it in the loss): sums over units, minus a function of fixed teacher fields.

    ``target`` and ``target_squared`` are sums of products of one-field functions, by the number of the teacher field;
    ``target_weight`` multiplies the target, ``offset`` is a number that the error has beside all that.
    """

    groups: tuple[Group, ...]
    target: tuple[dict[Any, Terms], ...] = ()
    target_squared: tuple[dict[Any, Terms], ...] = ()
    target_weight: Any = 1
    offset: Any = 0


def difference(setting: Setting, for_loss: bool) -> Error:
    """Return the error that drives the step (`for_loss`), or f - f*."""
    g = Named("g", decompose(setting.student))
    if setting.stacked:
        return Error((Group.of((alpha, beta), lambda u: c[u], g),))
    sums = [Group.of((j, l), lambda u: a[u], g)] if setting.loss == "square" or not for_loss else []
    if setting.target is None:
        same = sp.simplify(setting.student - setting.teacher) == 0
        teacher = g if same else Named(r"\tilde g", decompose(setting.teacher))
        return Error((*sums, Group.of((m, n), lambda u: -A[u], teacher)))
    return Error(tuple(sums), *(products(power, setting) for power in (setting.target, sp.expand(setting.target**2))))


def needs_all_fields(setting: Setting) -> bool:
    """Whether nothing can be averaged apart: a loss that is not quadratic, or a target that couples its fields."""
    if setting.loss not in ("square", "correlation"):
        return True
    if setting.target is None:
        return False
    return any(coupled is not None for _, coupled in split_product(setting.target, setting.fields))


def products(function: Any, setting: Setting) -> tuple[dict[Any, Terms], ...]:
    """Write a function of the teacher fields as a sum of products of one-field functions, by number of the field."""
    out = []
    for functions, coupled in split_product(function, setting.fields):
        assert coupled is None, f"{coupled} couples teacher fields: such targets are averaged over all fields"
        out.append(functions)
    return tuple(out)


def covariance(ranges: dict[Any, Range]) -> Callable[[Any, Any], Any]:
    """Return Cov(f_p, f_q): C over units, Q, M and T by kind; fixed teacher fields are orthonormal."""
    bases = {("students", "students"): Q, ("students", "teachers"): M, ("teachers", "teachers"): T}

    def entry(p: Any, q: Any) -> Any:
        fixed = [sp.sympify(v).is_Integer for v in (p, q)]
        if all(fixed):
            return sp.Integer(p == q)
        if any(fixed):
            return M[(q, p) if fixed[0] else (p, q)]
        kinds = ranges[p].name, ranges[q].name
        if "units" in kinds:
            return C[tuple(sorted((p, q), key=str))]
        if kinds == ("teachers", "students"):
            p, q, kinds = q, p, kinds[::-1]
        if kinds[0] == kinds[1]:
            p, q = sorted((p, q), key=str)
        return bases[kinds][p, q]

    return entry


class Averages:
    """Averages of one-field functions at index symbols, times functions of fixed teacher fields.

    Parameters
    ----------
    names : Indices
    entry : callable
        ``entry(p, q)``: the covariance of two fields.
    inline : bool
        Write averages out in the tilted covariance; otherwise they are calls of kernels, derived apart.
    mean : callable, optional
        ``mean(p)`` of a field; zero when left out.
    """

    def __init__(
        self,
        names: Indices,
        entry: Callable[[Any, Any], Any],
        inline: bool = False,
        mean: Callable[[Any], Any] | None = None,
    ) -> None:
        self.names, self.inline = names, inline
        self.kernels = KernelSet(names, entry, mean=mean)
        self._averager = Averager(IndexedLaw(entry, names, mean=mean))

    def __call__(self, slots: dict[Any, Named], factor: tuple[dict[Any, Terms], ...] = (), shown: str = "") -> Any:
        if not slots and not factor:
            return sp.Integer(1)
        if self.inline:
            return self._averager.average({u: named.terms for u, named in slots.items()})
        return self.kernels.moment(tuple(slots.items()), factor or ({},), shown)

    def first(self, slots: dict[Any, Named], error: Error, extra: Any = None) -> Any:
        """Return E[slots x error]; `extra` is a fixed teacher field that multiplies it."""
        total = sp.Integer(0)
        shown = "" if extra is None else f"z_{{{extra}}} "
        factor: tuple[dict[Any, Terms], ...] = () if extra is None else ({extra: decompose(X)},)
        for group in error.groups:
            u = group.index[0]
            total += self.names.sum(group.weight(u) * self(slots | group.slots(u), factor, shown), u)
        if error.target:
            total -= error.target_weight * self(slots, _times(error.target, extra), shown + r"f_\star")
        if error.offset != 0:
            total += error.offset * self(slots, factor, shown)
        return total

    def second(self, slots: dict[Any, Named], error: Error) -> Any:
        """Return E[slots x error^2]."""
        total = sp.Integer(0)
        for p, one in enumerate(error.groups):
            for two in error.groups[p:]:
                u, v = one.index[0], two.index[1]
                moment = self(slots | one.slots(u) | two.slots(v))
                total += (1 if one is two else 2) * self.names.sum(one.weight(u) * two.weight(v) * moment, u, v)
            if error.target:
                u = one.index[0]
                cross = self(slots | one.slots(u), error.target, r"f_\star")
                total -= 2 * error.target_weight * self.names.sum(one.weight(u) * cross, u)
        if error.target_squared:
            total += error.target_weight**2 * self(slots, error.target_squared, r"f_\star^2")
        if error.offset != 0:
            linear = self.first(slots, replace(error, offset=sp.Integer(0)))
            total += 2 * error.offset * linear + error.offset**2 * self(slots)
        return total


def written_out(setting: Setting) -> bool:
    """Whether both activations are sums of erfs: their averages are short in the tilted covariance."""
    functions = [setting.student] + ([] if setting.teacher is None else [setting.teacher])
    factors = [f for function in functions for _, f in decompose(function)]
    return setting.target is None and all(f == Factor(erfs=f.erfs) and len(f.erfs) <= 1 for f in factors)


def _times(terms: tuple[dict[Any, Terms], ...], extra: Any) -> tuple[dict[Any, Terms], ...]:
    if extra is None:
        return terms
    one = decompose(X)
    return tuple(p | {extra: product(p[extra], one) if extra in p else one} for p in terms)
