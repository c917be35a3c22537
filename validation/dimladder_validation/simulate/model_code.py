"""Student, target, loss and update rule of a one-pass problem as compiled functions, and as formulas on any array."""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from dimladder.problem import Expression

if TYPE_CHECKING:
    from types import ModuleType

    from dimladder.problem.update_table import Table


def slope_of(table: Table) -> Expression:
    """Return g' as a formula in ``x``."""
    return table.slope if table.slope is not None else derivative(table.activation)


def field_of(name: str) -> int:
    """Return the number of the teacher field that a formula calls ``z``, ``z1``, ``z2``, ..."""
    return int(name[1:] or 1) - 1


def clean_label(table: Table, xp: Any, fields: Any, rows: Any) -> Any:
    """Return the target, an entry an output, (..., Y), label apart.

    Teacher fields are (..., M); readouts `rows` (..., Y M) broadcast with them.
    """
    if table.index:
        known = [{name: fields[..., field_of(name)] for name in f.variables} for f in table.index]
        values = [f.evaluate(xp, **names) + 0.0 * fields[..., 0] for f, names in zip(table.index, known, strict=True)]
        if not table.argmax:
            return xp.stack(values, axis=-1)
        best = reduce(xp.maximum, values)
        return xp.stack([xp.where(v == best, 0.0 * v + 1.0, 0.0 * v) for v in values], axis=-1)
    if table.teacher is None:
        return 0.0
    values = table.teacher.evaluate(xp, x=fields)
    parts = [xp.sum(rows[..., o * table.M : (o + 1) * table.M] * values, axis=-1) for o in range(table.Y)]
    return xp.stack(parts, axis=-1)


def code_for(table: Table) -> ModuleType:
    """Return the compiled module of a table: ``model``, ``schedule``, ``slope``, ``value``, ``push`` (`gram_kernel`).

    It is stored under what it depends on, and compiled once.
    """
    from dimladder.symbolic import store

    def build() -> str:
        return _source(table)

    parts = [table.activation, table.slope, table.teacher, *table.index, *(table.coefficients or ()), *_mixed(table)]
    texts = tuple(None if part is None else (part.text, part.hermite) for part in parts)
    written = (table.species, table.learning_rate) if table.coefficients else ()
    key = ("one-pass-model", texts, written, table.M, table.Y, table.argmax, table.schedule, table.loss.name)
    return store.module(key, build)


# Cross-entropy of many outputs, without overflow.
SOFTMAX = """    top = f.max()
    total = 0.0
    for o in range(f.shape[0]):
        out[o] = math.exp(f[o] - top)
        total += out[o]
    for o in range(f.shape[0]):
        out[o] = out[o] / total - ({kept} * y[o] + {rest})"""
SOFTMAX_VALUE = """    top = f.max()
    total, along = 0.0, 0.0
    for o in range(f.shape[0]):
        total += math.exp(f[o] - top)
        along += ({kept} * y[o] + {rest}) * (f[o] - top)
    return math.log(total) - along"""
_VECTOR, _NUMBER = "types.float64[::1]", "types.float64"


def _source(table: Table) -> str:
    import sympy as sp

    from dimladder.problem.expressions import drop_atoms
    from dimladder.symbolic.printing import HEADER, assignments

    x = sp.Symbol("x", real=True)
    g = sp.Integer(0) if table.slope is not None else table.activation.sympy(x=x)
    dg = table.slope.sympy(x=x) if table.slope is not None else drop_atoms(sp.diff(g, x))
    unit, (value, slope) = assignments([g, dg], prefix="s", indent="        ")
    lines = [
        HEADER.format(title=f"student activation {table.activation.text}; loss {table.loss.name}"),
        *_function("model", [_VECTOR] * 7, "fields, teachers, row, label, g, dg, y", "types.void"),
        "    for k in range(g.shape[0]):",
        "        x = fields[k]",
        *unit,
        f"        g[k] = {value}",
        f"        dg[k] = {slope}",
        *_target(table),
    ]
    t = sp.Symbol("t", real=True)
    factor, (last,) = assignments([Expression(table.schedule, ("t",)).sympy(t=t)], prefix="q")
    lines += [*_function("schedule", [_NUMBER], "t"), *factor, f"    return 1.0 * ({last})"]
    lines += _loss(table)
    lines += _push(table, g, dg)
    return "\n".join(lines) + "\n"


