"""Printed code of networks of erf mixtures: the moments of an erf network of tied units, taken together.

Unit a with activation ``g_0 + sum_p v_p erf(b_p x / sqrt 2)`` is J erf units (a, p) on the fields ``b_p f_a`` with
weights ``c_a v_p``. The equations of an erf network give the moments of those; sums over p give the network's own:

    D_ib = sum_p v_p b_p D_(ip)b,   N_ik = sum_pq v_p b_p v_q b_q N_(ip)(kq),   H_i = sum_p v_p H_(ip)

The constants add up to c_0 = sum_a c_a g_0. Slopes are even and erfs odd, so that it enters as noise of that size, and
H_i gains g_0 c_0.

Parameters after those of `generate`: J, g_0, v (J), b (J) of the students, then the same of the teachers.
"""

from __future__ import annotations

from collections.abc import Callable

from ...symbolic.loops import INDENT, LoopWriter
from .derivation import Derived
from .layout import LANES, buffer_views, indented, scratch_size, stage_lines

LIFT = '''@njit(**INNER)
def lift(C, c, K, own, other, CL, cL):
    """Fill covariance and weights of the erf units; `own` and `other` are (J, g_0, v, b) of students and teachers."""
    N = c.size
    J, Jt = int(own[0]), int(other[0])
    for a in range(N):
        one, count, start = (own, J, a * J) if a < K else (other, Jt, K * J + (a - K) * Jt)
        for p in range(count):
            cL[start + p] = c[a] * one[2 + p]
            for b in range(a + 1):
                two, size, place = (own, J, b * J) if b < K else (other, Jt, K * J + (b - K) * Jt)
                for q in range(size):
                    value = one[2 + count + p] * two[2 + size + q] * C[a, b]
                    CL[start + p, place + q] = value
                    CL[place + q, start + p] = value
'''

VIEWS = """J, other = int(p[{after}]), {after} + 2 + 2 * int(p[{after}])
Jt = int(p[other])
own, teacher = p[{after}:other], p[other:]
KL, NL = K * J, K * J + M * Jt
CL = work[place:place + NL * NL].reshape((NL, NL))
place += NL * NL
cL = work[place:place + NL]
place += NL
offset = 0.0
for a in range({first}, N):
    offset += c[a] * (own[1] if a < K else teacher[1])
lift(C, c, K, own, teacher, CL, cL)"""

LIFTED = """DL = work[place:place + KL * NL].reshape((KL, NL))
place += KL * NL
NNL = work[place:place + KL * KL].reshape((KL, KL))
place += KL * KL
HL = work[place:place + KL]
place += KL
moments(KL, NL, CL, cL, math.sqrt(p[4] * p[4] + offset * offset), DL, NNL, HL, work[place:])
v, b = own[2:2 + J], own[2 + J:]"""
GATHER = {
    "D": """for i in range(K):
    for a in range(N):
        unit, scale = (a * J, b[0]) if a < K else (KL + (a - K) * Jt, teacher[2 + Jt])
        D[i, a] = 0.0
        for s in range(J):
            D[i, a] += v[s] * b[s] * DL[i * J + s, unit] / scale""",
    "N": """for i in range(K):
    for k in range(K):
        NN[i, k] = 0.0
        for s in range(J):
            for r in range(J):
                NN[i, k] += v[s] * b[s] * v[r] * b[r] * NNL[i * J + s, k * J + r]""",
    "H": """for i in range(K):
    H[i] = own[1] * offset
    for s in range(J):
        H[i] += v[s] * HL[i * J + s]""",
}


class Mixture:
    """Moments through the erf network of tied units; the same face as `quadrature_code.Conditional`.

    Parameters
    ----------
    out : Derived
        Of the erf network.
    after : str
        Where the parameters of the mixtures begin, in the source.
    writers : callable
        Returns a fresh `LoopWriter` for the moments.
    kernels : list of str
        Source of the kernels that the moments call.
    """

    def __init__(self, out: Derived, after: str, writers: Callable[[], LoopWriter], kernels: list[str]) -> None:
        self.out, self.after, self.kernels = out, after, kernels
        self.names = dict.fromkeys(str(stage.lhs.base) for stage in out.moments)
        self.loops, self.observe = writers(), writers()
        self.stages = stage_lines(self.loops, out.moments)
        self.sum = self.observe.scalar_sum(out.generalization_error)

    def functions(self) -> list[str]:
        """Return the kernels, the way from units to erf units, and the moments of an erf network."""
        head = [f"{INDENT}M = N - K", f"{INDENT}place = 0"]
        lines = [*self.kernels, LIFT, "", "@njit(**INNER)", "def moments(K, N, C, c, sigma, D, NN, H, work):"]
        lines += [*head, *buffer_views(self.loops), *indented(self.stages), "", ""]
        lines += ["@njit(**INNER)", "def half_square(K, N, C, c, work):", *head, *buffer_views(self.observe)]
        return [*lines, *indented(self.sum), "", ""]

    def _views(self, first: str) -> list[str]:
        return VIEWS.format(after=self.after, first=first).splitlines()

    def moments(self) -> list[str]:
        """Return the lines that fill D, N and H."""
        square = self.out.setting.loss == "square"
        gather = [line for name in self.names for line in GATHER[name].splitlines()]
        return [*self._views("0" if square else "K"), *LIFTED.splitlines(), *gather]

    def error(self) -> list[str]:
        """Return the lines that return E[(f - f*)^2]/2."""
        return [*self._views("0"), "return half_square(KL, NL, CL, cL, work[place:]) + 0.5 * offset * offset"]

    def observables(self) -> list[str]:
        """Return the function of the size of the scratch array."""
        return [
            "", "", "def work_size(K, M, J, Jt):",
            '    """Return the length of the scratch array for these widths and numbers of erfs."""',
            "    own = (K + M) ** 2 + K + M + K * (K + M) + K * K + K",
            "    K, M = K * J, M * Jt", "    N = K + M", f"    {LANES}",
            f"    return own + N * N + N + K * N + K * K + K + {scratch_size(self.loops, self.observe)}",
        ]  # fmt: skip
