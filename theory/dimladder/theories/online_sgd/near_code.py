"""The difference form (`near`) as a self-contained numba module.

State ``y``: P (lower triangle, row by row), S (row by row), then, where readouts are trained, one number a student: its
readout, but for the first student of each teacher the gap ``e_m`` of that teacher.
Parameters ``p``: K, M, eta, eta_a, sigma, kappa, kappa_a, B, A (M), T (M x M), a (K; the frozen readout), then the
number n of nodes a student, the teacher each student is matched with (-1: none), its sign, the factor sigma_i, the
nodes u in [0, 1] and their weights; for sums of erfs J, g_0, v (J), b (J); last a level for the event `decades`.

A network of sums of erfs is an erf network of tied units (`mixture_code`), near its target as elsewhere: unit (i, p) is
matched with unit (pi(i), p) of the teacher, its difference is b_p v_i, the gap of that teacher unit v_p e_m.
"""

from __future__ import annotations

from typing import Any

from ...symbolic.kernels import KernelWriter
from ...symbolic.loops import INDENT, LoopWriter, SymmetricArray
from ...symbolic.printing import HEADER, OBSERVE_SIGNATURE, RHS_SIGNATURE
from .derivation import Derived
from .printed import (
    SCALARS,
    buffer_views,
    covariance_element,
    library,
    moment_views,
    place_of,
    scalar_writer,
    scalars,
)

LOAD = '''@njit(**FAST)
def load(y, p, C, r, e, a, q_, s_):
    """Fill the covariance C of units, nodes and differences, and the weights, from state and parameters.

    Every field is sign x teacher + reach x difference. The last four columns of C hold sign, row of the teacher, reach
    and row of the difference, -1 where there is none.
    """
    K = int(p[0])
    M = int(p[1])
    N = K + M
    first = {first} + M + M * M + K
    n = int(p[first])
    S = K * n
    match, sign, parity = p[first + 1:], p[first + 1 + K:], p[first + 1 + 2 * K:]
    node, weight = p[first + 1 + 3 * K:], p[first + 1 + 3 * K + n:]
    pairs = K * (K + 1) // 2
{readout}
    F = N + 2 * S
    form = C[:, F:]
    for i in range(K):
        matched = match[i] >= 0.0
        e[i] = 0.0 if matched else a[i]
        teacher, own = K + match[i] if matched else -1.0, N + S + i * n
        form[i, 0], form[i, 1], form[i, 2], form[i, 3] = sign[i], teacher, 1.0, own
        for q in range(n):
            at = N + i * n + q
            r[at] = a[i] * weight[q] if matched else 0.0
            q_[at] = a[i] * r[at]
            s_[at] = 2.0 * (1.0 - 2.0 * node[q]) * q_[at]
            form[at, 0], form[at, 1], form[at, 2], form[at, 3] = sign[i], teacher, node[q], own
            form[at + S, 0], form[at + S, 1], form[at + S, 2], form[at + S, 3] = 0.0, -1.0, 1.0, own
    for m in range(M):
        form[K + m, 0], form[K + m, 1], form[K + m, 2], form[K + m, 3] = 1.0, K + m, 0.0, -1.0
    for one in range(F):
        s, t, x, i = form[one, 0], int(form[one, 1]) - K, form[one, 2], (int(form[one, 3]) - N - S) // n
        for two in range(one + 1):
            s2, t2, x2, k = form[two, 0], int(form[two, 1]) - K, form[two, 2], (int(form[two, 3]) - N - S) // n
            total = 0.0
            if t >= 0 and t2 >= 0:
                total = s * s2 * p[{first} + M + t * M + t2]
            if t >= 0 and x2 != 0.0:
                total += s * x2 * y[pairs + k * M + t]
            if t2 >= 0 and x != 0.0:
                total += s2 * x * y[pairs + i * M + t2]
            if x != 0.0 and x2 != 0.0:
                total += x * x2 * (y[i * (i + 1) // 2 + k] if i >= k else y[k * (k + 1) // 2 + i])
            C[one, two] = total
            C[two, one] = total
'''

