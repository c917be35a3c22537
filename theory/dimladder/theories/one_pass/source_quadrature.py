"""Printed code of the averages of one source by quadrature over all its fields: any activation, loss, target and rule.

What a sample moves a tracked vector by, b_p, is averaged as it is: with fields f = mu + L zeta the moments E[b zeta]
give the regression of b on the fields, ``H C = E[b (f - mu)]``, in the place of derivatives that need not exist. For
SGD b_i = g'(lambda_i) l'(f, y); an update rule written out has its own b for every vector.

Fields are ordered teachers first, the vectors beside the weights next, the unit with the largest share in the output
last: given all others, the kinks of the loss are points on its axis, or on that of the label noise.
"""

from __future__ import annotations

import itertools
import keyword
from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...numerics.points import POINTS_SOURCE
from ...problem.expressions import drop_atoms
from ...symbolic.factors import X
from ...symbolic.pieces import STABLE_SOURCE, pieces, stabilise
from ...symbolic.printing import assignments, printer
from .layout import indented
from .notation import LABEL, OUTPUT
from .quadrature_code import constants, functions_of_x, teacher_field
from .source_averages import SourceAverages

INTEGRATE = '''@njit(**INNER)
def integrate(K, M, mu, C, c, y0, sigma, rule, eta, tested, G, moments, N2, R, L, out):
    """Average over all fields; `tested`: only the errors, otherwise only what moves the vectors.

    L becomes the root of the covariance of the fields in the order that `arrange` gives.
    """
    V = SPECIES * K
    N = V + M
    order = np.empty(N, np.int64)
    mean, cov = np.empty(N), np.empty((N, N))
    along_mu, along_C = along(V, M, mu, C)
    arrange(K, M, along_C, c, order)
    for q in range(N):
        mean[q] = along_mu[order[q]]
        for r in range(N):
            cov[q, r] = along_C[order[q], order[r]]
    L[:] = 0.0
    triangular_root(cov, 0, L)
    G[:], moments[:], N2[:], R[:], out[:] = 0.0, 0.0, 0.0, 0.0, 0.0
    count = int(rule[0]) if sigma > 0.0 else 1
    noise = rule[1:1 + 2 * int(rule[0])].reshape((int(rule[0]), 2)).copy()
    if not sigma > 0.0:
        noise[0, 0], noise[0, 1] = 0.0, 1.0
    points = rule[1 + 2 * int(rule[0]):]
    f, zeta, x = np.empty(N), np.zeros(N), np.empty(N)
    b, value = np.empty(V), np.empty(K)
    last = N - 1
    if points[0] == 1.0:
        total = int(points[1])
        width = (points.size - 2) // total
        table = points[2:].reshape((total, width))
        for s in range(total):
            for q in range(N):
                zeta[q] = table[s, q]
            for q in range(N):
                at = mean[q]
                for r in range(q + 1):
                    at += L[q, r] * zeta[r]
                x[order[q]] = at
            star = y0 + target(x[V:], c[K:])
            for v in range(count):
                shift, weight = sigma * noise[v, 0], noise[v, 1] / total
                add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, G, moments, N2, R, out)
        return
    axes = points[1:]
    kinks = np.empty(MOST)
    size = axis_capacity(L, axes, MOST)
    if not size < 20000:
        # A trial state far from the curve, or a blow-up: nodes would be without number.
        G[:], moments[:], N2[:], R[:], out[:] = math.nan, math.nan, math.nan, math.nan, math.nan
        return
    z, w = np.empty((N, size)), np.empty((N, size))
    counts, state = np.zeros(N, np.int64), np.full(N, -1)
    means, weights = np.zeros(N), np.ones(N + 1)
    own, top = order[last], axes[1]
    # Noise that meets kinks of the loss is the innermost axis, split there; otherwise it has few values.
    inside = sigma > 0.0 and NOISE_LEVELS > 0
    steps, masses, turns = np.empty(size), np.empty(size), np.empty(NOISE_LEVELS + 1)
    offset = math.nan if inside else y0
    while next_point(mean, L, order, K, c, offset, tested, kinks, axes, z, w, counts, state, means, zeta, weights,
                     f):
        for q in range(last):
            x[order[q]] = f[q]
        star = y0 + target(x[V:], c[K:])
        spread = L[last, last]
        for v in range(1 if inside else count):
            shift = sigma * noise[v, 0]
            if spread == 0.0:
                z[last, 0], w[last, 0], nodes = 0.0, 1.0, 1
            else:
                found = own_kinks(last, f, means[last], spread, top, order, K, c, offset + shift, tested, kinks)
                nodes = normal_nodes(kinks[:found], means[last], spread, axes, z[last], w[last])
            for q in range(nodes):
                zeta[last] = z[last, q]
                x[own] = means[last] + spread * zeta[last]
                weight = weights[last] * w[last, q]
                if not inside:
                    weight *= noise[v, 1]
                    add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, G, moments, N2, R, out)
                    continue
                output = 0.0
                for k in range(K):
                    output += c[k] * g(x[k])
                found = 0
                for r in range(NOISE_LEVELS):
                    found = insert(noise_level(r, output), turns, found)
                for s in range(normal_nodes(turns[:found], star, sigma, axes, steps, masses)):
                    at = sigma * steps[s]
                    add(x, zeta, K, c, star, at, weight * masses[s], eta, tested, b, value, G, moments, N2, R, out)


@njit(**INNER)
def add(x, zeta, K, c, star, noise, weight, eta, tested, b, value, G, moments, N2, R, out):
    """Add one sample to the averages: its fields x, their independent parts, its label without noise, the noise."""
    V = b.size
    f = 0.0
    for k in range(K):
        value[k] = g(x[k])
        f += c[k] * value[k]
    y = star + noise
    if tested:
        out[0] += 0.5 * weight * (f - star) * (f - star)
        out[1] += weight * (1.0 if f * star < 0.0 else 0.0)
        out[2] += weight * loss(f, y)
        return
    error = loss_slope(f, y)
    moved(x, K, c, f, y, error, eta, b)
    for k in range(K):
        R[k] += weight * error * value[k]
    for p in range(V):
        G[p] += weight * b[p]
        for q in range(zeta.size):
            moments[p, q] += weight * b[p] * zeta[q]
        for q in range(p + 1):
            N2[p, q] += weight * b[p] * b[q]


@njit(**INNER)
def arrange(K, M, C, c, order):
    """Fill the order of the fields: teachers, other vectors, then units by their share in the output."""
    V = SPECIES * K
    for m in range(M):
        order[m] = V + m
    for p in range(K, V):
        order[M + p - K] = p
    first = M + V - K
    for k in range(K):
        place = first + k
        share = abs(c[k]) * math.sqrt(max(C[k, k], 0.0))
        while place > first:
            other = order[place - 1]
            if abs(c[other]) * math.sqrt(max(C[other, other], 0.0)) <= share:
                break
            order[place] = other
            place -= 1
        order[place] = k


@njit(**INNER)
def averages({signature}):
    V = SPECIES * K
    N = V + M
    L = work[:N * N].reshape((N, N))
    moments = work[N * N:N * N + V * N].reshape((V, N))
    slopes = work[N * N + V * N:N * N + 2 * V * N].reshape((V, N))
    out = work[N * N + 2 * V * N:N * N + 2 * V * N + 3]
    integrate(K, M, mu, C, c, y0, sigma, rule, eta, False, G, moments, N2, R, L, out)
    for p in range(V):
        for q in range(p):
            N2[q, p] = N2[p, q]
    derivatives(moments, L, slopes)
    order = np.empty(N, np.int64)
    _, along_C = along(V, M, mu, C)
    arrange(K, M, along_C, c, order)
    for q in range(N):
        for p in range(V):
            H[p, order[q]] = slopes[p, q]
    back(V, M, H)


@njit(**INNER)
def errors(K, M, mu, C, c, y0, sigma, rule, work, out):
    V = SPECIES * K
    N = V + M
    L = work[:N * N].reshape((N, N))
    moments = work[N * N:N * N + V * N].reshape((V, N))
    place = N * N + V * N
    G, N2 = work[place:place + V], work[place + V:place + V + V * V].reshape((V, V))
    R = work[place + V + V * V:place + V + V * V + K]
    integrate(K, M, mu, C, c, y0, sigma, rule, 0.0, True, G, moments, N2, R, L, out)


@njit(**INNER)
def averages_work_size(K, M):
    V = SPECIES * K
    N = V + M
    return N * N + 2 * V * N + V + V * V + K + 3
'''

