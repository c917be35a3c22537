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

from ....symbolic.kernels import KernelWriter
from ....symbolic.loops import INDENT, LoopWriter, SymmetricArray
from ....symbolic.printing import OBSERVE_SIGNATURE, RHS_SIGNATURE, header
from ..derivation import Derived
from ..erf_sums_code import GATHER as MIXTURE_GATHER
from ..layout import (
    FIRST,
    buffer_views,
    covariance_element,
    indented,
    library,
    moment_views,
    place_of,
    scalar_writer,
    scalars,
    scratch_size,
    stage_lines,
)
from . import library as near_library
from .derivation import Difference

VIEWS = """K = int(p[0])
M = int(p[1])
N = K + M
first = FIRST + M + M * M + K
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

WORK_SIZE = '''@njit(types.int64(types.int64, types.int64, types.int64), **OPTIONS)
def work_size(K, M, n):
    """Return the length of the scratch array for these widths."""
    N = K + M
    S = K * n
    F = N + 2 * S
    return F * (F + 4) + 4 * N + 3 * S + K + K * N + 2 * K * K + K + {size}
'''

DECADES = '''@njit(types.float64(types.float64, types.float64[::1], types.float64[::1]), **FAST)
def decades(t, y, p):
    """Return log10(e_g) less the level in the last parameter: where it changes sign, e_g has fallen far enough."""
    K = int(p[0])
    M = int(p[1])
    error = generalization_error(y, p, np.empty(work_size(K, M, int(p[FIRST + M + M * M + K]))))
    return math.log10(error) - p[-1] if error > 0.0 else -1.0'''

# Moments of the erf network, taken together as those of a network of sums of erfs.
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
GATHER_READOUT = """for i in range(K):
    H[i] = p[own + 1] * offset(y, p)
    for s in range(J):
        H[i] += v[s] * HL[i * J + s]"""


def near_source(out: Derived, title: str) -> str:
    """Return the source of ``rhs``, ``generalization_error`` and ``decades`` of a difference form."""
    trained = out.setting.train_readout
    arrays: dict[str, Any] = {"a": "a", "e": "e", "r": "r", "N": "NN", "H": "H", "L": "L"}
    arrays |= dict.fromkeys(("C", "Q", "M", "T"), SymmetricArray(covariance_element))
    arrays |= {"q": "q_", "s": "s_"}
    arrays["d"] = lambda m, n: f"(0.0 if ({m} - N) // n == ({n} - N) // n else 1.0)"
    arrays["E"] = lambda i, k: f"C[{i}, {place_of(Difference(k))}]"
    arrays["P"] = lambda i, k: f"C[{place_of(Difference(i))}, {place_of(Difference(k))}]"
    arrays["D"] = lambda i, b: f"D[{i}, {b}]"
    arrays["dP"] = lambda i, k: f"dy[{i} * ({i} + 1) // 2 + {k}]"
    arrays["dM"] = lambda i, m: f"dy[K * (K + 1) // 2 + {i} * M + {m} - K]"
    arrays["da"] = lambda i: f"da[{i}]"
    loops, observe = (LoopWriter(out.indices, arrays, scalar_writer()) for _ in range(2))
    single = LoopWriter(out.indices, arrays, scalar_writer("math.asin"))
    kernels = KernelWriter(out.kernels, single.scalar, "@njit(**INNER)").source()
    views = indented(VIEWS.splitlines())
    load = f"{INDENT}load(y, p, C, r, e, a, q_, s_)"

    error = observe.scalar_sum(out.generalization_error)
    moments, flow = stage_lines(loops, out.moments), stage_lines(loops, out.flow)
    lines = [header(title, out.setting.schedule != 1), *near_library.constants(FIRST, trained), *library(kernels)]
    if any("given(" in line for line in kernels):
        lines += near_library.pasted(
            near_library.residue, near_library.plain, near_library.beside, near_library.given, options="OPTIONS"
        )
    lines += [
        *kernels,
        WORK_SIZE.format(size=scratch_size(loops, observe)),
        "",
        *near_library.pasted(near_library.load),
    ]
    lines += near_library.pasted(near_library.gap_rates) if trained else []

    rates = [f"{INDENT}da = dy[K * (K + 1) // 2 + K * M:]"] if trained else []
    gaps = [f"{INDENT}gap_rates(p, first, K, M, da)"] if trained else []
    observable = f"@njit({OBSERVE_SIGNATURE}, **FAST)", "def generalization_error(y, p, work):"
    if out.setting.mixture:
        lines += near_library.pasted(near_library.offset, near_library.lift)
        lines += ["@njit(**INNER)", "def moments(y, p, work, D, L, NN, H):", *views, *buffer_views(loops), load]
        lines += [f"{INDENT}sigma = p[4]", *indented(moments), "", ""]
        lines += ["@njit(**INNER)", "def half_square(y, p, work):", *views, *buffer_views(observe), load]
        lines += [*indented(error), "", ""]
        names = {str(stage.lhs.base) for stage in out.moments}
        moments = GATHER.format(columns="0" if out.setting.spherical else "K").splitlines()
        moments += MIXTURE_GATHER["N"].splitlines() if "N" in names else []
        moments += GATHER_READOUT.splitlines() if "H" in names else []
        buffers: list[str] = []
        size = "work_size(int(pl[0]), int(pl[1]), int(p[FIRST + int(p[1]) + int(p[1]) ** 2 + int(p[0])]))"
        last = [
            f"{INDENT}yl, pl = lift(y, p)",
            f"{INDENT}return half_square(yl, pl, np.empty({size})) + 0.5 * offset(y, p) ** 2",
        ]
    else:
        buffers = buffer_views(loops)
        last = [*views, *buffer_views(observe), load, *indented(error)]
    lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, p, work):", *views, *moment_views(out.moments)]
    lines += [*buffers, load, *scalars(out), *rates, *indented([*moments, *flow]), *gaps]
    lines += ["", "", *observable, *last, "", "", DECADES]
    return "\n".join(lines) + "\n"
