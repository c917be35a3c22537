"""Printed code of the averages of one source by quadrature over all its fields: any activation, loss, target and rule.

What a sample moves a tracked vector by, b_p, is averaged as it is: with fields f = mu + L zeta the moments E[b zeta]
give the regression of b on the fields, ``H C = E[b (f - mu)]``, in the place of derivatives that need not exist. For
SGD b_i = g'(lambda_i) l'(f, y); an update rule written out has its own b for every vector.

Fields are ordered teachers first, then units by their share in the output, then the vectors beside the weights: given
all before, the kinks of the loss are points on the axis of the last unit, or on that of the label noise.
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
    if points[0] == 1.0:
        total = int(points[1])
        table = points[2:].reshape((total, (points.size - 2) // total))
        for s in range(total):
            zeta[:] = table[s, :N]
            for q in range(N):
                x[order[q]] = given_mean(q, q + 1, mean, L, zeta)
            star = y0 + target(x[V:], c[K:])
            for v in range(count):
                shift, weight = sigma * noise[v, 0], noise[v, 1] / total
                add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, G, moments, N2, R, out)
        return
    axes = points[1:]
    size = axis_capacity(L, axes, MOST)
    if not size < 20000:
        # A trial state far from the curve, or a blow-up: nodes would be without number.
        G[:], moments[:], N2[:], R[:], out[:] = math.nan, math.nan, math.nan, math.nan, math.nan
        return
    z, w, kinks, ties = np.empty((N, size)), np.empty((N, size)), np.empty(MOST), np.empty((K, 3))
    counts, at, weights = np.zeros(N, np.int64), np.zeros(N, np.int64), np.ones(N + 1)
    # Noise that meets kinks of the loss is the innermost axis, split there. Otherwise it has few values; where outputs
    # have to be split for each label, they are outside.
    inside = sigma > 0.0 and NOISE_LEVELS > 0
    outside = LEVELS > 0 and not inside
    steps, masses, turns = np.empty(size), np.empty(size), np.empty(NOISE_LEVELS + 1)
    for u in range(count if outside else 1):
        counts[0] = -1
        label = math.nan if inside else y0 + (sigma * noise[u, 0] if outside else 0.0)
        while next_point(N, mean, L, order, K, c, label, False, ties, kinks, axes, z, w, counts, at, zeta, weights, f):
            for q in range(N):
                x[order[q]] = f[q]
            star = y0 + target(x[V:], c[K:])
            if inside:
                output = 0.0
                for k in range(K):
                    output += c[k] * g(x[k])
                found = 0
                for r in range(NOISE_LEVELS):
                    found = insert(noise_level(r, output), turns, found)
                for s in range(normal_nodes(turns[:found], star, sigma, axes, steps, masses)):
                    shift, weight = sigma * steps[s], weights[N] * masses[s]
                    add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, G, moments, N2, R, out)
                continue
            for v in range(u if outside else 0, u + 1 if outside else count):
                shift, weight = sigma * noise[v, 0], weights[N] * noise[v, 1]
                add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, G, moments, N2, R, out)


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
    out[1] = {share}


@njit(**INNER)
def averages_work_size(K, M):
    V = SPECIES * K
    N = V + M
    return N * N + 2 * V * N + V + V * V + K + 3
'''

OWN_KINKS = '''@njit(**INNER)
def field_kinks(field, K, V):
    """Return the kinks along the axis of a field that are its own."""
    own = KINKS_0
{own}
    return own


@njit(**INNER)
def own_kinks(axis, mean, L, zeta, f, top, order, K, c, label, tested, ties, out):
    """Fill the kinks along the axis of a field, those before it given; return their number."""
    V, M = SPECIES * K, c.size - K
    own = field_kinks(order[axis], K, V)
    count = own.size
    out[:count] = own
    centre, reach = given_mean(axis, axis, mean, L, zeta), top * L[axis, axis]
    for q in range(axis + 1, order.size):
        # A field that this one is the last to determine has its kinks here.
        latest = q
        while latest > axis and L[q, latest] == 0.0:
            latest -= 1
        if latest == axis and L[q, axis] != 0.0:
            for kink in field_kinks(order[q], K, V):
                at = (kink - given_mean(q, axis, mean, L, zeta)) / L[q, axis]
                count = insert(centre + L[axis, axis] * at, out, count)
    if order[axis] >= K:
        return count
    # Units that this field determines go along with it; the others of later axes are at rest: flat, or saturated.
    free = free_units(axis, M + K, L)
    number = tie(axis, mean, L, zeta, order, M + K if free == 0 else axis + 1, c, ties)
    if LEVELS == 0 and not tested:
        return count
    y = label + target(f[:M], c[K:])
    for choice in range(REST.size ** free):
        rest, digits = 0.0, choice
        for q in range(M, M + K):
            if q < axis:
                rest += c[order[q]] * g(f[q])
            elif q >= axis + number and free > 0:
                rest += c[order[q]] * REST[digits % REST.size]
                digits //= REST.size
        for r in range(LEVELS):
            count = add_levels(rest, ties, number, level(r, y), centre - reach, centre + reach, out, count)
        if tested:
            count = add_levels(rest, ties, number, 0.0, centre - reach, centre + reach, out, count)
    return count


@njit(**INNER)
def free_units(axis, stop, L):
    """Return how many units behind an axis are to come, unless all are determined: then none."""
    for q in range(axis + 1, stop):
        if L[q, q] > 0.0:
            return stop - axis - 1
    return 0


@njit(**INNER)
def tie(axis, mean, L, zeta, order, stop, c, ties):
    """Fill weight, offset and slope of the units of these axes as functions of the field of the first; count them."""
    centre = given_mean(axis, axis, mean, L, zeta)
    for q in range(axis, stop):
        slope = L[q, axis] / L[axis, axis]
        ties[q - axis, 0] = c[order[q]]
        ties[q - axis, 1] = given_mean(q, axis, mean, L, zeta) - slope * centre
        ties[q - axis, 2] = slope
    return stop - axis


'''

ARRANGE = '''@njit(**INNER)
def arrange(K, M, C, c, order):
    """Fill the order of the fields: teachers, units by their share in the output, then other vectors."""
    V = SPECIES * K
    for m in range(M):
        order[m] = V + m
    for p in range(K, V):
        order[M + p] = p
    for k in range(K):
        place = M + k
        share = abs(c[k]) * math.sqrt(max(C[k, k], 0.0))
        while place > M:
            other = order[place - 1]
            if abs(c[other]) * math.sqrt(max(C[other, other], 0.0)) <= share:
                break
            order[place] = other
            place -= 1
        order[place] = k


'''

WRONG_SHARE = '''@njit(**INNER)
def wrong_share(K, M, mu, C, c, y0, rule):
    """Return P(f f* < 0): exact along the last axis of a unit, by the rule along those before it."""
    V, N = SPECIES * K, K + M
    if rule.size == 0:
        return math.nan
    along_mu, along_C = along(V, M, mu, C)
    every = np.empty(V + M, np.int64)
    arrange(K, M, along_C, c, every)
    order = every[:N]
    mean, cov, L = np.empty(N), np.empty((N, N)), np.zeros((N, N))
    for q in range(N):
        mean[q] = along_mu[order[q]]
        for r in range(N):
            cov[q, r] = along_C[order[q], order[r]]
    triangular_root(cov, 0, L)
    points = rule[1 + 2 * int(rule[0]):]
    last = N - 1
    while last > M and L[last, last] == 0.0:
        last -= 1
    f, zeta, kinks, ties = np.empty(N), np.zeros(N), np.empty(MOST), np.empty((K, 3))
    total = 0.0
    if points[0] == 1.0:
        count = int(points[1])
        table = points[2:].reshape((count, (points.size - 2) // count))
        for s in range(count):
            zeta[:last] = table[s, :last]
            for q in range(last):
                f[q] = given_mean(q, q + 1, mean, L, zeta)
            total += wrong_side(last, mean, L, zeta, f, order, K, c, y0, ties, kinks) / count
        return total
    axes = points[1:]
    size = axis_capacity(L, axes, MOST)
    if not size < 20000:
        return math.nan
    z, w = np.empty((N, size)), np.empty((N, size))
    counts, at, weights = np.full(N, -1), np.zeros(N, np.int64), np.ones(N + 1)
    while next_point(last, mean, L, order, K, c, math.nan, True, ties, kinks, axes, z, w, counts, at, zeta, weights,
                     f):
        total += weights[last] * wrong_side(last, mean, L, zeta, f, order, K, c, y0, ties, kinks)
    return total


@njit(**INNER)
def wrong_side(axis, mean, L, zeta, f, order, K, c, y0, ties, kinks):
    """Return the chance of a wrong sign given all fields before an axis, which determines those after it."""
    M = c.size - K
    star = y0 + target(f[:M], c[K:])
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    rest = 0.0
    for q in range(M, axis):
        rest += c[order[q]] * g(f[q])
    if spread == 0.0:
        for q in range(axis, M + K):
            rest += c[order[q]] * g(given_mean(q, axis, mean, L, zeta))
        return 1.0 if rest * star < 0.0 else 0.0
    found = own_kinks(axis, mean, L, zeta, f, 12.0, order, K, c, math.nan, True, ties, kinks)
    number = tie(axis, mean, L, zeta, order, M + K, c, ties)
    total, left, below = 0.0, centre - 12.0 * spread, 0.0
    for e in range(found + 1):
        right = min(max(kinks[e], left), centre + 12.0 * spread) if e < found else centre + 12.0 * spread
        above = 0.5 * math.erfc(-0.7071067811865476 * (right - centre) / spread) if e < found else 1.0
        if right > left:
            if along_axis(0.5 * (left + right), rest, ties, number) * star < 0.0:
                total += above - below
            left, below = right, above
    return total


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
        rate = ", eta" if self.averages.coefficients is not None else ""
        text = INTEGRATE.replace("{signature}", f"K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R{rate}")
        if not rate:
            text = text.replace("sigma, rule, eta, False", "sigma, rule, 0.0, False")
        share = "wrong_share(K, M, mu, C, c, y0, rule)" if self.averages.signs else "math.nan"
        return [*self._law(), *self._moved(), *self._signs(), text.replace("{share}", share), ""]

    def signs(self) -> list[str]:
        """Return the source of ``wrong_share`` and of all that it calls."""
        return [*self._law(), *self._signs()]

    def _signs(self) -> list[str]:
        return [WRONG_SHARE] if self.averages.signs else []

    def _law(self) -> list[str]:
        """Return activation, target, loss, their kinks, and how points are made."""
        setting = self.setting
        size = len(self.averages.species)
        lines = [f"SPECIES = {size}", "", "", *STABLE_SOURCE.strip().splitlines(), "", ""]
        lines += functions_of_x({"g": setting.student})
        lines += [*self._target(), *self._loss()]
        straight = tuple(tuple(float(q == r) for r in range(setting.directions)) for q in range(setting.directions))
        turned = setting.target is not None and setting.target_axes != straight
        if turned:
            lines += [f"AXES = np.array({[list(axis) for axis in setting.target_axes]!r})", "", ""]
        return [*lines, *self._kinks(), POINTS_SOURCE, "", "", TURNED if turned else STRAIGHT, ARRANGE]

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
        rest = _rest_values(setting.student)
        lists["REST"] = rest
        # Kinks of its own, and for each choice of units at rest those of the loss and of the sign, at most 4 each.
        most = 4 * max(1, *(len(values) for values in lists.values()))
        lines = constants(**{name: [float(v) for v in values] for name, values in lists.items()})
        function = OWN_KINKS.replace("{own}", "\n".join(indented(chosen)))
        return [*lines, f"MOST = {most} + {4 * 2 ** max(3, len(rest))} * (LEVELS + 1)", "", "", function]


def _rest_values(student: Any) -> list[float]:
    """Return the values that an activation takes on whole intervals, or reaches far out: there, it is at rest."""
    found = pieces(student, X, sp.Symbol("unused", real=True))
    values = set()
    for choice in itertools.product(*((low, high) for _, _, low, high in found.signs)):
        case = found.smooth.subs({s: v for (s, *_), v in zip(found.signs, choice, strict=True)})
        if found.signs and not sp.simplify(case).has(X):
            values.add(float(case))
    for side in (-1, 1):
        near, far = (float(student.subs(X, side * at).evalf()) for at in (30, 60))
        if abs(far - near) < 1e-12:
            values.add(far)
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