OWN_KINKS = '''@njit(**INNER)
def own_kinks(axis, f, mean, spread, top, order, K, c, label, tested, out):
    """Fill the kinks along the axis of a field, those before it given; return their number."""
    field, V, last = order[axis], SPECIES * K, f.size - 1
    own = KINKS_0
{own}
    count = own.size
    out[:count] = own
    if field >= K or (axis < last and FLAT.size == 0):
        return count
    # Outputs known but for this unit: all others are fixed, or flat.
    y = label + target(f[:order.size - V], c[K:])
    low, high = mean - top * spread, mean + top * spread
    for s in range(FLAT.size if axis < last else 1):
        rest = 0.0
        for q in range(order.size - K, f.size):
            if q != axis:
                rest += c[order[q]] * (g(f[q]) if q < axis else FLAT[s])
        for r in range(LEVELS):
            count = add_levels(rest, c[field], level(r, y), low, high, out, count)
        if tested:
            count = add_levels(rest, c[field], 0.0, low, high, out, count)
    return count


'''

STRAIGHT = '''@njit(**INNER)
def along(V, M, mu, C):
    """Return means and covariances with the teachers' fields along the axes of the target's kinks: their own."""
    return mu, C


@njit(**INNER)
def back(V, M, H):
    """Turn derivatives along those axes into derivatives in the fields."""


'''
TURNED = '''@njit(**INNER)
def along(V, M, mu, C):
    """Return means and covariances with the teachers' fields along the axes of the target's kinks."""
    turned, mean = C.copy(), mu.copy()
    mean[V:] = np.dot(AXES, mu[V:].copy())
    turned[:, V:] = np.dot(turned[:, V:].copy(), AXES.T.copy())
    turned[V:, :] = np.dot(AXES, turned[V:, :].copy())
    return mean, turned


@njit(**INNER)
def back(V, M, H):
    """Turn derivatives along those axes into derivatives in the fields."""
    H[:, V:] = np.dot(H[:, V:].copy(), AXES)


'''


