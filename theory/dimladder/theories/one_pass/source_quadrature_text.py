"""Text of the printed functions that average over all fields of a source; `source_quadrature` fills it in.

Nothing is allocated: arrays are parts of ``work``, integers in them are floats. The functions call those of
`numerics.points` and, of the module, ``g``, ``target``, ``loss``, ``loss_slope``, ``level``, ``noise_level`` and
``moved``.
"""

from __future__ import annotations

from .layout import indented, length, views

# Most nodes along an axis: a trial state far from the curve, or a blow-up, would have them without number.
CAPACITY = 4096

# Arrays of every walk over the fields: their law, the point where they stand, then kinks and nodes of the axes.
POINT: dict[str, tuple[str, ...]] = {"order": ("N",), "mean": ("N",), "cov": ("N", "N")}
POINT |= dict.fromkeys(("f", "zeta", "x", "b", "value"), ("N",))
AXES: dict[str, tuple[str, ...]] = {
    "ties": ("N", "3"), "kinks": ("MOST",), "counts": ("N",), "at": ("N",), "weights": ("N + 1",),
    "z": ("N", "CAPACITY"), "w": ("N", "CAPACITY"),
}  # fmt: skip
_NOISE: dict[str, tuple[str, ...]] = {"steps": ("CAPACITY",), "masses": ("CAPACITY",), "turns": ("NOISE_LEVELS + 1",)}
# Beside what moves the readouts, the drifts that depend on the sample.
_PARTS = {**POINT, "value": ("(1 + EXTRA) * N",), "shifted": ("N",), **AXES, **_NOISE}
SCRATCH = "\n".join(["place = 0", *views(_PARTS)])
SCRATCH_SIZE = length(_PARTS)

LAW = '''@njit(**INNER)
def ordered_law(K, M, N, mu, C, c, order, mean, cov, L):
    """Fill the order of the first N fields, their means and covariances in that order, and the triangular root."""
    V = SPECIES * K
    for m in range(M):
        order[m] = V + m
    for p in range(M + K, N):
        order[p] = p - M
    # Units by their share in the output.
    for k in range(K):
        place = M + k
        while place > M and share(int(order[place - 1]), C, c) > share(k, C, c):
            order[place] = order[place - 1]
            place -= 1
        order[place] = k
    for q in range(N):
        mean[q] = mean_along(int(order[q]), V, M, mu)
        for r in range(N):
            cov[q, r] = covariance_along(int(order[q]), int(order[r]), V, M, C)
            L[q, r] = 0.0
    triangular_root(cov, 0, L)


@njit(**INNER)
def share(k, C, c):
    """Return the size of the part of a unit in the output."""
    return abs(c[k]) * math.sqrt(max(C[k, k], 0.0))


'''

CENTRED_MEAN = '''@njit(**INNER)
def mean_along(p, V, M, mu):
    """Return the mean of a field: none has one."""
    return 0.0


'''
STRAIGHT_MEAN = '''@njit(**INNER)
def mean_along(p, V, M, mu):
    """Return the mean of a field, teachers' fields along the axes of the target's kinks: their own."""
    return mu[p]


'''
TURNED_MEAN = '''@njit(**INNER)
def mean_along(p, V, M, mu):
    """Return the mean of a field, teachers' fields along the axes of the target's kinks."""
    if p < V:
        return mu[p]
    total = 0.0
    for m in range(M):
        total += AXES[p - V, m] * mu[V + m]
    return total


'''

STRAIGHT = '''@njit(**INNER)
def covariance_along(p, q, V, M, C):
    """Return the covariance of two such fields."""
    return C[p, q]


@njit(**INNER)
def back(V, M, H, x):
    """Turn derivatives along those axes into derivatives in the fields."""


'''
TURNED = '''@njit(**INNER)
def covariance_along(p, q, V, M, C):
    """Return the covariance of two such fields."""
    total = 0.0
    for m in range(M if p >= V else 1):
        for n in range(M if q >= V else 1):
            one = AXES[p - V, m] if p >= V else 1.0
            two = AXES[q - V, n] if q >= V else 1.0
            total += one * two * C[V + m if p >= V else p, V + n if q >= V else q]
    return total


@njit(**INNER)
def back(V, M, H, x):
    """Turn derivatives along those axes into derivatives in the fields."""
    for p in range(V):
        for m in range(M):
            x[m] = 0.0
            for n in range(M):
                x[m] += H[p, V + n] * AXES[n, m]
        for m in range(M):
            H[p, V + m] = x[m]


'''

