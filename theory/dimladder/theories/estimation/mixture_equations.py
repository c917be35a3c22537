"""State evolution of convex empirical risk minimisation on Gaussian mixtures: the equations, in sympy, and their code.

Objective (1/d) sum_i loss(y_i, w.x_i + b) + (ridge/2)|w|^2, x | cluster c ~ N(mu_c, Sigma_c), samples = alpha d.
The covariances are diagonal in one basis: bulk groups g hold shares pi_g of the dimensions, with eigenvalue Delta_cg
under cluster c; finitely many frame directions e_j carry the means, the spikes and the teacher xi. One cluster without
a mean is the problem of `equations.py`.

A `FixedPointMap` is a list of assignments ``symbol = expression``, in the order of computation: what is printed as
LaTeX and what is printed as numba source. Channel averages are closed for the square loss; for every other loss and
label law they are one call of `numerics.label_channel`, whose numbers stand in the parameter vector.

Sources: Mignacco et al. 2020 and Loureiro et al. 2021 (mixtures), Loureiro et al. 2021 (teachers), and
docs/theory/mixtures.md for mixtures with a teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Binding:
    """``symbol = rhs``, or several symbols filled by the channel of one label law (`call`, with LaTeX for each)."""

    symbols: tuple[Any, ...]
    rhs: Any = None
    call: str = ""
    arguments: tuple[Any, ...] = ()
    latex: tuple[str, ...] = ()
    group: str = ""


@dataclass
class FixedPointMap:
    """The fixed-point map as a sequence of bindings.

    Attributes
    ----------
    state : list
        Symbols of the state, in order.
    parameters : list
        Symbols of the parameter vector.
    bindings : list of Binding
        From the state and the parameters to the updates.
    updates : dict
        State symbol -> symbol or expression of its new value.
    observables : dict
        Name -> symbol or expression.
    latex : dict
        Symbol -> LaTeX.
    """

    state: list[Any] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    updates: dict[Any, Any] = field(default_factory=dict)
    observables: dict[str, Any] = field(default_factory=dict)
    latex: dict[Any, str] = field(default_factory=dict)

    def symbol(self, name: str, latex: str, **assumptions: Any) -> Any:
        """Return a symbol with its LaTeX."""
        import sympy as sp

        s = sp.Symbol(name, **(assumptions or {"real": True}))
        self.latex[s] = latex
        return s

    def parameter(self, name: str, latex: str) -> Any:
        """Return a new entry of the parameter vector."""
        s = self.symbol(name, latex)
        self.parameters.append(s)
        return s

    def let(self, name: str, latex: str, rhs: Any, group: str) -> Any:
        """Bind a new symbol to an expression."""
        s = self.symbol(name, latex)
        self.bindings.append(Binding((s,), rhs, group=group))
        return s


@dataclass(frozen=True)
class Shape:
    """What decides the form of the equations (numbers are parameters).

    Attributes
    ----------
    kinds : tuple of int
        For each cluster, which covariance it has.
    groups : int
        Bulk groups.
    spiked : bool
        Whether frame directions have eigenvalues of their own.
    means : tuple of tuple of bool
        For each cluster, the frame directions its mean has.
    teacher : tuple of bool
        The frame directions of the teacher; empty where no label depends on one.
    square : float
        c of the loss c (y - u)^2/2; 0 for every other loss.
    bias : bool
    """

    kinds: tuple[int, ...]
    groups: int
    spiked: bool
    means: tuple[tuple[bool, ...], ...]
    teacher: tuple[bool, ...]
    square: float
    bias: bool

    @property
    def frame(self) -> int:
        """Number of frame directions."""
        return len(self.means[0]) if self.means else 0

    @property
    def used(self) -> tuple[int, ...]:
        """Frame directions that carry a mean, hence an overlap of their own in the state."""
        return tuple(j for j in range(self.frame) if any(row[j] for row in self.means))


# What a channel fills, in the order of `numerics.label_channel.law_averages`, and how it is printed.
CHANNEL = (
    ("f", r"\bar f", r"\mathbb E\,f"),
    ("ff", r"\overline{f^2}", r"\mathbb E\,f^2"),
    ("fv", r"\bar f'", r"\mathbb E\,\frac{\ell''(\mathrm{prox})}{1+V\ell''(\mathrm{prox})}"),
    ("fl", r"\bar\ell", r"\mathbb E\,\ell(y,\mathrm{prox})"),
    ("ft", r"\bar\ell^{0}", r"\mathbb E\,\ell(y,\omega)"),
    ("fd", r"\bar f^{\partial}", r"\mathbb E\,\partial_\nu f(y(\nu),\omega)"),
    ("fe", r"\bar\varepsilon", r"\mathbb P(\operatorname{sign}\omega \neq y)"),
)


def program(shape: Shape) -> FixedPointMap:
    """Derive the fixed-point map for one shape."""
    import sympy as sp

    g = FixedPointMap()
    clusters, kinds = range(len(shape.kinds)), range(max(shape.kinds) + 1)
    groups = range(shape.groups)
    single = len(shape.kinds) == 1
    one_kind = len(kinds) == 1

    def sub(*indices: int) -> str:
        return "".join(f"_{i}" for i in indices)

    def mark(base: str, *indices: int, plain: bool = False) -> str:
        return base if plain else f"{base}_{{{','.join(str(i + 1) for i in indices)}}}"

    # --- parameters ---
    alpha, ridge = g.parameter("alpha", r"\alpha"), g.parameter("ridge", r"\lambda")
    rho = [g.parameter(f"rho{sub(c)}", mark(r"\rho", c, plain=single)) for c in clusters]
    delta = [
        [g.parameter(f"Delta{sub(k, j)}", mark(r"\Delta", k, j, plain=one_kind and shape.groups == 1)) for j in groups]
        for k in kinds
    ]
    share = [sp.Integer(1)] if shape.groups == 1 else [g.parameter(f"pi{sub(j)}", mark(r"\pi", j)) for j in groups]
    mu = {
        (c, j): g.parameter(f"mu{sub(c, j)}", mark(r"\mu", c, j))
        for c in clusters
        for j in range(shape.frame)
        if shape.means[c][j]
    }
    t = {j: g.parameter(f"t{sub(j)}", mark(r"\xi", j)) for j, on in enumerate(shape.teacher) if on}
    directions = sorted({j for _, j in mu} | set(t))
    own = {
        (k, j): g.parameter(f"D{sub(k, j)}", mark(r"\Delta^{\mathrm{s}}", k, j))
        for k in kinds
        for j in directions
        if shape.spiked
    }
    teacher = bool(t)
    label: list[Any] = []
    if not shape.square:
        for c in clusters:
            g.parameter(f"law{sub(c)}", mark(r"\mathcal L", c, plain=single))
    elif teacher:
        ey = [g.parameter(f"Ey{sub(c)}", mark(r"\langle y\rangle", c, plain=single)) for c in clusters]
        ey2 = [g.parameter(f"Eyy{sub(c)}", mark(r"\langle y^2\rangle", c, plain=single)) for c in clusters]
        edy = [g.parameter(f"Edy{sub(c)}", mark(r"\langle \partial_\nu y\rangle", c, plain=single)) for c in clusters]
    else:
        label = [g.parameter(f"y{sub(c)}", mark("y", c)) for c in clusters]

    # --- state ---
    def state(name: str, latex: str, **assumptions: Any) -> Any:
        s = g.symbol(name, latex, **assumptions)
        g.state.append(s)
        return s

    V = [state(f"V{sub(k)}", mark("V", k, plain=one_kind), positive=True) for k in kinds]
    q = [state(f"q{sub(k)}", mark("q", k, plain=one_kind), positive=True) for k in kinds]
    w = {j: state(f"w{sub(j)}", mark("w", j)) for j in shape.used}
    M = [state(f"M{sub(k)}", mark("M", k, plain=one_kind)) for k in kinds] if teacher else []
    b = state("b", "b") if shape.bias else sp.Integer(0)

    # --- channels ---
    rows: dict[str, list[Any]] = {name: [] for name, _, _ in CHANNEL}
    mean_of: list[Any] = []
    for c in clusters:
        k = shape.kinds[c]
        mean_value = sum((mu[c, j] * w[j] for j in shape.used if (c, j) in mu), sp.Integer(0)) + b
        mean = g.let(f"m{sub(c)}", mark("m", c, plain=single), mean_value, "field")
        mean_of.append(mean)
        if shape.square:
            scale = sp.nsimplify(shape.square)
            soft = 1 + scale * V[k]
            if teacher:
                # E[y omega] = <y> mean + M <dy/dnu> by Stein's lemma.
                gap1 = ey[c] - mean
                gap2 = ey2[c] - 2 * (ey[c] * mean + M[k] * edy[c]) + mean**2 + q[k]
            else:
                gap1, gap2 = label[c] - mean, (label[c] - mean) ** 2 + q[k]
            closed = {
                "f": scale * gap1 / soft,
                "ff": scale**2 * gap2 / soft**2,
                "fv": scale / soft,
                "fl": scale * gap2 / (2 * soft**2),
                "ft": scale * gap2 / 2,
            }
            if teacher:
                closed["fd"] = scale * edy[c] / soft
            for name, latex, _ in CHANNEL:
                if name in closed:
                    rows[name].append(g.let(f"{name}{sub(c)}", mark(latex, c, plain=single), closed[name], "channel"))
            continue
        wanted = [row for row in CHANNEL if teacher or row[0] != "fd"]
        symbols = tuple(g.symbol(f"{n}{sub(c)}", mark(latex, c, plain=single)) for n, latex, _ in wanted)
        arguments = (V[k], q[k], M[k] if teacher else sp.Integer(0), mean)
        width = sp.Integer(1)
        if teacher:
            # The law is that of the standardised teacher field.
            variance = sum(
                (t[j] ** 2 * (own[k, j] if shape.spiked else sum(share[i] * delta[k][i] for i in groups)) for j in t),
                sp.Integer(0),
            )
            width = g.let(f"sd{sub(c)}", mark(r"\sigma^{\nu}", c, plain=single), sp.sqrt(variance), "field")
            arguments = (V[k], q[k], M[k] / width, mean)
        g.bindings.append(
            Binding(
                symbols,
                call=f"law{sub(c)}",
                arguments=(*arguments, width),
                latex=tuple(text for _, _, text in wanted),
                group="channel",
            )
        )
        for (name, _, _), s in zip(wanted, symbols, strict=True):
            rows[name].append(s)
    f, ff, fv, fd = rows["f"], rows["ff"], rows["fv"], rows["fd"]

    # --- conjugates ---
    mh = [g.let(f"mh{sub(c)}", mark(r"\hat m", c, plain=single), alpha * rho[c] * f[c], "conjugate") for c in clusters]
    qh = [g.let(f"qh{sub(c)}", mark(r"\hat q", c, plain=single), alpha * rho[c] * ff[c], "conjugate") for c in clusters]
    vh = [g.let(f"vh{sub(c)}", mark(r"\hat V", c, plain=single), alpha * rho[c] * fv[c], "conjugate") for c in clusters]
    zh = (
        [
            g.let(f"zh{sub(c)}", mark(r"\hat\zeta", c, plain=single), alpha * rho[c] * fd[c], "conjugate")
            for c in clusters
        ]
        if teacher
        else []
    )

    # --- overlaps ---
    R = [
        g.let(
            f"R{sub(i)}",
            mark("R", i, plain=shape.groups == 1),
            1 / (ridge + sum(vh[c] * delta[shape.kinds[c]][i] for c in clusters)),
            "resolvent",
        )
        for i in groups
    ]
    cells: list[tuple[int, Any, Any, list[Any], Any]] = []  # direction, weight, R, eigenvalue by kind, drive
    for j in directions:
        if shape.spiked:
            resolvent = g.let(
                f"Rs{sub(j)}",
                mark(r"R^{\mathrm s}", j),
                1 / (ridge + sum(vh[c] * own[shape.kinds[c], j] for c in clusters)),
                "resolvent",
            )
            options = [(sp.Integer(1), resolvent, [own[k, j] for k in kinds], "")]
        else:
            options = [
                (share[i], R[i], [delta[k][i] for k in kinds], sub(i) if shape.groups > 1 else "") for i in groups
            ]
        for weight, resolvent, eigen, tag in options:
            drive = sum((mh[c] * mu[c, j] for c in clusters if (c, j) in mu), sp.Integer(0))
            if j in t:
                drive += sum(zh[c] * eigen[shape.kinds[c]] for c in clusters) * t[j]
            s = g.let(
                f"s{sub(j)}{tag}",
                mark("s", j) + (f"^{{({int(tag[1:]) + 1})}}" if tag else ""),
                resolvent * drive,
                "resolvent",
            )
            cells.append((j, weight, resolvent, eigen, s))
    noise = [sum(qh[c] * delta[shape.kinds[c]][i] for c in clusters) for i in groups]
    for k in kinds:
        g.updates[V[k]] = sum(share[i] * delta[k][i] * R[i] for i in groups)
        g.updates[q[k]] = sum(share[i] * delta[k][i] * R[i] ** 2 * noise[i] for i in groups) + sum(
            weight * eigen[k] * s**2 for _, weight, _, eigen, s in cells
        )
    for j in shape.used:
        g.updates[w[j]] = sum(weight * s for i, weight, _, _, s in cells if i == j)
    for k, overlap in enumerate(M):
        g.updates[overlap] = sum(weight * eigen[k] * t[i] * s for i, weight, _, eigen, s in cells if i in t)
    if shape.bias:
        # sum_c mh_c = 0 at the solution; the division makes it a Newton step, so that the map contracts.
        g.updates[b] = b + sum(mh) / sum(vh)

    # --- observables ---
    g.observables["train_loss"] = sum(rho[c] * rows["fl"][c] for c in clusters)
    g.observables["test_loss"] = sum(rho[c] * rows["ft"][c] for c in clusters)
    for c in clusters:
        g.observables[f"cluster_mean{sub(c)}"] = mean_of[c]
        g.observables[f"cluster_loss{sub(c)}"] = rows["ft"][c]
        if rows["fe"]:
            g.observables[f"cluster_error{sub(c)}"] = rows["fe"][c]
    return g


def source(g: FixedPointMap, title: str) -> str:
    """Print the program as a module: ``fmap``, ``observe``, the names of their slots, and fmap's scratch.

    The parameter vector holds the named ones, then, for losses without a closed channel, the address of
    `numerics.label_channel.law_averages` (two numbers) and the laws, each from the place that its parameter names.
    """
    from ...symbolic.printing import assignments, printer

    write = printer()
    calls = any(binding.call for binding in g.bindings)
    lines = [f'"""Generated by dimladder from symbolic equations; do not edit.\n\n{title}\n"""', "", "import math", ""]
    lines += ["import numpy as np", "", "from dimladder.numerics.basics import OPTIONS"]
    if calls:
        lines += ["from dimladder.numerics.label_channel import as_channel"]
    lines += ["from dimladder.numerics.native import njit", ""]
    order = [name for name, _, _ in CHANNEL]

    def body(observing: bool) -> list[str]:
        rows = [f"    {s} = x[{k}]" for k, s in enumerate(g.state)]
        rows += [f"    {s} = p[{k}]" for k, s in enumerate(g.parameters)]
        if calls:
            rows += [f"    bits = p[{len(g.parameters)}:{len(g.parameters) + 2}].view(np.int64)"]
            rows += ["    channel = as_channel(bits[0], bits[1])"]
        for number, binding in enumerate(g.bindings):
            if binding.call:
                *four, width = (f"1.0*({write.doprint(a)})" for a in binding.arguments)
                rows.append(f"    channel(p, int({binding.call}), {', '.join(four)}, {observing}, work)")
                for s in binding.symbols:
                    name = str(s).split("_")[0]
                    value = f"work[{order.index(name)}]"
                    rows.append(f"    {s} = {value}/({width})" if name == "fd" else f"    {s} = {value}")
            else:
                shared, values = assignments([binding.rhs], prefix=f"_a{number}_")
                rows += [*shared, f"    {binding.symbols[0]} = {values[0]}"]
        return rows

    array = "f8[::1]"
    lines += ["", f"OBSERVABLES = {tuple(g.observables)!r}", f"STATE = {tuple(map(str, g.state))!r}"]
    lines += [f"PARAMETERS = {tuple(map(str, g.parameters))!r}", f"WORK = {len(order) + 1}", "", ""]
    lines += [
        f'@njit("void({array}, {array}, {array}, {array})", **OPTIONS)',
        "def fmap(x, out, p, work):",
        *body(False),
    ]
    shared, values = assignments([g.updates[s] for s in g.state], prefix="_u")
    lines += [*shared, *(f"    out[{k}] = {v}" for k, v in enumerate(values))]
    lines += ["", "", f'@njit("void({array}, {array}, {array})", **OPTIONS)', "def observe(x, p, out):"]
    lines += ["    work = np.empty(WORK)", *body(True)]
    shared, values = assignments(list(g.observables.values()), prefix="_o")
    lines += [*shared, *(f"    out[{k}] = {value}" for k, value in enumerate(values))]
    return "\n".join(lines) + "\n"


def start(shape: Shape, values: dict[str, float]) -> Array:
    """A state to start from: the response of a heavily regularised fit."""
    state = []
    kinds = range(max(shape.kinds) + 1)
    clusters = range(len(shape.kinds))
    alpha, ridge = values["alpha"], values["ridge"]
    mean_delta = [
        sum(values.get(f"pi_{j}", 1.0) * values[f"Delta_{k}_{j}"] for j in range(shape.groups)) for k in kinds
    ]
    typical = sum(values[f"rho_{c}"] * mean_delta[shape.kinds[c]] for c in clusters)
    stiffness = ridge + 0.25 * alpha * typical
    state += [mean_delta[k] / stiffness for k in kinds]
    state += [0.25 * alpha * mean_delta[k] * typical / stiffness**2 for k in kinds]
    for j in shape.used:
        drive = sum(
            values[f"rho_{c}"] * values.get(f"y_{c}", values.get(f"Ey_{c}", 0.0)) * values.get(f"mu_{c}_{j}", 0.0)
            for c in clusters
        )
        state.append(0.5 * alpha * drive / stiffness)
    if any(shape.teacher):
        for k, q in zip(kinds, state[len(kinds) : 2 * len(kinds)], strict=True):
            own = [values.get(f"D_{k}_{j}", mean_delta[k]) for j in range(len(shape.teacher))]
            # A cosine of 0.3 with the target's field.
            state.append(0.3 * math.sqrt(q * sum(values[f"t_{j}"] ** 2 * d for j, d in enumerate(own))))
    if shape.bias:
        state.append(0.0)
    return np.array(state)