FROZEN = """for m in range(M):
    e[K + m] = -p[{first} + m]
for i in range(K):
    a[i] = p[{first} + M + M * M + i]
    if match[i] >= 0.0:
        e[K + int(match[i])] += parity[i] * a[i]"""

TRAINED = """for i in range(K):
    a[i] = y[pairs + K * M + i]
for m in range(M):
    pivot = -1
    others = 0.0
    for i in range(K):
        if match[i] == m:
            if pivot < 0:
                pivot = i
            else:
                others += parity[i] * a[i]
    e[K + m] = -p[{first} + m]
    if pivot >= 0:
        e[K + m] = a[pivot]
        a[pivot] = parity[pivot] * (p[{first} + m] + e[K + m] - others)"""

# The rate of a gap is that of the sum of its students' readouts.
GAPS = """for m in range(M):
    pivot = -1
    total = 0.0
    for i in range(K):
        if p[first + 1 + i] == m:
            total += p[first + 1 + 2 * K + i] * da[i]
            if pivot < 0:
                pivot = i
    if pivot >= 0:
        da[pivot] = total"""

VIEWS = """K = int(p[0])
M = int(p[1])
N = K + M
first = {first} + M + M * M + K
n = int(p[first])
S = K * n
F = N + 2 * S
C = work[:F * (F + 4)].reshape((F, F + 4))
place = F * (F + 4)
r = work[place:place + N + S]
place += N + S
e = work[place:place + N]
place += N
a = work[place:place + K]
place += K
q_ = work[place:place + N + S]
place += N + S
s_ = work[place:place + N + S]
place += N + S"""

GIVEN = '''@njit(**OPTIONS)
def residue(C, b, a1, a2):
    """Write a field, given that a1 (and a2) are zero, as a sum of two fields: rows and factors.

    Where it has the teacher of one of them, that is expressed by their differences: what is left is small.
    """
    F = C.shape[0]
    s, t, x, d = C[b, F], int(C[b, F + 1]), C[b, F + 2], int(C[b, F + 3])
    if t >= 0:
        for a in (a1, a2):
            if a >= 0 and int(C[a, F + 1]) == t:
                return int(C[a, F + 3]), -s * C[a, F + 2] / C[a, F], d, x
    return t, s, d, x


@njit(**OPTIONS)
def plain(C, b, c, a1, a2):
    """Covariance of what `residue` leaves of b and c, before conditioning."""
    rb, fb, db, xb = residue(C, b, a1, a2)
    rc, fc, dc, xc = residue(C, c, a1, a2)
    total = 0.0
    if rb >= 0 and rc >= 0:
        total += fb * fc * C[rb, rc]
    if rb >= 0 and dc >= 0:
        total += fb * xc * C[rb, dc]
    if db >= 0 and rc >= 0:
        total += xb * fc * C[db, rc]
    if db >= 0 and dc >= 0:
        total += xb * xc * C[db, dc]
    return total


@njit(**OPTIONS)
def beside(C, b, a, a1, a2):
    """Covariance of what is left of b with the whole of a."""
    rb, fb, db, xb = residue(C, b, a1, a2)
    return (fb * C[rb, a] if rb >= 0 else 0.0) + (xb * C[db, a] if db >= 0 else 0.0)


@njit(**OPTIONS)
def given(C, b, c, a1, a2):
    """Covariance of b and c given that a1 (and a2, unless -1) are zero; keeps its digits for fields nearly equal."""
    if a2 < 0:
        return schur(plain(C, b, c, a1, -1), beside(C, b, a1, a1, -1), beside(C, c, a1, a1, -1), C[a1, a1])
    # What is left of a2 given a1, and of b and c given both: first a1 is conditioned on, then that.
    v = C[a1, a1]
    b1, c1 = beside(C, b, a1, a1, a2), beside(C, c, a1, a1, a2)
    t1 = beside(C, a2, a1, a1, -1)
    r2, f2, d2, x2 = residue(C, a2, a1, -1)
    bt = (f2 * beside(C, b, r2, a1, a2) if r2 >= 0 else 0.0) + (x2 * beside(C, b, d2, a1, a2) if d2 >= 0 else 0.0)
    ct = (f2 * beside(C, c, r2, a1, a2) if r2 >= 0 else 0.0) + (x2 * beside(C, c, d2, a1, a2) if d2 >= 0 else 0.0)
    left = schur(plain(C, b, c, a1, a2), b1, c1, v)
    v2 = schur(plain(C, a2, a2, a1, -1), t1, t1, v)
    # A field that a1 determines has no density of its own: what is multiplied by it does not matter.
    return left if v2 <= 0.0 else schur(left, schur(bt, b1, t1, v), schur(ct, c1, t1, v), v2)
'''