INTEGRATE = '''@njit(**INNER)
def integrate(K, M, mu, C, c, y0, sigma, rule, eta, tested, G, moments, N2, R, L, out, work):
    """Average over all fields; `tested`: only the errors, otherwise only what moves the vectors.

    L becomes the root of the covariance of the fields in the order at the head of `work`.
    """
    V = SPECIES * K
    N = V + M
{scratch}
    ordered_law(K, M, N, mu, C, c, order, mean, cov, L)
    clear(G, moments, N2, R, out, 0.0)
    values = int(rule[0])
    count = values if sigma > 0.0 else 1
    points = rule[1 + 2 * values:]
    if points[0] == 1.0:
        total = int(points[1])
        width = (points.size - 2) // total
        for s in range(total):
            for q in range(N):
                zeta[q] = points[2 + s * width + q]
            for q in range(N):
                x[int(order[q])] = given_mean(q, q + 1, mean, L, zeta)
            star = y0 + target(x[V:], c[K:])
            for v in range(count):
                weight = (rule[2 + 2 * v] if sigma > 0.0 else 1.0) / total
                shift = sigma * rule[1 + 2 * v]
                add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, shifted, G, moments, N2, R, out)
        return
    axes = points[1:]
    if not axis_capacity(L, axes, MOST) < CAPACITY:
        clear(G, moments, N2, R, out, math.nan)
        return
    # Noise that meets kinks of the loss is the innermost axis, split there. Otherwise it has few values; where outputs
    # have to be split for each label, they are outside.
    inside = sigma > 0.0 and NOISE_LEVELS > 0
    outside = LEVELS > 0 and not inside
    for u in range(count if outside else 1):
        counts[0] = -1.0
        label = math.nan if inside else y0 + (sigma * rule[1 + 2 * u] if outside else 0.0)
        while next_point(N, mean, L, order, K, c, label, False, ties, kinks, axes, z, w, counts, at, zeta, weights, f):
            for q in range(N):
                x[int(order[q])] = f[q]
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
                    add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, shifted, G, moments, N2, R, out)
                continue
            for v in range(u if outside else 0, u + 1 if outside else count):
                weight = weights[N] * (rule[2 + 2 * v] if sigma > 0.0 else 1.0)
                shift = sigma * rule[1 + 2 * v]
                add(x, zeta, K, c, star, shift, weight, eta, tested, b, value, shifted, G, moments, N2, R, out)


@njit(**INNER)
def add(x, zeta, K, c, star, noise, weight, eta, tested, b, value, shifted, G, moments, N2, R, out):
    """Add one sample to the averages: its fields x, their independent parts, its label without noise, the noise."""
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
    for k in range(K):
        value[k] *= error
    moved(x, K, c, f, y, error, eta, b, value, shifted)
    for k in range(R.size):
        R[k] += weight * value[k]
    for p in range(SPECIES * K):
        G[p] += weight * b[p]
        for q in range(zeta.size):
            moments[p, q] += weight * b[p] * zeta[q]
        for q in range(p + 1):
            N2[p, q] += weight * b[p] * b[q]


'''
# Of one output, or of several: how the averages of the readouts are kept and cleared, what the caller hands on.
CLEAR = '''@njit(**INNER)
def clear(G, moments, N2, R, out, number):
    """Set all averages to a number."""
    for p in range(G.size):
        G[p] = number
        for q in range(moments.shape[1]):
            moments[p, q] = number
        for q in range(G.size):
            N2[p, q] = number
{readouts}
    for q in range(out.size):
        out[q] = number


'''
AVERAGES = """@njit(**INNER)
def averages({signature}):
    V = SPECIES * K
    N = V + M
    L = work[:N * N].reshape((N, N))
    moments = work[N * N:N * N + V * N].reshape((V, N))
    slopes = work[N * N + V * N:N * N + 2 * V * N].reshape((V, N))
    place = N * N + 2 * V * N
    out, rest = work[place:place + 3], work[place + 3:]
    integrate(K, M, mu, C, c, y0, sigma, rule, {rate}False, G, moments, N2, R, L, out, rest)
    for p in range(V):
        for q in range(p):
            N2[q, p] = N2[p, q]
    derivatives(moments, L, slopes)
    for q in range(N):
        for p in range(V):
            H[p, int(rest[q])] = slopes[p, q]
    back(V, M, H, rest[N:])


@njit(**INNER)
def errors(K, M, mu, C, c, y0, sigma, rule, work, out):
    V = SPECIES * K
    N = V + M
    L = work[:N * N].reshape((N, N))
    moments = work[N * N:N * N + V * N].reshape((V, N))
    place = N * N + V * N
    G, R = work[place:place + V], work[place + V:place + V + {count}]{shape}
    place += V + {count}
    N2, rest = work[place:place + V * V].reshape((V, V)), work[place + V * V:]
    integrate(K, M, mu, C, c, y0, sigma, rule, {no_rate}True, G, moments, N2, R, L, out, rest)
    out[1] = {share}


@njit(**INNER)
def averages_work_size(K, M):
    V = SPECIES * K
    N = V + M
    return N * N + 2 * V * N + V + V * V + {count} + 3 + quadrature_work(N)


"""
DRIFT_AT = '''@njit(**INNER)
def drift_at(R, p, r, K):
    """Return E[B_pr], behind the averages that move the readouts."""
    which = PLACES[p // K, r // K]
    if which < 0 or p % K != r % K:
        return 0.0
    return R[(1 + which) * K + p % K]'''

