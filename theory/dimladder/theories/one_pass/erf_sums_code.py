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
from .erf_sums import ErfMixture
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


# The same for the samples of one source: with means, Stein's form, and an offset y_0 instead of noise.
SOURCE_SUMS = '''

@njit(**INNER)
def lift(K, M, mu, C, c, y0, muL, CL, cL):
    """Fill mean, covariance and weights of the erf units; return what is left of the label: y_0 without constants."""
    offset = y0
    for a in range(K + M):
        own, count, start = 0, J, a * J
        if a >= K:
            own, count, start = J, JT, K * J + (a - K) * JT
        offset -= c[a] * (STUDENT_CONSTANT if a < K else TEACHER_CONSTANT)
        for p in range(count):
            muL[start + p] = SCALES[own + p] * mu[a]
            cL[start + p] = c[a] * WEIGHTS[own + p]
            for b in range(a + 1):
                other, size, place = 0, J, b * J
                if b >= K:
                    other, size, place = J, JT, K * J + (b - K) * JT
                for q in range(size):
                    value = SCALES[own + p] * SCALES[other + q] * C[a, b]
                    CL[start + p, place + q] = value
                    CL[place + q, start + p] = value
    return offset


@njit(**INNER)
def averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R):
{views}
    GL, place = work[place:place + KL], place + KL
    HL, place = work[place:place + KL * NL].reshape((KL, NL)), place + KL * NL
    NL2, place = work[place:place + KL * KL].reshape((KL, KL)), place + KL * KL
    RL, place = work[place:place + KL], place + KL
    erf_averages(KL, ML, muL, CL, cL, offset, sigma, rule, work[place:], GL, HL, NL2, RL)
    error = -offset
    for a in range(NL):
        error += cL[a] * math.erf(muL[a] / math.sqrt(2.0 * (1.0 + CL[a, a])))
    for i in range(K):
        G[i] = 0.0
        R[i] = STUDENT_CONSTANT * error
        for s in range(J):
            R[i] += WEIGHTS[s] * RL[i * J + s]
            {fill}
        for p in range(K + M):
            own, count, start = 0, J, p * J
            if p >= K:
                own, count, start = J, JT, KL + (p - K) * JT
            H[i, p] = 0.0
            for s in range(J):
                for q in range(count):
                    H[i, p] += WEIGHTS[s] * SCALES[s] * SCALES[own + q] * HL[i * J + s, start + q]
        for k in range(i + 1):
            total = 0.0
            for s in range(J):
                for q in range(J):
                    total += WEIGHTS[s] * SCALES[s] * WEIGHTS[q] * SCALES[q] * NL2[i * J + s, k * J + q]
            N2[i, k] = total
            N2[k, i] = total


@njit(**INNER)
def errors(K, M, mu, C, c, y0, sigma, rule, work, out):
{views}
    out[0] = half_square(KL, ML, muL, CL, cL, offset, work[place:])
    out[1] = {share}
    out[2] = math.nan


@njit(**INNER)
def averages_work_size(K, M):
    KL, NL, N = K * J, K * J + M * JT, K + M
    return NL * NL + 2 * NL + KL * NL + KL * KL + 2 * KL + erf_work_size(KL, M * JT){room}
'''
SOURCE_VIEWS = """    KL, ML = K * J, M * JT
    NL, place = KL + ML, 0
    muL, place = work[place:place + NL], place + NL
    CL, place = work[place:place + NL * NL].reshape((NL, NL)), place + NL * NL
    cL, place = work[place:place + NL], place + NL
    offset = lift(K, M, mu, C, c, y0, muL, CL, cL)"""


def source_sums(sums: tuple[ErfMixture, ErfMixture], erfs: list[str], centred: bool, signs: list[str]) -> list[str]:
    """Return the source of the averages of one source whose activations are sums of erfs.

    Parameters
    ----------
    sums : pair of ErfMixture
        Of students and teachers.
    erfs : list of str
        Source of the averages of an erf network.
    centred : bool
        Whether those read no means: G is then not needed.
    signs : list of str
        Source of ``wrong_share`` of the activations themselves; empty where it is not wanted.
    """
    names = {"averages(": "erf_averages(", "errors(": "erf_errors(", "averages_work_size(": "erf_work_size("}
    text = "\n".join(erfs)
    for name, other in names.items():
        text = text.replace(f"def {name}", f"def {other}")
    student, teacher = sums
    numbers = {
        "J": len(student.weights), "JT": len(teacher.weights), "STUDENT_CONSTANT": student.constant,
        "TEACHER_CONSTANT": teacher.constant,
        "WEIGHTS": f"np.array({[*student.weights.tolist(), *teacher.weights.tolist()]!r})",
        "SCALES": f"np.array({[*student.scales.tolist(), *teacher.scales.tolist()]!r})",
    }  # fmt: skip
    body = SOURCE_SUMS.replace("{views}", SOURCE_VIEWS)
    body = body.replace(
        "{fill}", "GL[i * J + s] = 0.0" if centred else "G[i] += WEIGHTS[s] * SCALES[s] * GL[i * J + s]"
    )
    body = body.replace("{share}", "wrong_share(K, M, mu, C, c, y0, rule, work)" if signs else "math.nan")
    body = body.replace("{room}", " + N * N + quadrature_work(N)" if signs else "")
    return [*(f"{name} = {value}" for name, value in numbers.items()), "", "", *signs, text, *body.splitlines()]