END = '''@njit(types.int64(types.int64, types.int64, types.int64), **OPTIONS)
def work_size(K, M, n):
    """Return the length of the scratch array for these widths."""
    N = K + M
    S = K * n
    F = N + 2 * S
    return F * (F + 4) + 4 * N + 3 * S + K + K * N + 2 * K * K + K + max({sizes})


@njit(types.float64(types.float64, types.float64[::1], types.float64[::1]), **FAST)
def decades(t, y, p):
    """Return log10(e_g) less the level in the last parameter: where it changes sign, e_g has fallen far enough."""
    K = int(p[0])
    M = int(p[1])
    error = generalization_error(y, p, np.empty(work_size(K, M, int(p[{first} + M + M * M + K]))))
    return math.log10(error) - p[-1] if error > 0.0 else -1.0
'''


LIFT = '''@njit(**FAST)
def lift(y, p):
    """Return state and parameters of the erf network that a network of sums of erfs is."""
    K, M = int(p[0]), int(p[1])
    first = {first} + M + M * M + K
    n = int(p[first])
    own = first + 1 + 3 * K + 2 * n
    J = int(p[own])
    v, b = p[own + 2:own + 2 + J], p[own + 2 + J:own + 2 + 2 * J]
    pairs, KL, ML = K * (K + 1) // 2, K * J, M * J
    pairs_lifted, first_lifted = KL * (KL + 1) // 2, {first} + ML + ML * ML + KL
    yl = np.zeros(pairs_lifted + KL * ML + KL)
    pl = np.zeros(first_lifted + 2 + 3 * KL + 2 * n)
    pl[:{first}] = p[:{first}]
    pl[0], pl[1], pl[4] = KL, ML, math.sqrt(p[4] ** 2 + offset(y, p) ** 2)
    pl[first_lifted] = n
    for q in range(2 * n):
        pl[first_lifted + 1 + 3 * KL + q] = p[first + 1 + 3 * K + q]
    for m in range(M):
        for s in range(J):
            pl[{first} + m * J + s] = p[{first} + m] * v[s]
            for l in range(M):
                for r in range(J):
                    pl[{first} + ML + (m * J + s) * ML + l * J + r] = b[s] * b[r] * p[{first} + M + m * M + l]
    for i in range(K):
        for s in range(J):
            at = i * J + s
            match = p[first + 1 + i]
            pl[first_lifted + 1 + at] = match * J + s if match >= 0.0 else -1.0
            pl[first_lifted + 1 + KL + at] = p[first + 1 + K + i]
            pl[first_lifted + 1 + 2 * KL + at] = p[first + 1 + K + i]
            pl[{first} + ML + ML * ML + at] = p[{first} + M + M * M + i] * v[s]
            yl[pairs_lifted + KL * ML + at] = {slot} * v[s]
            for m in range(M):
                for r in range(J):
                    yl[pairs_lifted + at * ML + m * J + r] = b[s] * b[r] * y[pairs + i * M + m]
            for k in range(i + 1):
                for r in range(J):
                    other = k * J + r
                    if other <= at:
                        yl[at * (at + 1) // 2 + other] = b[s] * b[r] * y[i * (i + 1) // 2 + k]
    return yl, pl
'''

