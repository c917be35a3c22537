"""State evolution of convex empirical risk minimisation on Gaussian mixtures: the equations, in sympy, and their code.

Objective (1/d) sum_i loss(y_i, w.x_i + b) + (ridge/2)|w|^2, x | cluster c ~ N(mu_c, Sigma_c), samples = alpha d.
The covariances are diagonal in one basis: bulk groups g hold shares pi_g of the dimensions, with eigenvalue Delta_cg
under cluster c; finitely many frame directions e_j carry the means, the spikes and the teacher xi.

A `Program` is a list of assignments ``symbol = expression``, in the order of computation. Printing it as LaTeX, as
sympy
and as numba source all read the same list; only the one-dimensional channel integrals of the losses without a closed
form are calls of the hand-written `kernels`.

Sources: Mignacco et al. 2020 and Loureiro et al. 2021 (mixtures), Loureiro et al. 2021 (teachers), and the notes of
docs/theory/mixtures.md for mixtures with a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Binding:
    """``symbol = rhs``, or several symbols filled by one call of a kernel (`call`, with LaTeX for each)."""

    symbols: tuple[Any, ...]
    rhs: Any = None
    call: str = ""
    arguments: tuple[Any, ...] = ()
    latex: tuple[str, ...] = ()
    group: str = ""


@dataclass
class Program:
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
    constants: dict[str, str] = field(default_factory=dict)

    def symbol(self, name: str, latex: str, **assumptions: Any) -> Any:
        import sympy as sp

        s = sp.Symbol(name, **(assumptions or {"real": True}))
        self.latex[s] = latex
        return s

    def parameter(self, name: str, latex: str) -> Any:
        s = self.symbol(name, latex)
        self.parameters.append(s)
        return s

    def let(self, name: str, latex: str, rhs: Any, group: str) -> Any:
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
        The frame directions of the teacher; empty without a teacher.
    loss : str
    bias : bool
    thresholds : int
        Number of sign changes of a binary teacher's label; 0 when labels are the clusters' or real.
    """

    kinds: tuple[int, ...]
    groups: int
    spiked: bool
    means: tuple[tuple[bool, ...], ...]
    teacher: tuple[bool, ...]
    loss: str
    bias: bool
    thresholds: int = 0

    @property
    def frame(self) -> int:
        return len(self.means[0]) if self.means else 0

    @property
    def used(self) -> tuple[int, ...]:
        """Frame directions that carry a mean, hence an overlap of their own in the state."""
        return tuple(j for j in range(self.frame) if any(row[j] for row in self.means))

    @property
    def channel(self) -> str:
        """Where the channel averages come from."""
        if self.loss not in ("square", "logistic", "hinge"):
            raise ValueError(f"no channel of the loss {self.loss!r} is known here")
        if self.loss == "square":
            return "square"
        if self.thresholds:
            return "teacher"
        return "hinge" if self.loss == "hinge" else "cluster"


def _normal(sp: Any, x: Any) -> Any:
    return sp.erfc(-x / sp.sqrt(2)) / 2


def _density(sp: Any, x: Any) -> Any:
    return sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)


def hinge_channel(y: Any, mean: Any, v: Any, q: Any) -> tuple[Any, Any, Any, Any]:
    """Closed form of E f, E f^2, E l''/(1 + V l''), E l(prox) for the hinge loss max(0, 1 - y u).

    With the margin u = y omega ~ N(y mean, q): f = y (1 if u < 1 - V; (1 - u)/V if u < 1; else 0).
    """
    import sympy as sp

    s = sp.sqrt(q)
    centre = y * mean
    low, high = (1 - v - centre) / s, (1 - centre) / s
    below, above = _normal(sp, low), _normal(sp, high)
    d_low, d_high = _density(sp, low), _density(sp, high)
    gap = 1 - centre
    first = gap * (above - below) + s * (d_high - d_low)
    # int (gap - s z)^2 between the bounds: gap^2 + 2 gap s [phi] + s^2 (mass - [z phi])
    second = (
        gap**2 * (above - below) + 2 * gap * s * (d_high - d_low) + q * (above - below - (high * d_high - low * d_low))
    )
    return (
        y * (below + first / v),
        below + second / v**2,
        (above - below) / v,
        (gap - v) * below + s * d_low,
    )


