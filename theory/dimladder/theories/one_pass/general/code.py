"""The general flow as one self-contained numba module; every count is a parameter, so one module serves all of them.

State and parameters are laid out as `layout` says.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ....symbolic.contractions import ContractionWriter
from ....symbolic.printing import RHS_SIGNATURE, header
from ....symbolic.tensors import Tensor
from ..layout import indented
from . import notation as d
from .derivation import Derived
from .layout import COUNTS, PARAMETERS

SCRATCH: dict[str, tuple[str, ...]] = {
    "G": ("n", "n", "B"),
    "X": ("rows", "n", "B"),
    "Z": ("rows", "rows", "B"),
    "square": ("(rows + M) * (rows + M)",),
    "mean": ("rows + M",),
    "w": ("Y * (K + M)",),
    "Gr": ("rows",),
    "slopes": ("rows * (rows + M)",),
    "NN": ("rows", "rows"),
    "R": ("K",),
    "growth": ("K",),
    "norm": ("K",),
    "rate": ("V",),
    "at": ("rows + M",),
    "pull": ("K",),
    "now_L": ("V", "V"),
    "now_P": ("V", "K"),
    "now_kick": ("S",),
    "mean_L": ("V", "V"),
}

SIZES = """V = S * K
rows = {rows}
F = M + D
n = V + F
moving = V * (V + 1) // 2
pairs = moving + V * F + {drift}"""

LOAD = '''@njit(**INNER)
def load_overlaps(y, fixed, V, F, B, G):
    """Fill the block overlaps of all vectors."""
    place = 0
    for p in range(V):
        for q in range(p + 1):
            for b in range(B):
                G[p, q, b] = y[place + b]
                G[q, p, b] = y[place + b]
            place += B
    for p in range(V):
        for f in range(V, V + F):
            for b in range(B):
                G[p, f, b] = y[place + b]
                G[f, p, b] = y[place + b]
            place += B
{fixed}


@njit(**INNER)
def at_schedule(moved, steady, schedule, out):
    """Fill a table of rates: what the schedule multiplies, and the rest."""
    for p in range(moved.shape[0]):
        for q in range(moved.shape[1]):
            out[p, q] = steady[p, q] + schedule * moved[p, q]


@njit(**INNER)
def fields_read(species, K, M, V, rows, teacher, at):
    """Fill the vectors whose fields a source reads: the students of a species, others, the teachers it listens to."""
    for i in range(rows):
        at[i] = i
    for i in range(K):
        if rows > K:
            at[species * K + i] = i
        at[i] = species * K + i
    N = rows
    for m in range(M):
        heard = 0.0
        for o in range(teacher.size // M):
            heard += abs(teacher[o * M + m])
        if heard != 0.0:
            at[N] = V + m
            N += 1
    return N
'''

LAW = "c, N, K, M, V, rows, B, D, heads, at, teacher, s, nu, mask, head, stir, blur, length, a, G, cov, mean, w"

# Overlaps of two fixed vectors: parameters, or part of the state where teachers drift.
STILL = """    for f in range(F):
        for g in range(F):
            for b in range(B):
                G[V + f, V + g, b] = fixed[f, g, b]"""
DRIFTING = """    for f in range(V, V + F):
        for g in range(V, f + 1):
            for b in range(B):
                G[f, g, b] = y[place + b]
                G[g, f, b] = y[place + b]
            place += B"""


def _views(arrays: dict[str, tuple[str, ...]], source: str, place: str) -> list[str]:
    lines = []
    for name, shape in arrays.items():
        if not shape:
            lines += [f"{name} = {source}[{place}]", f"{place} += 1"]
            continue
        size = " * ".join(f"({s})" if " " in s else s for s in shape)
        reshaped = f".reshape(({', '.join(shape)}))" if len(shape) > 1 else ""
        lines += [f"{name} = {source}[{place}:{place} + {size}]{reshaped}", f"{place} += {size}"]
    return lines


def _element(expression: Any, scheduled: bool) -> str:
    """Return the source of a symbol or of an entry of an array, within the loop over sources."""
    if not expression.is_Indexed:
        return {d.eta_a: "eta_a", d.kappa_a: "kappa_a", d.batch: "batch"}.get(expression, str(expression))
    base, indices = expression.base, expression.indices
    x = [_place(index) for index in indices]
    if base in (d.Gamma, d.X, d.Z):
        return f"{'GXZ'[(d.Gamma, d.X, d.Z).index(base)]}[{x[1]}, {x[2]}, {x[0]}]"
    if base == d.dGamma:
        block, one, two = indices
        if one == d.f:
            pair = f"moving + V * F + ({one} - V) * ({one} - V + 1) // 2 + {two} - V"
        elif two == d.f:
            pair = f"moving + {one} * F + {two} - V"
        else:
            pair = f"{one} * ({one} + 1) // 2 + {two}"
        return f"dy[({pair}) * B + {block}]"
    if base == d.da:
        row = x[0] if len(x) == 2 else f"({x[0]} * Y + {x[1]})"
        return f"dy[pairs * B + {row} * K + {x[-1]}]"
    if base == d.blur:
        return "(blur[c] * length[c])"
    if base == d.seen:
        return f"(1.0 if {indices[0]} < rows else 0.0)"
    if base in (d.W, d.walk):
        at = [f"{index} - V" for index in indices[-2:]]
        return f"drift[{', '.join(at)}]" if base == d.W else f"walk[{', '.join(at)}, {indices[0]}]"
    per_source = {
        d.C: "cov", d.mu: "mean", d.w: "w", d.G: "Gr", d.H: "H", d.N2: "NN", d.R: "R", d.pull: "pull",
    }  # fmt: skip
    if base in per_source:
        # Only those of one source exist at a time, over its own fields.
        return f"{per_source[base]}[{', '.join(map(str, indices[1:]))}]"
    if base == d.pi:
        return "chance[piece, c]"
    if base == d.sampled:
        return f"drift_at(R, {x[1]}, {x[2]}, K)"
    if base == d.Omega:
        # One source of noise a unit, which its vectors share.
        kick = "now_kick" if scheduled else "kick"
        return f"({kick}[{x[0]} // K] * {kick}[{x[1]} // K] if ({x[0]} - {x[1]}) % K == 0 else 0.0)"
    plain = {
        d.share: "share", d.counts: "counts", d.s: "s", d.nu: "nu", d.mask: "mask", d.head: "head", d.L: "L", d.P: "P",
        d.growth: "growth", d.norm: "norm", d.rate: "rate", d.a: "a", d.stir: "stir", d.phi: "feedback",
        d.mean_L: "mean_L",
    }  # fmt: skip
    if scheduled and base in (d.L, d.P):
        return f"now_{base}[{', '.join(x)}]"
    inner = [str(index) for index in indices] if base == d.nu else x
    return f"{plain[base]}[{', '.join(inner)}]"


def _place(index: Any) -> str:
    """Return where the vector of an index lies: directions after the teachers, fields where a source reads them."""
    if index in (d.l, d.j):
        return f"int(at[{index}])"
    return f"V + M + {index}" if index == d.m else str(index)


# Which parameters change in time, and where the code of their formulas lies.
MOVED = ("moved", "formula")


def _in_time(timed: bool) -> list[str]:
    """Return the lines that make `now`, the parameters at time t, at the head of the scratch array."""
    if not timed:
        return []
    lines = ["now = work[:numbers]", "use = numbers", "for q in range(numbers):", "    now[q] = table[q]"]
    lines += ["for q in range(entries):", "    formula_at = as_time(0, int(formula[q]))"]
    return [*lines, "    now[int(moved[q])] = formula_at(t)"]


def _stages(writer: ContractionWriter, stages: list[Tensor], clear: bool = True) -> list[str]:
    lines = []
    for stage in stages:
        lines += [f"# {stage.lhs}", *writer.tensor(stage, clear)]
    return lines


def source(out: Derived, averages: list[str], title: str, ends: dict[str, Any], step: str = "") -> str:
    """Return the source of ``rhs`` and ``observe``.

    Parameters
    ----------
    out : Derived
    averages : list of str
        Source of ``averages``, ``errors`` and ``averages_work_size``.
    title : str
    ends : dict
        What else the module says of itself: name -> value.
    step : str
        Size of a step that the averages of a source depend on; "" where they do not.
    """
    names, form = d.indices(), out.form
    fixed = "F * (F + 1) // 2" if form.drifting else "0"
    sizes = SIZES.format(rows="V" if form.written else "K", drift=fixed).splitlines()
    element = partial(_element, scheduled=form.schedule != 1)
    outside = ContractionWriter(names, element, d.b, where={d.q: "q > p", d.v: "m2 > f"})
    inside = ContractionWriter(names, element, d.b, given=(d.c,), where={d.j: "j > l"})
    whole = ContractionWriter(names, element, d.b)
    scratch, parameters = SCRATCH, PARAMETERS
    if form.sampled:
        scratch = SCRATCH | {"R": (f"{1 + form.sampled} * K",)}
    if form.vector:
        scratch, parameters = SCRATCH | {"R": ("Y", "K")}, PARAMETERS | {"readout": ("heads", "Y", "K")}
    moved, rest = ({n: s for n, s in parameters.items() if (n in MOVED) is kind} for kind in (True, False))
    begin = [
        *[f"{name} = int(table[{place}])" for place, name in enumerate(COUNTS)],
        *sizes, f"place = {len(COUNTS)}", *_views(moved, "table", "place"), "use = 0", *_in_time(form.timed),
        *_views(rest, "now" if form.timed else "table", "place"), "rule = table[numbers:]",
        *_views(scratch, "work", "use"), "load_overlaps(y, fixed, V, F, B, G)",
        "a = y[pairs * B:].reshape((heads, K))" if form.train_readout else "a = readout",
    ]  # fmt: skip
    law = ["cov = square[:N * N].reshape((N, N))", f"source_law({LAW})"]
    call = "K, N - rows, mean[:N], cov, w[:K + N - rows], label[c], sigma[c], rule, work[use:]"
    teachers = ["for l in range(rows, N):", "    w[K + l - rows] = -teacher[c, int(at[l]) - V]"]
    if form.vector:
        begin[-1] = "a = y[pairs * B:].reshape((heads, Y, K))" if form.train_readout else "a = readout"
        law = [law[0], "readouts = w[:Y * N].reshape((Y, N))", f"source_law({LAW.removesuffix('w')}readouts)"]
        call = "K, N - rows, mean[:N], cov, readouts, label[c * Y:(c + 1) * Y], sigma[c], rule, work[use:]"
        teachers = [
            "for o in range(Y):", "    for l in range(rows, N):",
            "        w[o, l] = -teacher[c, o * M + int(at[l]) - V]",
        ]  # fmt: skip
    time = ["piece = 0", "while piece < switches and t >= switch_times[piece]:", "    piece += 1"]
    body = [*begin, *time]
    if form.schedule != 1:
        # What the schedule multiplies, and the rest.
        body += [
            "factor = as_time(0, int(schedule_at))",
            "schedule = factor(t)",
            "eta_a *= schedule",
            "step *= schedule",
        ]
        body += ["at_schedule(L, steady_L, schedule, now_L)", "at_schedule(P, steady_P, schedule, now_P)"]
        body += ["for p in range(S):", "    now_kick[p] = steady_kick[p] + schedule * kick[p]"] if form.kicked else []
    load = LOAD.replace("{fixed}", DRIFTING if form.drifting else STILL)
    drift = form.regime != "noise-dominated"
    readout = [stage for stage in out.flow if stage.lhs.base == d.da]
    overlaps = [stage for stage in out.flow if stage.lhs.base == d.dGamma]
    sampled = [Tensor(t.lhs, _part(t.rhs, True)) for t in readout]
    steady = [Tensor(t.lhs, _part(t.rhs, False)) for t in readout]
    moments = [whole.clear(stage) for stage in out.moments]
    body += [line for lines in moments for line in lines] + _stages(outside, steady)
    body += ["for c in range(C):", "    if chance[piece, c] == 0.0:", "        continue"]
    per = _stages(inside, out.pulls)
    per += ["N = fields_read(0, K, M, V, rows, teacher[c], at)", *law, "H = slopes[:rows * N].reshape((rows, N))"]
    per.append(f"averages({call}, Gr, H, NN, R{step and f', {step}'})")
    per += _stages(inside, out.moments, clear=False)
    per += _stages(inside, sampled, clear=False) if drift else []
    body += indented(per)
    body += _stages(outside, overlaps)
    if out.sphere:
        body += [*_stages(outside, out.sphere[:3]), *_stages(outside, out.sphere[3:], clear=False)]
    lines = [header(title, form.schedule != 1 or form.timed), *averages, "", "", *load.splitlines(), "", ""]
    lines += ["@njit(**INNER)", f"def source_law({LAW}):"]
    lines += ['    """Fill covariance and mean of the fields of source c, and the weights of its units."""']
    lines += ["    Y = w.shape[0]"] if form.vector else []
    lines += indented(
        [
            *_stages(inside, out.laws), *_stages(inside, out.added, clear=False),
            "for l in range(N):", "    for j in range(l):", "        cov[j, l] = cov[l, j]",
            *teachers, "", "",
        ]
    )  # fmt: skip
    lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, table, work):", *indented(body)]
    each = ["N = fields_read(species, K, M, V, rows, teacher[c], at)", *law]
    each += ["first = (species * tests + c - tested) * 3", f"errors({call}, dy[first:first + 3])"]
    observe = [*begin, "tests = C - tested", "for species in range(S):", "    for c in range(tested, C):"]
    observe += indented(indented(each))
    lines += ["", "", f"@njit({RHS_SIGNATURE}, **FAST)", "def observe(t, y, dy, table, work):"]
    lines += ['    """Fill dy with error, classification error and loss of every species and test source."""']
    lines += indented(observe)
    lines += ["", "", f"@njit(types.int64({', '.join(6 * ['types.int64'])}), **OPTIONS)"]
    lines += ["def work_size(K, M, D, S, B, Y):", '    """Return the length of the scratch array."""']
    lines += indented(sizes)
    length = " + ".join(" * ".join(f"({s})" for s in shape) for shape in scratch.values())
    lines += [f"    return {length} + averages_work_size(K, M)", "", ""]
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in ends.items())]) + "\n"


def _part(expression: Any, sampled: bool) -> Any:
    """Return the terms that a sample moves, or the others."""
    import sympy as sp

    parts = sp.Add.make_args(sp.expand(expression))
    return sp.Add(*(term for term in parts if term.has(d.R) == sampled))