# The constants of all units together: g_0 times what the readouts of the students miss of the teachers'.
OFFSET = '''@njit(**FAST)
def offset(y, p):
    """Return the constant of the error, sum_a c_a g_0."""
    K, M = int(p[0]), int(p[1])
    first = {first} + M + M * M + K
    constant = p[first + 2 + 3 * K + 2 * int(p[first])]
    if constant == 0.0:
        return 0.0
    total = 0.0
    for m in range(M):
        gap, met = -p[{first} + m], False
        for i in range(K):
            if p[first + 1 + i] == m:
                {add}
                met = True
        total += gap
    for i in range(K):
        if p[first + 1 + i] < 0.0:
            total += {slot}
    return constant * total
'''

GATHER = """yl, pl = lift(y, p)
own = first + 1 + 3 * K + 2 * n
J = int(p[own])
v, b = p[own + 2:own + 2 + J], p[own + 2 + J:own + 2 + 2 * J]
KL, NL = K * J, (K + M) * J
DL, LL, NNL, HL = np.zeros((KL, NL)), np.zeros((KL, KL)), np.zeros((KL, KL)), np.zeros(KL)
moments(yl, pl, np.empty(work_size(KL, M * J, n)), DL, LL, NNL, HL)
for i in range(K):
    for f in range({columns}, N):
        D[i, f] = 0.0
        for s in range(J):
            D[i, f] += v[s] * b[s] * DL[i * J + s, f * J] / b[0]
    for k in range(K):
        L[i, k] = 0.0
        for s in range(J):
            L[i, k] += v[s] * b[s] * LL[i * J + s, k * J] / b[0]"""
GATHER_NOISE = """for i in range(K):
    for k in range(K):
        NN[i, k] = 0.0
        for s in range(J):
            for r in range(J):
                NN[i, k] += v[s] * b[s] * v[r] * b[r] * NNL[i * J + s, k * J + r]"""
GATHER_READOUT = """for i in range(K):
    H[i] = p[own + 1] * offset(y, p)
    for s in range(J):
        H[i] += v[s] * HL[i * J + s]"""


