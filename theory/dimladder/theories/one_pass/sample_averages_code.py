"""Source of the averages over one sample: what `sample_averages` fills with formulas.

`MODULE` averages over the teacher field; `ADAPTIVE` over one standard normal variable, refined until nothing changes:
it is printed for the student field at each teacher field, and for the noise of the label at each pair of fields.
`EXACT` and `NOISE` give the moments of the gain G at a pair of fields: its powers, or their averages over the noise,
which depend on no state and come from a table.
"""

from __future__ import annotations

MODULE = '''
OBSERVABLES = {observables!r}
WORK_SIZE = 0
# COUNT averages: the drifts of the state, the observables, and the first two moments of the gain.
STATES, COUNT, HEAD, LEVELS = {states}, {count}, {head}, {levels}
# Behind the parameters: sizes of the averages, accuracy asked, noise, rules of both fields, table.
SCALES, ACCURACY = HEAD, HEAD + COUNT
SIGMA, STEP, ORDER, NODES = ACCURACY + 1, ACCURACY + 2, ACCURACY + 3, ACCURACY + 4
FIELD_KINKS = {field_kinks}
LINK_KINKS = {link_kinks}
SMOOTH = FIELD_KINKS.size == 0
TAIL, PANELS, ROOM = 8.0, 12, 400
# Trapezoidal step and its halvings; widest panel, most halvings of it, Gauss-Legendre order.
COARSE, HALVINGS, WIDTH, DEEPEST, INSIDE = 0.8, 3, 4.0, 24, {inside}
LEAST = 1e-16
# Where panels end around a steep place, in deviations.
AROUND = np.array([-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0])


@njit(**INNER)
def link(z):
    return 0.0 * z + {link}


@njit(**INNER)
def field(level, lam, y, p):
    """Return the student field at the given use of the sample."""
{loads}
{fields}
    return lam


@njit(**INNER)
def gain_at(lam, y, p):
    """Return the sum G of the gradients of one sample."""
{loads}
{gain}


@njit(**INNER)
def integrand(z, lam, y0, G, G2, state, p, out):
    """Fill out with what is averaged, given the moments of the gain."""
{integrand}


@njit(**INNER)
def insert(edges, count, value):
    """Insert into the sorted edges, unless it is outside or the array is full."""
    if not abs(value) < TAIL or count >= edges.size:
        return count
    k = count
    while k > 0 and edges[k - 1] > value:
        edges[k] = edges[k - 1]
        k -= 1
    edges[k] = value
    return count + 1


@njit(**INNER)
def crossing(kind, level, kink, u, a, b, y, p):
    """Return a field minus a kink: at a + b u with the label y (kind 0) or that of z = u (1); at a with y + b u (2)."""
    if kind == 0:
        return field(level, a + b * u, y, p) - kink
    if kind == 1:
        return field(level, a + b * u, link(u), p) - kink
    return field(level, a, y + b * u, p) - kink


@njit(**INNER)
def roots(edges, count, found, kind, level, kink, a, b, y, p):
    """Bisect every interval whose ends differ in sign; return how many roots were found."""
    total = 0
    for k in range(count - 1):
        low, high = edges[k], edges[k + 1]
        gap = 1e-12 * (1.0 + abs(low) + abs(high))
        if high - low < 4.0 * gap:
            continue
        low, high = low + gap, high - gap
        sign = crossing(kind, level, kink, low, a, b, y, p) > 0.0
        if sign == (crossing(kind, level, kink, high, a, b, y, p) > 0.0):
            continue
        for _ in range(60):
            middle = 0.5 * (low + high)
            if (crossing(kind, level, kink, middle, a, b, y, p) > 0.0) == sign:
                low = middle
            else:
                high = middle
        if total < found.size:
            found[total] = 0.5 * (low + high)
            total += 1
    return total


@njit(**INNER)
def uniform(edges):
    for k in range(PANELS + 1):
        edges[k] = -TAIL + 2.0 * TAIL * k / PANELS
    return PANELS + 1


@njit(**INNER)
def inner_edges(kind, first, a, b, y, p, scan, inner, found):
    """Fill inner with the ends of the range and every kink between; return their number."""
    intervals = uniform(scan)
    inner[0], inner[1] = -TAIL, TAIL
    size = 2
    for level in range(first, {field_levels} if kind == 0 else LEVELS):
        for j in range(FIELD_KINKS.size):
            total = roots(scan, intervals, found, kind, level, FIELD_KINKS[j], a, b, y, p)
            for k in range(total):
                size = insert(inner, size, found[k])
                intervals = insert(scan, intervals, found[k])
    return size


@njit(**INNER)
def outer_edges(mean_slope, sd, p, outer, found):
    """Fill outer with the panels of z; return their number of edges."""
    count = uniform(outer)
    for j in range(LINK_KINKS.size):
        count = insert(outer, count, LINK_KINKS[j])
    for level in range(LEVELS):
        for j in range(FIELD_KINKS.size):
            kink = FIELD_KINKS[j]
            # Where the average over lambda at fixed z bends: a kink of one use meets a kink of a later one ...
            if level > 0:
                for i in range(FIELD_KINKS.size):
                    for side in range(-1, 2, 2):
                        near = FIELD_KINKS[i] + 1e-9 * side
                        total = roots(outer, count, found, 1, level, kink, near, 0.0, 0.0, p)
                        for k in range(total):
                            count = insert(outer, count, found[k])
            # ... and where it varies fast, as lambda is almost a function of z.
            if abs(mean_slope) > 1e-3:
                total = roots(outer, count, found, 1, level, kink, 0.0, mean_slope, 0.0, p)
                for k in range(total):
                    for i in range(AROUND.size):
                        count = insert(outer, count, found[k] + AROUND[i] * sd / abs(mean_slope))
    return count


@njit(**INNER)
def density(z):
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


{moments}
{average_fields}

@njit(**INNER)
def add_at(z, weight, mean_slope, sd, state, p, at, scan, inner, found, work, total, out):
    """Add the average over lambda at one value of z, times its weight."""
    if weight < LEAST:
        return
    # z, mean and deviation of lambda there, noiseless label, density.
    at[0], at[1], at[2], at[3], at[4] = z, mean_slope * z, sd, link(z), density(z)
{table}    if sd == 0.0:
        total[:] = 0.0
        add_fields(0.0, 1.0, at, state, p, work, total)
        for k in range(2 * COUNT):
            out[k] += weight * total[k]
        return
    if SMOOTH and smooth_fields(weight, at[4], at, state, p, work, out):
        return
    size = inner_edges(0, 0, at[1], at[2], at[3], p, scan, inner, found)
    split_fields(weight, at[4], at, inner, size, state, p, work, out)


@njit(**INNER)
def average(state, p, out):
    """Fill out with the averages, with those of absolute values, and with what the refinement left open.

    Over z: trapezoidal where all is smooth, Gauss-Legendre panels elsewhere.
    """
{state}
    mean_slope = {mean}
    variance = {variance} - mean_slope * mean_slope
    sd = math.sqrt(variance) if variance > 0.0 else 0.0
    scan, inner, found, outer = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)
    work, total, at = np.empty(5 * COUNT), np.empty(2 * COUNT), np.empty({context})
    out[:] = 0.0
    if SMOOTH and LINK_KINKS.size == 0:
        half = int(TAIL / p[STEP])
        for k in range(-half, half + 1):
            z = k * p[STEP]
            add_at(z, p[STEP] * density(z), mean_slope, sd, state, p, at, scan, inner, found, work, total, out)
    else:
        order = int(p[ORDER])
        for panel in range(outer_edges(mean_slope, sd, p, outer, found) - 1):
            width = outer[panel + 1] - outer[panel]
            if width < 1e-14:
                continue
            for i in range(order):
                z = outer[panel] + width * p[NODES + i]
                weight = width * p[NODES + order + i] * density(z)
                add_at(z, weight, mean_slope, sd, state, p, at, scan, inner, found, work, total, out)
{open}

@njit({rhs}, **OPTIONS)
def rhs(t, y, dy, p, work):
    out = np.empty(3 * COUNT)
{scheduled}
    for k in range(STATES):
        dy[k] = out[k]


@njit(types.void(types.float64[::1], types.float64[::1], types.float64[::1]), **OPTIONS)
def observe(state, p, out):
    average(state, p, out)
'''