class Quadrature:
    """Averages over all fields of a source; the same face as `source_code.Closed`."""

    def __init__(self, averages: SourceAverages) -> None:
        self.averages, self.setting = averages, averages.setting

    def functions(self) -> list[str]:
        """Return the source of all functions."""
        setting = self.setting
        size = len(self.averages.species)
        lines = [f"SPECIES = {size}", "", "", *STABLE_SOURCE.strip().splitlines(), "", ""]
        lines += functions_of_x({"g": setting.student})
        lines += [*self._target(), *self._loss(), *self._moved(), *self._kinks()]
        turned = setting.target is not None and any(v not in (0.0, 1.0) for axis in setting.target_axes for v in axis)
        if turned:
            lines += [f"AXES = np.array({[list(axis) for axis in setting.target_axes]!r})", "", ""]
        lines += [POINTS_SOURCE, "", "", TURNED if turned else STRAIGHT]
        rate = ", eta" if self.averages.coefficients is not None else ""
        text = INTEGRATE.replace("{signature}", f"K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R{rate}")
        if not rate:
            text = text.replace("sigma, rule, eta, False", "sigma, rule, 0.0, False")
        return [*lines, text, ""]

    def _target(self) -> list[str]:
        """Return ``target(z, c)``: the label without noise and offset, for teachers of weights -c."""
        setting = self.setting
        if setting.target is None:
            lines = functions_of_x({"gt": setting.teacher})
            body = ["total = 0.0", "for m in range(c.size):", "    total -= c[m] * gt(z[m])", "return total"]
        else:
            lines = []
            shared, (value,) = assignments([stabilise(setting.target)], indent="")
            body = [f"z{r + 1} = {teacher_field(setting, r)}" for r in range(setting.directions)]
            body += [*shared, f"return -c[0] * ({value})"]
        return [*lines, "@njit(**OPTIONS)", "def target(z, c):", *indented(body), "", ""]

    def _loss(self) -> list[str]:
        """Return the loss, its slope in the output, and the outputs at which either has a kink."""
        write, loss = printer(), stabilise(self.setting.loss_function)
        lines = []
        for name, function in (("loss", loss), ("loss_slope", drop_atoms(sp.diff(loss, OUTPUT)))):
            text = write.doprint(function)
            lines += ["@njit(**OPTIONS)", f"def {name}({OUTPUT}, {LABEL}):", f"    return 1.0 * ({text})", "", ""]
        lines += self._levels("level", "LEVELS", OUTPUT, LABEL)
        try:
            return lines + self._levels("noise_level", "NOISE_LEVELS", LABEL, OUTPUT)
        except DerivationError:
            # Kinks that are not at one label each: they are met at every value of the noise instead.
            return lines + _numbered("noise_level", "NOISE_LEVELS", OUTPUT, [])

    def _levels(self, name: str, count: str, variable: Any, given: Any) -> list[str]:
        """Return a function that gives the values of a variable at which the loss, or a coefficient, has kinks."""
        formulas = [self.setting.loss_function, *self._coefficients().values()]
        found = [pieces(formula, variable, given) for formula in formulas if formula.has(variable)]
        levels = dict.fromkeys(level for p in found for level in p.kinks if level.free_symbols <= {given})
        return _numbered(name, count, given, list(levels))

    def _coefficients(self) -> dict[int, Any]:
        """Return what a sample moves each species by, in sympy; empty for the gradient."""
        rows = self.averages.coefficients or ()
        return {s: formula.sympy() for s, formula in enumerate(rows) if formula is not None}

    def _moved(self) -> list[str]:
        """Return ``moved``, which fills what a sample moves each vector by."""
        body = ["b[:] = 0.0", "for k in range(K):"]
        rows = self._coefficients()
        if self.averages.coefficients is None:
            body += ["    b[k] = dg(x[k]) * error"]
        else:
            body += ["    a, learning_rate = c[k], eta"]
            names = {str(s) for row in rows.values() for s in row.free_symbols}
            for s, name in enumerate(self.averages.species):
                at = f"x[{s} * K + k]"
                for prefix, value in (("lambda", at), ("g", f"g({at})"), ("dg", f"dg({at})")):
                    if f"{prefix}_{name}" in names:
                        body.append(f"    {_word(f'{prefix}_{name}')} = {value}")
            for s, row in rows.items():
                spelled = row.xreplace({v: sp.Symbol(_word(str(v)), real=True) for v in row.free_symbols})
                body.append(f"    b[{s} * K + k] = 1.0 * ({printer().doprint(stabilise(spelled))})")
        return ["@njit(**INNER)", "def moved(x, K, c, f, y, error, eta, b):", *indented(body), "", ""]

    def _kinks(self) -> list[str]:
        """Return ``own_kinks``, which fills the kinks along the axis of one field and returns their number."""
        setting, rows = self.setting, self.averages.coefficients or ()
        species = []
        for name in self.averages.species:
            own = set(setting.student_kinks)
            for formula in rows:
                own |= _planes(formula, f"lambda_{name}")
            species.append(sorted(own))
        teachers = [list(own) for own in setting.target_kinks] if setting.target is not None else []
        lists = {f"KINKS_{s}": own for s, own in enumerate(species)}
        lists |= {f"TEACHER_KINKS_{r}": own for r, own in enumerate(teachers)}
        if setting.target is None:
            lists["TEACHER_KINKS"] = list(setting.teacher_kinks)
        chosen: list[str] = []
        for s in range(len(species)):
            chosen += [f"if {s} * K <= field < {s + 1} * K:", f"    own = KINKS_{s}"]
        if setting.target is None:
            chosen += ["if field >= V:", "    own = TEACHER_KINKS"]
        for r in range(len(teachers)):
            chosen += [f"if field == V + {r}:", f"    own = TEACHER_KINKS_{r}"]
        flat = _flat_values(setting.student)
        lists["FLAT"] = flat
        most = 8 + max(1, *(len(values) for values in lists.values()))
        lines = constants(**{name: [float(v) for v in values] for name, values in lists.items()})
        function = OWN_KINKS.replace("{own}", "\n".join(indented(chosen)))
        return [*lines, f"MOST = {most} + 8 * (LEVELS + 1)", "", "", function]


