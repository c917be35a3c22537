"""Text of the printed functions that average over all fields of a source for several outputs.

As `source_quadrature_text`, with vectors: ``c`` is (Y, N), labels, outputs and slopes are (Y,). The functions call
those of `numerics.points` and, of the module, ``g``, ``dg``, ``target``, ``loss``, ``loss_slope``, ``plane_level`` and
``add_own_kinks``; ``PLANES`` are the planes of the outputs on which the loss has kinks, ``TEACHER_PLANES`` those of the
teacher fields on which the label has.
"""

from __future__ import annotations

from .layout import length, views
from .source_quadrature_text import AXES, POINT

_OUTPUTS: dict[str, tuple[str, ...]] = dict.fromkeys(("star", "label", "output", "error"), ("OUTPUTS",))
_PARTS = {**POINT, "size": ("N",), **AXES, **_OUTPUTS, "frame": ("2", "OUTPUTS")}
VECTOR_SCRATCH = (
    "\n".join(["outputs, place = c.shape[0], 0", *views(_PARTS)])
    + """
for o in range(outputs):
    frame[0, o] = y0[o]
for p in range(N):
    size[p] = 0.0
    for o in range(outputs):
        size[p] += c[o, p] * c[o, p]
    size[p] = math.sqrt(size[p])"""
)
VECTOR_SCRATCH_SIZE = length(_PARTS)

VECTOR_INTEGRATE = '''@njit(**INNER)
def integrate(K, M, mu, C, c, y0, sigma, rule, tested, G, moments, N2, R, L, out, work):
    """Average over all fields; `tested`: only the errors, otherwise only what moves the vectors.

    L becomes the root of the covariance of the fields in the order at the head of `work`.
    """
    N = K + M
{scratch}
    ordered_law(K, M, N, mu, C, size, order, mean, cov, L)
    clear(G, moments, N2, R, out, 0.0)
    points = rule[4:1 + int(rule[0])]
    if points[0] == 1.0:
        total = int(points[1])
        width = (points.size - 2) // total
        for s in range(total):
            for q in range(N):
                zeta[q] = points[2 + s * width + q]
            for q in range(N):
                x[int(order[q])] = given_mean(q, q + 1, mean, L, zeta)
            target(x[K:], c, K, y0, star)
            sample(x, zeta, K, c, star, sigma, 1.0 / total, tested, b, value, label, output, error, G, moments, N2, R,
                   out)
        return
    axes = points[1:]
    if not axis_capacity(L, axes, ALONG) < CAPACITY:
        clear(G, moments, N2, R, out, math.nan)
        return
    counts[0] = -1.0
    while next_point(N, mean, L, order, K, c, frame, False, ties, kinks, axes, z, w, counts, at, zeta, weights, f):
        for q in range(N):
            x[int(order[q])] = f[q]
        target(x[K:], c, K, y0, star)
        sample(x, zeta, K, c, star, sigma, weights[N], tested, b, value, label, output, error, G, moments, N2, R, out)


@njit(**INNER)
def sample(x, zeta, K, c, star, sigma, weight, tested, b, value, label, output, error, G, moments, N2, R, out):
    """Add one point of the fields to the averages, with the label noise that there is.

    What a sample moves is linear in the label: noises of plus and minus sqrt(Y) sigma, one output at a time, have the
    mean and the covariance of independent ones.
    """
    outputs = c.shape[0]
    for o in range(outputs):
        output[o] = 0.0
        label[o] = star[o]
    for k in range(K):
        value[k] = g(x[k])
        for o in range(outputs):
            output[o] += c[o, k] * value[k]
    if tested:
        for o in range(outputs):
            out[0] += 0.5 * weight * (output[o] - star[o]) * (output[o] - star[o])
    if sigma == 0.0:
        add(x, zeta, K, c, weight, tested, b, value, label, output, error, G, moments, N2, R, out)
        return
    for o in range(outputs):
        for sign in range(-1, 2, 2):
            label[o] = star[o] + sign * sigma * math.sqrt(outputs)
            add(x, zeta, K, c, weight / (2 * outputs), tested, b, value, label, output, error, G, moments, N2, R, out)
        label[o] = star[o]


@njit(**INNER)
def add(x, zeta, K, c, weight, tested, b, value, label, output, error, G, moments, N2, R, out):
    """Add one sample to the averages: its fields x, their independent parts, its outputs, its label."""
    if tested:
        out[2] += weight * loss(output, label)
        return
    loss_slope(output, label, error)
    for k in range(K):
        total = 0.0
        for o in range(error.size):
            total += c[o, k] * error[o]
            R[o, k] += weight * error[o] * value[k]
        b[k] = dg(x[k]) * total
    for p in range(K):
        G[p] += weight * b[p]
        for q in range(zeta.size):
            moments[p, q] += weight * b[p] * zeta[q]
        for q in range(p + 1):
            N2[p, q] += weight * b[p] * b[q]


'''