def program(shape: Shape) -> Program:
    """Derive the fixed-point map for one shape."""
    import sympy as sp

    g = Program()
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
    if not teacher:
        label = [g.parameter(f"y{sub(c)}", mark("y", c)) for c in clusters]
    elif shape.loss == "square":
        ey = [g.parameter(f"Ey{sub(c)}", mark(r"\langle y\rangle", c, plain=single)) for c in clusters]
        ey2 = [g.parameter(f"Eyy{sub(c)}", mark(r"\langle y^2\rangle", c, plain=single)) for c in clusters]
        edy = [g.parameter(f"Edy{sub(c)}", mark(r"\langle \partial_\nu y\rangle", c, plain=single)) for c in clusters]
    if shape.thresholds:
        g.parameter("first_label", r"y_{-\infty}")
        cut = [g.parameter(f"theta{sub(i)}", mark(r"\theta", i)) for i in range(shape.thresholds)]

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
    f: list[Any] = []
    ff: list[Any] = []
    fv: list[Any] = []
    fl: list[Any] = []
    fd: list[Any] = []
    fe: list[Any] = []
    nu_mean: list[Any] = []
    nu_var: list[Any] = []
    for c in clusters:
        k = shape.kinds[c]
        mean_value = sum((mu[c, j] * w[j] for j in shape.used if (c, j) in mu), sp.Integer(0)) + b
        mean = g.let(f"m{sub(c)}", mark("m", c, plain=single), mean_value, "field")
        if teacher:
            nu_mean.append(sum((mu[c, j] * t[j] for j in t if (c, j) in mu), sp.Integer(0)))
            nu_var.append(
                sum(
                    (
                        t[j] ** 2 * (own[k, j] if shape.spiked else sum(share[i] * delta[k][i] for i in groups))
                        for j in t
                    ),
                    sp.Integer(0),
                )
            )

        def put(name: str, latex: str, rhs: Any, c: int = c) -> Any:
            return g.let(f"{name}{sub(c)}", mark(latex, c, plain=single), rhs, "channel")

        y = None if teacher else label[c]
        if shape.channel == "square":
            if teacher:
                # E[y omega] = <y> mean + M <dy/dnu> by Stein's lemma.
                cross = ey[c] * mean + M[k] * edy[c]
                gap1, gap2 = ey[c] - mean, ey2[c] - 2 * cross + mean**2 + q[k]
                fd.append(put("fd", r"\bar f^{\partial}", edy[c] / (1 + V[k])))
                fe.append(gap2)
            else:
                gap1, gap2 = y - mean, (y - mean) ** 2 + q[k]
            f.append(put("f", r"\bar f", gap1 / (1 + V[k])))
            ff.append(put("ff", r"\overline{f^2}", gap2 / (1 + V[k]) ** 2))
            fv.append(put("fv", r"\bar f'", 1 / (1 + V[k])))
            fl.append(put("fl", r"\bar\ell", ff[-1] / 2))
        elif shape.channel == "hinge":
            closed = hinge_channel(y, mean, V[k], q[k])
            for store, name, latex, rhs in zip(
                (f, ff, fv, fl),
                ("f", "ff", "fv", "fl"),
                (r"\bar f", r"\overline{f^2}", r"\bar f'", r"\bar\ell"),
                closed,
                strict=True,
            ):
                store.append(put(name, latex, rhs))
        else:
            names = [("f", r"\bar f"), ("ff", r"\overline{f^2}"), ("fv", r"\bar f'"), ("fl", r"\bar\ell")]
            prox = r"f = \frac{\mathrm{prox}-\omega}{V},\ \mathrm{prox} = \arg\min_u \ell(yu)+\frac{(u-\omega)^2}{2V}"
            law = rf"\omega\sim\mathcal N({g.latex[mean]},{g.latex[q[k]]})"
            rows = [
                rf"\mathbb E\, f,\quad {prox},\ {law}",
                r"\mathbb E\, f^2",
                r"\mathbb E\,\frac{\ell''(\mathrm{prox})}{1+V\ell''(\mathrm{prox})}",
                r"\mathbb "
                r"E\,\ell(y\,\mathrm{prox})",
            ]
            if shape.channel == "teacher":
                names += [("fd", r"\bar f^{\partial}"), ("fe", r"\bar\varepsilon")]
                rows += [r"\mathbb E\, \partial_\nu f(\omega, y(\nu))", r"\mathbb P(\operatorname{sign}\omega \neq y)"]
            symbols = tuple(g.symbol(f"{n}{sub(c)}", mark(latex, c, plain=single)) for n, latex in names)
            code = {"logistic": "LOGISTIC", "hinge": "HINGE"}[shape.loss]
            if shape.channel == "teacher":
                arguments: tuple[Any, ...] = (mean, V[k], q[k], M[k], nu_mean[c], nu_var[c])
                g.bindings.append(
                    Binding(
                        symbols,
                        call=f"teacher_channel({code}, {{}}, thresholds, first_label)",
                        arguments=arguments,
                        latex=tuple(rows),
                        group="channel",
                    )
                )
                g.constants["thresholds"] = f"np.array([{', '.join(str(s) for s in cut)}])"
                fd.append(symbols[4])
                fe.append(symbols[5])
            else:
                arguments = (y, mean, V[k], q[k])
                g.bindings.append(
                    Binding(
                        symbols,
                        call=f"cluster_channel({code}, {{}})",
                        arguments=arguments,
                        latex=tuple(rows),
                        group="channel",
                    )
                )
            for store, s in zip((f, ff, fv, fl), symbols, strict=False):
                store.append(s)

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
    error = []
    for c in clusters:
        k = shape.kinds[c]
        mean = next(x for x in g.latex if str(x) == f"m{sub(c)}")
        error.append(fe[c] if teacher else _normal(sp, -label[c] * mean / sp.sqrt(q[k])))
    g.observables["test_error"] = sum(rho[c] * error[c] for c in clusters)
    g.observables["train_loss"] = sum(rho[c] * fl[c] for c in clusters)
    for c in clusters:
        g.observables[f"cluster_error{sub(c)}"] = error[c]
        g.observables[f"cluster_mean{sub(c)}"] = next(x for x in g.latex if str(x) == f"m{sub(c)}")
    return g