ADAPTIVE = '''
@njit(**INNER)
def add_{name}(u, weight, at, state, p, values, total):
    """Add one point to the sums of the integrands and of their absolute values."""
{point}
    for k in range({count}):
        total[k] += weight * values[k]
        total[{count} + k] += weight * abs(values[k])


@njit(**INNER)
def panel_{name}(left, right, at, state, p, values, total):
    """Fill total with the Gauss-Legendre sums over a standard normal u between left and right."""
    nodes, length = NODES + 2 * int(p[ORDER]), right - left
    total[:] = 0.0
    for j in range(INSIDE):
        u = left + length * p[nodes + j]
        add_{name}(u, length * p[nodes + INSIDE + j] * density(u), at, state, p, values, total)


@njit(**INNER)
def smooth_{name}(weight, gauge, at, state, p, work, out):
    """Add weight times the average over u by trapezoidal rules; return whether gauge times the last change is small."""
    values, total, before = work[:{count}], work[{count}:3 * {count}], work[3 * {count}:5 * {count}]
    total[:] = 0.0
    for depth in range(HALVINGS + 1):
        step = COARSE / 2.0**depth
        first, stride = (0.0, step) if depth == 0 else (step, 2.0 * step)
        half = int((TAIL - first) / stride)
        for k in range(2 * {count}):
            before[k] = total[k]
            total[k] *= 0.5
        for k in range(-half - (1 if depth else 0), half + 1):
            u = first + k * stride
            add_{name}(u, step * density(u), at, state, p, values, total)
        change = 0.0
        for k in range({count}):
            change = max(change, abs(total[k] - before[k]) / p[{scales} + k])
        if depth and gauge * change <= p[ACCURACY]:
            for k in range(2 * {count}):
                out[k] += weight * total[k]
            return True
    return False


@njit(**INNER)
def split_{name}(weight, gauge, at, edges, count, state, p, work, out):
    """Add weight times the average over u by panels, each halved until its halves agree with it."""
    values, one, two = work[:{count}], work[{count}:3 * {count}], work[3 * {count}:5 * {count}]
    lefts, rights, sums = np.empty(DEEPEST + 2), np.empty(DEEPEST + 2), np.empty((DEEPEST + 2, 2 * {count}))
    for part in range(count - 1):
        pieces = int(math.ceil((edges[part + 1] - edges[part]) / WIDTH))
        length = (edges[part + 1] - edges[part]) / max(pieces, 1)
        for piece in range(pieces):
            lefts[0], rights[0] = edges[part] + piece * length, edges[part] + (piece + 1) * length
            panel_{name}(lefts[0], rights[0], at, state, p, values, sums[0])
            waiting = 1
            while waiting > 0:
                top = waiting - 1
                left, right = lefts[top], rights[top]
                middle = 0.5 * (left + right)
                panel_{name}(left, middle, at, state, p, values, one)
                panel_{name}(middle, right, at, state, p, values, two)
                change = 0.0
                for k in range({count}):
                    change = max(change, abs(one[k] + two[k] - sums[top, k]) / p[{scales} + k])
                done = gauge * change <= p[ACCURACY]
                if done or waiting > DEEPEST:
                    for k in range(2 * {count}):
                        out[k] += weight * (one[k] + two[k])
                    if not done:
                        for k in range({count}):
                            out[2 * {count} + k] += weight * abs(one[k] + two[k] - sums[top, k])
                    waiting -= 1
                    continue
                lefts[top], rights[top], lefts[waiting], rights[waiting] = left, middle, middle, right
                for k in range(2 * {count}):
                    sums[top, k], sums[waiting, k] = one[k], two[k]
                waiting += 1
'''