SOFTMAX = '''@njit(**OPTIONS)
def loss(f, y):
    """Return the cross-entropy of the softmax of f; labels of classes sum to one."""
    top = f[0]
    for o in range(1, f.size):
        top = max(top, f[o])
    total, along = 0.0, 0.0
    for o in range(f.size):
        total += math.exp(f[o] - top)
        along += ({kept} * y[o] + {rest}) * (f[o] - top)
    return math.log(total) - along


@njit(**OPTIONS)
def loss_slope(f, y, out):
    softmax(f, out)
    for o in range(f.size):
        out[o] -= {kept} * y[o] + {rest}


'''

VECTOR_KINKS = '''@njit(**INNER)
def own_kinks(axis, mean, L, zeta, f, top, order, K, c, frame, tested, ties, out):
    """Fill the kinks along the axis of a field, those before it given; return their number.

    The rows of `frame` are the label's offset, and scratch.
    """
    M = c.shape[1] - K
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    count = field_kinks(axis, mean, L, zeta, order, K, out)
    if axis < M:
        for r in range(TEACHER_PLANES.shape[0]):
            count = add_teacher_plane(r, axis, M, centre, mean, L, zeta, out, count)
        return count
    if tested or PLANES.shape[0] == 0:
        return count
    for q in range(axis + 1, order.size):
        if L[q, q] > 0.0:
            return count
    low, high = centre - top * spread, centre + top * spread
    target(f[:M], c, K, frame[0], frame[1])
    for r in range(PLANES.shape[0]):
        rest = 0.0
        for q in range(M, axis):
            rest += along_plane(PLANES[r], c, int(order[q])) * g(f[q])
        number = tie_plane(PLANES[r], axis, mean, L, zeta, order, c, ties)
        count = add_levels(rest, ties, number, plane_level(r, frame[1]), low, high, MONOTONE, out, count)
    return count


@njit(**INNER)
def add_teacher_plane(r, axis, M, centre, mean, L, zeta, out, count):
    """Add where a plane of the teacher fields is met, if this axis is the last that it depends on."""
    base, slope, size = 0.0, 0.0, 0.0
    for m in range(M):
        normal = TEACHER_PLANES[r, m]
        base += normal * given_mean(m, axis, mean, L, zeta)
        slope += normal * L[m, axis]
        size += abs(normal) * L[m, m]
    for q in range(axis + 1, M):
        later = 0.0
        for m in range(M):
            later += TEACHER_PLANES[r, m] * L[m, q]
        if abs(later) > 1e-12 * size:
            return count
    if abs(slope) <= 1e-12 * size:
        return count
    return insert(centre + (TEACHER_LEVELS[r] - base) / slope * L[axis, axis], out, count)


@njit(**INNER)
def along_plane(normal, c, unit):
    """Return the readout of a unit in a mixture of the outputs."""
    total = 0.0
    for o in range(c.shape[0]):
        total += normal[o] * c[o, unit]
    return total


@njit(**INNER)
def tie_plane(normal, axis, mean, L, zeta, order, c, ties):
    """Fill weight, offset and slope of the units from an axis on, that it determines, in a mixture of the outputs."""
    centre = given_mean(axis, axis, mean, L, zeta)
    for q in range(axis, order.size):
        slope = L[q, axis] / L[axis, axis]
        ties[q - axis, 0] = along_plane(normal, c, int(order[q]))
        ties[q - axis, 1] = given_mean(q, axis, mean, L, zeta) - slope * centre
        ties[q - axis, 2] = slope
    return order.size - axis


'''