WORK = '''@njit(**INNER)
def quadrature_work(N):
    """Return the length of the scratch array of an average over so many fields."""
    return {size}


'''

FIELD_KINKS = '''@njit(**INNER)
def add_own_kinks(field, K, V, origin, slope, out, count):
    """Add the kinks of a field that is (u - origin) slope, as values of u; return the number of all."""
{own}
    return count


@njit(**INNER)
def field_kinks(axis, mean, L, zeta, order, K, out):
    """Fill the kinks of the field of an axis, and of those that it is the last to determine; return their number."""
    V = SPECIES * K
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    count = add_own_kinks(int(order[axis]), K, V, 0.0, 1.0, out, 0)
    for q in range(axis + 1, order.size):
        latest = q
        while latest > axis and L[q, latest] == 0.0:
            latest -= 1
        if latest == axis and L[q, axis] != 0.0:
            slope = L[q, axis] / spread
            origin = centre - given_mean(q, axis, mean, L, zeta) / slope
            count = add_own_kinks(int(order[q]), K, V, origin, slope, out, count)
    return count


'''

OWN_KINKS = '''@njit(**INNER)
def own_kinks(axis, mean, L, zeta, f, top, order, K, c, label, tested, ties, out):
    """Fill the kinks along the axis of a field, those before it given; return their number."""
    M = c.size - K
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    count = field_kinks(axis, mean, L, zeta, order, K, out)
    if order[axis] >= K or (LEVELS == 0 and not tested):
        return count
    # Units that this field determines go along with it; the others of later axes are at rest: flat, or saturated. For
    # a sign also where they turn: what is exact along the next axis has the square root of a distance there.
    free = free_units(axis, M + K, L)
    number = tie(axis, mean, L, zeta, order, M + K if free == 0 else axis + 1, c, ties)
    y = label + target(f[:M], c[K:])
    low, high = centre - top * spread, centre + top * spread
    behind = M + K if free == 0 else axis + 1
    at_rest, turned = 1, 1
    for q in range(free):
        at_rest *= REST.size
        turned *= TURNS.size
    for choice in range(at_rest):
        rest = rest_of_units(choice, REST, M, axis, behind, M + K, f, order, c)
        for r in range(LEVELS):
            count = add_levels(rest, ties, number, level(r, y), low, high, MONOTONE, out, count)
    if tested:
        for choice in range(turned):
            rest = rest_of_units(choice, TURNS, M, axis, behind, M + K, f, order, c)
            count = add_levels(rest, ties, number, 0.0, low, high, MONOTONE, out, count)
    return count


@njit(**INNER)
def rest_of_units(choice, values, first, axis, behind, stop, f, order, c):
    """Return what units before an axis give, and those behind where each takes one of a few values: the n-th choice."""
    rest, digits = 0.0, choice
    for q in range(first, axis):
        rest += c[int(order[q])] * g(f[q])
    for q in range(behind, stop):
        rest += c[int(order[q])] * values[digits % values.size]
        digits //= values.size
    return rest


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
        ties[q - axis, 0] = c[int(order[q])]
        ties[q - axis, 1] = given_mean(q, axis, mean, L, zeta) - slope * centre
        ties[q - axis, 2] = slope
    return stop - axis


'''