EXACT = '''
@njit(**INNER)
def moments(lam, at, p, out):
    """Fill out with the gain and its square."""
    out[0] = gain_at(lam, at[3], p)
    out[1] = out[0] * out[0]
'''

NOISE = '''
{average_noise}

# Chebyshev nodes of a panel of the table, and the matrix from values there to coefficients.
TERMS, DEPTH = {terms}, 40
ANGLES = math.pi * (np.arange(TERMS) + 0.5) / TERMS
TRANSFORM = 2.0 / TERMS * np.cos(np.outer(np.arange(TERMS), ANGLES))
TRANSFORM[0] *= 0.5


@njit(**INNER)
def noise_average(gauge, lam, y0, p, out):
    """Fill out with E[G], E[G^2] over the noise of the label, those of absolute values, and what is left open."""
    scan, inner, found, work, at = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty(10), np.empty(3)
    at[0], at[1], at[2] = lam, y0, p[SIGMA]
    out[:] = 0.0
    if SMOOTH and smooth_noise(1.0, gauge, at, p, p, work, out):
        return
    size = inner_edges(2, 1, lam, p[SIGMA], y0, p, scan, inner, found)
    split_noise(1.0, gauge, at, inner, size, p, p, work, out)


@njit(types.boolean(types.float64, types.float64, types.float64, types.float64[::1], types.float64[::1],
                    types.float64[:, :, :, ::1], types.float64[::1], types.float64[::1]), **OPTIONS)
def tabulate_strip(low, high, reach, p, edges, series, open_, count_):
    """Tabulate the moments of the gain between two values of z; return whether their series in z end.

    Panels of lambda are halved until the series at every node of z end. Fills edges, series[panel, z term, moment,
    lambda term], what is left open, and the number of panels.
    """
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    nearest = 0.0 if low < 0.0 < high else min(abs(low), abs(high))
    waiting, averaged, values = np.empty(ROOM + DEPTH), np.empty(6), np.empty((TERMS, 2, TERMS))
    # From right to left, the leftmost panel last in the stack.
    waiting[0], count, panels = reach, 1, 0
    for k in range(FIELD_KINKS.size - 1, -1, -1):
        if abs(FIELD_KINKS[k]) < reach:
            waiting[count] = FIELD_KINKS[k]
            count += 1
    left, edges[0] = -reach, -reach
    open_[:] = 0.0
    ends = True
    while count > 0:
        right = waiting[count - 1]
        middle, radius = 0.5 * (left + right), 0.5 * (right - left)
        # Drifts multiply the moments by z, lambda or a constant.
        factor = 1.0 + max(abs(low), abs(high)) + max(abs(left), abs(right))
        gauge = factor * density(nearest)
        full = panels >= ROOM - 2 or count >= ROOM or radius < 1e-10 * reach
        done = gauge < LEAST
        series[panels] = 0.0
        if not done and (radius < 0.15 * reach or full):
            rest = 0.0
            for m in range(TERMS):
                y0 = link(centre + half * math.cos(ANGLES[m]))
                for j in range(TERMS):
                    noise_average(gauge, middle + radius * math.cos(ANGLES[j]), y0, p, averaged)
                    for k in range(2):
                        values[m, k, j] = averaged[k]
                        open_[k] = max(open_[k], factor * averaged[4 + k])
            for k in range(2):
                along_z, along_lam = 0.0, 0.0
                for m in range(TERMS):
                    for n in range(TERMS):
                        term = 0.0
                        for i in range(TERMS):
                            part = 0.0
                            for j in range(TERMS):
                                part += TRANSFORM[n, j] * values[i, k, j]
                            term += TRANSFORM[m, i] * part
                        series[panels, m, k, n] = term
                        if n >= TERMS - 2:
                            along_lam = max(along_lam, abs(term))
                        if m >= TERMS - 2:
                            along_z = max(along_z, abs(term))
                scale = p[SCALES + COUNT - 2 + k]
                rest = max(rest, along_lam / scale)
                ends = ends and gauge * along_z <= p[ACCURACY] * scale
                if full or half < 1e-9:
                    open_[k] = max(open_[k], factor * max(along_lam, along_z))
            done = gauge * rest <= p[ACCURACY]
            if done and not ends and half >= 1e-9:
                return False
        if done or full:
            panels += 1
            edges[panels] = right
            left = right
            count -= 1
        else:
            waiting[count] = middle
            count += 1
            ends = True
    count_[0] = panels
    return True


@njit(types.int64(types.float64[::1], types.float64[::1]), **OPTIONS)
def strips(p, edges):
    """Fill the edges of the strips of z to begin with; return their number."""
    found = np.empty(ROOM)
    return outer_edges(0.0, 1.0, p, edges, found)


@njit(**INNER)
def read_table(z, at, p):
    """Put the series in lambda at one z behind the head of `at`: number of panels, edges, coefficients."""
    table = NODES + 2 * int(p[ORDER]) + 2 * INSIDE
    at[5] = 0.0
    if table >= p.size:
        return
    low, high = 0, int(p[table])
    strips = high
    while high - low > 1:
        middle = (low + high) // 2
        if z < p[table + 3 + middle]:
            high = middle
        else:
            low = middle
    left, right = p[table + 3 + low], p[table + 4 + low]
    x = (2.0 * z - left - right) / (right - left)
    start = table + int(p[table + 4 + strips + low])
    panels = int(p[start])
    at[5] = panels
    for k in range(panels + 1):
        at[6 + k] = p[start + 1 + k]
    chebyshev = np.empty(TERMS)
    chebyshev[0], chebyshev[1] = 1.0, x
    for m in range(2, TERMS):
        chebyshev[m] = 2.0 * x * chebyshev[m - 1] - chebyshev[m - 2]
    into, start = 7 + panels, start + 2 + panels
    at[into:into + panels * 2 * TERMS] = 0.0
    for panel in range(panels):
        for m in range(TERMS):
            for n in range(2 * TERMS):
                at[into + n] += chebyshev[m] * p[start + n]
            start += 2 * TERMS
        into += 2 * TERMS


@njit(**INNER)
def moments(lam, at, p, out):
    """Fill out with the first two moments of the gain over the noise: from the table, or where it has none averaged."""
    panels = int(at[5])
    if panels and at[6] <= lam <= at[6 + panels]:
        low, high = 0, panels
        while high - low > 1:
            middle = (low + high) // 2
            if lam < at[6 + middle]:
                high = middle
            else:
                low = middle
        left, right = at[6 + low], at[7 + low]
        x = (2.0 * lam - left - right) / (right - left)
        start = 7 + panels + low * 2 * TERMS
        for k in range(2):
            one, two = 0.0, 0.0
            for n in range(TERMS - 1, 0, -1):
                one, two = 2.0 * x * one - two + at[start + k * TERMS + n], one
            out[k] = x * one - two + at[start + k * TERMS]
        return
    averaged = np.empty(6)
    noise_average(at[4] * (1.0 + abs(at[0]) + abs(lam)), lam, at[3], p, averaged)
    out[0], out[1] = averaged[0], averaged[1]
'''

# What the table left open is part of what the averages leave open.
OPEN = """
    table = NODES + 2 * int(p[ORDER]) + 2 * INSIDE
    if table < p.size:
        left = max(p[table + 1] / p[SCALES + COUNT - 2], p[table + 2] / p[SCALES + COUNT - 1])
        for k in range(STATES):
            out[2 * COUNT + k] += left * p[SCALES + k]
"""