def source(g: Program, title: str) -> str:
    """Print the program as a self-contained numba module with ``fmap``, ``observe`` and ``OBSERVABLES``."""
    from ...symbolic.printing import assignments, printer
    from .kernels import KERNEL_SOURCE

    write = printer()
    needs_kernel = any(binding.call for binding in g.bindings)
    lines = [f'"""Generated by dimladder from symbolic equations; do not edit.\n\n{title}\n"""', "", "import math"]
    lines += ["from typing import Any", "", "import numpy as np", "from numba import njit, types", ""]
    if needs_kernel:
        lines += [KERNEL_SOURCE]
    body = [f"    {s} = x[{k}]" for k, s in enumerate(g.state)]
    body += [f"    {s} = p[{k}]" for k, s in enumerate(g.parameters)]
    body += [f"    {name} = {text}" for name, text in g.constants.items()]
    for number, binding in enumerate(g.bindings):
        if binding.call:
            arguments = ", ".join(f"1.0*({write.doprint(a)})" for a in binding.arguments)
            body += [f"    {', '.join(map(str, binding.symbols))} = {binding.call.format(arguments)}"]
        else:
            shared, values = assignments([binding.rhs], prefix=f"_a{number}_")
            body += [*shared, f"    {binding.symbols[0]} = {values[0]}"]
    array = "types.float64[::1]"
    lines += ["", f"OBSERVABLES = {tuple(g.observables)!r}", f"STATE = {tuple(map(str, g.state))!r}"]
    lines += [f"PARAMETERS = {tuple(map(str, g.parameters))!r}", "", ""]
    lines += [
        f'@njit(types.void({array}, {array}, {array}, {array}), cache=True, error_model="numpy")',
        "def fmap(x, out, p, work):",
        *body,
    ]
    shared, values = assignments([g.updates[s] for s in g.state], prefix="_u")
    lines += [*shared, *(f"    out[{k}] = {v}" for k, v in enumerate(values))]
    lines += ["", "", f'@njit({array}({array}, {array}), cache=True, error_model="numpy")', "def observe(x, p):", *body]
    shared, values = assignments(list(g.observables.values()), prefix="_o")
    lines += [
        *shared,
        f"    out = np.empty({len(values)})",
        *(f"    out[{k}] = {v}" for k, v in enumerate(values)),
        "    return out",
    ]
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
        state += [0.1 * mean_delta[k] for k in kinds]
    if shape.bias:
        state.append(0.0)
    return np.array(state)


def names(g: Program) -> Sequence[str]:
    """Names of the components of the state, for messages."""
    return [str(s) for s in g.state]