WRONG_CLASS = '''@njit(**INNER)
def wrong_side(axis, mean, L, zeta, f, order, K, c, frame, star, ties, kinks):
    """Return the chance that another output is the largest, given all fields before an axis that determines the rest.

    An output meets that of the class at points of the axis, between which nothing changes. Of equal outputs the first
    counts as the largest.
    """
    M = c.shape[1] - K
    target(f[:M], c, K, frame[0], star)
    truth = 0
    for o in range(c.shape[0]):
        if star[o] > star[truth]:
            truth = o
    centre, spread = given_mean(axis, axis, mean, L, zeta), L[axis, axis]
    if spread == 0.0:
        for q in range(axis, order.size):
            f[q] = given_mean(q, axis, mean, L, zeta)
        for o in range(c.shape[0]):
            lead = ahead(o, truth, order.size, f, order, M, c)
            if lead > 0.0 or (lead == 0.0 and o < truth):
                return 1.0
        return 0.0
    low, high = centre - 12.0 * spread, centre + 12.0 * spread
    found = own_kinks(axis, mean, L, zeta, f, 12.0, order, K, c, frame, True, ties, kinks)
    for o in range(c.shape[0]):
        if o != truth:
            rest = ahead(o, truth, axis, f, order, M, c)
            number = tie_difference(o, truth, axis, mean, L, zeta, order, c, ties)
            found = add_levels(rest, ties, number, 0.0, low, high, MONOTONE, kinks, found)
    total, left, below = 0.0, low, 0.0
    for e in range(found + 1):
        right, above = high, 1.0
        if e < found:
            right = min(max(kinks[e], left), right)
            above = 0.5 * math.erfc(-0.7071067811865476 * (right - centre) / spread)
        if right > left:
            beaten = False
            for o in range(c.shape[0]):
                if o != truth and not beaten:
                    rest = ahead(o, truth, axis, f, order, M, c)
                    number = tie_difference(o, truth, axis, mean, L, zeta, order, c, ties)
                    lead = along_axis(0.5 * (left + right), rest, ties, number)
                    beaten = lead > 0.0 or (lead == 0.0 and o < truth)
            if beaten:
                total += above - below
            left, below = right, above
    return total


@njit(**INNER)
def ahead(o, truth, stop, f, order, M, c):
    """Return by how much an output is ahead of that of the class, from the units before an axis."""
    total = 0.0
    for q in range(M, stop):
        unit = int(order[q])
        total += (c[o, unit] - c[truth, unit]) * g(f[q])
    return total


@njit(**INNER)
def tie_difference(o, truth, axis, mean, L, zeta, order, c, ties):
    """Fill weight, offset and slope of the units from an axis on, that it determines, in a difference of outputs."""
    centre = given_mean(axis, axis, mean, L, zeta)
    for q in range(axis, order.size):
        slope = L[q, axis] / L[axis, axis]
        unit = int(order[q])
        ties[q - axis, 0] = c[o, unit] - c[truth, unit]
        ties[q - axis, 1] = given_mean(q, axis, mean, L, zeta) - slope * centre
        ties[q - axis, 2] = slope
    return order.size - axis


'''