WRONG_SHARE = '''@njit(**INNER)
def wrong_share(K, M, mu, C, c, y0, rule, memory):
    """Return {chance}: exact along the last axis of a unit, by the rule along those before it."""
    N = K + M
    if rule.size == 0:
        return math.nan
    L, work = memory[:N * N].reshape((N, N)), memory[N * N:]
{scratch}
    ordered_law(K, M, N, mu, C, {weights}, order, mean, cov, L)
    points = rule[{head}:]
    last = N - 1
    while last > M and L[last, last] == 0.0:
        last -= 1
    total = 0.0
    if points[0] == 1.0:
        count = int(points[1])
        width = (points.size - 2) // count
        for s in range(count):
            for q in range(last):
                zeta[q] = points[2 + s * width + q]
            for q in range(last):
                f[q] = given_mean(q, q + 1, mean, L, zeta)
            total += wrong_side(last, mean, L, zeta, f, order, K, c, {label}, ties, kinks) / count
        return total
    axes = points[1:]
    if not axis_capacity(L, axes, {room}) < CAPACITY:
        return math.nan
    counts[0] = -1.0
    while next_point(last, mean, L, order, K, c, {frame}, True, ties, kinks, axes, z, w, counts, at, zeta, weights, f):
        total += weights[last] * wrong_side(last, mean, L, zeta, f, order, K, c, {label}, ties, kinks)
    return total


'''
WRONG_SIGN = '''@njit(**INNER)
def wrong_side(axis, mean, L, zeta, f, order, K, c, y0, ties, kinks):
    """Return the chance of a wrong sign given all fields before an axis, which determines those after it."""
    M = c.size - K
    star = y0 + target(f[:M], c[K:])
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    rest = 0.0
    for q in range(M, axis):
        rest += c[int(order[q])] * g(f[q])
    if spread == 0.0:
        for q in range(axis, M + K):
            rest += c[int(order[q])] * g(given_mean(q, axis, mean, L, zeta))
        return 1.0 if rest * star < 0.0 else 0.0
    found = own_kinks(axis, mean, L, zeta, f, 12.0, order, K, c, math.nan, True, ties, kinks)
    number = tie(axis, mean, L, zeta, order, M + K, c, ties)
    total, left, below = 0.0, centre - 12.0 * spread, 0.0
    for e in range(found + 1):
        right, above = centre + 12.0 * spread, 1.0
        if e < found:
            right = min(max(kinks[e], left), right)
            above = 0.5 * math.erfc(-0.7071067811865476 * (right - centre) / spread)
        if right > left:
            if along_axis(0.5 * (left + right), rest, ties, number) * star < 0.0:
                total += above - below
            left, below = right, above
    return total


'''


def filled(text: str, scratch: str, **words: str) -> str:
    """Return a text with its words filled in, and the views of its scratch array."""
    for name, word in ({"scratch": "\n".join(indented(scratch.splitlines()))} | words).items():
        text = text.replace(f"{{{name}}}", word)
    return text