def _flat_values(student: Any) -> list[float]:
    """Return the values that an activation takes on whole intervals: with a unit at rest, another's axis has kinks."""
    found = pieces(student, X, sp.Symbol("unused", real=True))
    values = set()
    for choice in itertools.product(*((low, high) for _, _, low, high in found.signs)):
        case = found.smooth.subs({s: v for (s, *_), v in zip(found.signs, choice, strict=True)})
        if found.signs and not sp.simplify(case).has(X):
            values.add(float(case))
    return sorted(values)


def _numbered(name: str, count: str, given: Any, values: list[Any]) -> list[str]:
    """Return a function ``name(number, given)`` of numbered formulas, and their count."""
    body = []
    for number, value in enumerate(values):
        body += [f"    if number == {number}:", f"        return 1.0 * ({printer().doprint(value)})"]
    head = [f"{count} = {len(values)}", "", "", "@njit(**OPTIONS)", f"def {name}(number, {given}):"]
    return [*head, *body, "    return math.inf", "", ""]


def _word(name: str) -> str:
    """Return a name that is no word of the code's language."""
    return f"{name}_" if keyword.iskeyword(name) else name


def _planes(formula: Any, variable: str) -> set[float]:
    """Return the values of one variable at which a formula has kinks, where they do not depend on the others."""
    if formula is None or variable not in formula.variables:
        return set()
    place = formula.variables.index(variable)
    return {
        level / slopes[place]
        for slopes, level in formula.kink_planes()
        if slopes[place] and not any(v for q, v in enumerate(slopes) if q != place)
    }