def _function(name: str, kinds: list[str], arguments: str, result: str = _NUMBER) -> list[str]:
    head = f"@njit({result}({', '.join(kinds)}), cache=True, nogil=True)"
    return ["", "", head, f"def {name}({arguments}):"]


def _loss(table: Table) -> list[str]:
    import sympy as sp

    from dimladder.symbolic.printing import assignments

    loss: Any = table.loss
    if table.Y > 1 and loss.softmax:
        kept, rest = repr(1.0 - loss.smoothing), repr(loss.smoothing / table.Y)
        slope, value = (text.replace("{kept}", kept).replace("{rest}", rest) for text in (SOFTMAX, SOFTMAX_VALUE))
        lines = [*_function("slope", [_VECTOR] * 3, "f, y, out", "types.void"), *slope.splitlines()]
        return [*lines, *_function("value", [_VECTOR] * 2, "f, y"), *value.splitlines()]
    read = [f"    {s}{place} = {s[0]}[{o}]" for s in "fy" for o, place in enumerate(_places(table))]
    single = {sp.Symbol(s, real=True): sp.Symbol(f"{s}_", real=True) for s in "fy"}
    first, slopes = assignments([s.xreplace(single) for s in loss_slopes(table)], prefix="q")
    lines = [*_function("slope", [_VECTOR] * 3, "f, y, out", "types.void"), *read, *first]
    lines += [f"    out[{o}] = {slope}" for o, slope in enumerate(slopes)]
    first, (last,) = assignments([stable(loss.value).xreplace(single)], prefix="q")
    return [*lines, *_function("value", [_VECTOR] * 2, "f, y"), *read, *first, f"    return 1.0 * ({last})"]


def _places(table: Table) -> list[str]:
    """Return what follows ``f`` and ``y`` in the name of each output: nothing where there is one."""
    return [str(o + 1) for o in range(table.Y)] if table.Y > 1 else ["_"]


def _target(table: Table) -> list[str]:
    import sympy as sp

    from dimladder.symbolic.printing import assignments

    if table.index:
        names = {name: field_of(name) for f in table.index for name in f.variables}
        symbols = {name: sp.Symbol(f"z{m}", real=True) for name, m in names.items()}
        formulas = [f.sympy(**{name: symbols[name] for name in f.variables}) for f in table.index]
        first, values = assignments(formulas, prefix="r")
        lines = [*(f"    z{m} = teachers[{m}]" for m in sorted(set(names.values()))), *first]
        if not table.argmax:
            return [*lines, *(f"    y[{o}] = label[{o}] + 1.0 * ({value})" for o, value in enumerate(values))]
        lines += [f"    y[{o}] = 1.0 * ({value})" for o, value in enumerate(values)]
        return [
            *lines, "    best = 0", "    for o in range(1, y.shape[0]):", "        if y[o] > y[best]:",
            "            best = o", "    for o in range(y.shape[0]):", "        y[o] = 1.0 if o == best else 0.0",
        ]  # fmt: skip
    lines = ["    for o in range(y.shape[0]):", "        y[o] = label[o]"]
    if table.teacher is None:
        return lines
    unit, (value,) = assignments(
        [table.teacher.sympy(x=sp.Symbol("z", real=True))], prefix="r", indent="        "
    )  # fmt: skip
    return [
        *lines, "    for m in range(teachers.shape[0]):", "        heard = False",
        "        for o in range(y.shape[0]):",
        "            heard = heard or row[o * teachers.shape[0] + m] != 0.0", "        if heard:",
        "            z = teachers[m]", *(f"    {line}" for line in unit), "            for o in range(y.shape[0]):",
        f"                y[o] += row[o * teachers.shape[0] + m] * ({value})",
    ]  # fmt: skip