def near_source(out: Derived, title: str) -> str:
    """Return the source of ``rhs``, ``generalization_error`` and ``decades`` of a difference form."""
    trained = out.setting.train_readout
    first = 2 + len(SCALARS)
    arrays: dict[str, Any] = {"a": "a", "e": "e", "r": "r", "N": "NN", "H": "H", "L": "L"}
    arrays |= dict.fromkeys(("C", "Q", "M", "T"), SymmetricArray(covariance_element))
    arrays |= {"q": "q_", "s": "s_"}
    arrays["d"] = lambda m, n: f"(0.0 if ({m} - N) // n == ({n} - N) // n else 1.0)"
    difference = _difference()
    arrays["E"] = lambda i, k: f"C[{i}, {place_of(difference(k))}]"
    arrays["P"] = lambda i, k: f"C[{place_of(difference(i))}, {place_of(difference(k))}]"
    arrays["D"] = lambda i, b: f"D[{i}, {b}]"
    arrays["dP"] = lambda i, k: f"dy[{i} * ({i} + 1) // 2 + {k}]"
    arrays["dM"] = lambda i, m: f"dy[K * (K + 1) // 2 + {i} * M + {m} - K]"
    arrays["da"] = lambda i: f"da[{i}]"
    loops, observe = (LoopWriter(out.indices, arrays, scalar_writer()) for _ in range(2))
    single = LoopWriter(out.indices, arrays, scalar_writer("math.asin"))
    readout = _indented((TRAINED if trained else FROZEN).format(first=first))
    kernels = KernelWriter(out.kernels, single.scalar, "@njit(**FAST)").source()
    given = [GIVEN, ""] if any("given(" in line for line in kernels) else []
    lines = [HEADER.format(title=title), *library(kernels), *given, *kernels]
    lines += [LOAD.format(first=first, readout=readout), ""]
    views = _indented(VIEWS.format(first=first)).splitlines()
    load = f"{INDENT}load(y, p, C, r, e, a, q_, s_)"

    error = observe.scalar_sum(out.generalization_error)
    body = [
        [line for stage in stages for line in ["", f"# {stage.lhs}", *loops.tensor(stage)]]
        for stages in (out.moments, out.flow)
    ]
    rates = [f"{INDENT}da = dy[K * (K + 1) // 2 + K * M:]"] if trained else []
    signature = f"@njit({OBSERVE_SIGNATURE}, **FAST)", "def generalization_error(y, p, work):"
    if out.setting.mixture:
        lines += _mixture_functions(out, loops, observe, views, load, body[0], error, first)
        names = {str(stage.lhs.base) for stage in out.moments}
        gather = GATHER.format(columns="0" if out.setting.spherical else "K").splitlines()
        gather += GATHER_NOISE.splitlines() if "N" in names else []
        gather += GATHER_READOUT.splitlines() if "H" in names else []
        lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, p, work):", *views]
        lines += [*moment_views(out.moments), load, *scalars(out), *rates]
        lines += [INDENT + line if line else "" for line in [*gather, *body[1]]]
        lines += [_indented(GAPS)] if trained else []
        size = "work_size(int(pl[0]), int(pl[1]), int(p[{first} + int(p[1]) + int(p[1]) ** 2 + int(p[0])]))"
        value = f"half_square(yl, pl, np.empty({size.format(first=first)})) + 0.5 * offset(y, p) ** 2"
        lines += ["", "", *signature, f"{INDENT}yl, pl = lift(y, p)", f"{INDENT}return {value}"]
    else:
        lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, p, work):", *views]
        lines += [*moment_views(out.moments), *buffer_views(loops), load, *scalars(out), *rates]
        lines += [INDENT + line if line else "" for line in [*body[0], *body[1]]]
        lines += [_indented(GAPS)] if trained else []
        lines += ["", "", *signature, *views, *buffer_views(observe), load, *(INDENT + line for line in error)]
    sizes = [" + ".join(["0", *(" * ".join(shape) for shape in w.buffers.values())]) for w in (loops, observe)]
    work_size, decades = END.format(first=first, sizes=", ".join(sizes)).split("\n\n\n")
    at = lines.index(LOAD.format(first=first, readout=readout))
    lines[at:at] = [work_size, "", ""]
    lines += ["", "", decades]
    return "\n".join(lines) + "\n"


def _mixture_functions(
    out: Derived, loops: LoopWriter, observe: LoopWriter, views: list[str], load: str, moments: list[str],
    error: list[str], first: int,
) -> list[str]:  # fmt: skip
    """Return the moments and e_g of the erf network, and the way to it."""
    trained = out.setting.train_readout
    slot = "y[K * (K + 1) // 2 + K * M + i]" if trained else f"p[{first} + M + M * M + i]"
    # Trained: the first student of a teacher keeps the gap; of the others, and of mirrored ones, constants differ.
    add = f"gap = {slot} if not met else gap" if trained else f"gap += p[first + 1 + 2 * K + i] * {slot}"
    offset = OFFSET.format(first=first, slot=slot, add=add)
    lift = LIFT.format(first=first, slot=slot if trained else "0.0")
    own = [INDENT + line if line else "" for line in moments]
    lines = [offset, "", lift, "", "@njit(**FAST)", "def moments(y, p, work, D, L, NN, H):", *views]
    lines += [*buffer_views(loops), load, f"{INDENT}sigma = p[4]", *own, "", ""]
    lines += ["@njit(**FAST)", "def half_square(y, p, work):", *views, *buffer_views(observe), load]
    return [*lines, *(INDENT + line for line in error), "", ""]


def _difference() -> Any:
    from .near import Difference

    return Difference


def _indented(text: str) -> str:
    return "\n".join(INDENT + line for line in text.splitlines())
