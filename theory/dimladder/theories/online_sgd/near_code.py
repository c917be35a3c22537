"""The difference form (`near`) as a self-contained numba module.

State ``y``: P (lower triangle, row by row), S (row by row), then, where readouts are trained, one number a student: its
readout, but for the first student of each teacher the gap ``e_m`` of that teacher.
Parameters ``p``: K, M, eta, eta_a, sigma, kappa, kappa_a, B, A (M), T (M x M), a (K; the frozen readout), then the
number n of nodes a student, the teacher each student is matched with (-1: none), its sign, the factor sigma_i, the
nodes u in [0, 1] and their weights; last a level for the event `decades`.
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
def load(y, p, C, r, e, a, form):
    """Fill the covariance C of units, nodes and differences, and the weights r, e, a, from state and parameters.

    Every field is sign x teacher + reach x difference; ``form`` holds these four numbers a field.
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
    for i in range(K):
        e[i] = a[i] if match[i] < 0.0 else 0.0
        form[i, 0], form[i, 1], form[i, 2], form[i, 3] = sign[i], match[i], 1.0, i
        for q in range(n):
            r[N + i * n + q] = a[i] * weight[q] if match[i] >= 0.0 else 0.0
            form[N + i * n + q, 0], form[N + i * n + q, 1] = sign[i], match[i]
            form[N + i * n + q, 2], form[N + i * n + q, 3] = node[q], i
            form[N + S + i * n + q, 0], form[N + S + i * n + q, 1] = 0.0, -1.0
            form[N + S + i * n + q, 2], form[N + S + i * n + q, 3] = 1.0, i
    for m in range(M):
        form[K + m, 0], form[K + m, 1], form[K + m, 2], form[K + m, 3] = 1.0, m, 0.0, 0.0
    for one in range(N + 2 * S):
        s, t, x, i = form[one, 0], int(form[one, 1]), form[one, 2], int(form[one, 3])
        for two in range(one + 1):
            s2, t2, x2, k = form[two, 0], int(form[two, 1]), form[two, 2], int(form[two, 3])
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
C = work[:F * F].reshape((F, F))
place = F * F
form = work[place:place + 4 * F].reshape((F, 4))
place += 4 * F
r = work[place:place + N + S]
place += N + S
e = work[place:place + N]
place += N
a = work[place:place + K]
place += K"""

END = '''@njit(types.int64(types.int64, types.int64, types.int64), **OPTIONS)
def work_size(K, M, n):
    """Return the length of the scratch array for these widths."""
    N = K + M
    S = K * n
    F = N + 2 * S
    return F * F + 4 * F + 2 * N + S + K + K * N + 2 * K * K + K + max({sizes})


@njit(types.float64(types.float64, types.float64[::1], types.float64[::1]), **FAST)
def decades(t, y, p):
    """Return log10(e_g) less the level in the last parameter: where it changes sign, e_g has fallen far enough."""
    K = int(p[0])
    M = int(p[1])
    error = generalization_error(y, p, np.empty(work_size(K, M, int(p[{first} + M + M * M + K]))))
    return math.log10(error) - p[-1] if error > 0.0 else -1.0
'''


def near_source(out: Derived, title: str) -> str:
    """Return the source of ``rhs``, ``generalization_error`` and ``decades`` of a difference form."""
    trained = out.setting.train_readout
    first = 2 + len(SCALARS)
    arrays: dict[str, Any] = {"a": "a", "e": "e", "r": "r", "N": "NN", "H": "H", "L": "L"}
    arrays |= dict.fromkeys(("C", "Q", "M", "T"), SymmetricArray(covariance_element))
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
    lines = [HEADER.format(title=title), *library(kernels), *kernels]
    lines += [LOAD.format(first=first, readout=readout), ""]
    views = _indented(VIEWS.format(first=first)).splitlines()
    load = f"{INDENT}load(y, p, C, r, e, a, form)"

    body: list[str] = []
    for stage in [*out.moments, *out.flow]:
        body += ["", f"# {stage.lhs}" + (" (symmetric)" if stage.symmetric else ""), *loops.tensor(stage)]
    rates = [f"{INDENT}da = dy[K * (K + 1) // 2 + K * M:]"] if trained else []
    lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, p, work):", *views]
    lines += [*moment_views(out.moments), *buffer_views(loops), load, *scalars(out), *rates]
    lines += [INDENT + line if line else "" for line in body]
    lines += [_indented(GAPS)] if trained else []
    lines += ["", "", f"@njit({OBSERVE_SIGNATURE}, **FAST)", "def generalization_error(y, p, work):", *views]
    lines += [*buffer_views(observe), load, *(INDENT + s for s in observe.scalar_sum(out.generalization_error))]
    sizes = [" + ".join(["0", *(" * ".join(shape) for shape in w.buffers.values())]) for w in (loops, observe)]
    lines += ["", "", *END.format(first=first, sizes=", ".join(sizes)).splitlines()]
    return "\n".join(lines) + "\n"


def _difference() -> Any:
    from .near import Difference

    return Difference


def _indented(text: str) -> str:
    return "\n".join(INDENT + line for line in text.splitlines())