def loss_slopes(table: Table) -> list[Any]:
    """Return dl/df in sympy, an entry an output, in a form that does not overflow for a softplus."""
    loss: Any = table.loss
    return [stable(s) for s in (loss.slopes if table.Y > 1 else [loss.slope])]


def stable(formula: Any) -> Any:
    """Write log(1 + exp(u)) and exp(u)/(1 + exp(u)) so that no large u overflows."""
    import sympy as sp

    def bounded(product: Any) -> Any:
        for factor in product.args:
            if factor.func is sp.exp and 1 / (1 + factor) in product.args:
                rest = [a for a in product.args if a not in (factor, 1 / (1 + factor))]
                return sp.Mul(*rest, (1 + sp.tanh(factor.args[0] / 2)) / 2)
        return product

    def softplus(log: Any) -> Any:
        u = log.args[0] - 1
        if u.func is not sp.exp:
            return log
        return sp.log(1 + sp.exp(-sp.Abs(u.args[0]))) + sp.Max(u.args[0], 0)

    return formula.replace(lambda e: e.is_Mul, bounded).replace(lambda e: e.func is sp.log, softplus)


def _mixed(table: Table) -> list[Expression | None]:
    """Return the drifts that depend on the sample, row by row; nothing where none does."""
    return [formula for row in table.sampled_drift or () for formula in row]


def _push(table: Table, g: Any, dg: Any) -> list[str]:
    import sympy as sp

    from dimladder.symbolic.printing import assignments

    kinds = [_VECTOR, *[_NUMBER] * 5, _VECTOR]
    head = _function("push", kinds, "fields, a, error, f, y, rate, out", "types.void")
    if table.coefficients is None:
        return [*head, "    return"]
    x = sp.Symbol("x", real=True)
    named: dict[str, Any] = {}
    for q, name in enumerate(table.species):
        field = sp.Symbol(f"u{q}", real=True)
        named |= {f"lambda_{name}": field, f"g_{name}": g.subs(x, field), f"dg_{name}": dg.subs(x, field)}
    named["learning_rate"] = sp.Float(table.learning_rate, 17) * sp.Symbol("rate", real=True)
    formulas = [-c.sympy(**named) if c is not None else sp.Integer(0) for c in table.coefficients]
    formulas += [c.sympy(**named) if c is not None else sp.Integer(0) for c in _mixed(table)]
    first, values = assignments(formulas, prefix="q")
    return [
        *head, *(f"    u{q} = fields[{q}]" for q in range(len(table.species))), *first,
        *(f"    out[{q}] = {value}" for q, value in enumerate(values)),
    ]  # fmt: skip


@lru_cache(maxsize=64)
def derivative(formula: Expression, variable: str = "x") -> Expression:
    """Return the derivative of a formula (almost everywhere) as a formula in ``x``, for any array namespace."""
    import sympy as sp

    from dimladder.problem.expressions import drop_atoms

    x = sp.Symbol(variable, real=True)
    return as_formula(drop_atoms(sp.diff(formula.sympy(), x)), (variable,), formula.hermite)


def as_formula(expression: Any, variables: tuple[str, ...], hermite: Any = "probabilists") -> Expression:
    """Return a sympy expression as a formula of the language, that evaluates to an array of its variables' shape."""
    import sympy as sp

    step, least, most = (sp.Function(name) for name in ("step", "min", "max"))
    expression = expression.subs(sp.E, sp.Float(sp.E, 17))
    expression = expression.replace(sp.Heaviside, lambda u, *_: step(u))
    # The formula's own functions take two arguments, sympy's any number.
    expression = expression.replace(sp.Min, lambda *u: reduce(least, u)).replace(sp.Max, lambda *u: reduce(most, u))
    missing = [v for v in variables if not expression.has(sp.Symbol(v, real=True))]
    text = " + ".join([*(f"0*{v}" for v in missing), f"({expression})"])
    return Expression(text.replace("Abs(", "abs("), variables, hermite)
