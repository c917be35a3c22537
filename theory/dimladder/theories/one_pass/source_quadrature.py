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
import re
from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...numerics.points import POINTS_SOURCE
from ...problem.expressions import drop_atoms
from ...problem.stable import stabilise
from ...symbolic.factors import X
from ...symbolic.pieces import STABLE_SOURCE, pieces
from ...symbolic.printing import assignments, printer
from .layout import indented
from .notation import LABEL, OUTPUT
from .quadrature_code import constants, functions_of_x, teacher_field
from .source_averages import SourceAverages
from .source_quadrature_text import (
    AVERAGES,
    CAPACITY,
    CENTRED_MEAN,
    CLEAR,
    DRIFT_AT,
    FIELD_KINKS,
    INTEGRATE,
    LAW,
    OWN_KINKS,
    SCRATCH,
    SCRATCH_SIZE,
    STRAIGHT,
    STRAIGHT_MEAN,
    TURNED,
    TURNED_MEAN,
    WORK,
    WRONG_SHARE,
    WRONG_SIGN,
    filled,
)

# Values of an activation's local extrema that signs are split at.
MOST_TURNS = 4


class Quadrature:
    """Averages over all fields of a source; as `source_code.closed_functions` gives them."""

    def __init__(self, averages: SourceAverages) -> None:
        self.averages, self.setting = averages, averages.setting

    def functions(self) -> list[str]:
        """Return the source of all functions."""
        rate = self.averages.takes_rate
        share = "wrong_share(K, M, mu, C, c, y0, rule, work)" if self.averages.signs else "math.nan"
        text = filled(
            INTEGRATE + CLEAR + AVERAGES, SCRATCH,
            signature=f"K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R{', eta' if rate else ''}",
            rate="eta, " if rate else "0.0, ", no_rate="0.0, ", share=share, count="K", shape="",
            readouts="\n".join(indented(["for k in range(R.size):", "    R[k] = number"])),
        )  # fmt: skip
        return [*self._law(), *self._moved(), *self._signs(), text]

    def signs(self) -> list[str]:
        """Return the source of ``wrong_share`` and of all that it calls."""
        return [*self._law(), *self._signs()]

    def _signs(self) -> list[str]:
        if not self.averages.signs:
            return []
        words = {"chance": "P(f f* < 0)", "weights": "c", "head": "1 + 2 * int(rule[0])", "room": "MOST"}
        return [filled(WRONG_SHARE, SCRATCH, **words, label="y0", frame="math.nan") + WRONG_SIGN]

    def _law(self) -> list[str]:
        """Return activation, target, loss, their kinks, and how points are made."""
        setting = self.setting
        stable = re.sub(r"@njit\(.*\)", "@njit(**OPTIONS)", STABLE_SOURCE.strip())
        counts = [f"SPECIES = {len(self.averages.species)}", f"EXTRA = {len(self._drifts())}"]
        lines = [*counts, f"CAPACITY = {CAPACITY}", "", "", stable, "", ""]
        lines += functions_of_x({"g": setting.student})
        lines += [*self._target(), *self._loss()]
        straight = tuple(tuple(float(q == r) for r in range(setting.directions)) for q in range(setting.directions))
        turned = setting.target is not None and setting.target_axes != straight
        if turned:
            lines += [f"AXES = np.array({[[float(v) for v in axis] for axis in setting.target_axes]!r})", "", ""]
        work = WORK.replace("{size}", SCRATCH_SIZE)
        mean = CENTRED_MEAN if self.averages.centred else TURNED_MEAN if turned else STRAIGHT_MEAN
        return [*lines, *self._kinks(), POINTS_SOURCE, "", "", mean, TURNED if turned else STRAIGHT, LAW, work]

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
        drifts = [formula.sympy() for _, _, formula in self._drifts()]
        formulas = [self.setting.loss_function, *self._coefficients().values(), *drifts]
        found = [pieces(formula, variable, given) for formula in formulas if formula.has(variable)]
        levels = dict.fromkeys(level for p in found for level in p.kinks if level.free_symbols <= {given})
        return _numbered(name, count, given, list(levels))

    def _coefficients(self) -> dict[int, Any]:
        """Return what a sample moves each species by, in sympy; empty for the gradient."""
        rows = self.averages.coefficients or ()
        return {s: formula.sympy() for s, formula in enumerate(rows) if formula is not None}

    def _drifts(self) -> list[tuple[int, int, Any]]:
        """Return (species moved, species it is moved along, formula) of drifts that depend on the sample."""
        rows = self.averages.sampled_drift or ()
        return [(p, q, f) for p, row in enumerate(rows) for q, f in enumerate(row) if f is not None]

    def _moved(self) -> list[str]:
        """Return ``moved``, which fills what a sample moves each vector by; drifts stand behind ``value[:K]``."""
        body = ["for k in range(K):", *(f"    b[{s} * K + k] = 0.0" for s in range(len(self.averages.species)))]
        rows = self._coefficients()
        if self.averages.coefficients is None:
            body += ["    b[k] = dg(x[k]) * error"]
            body += self._displaced()
        else:
            body += ["    a, learning_rate = c[k], eta"]
            drifts = {n: formula.sympy() for n, (_, _, formula) in enumerate(self._drifts())}
            names = {str(s) for row in (*rows.values(), *drifts.values()) for s in row.free_symbols}
            for s, name in enumerate(self.averages.species):
                at = f"x[{s} * K + k]"
                for prefix, value in (("lambda", at), ("g", f"g({at})"), ("dg", f"dg({at})")):
                    if f"{prefix}_{name}" in names:
                        body.append(f"    {_word(f'{prefix}_{name}')} = {value}")
            places = {f"b[{s} * K + k]": row for s, row in rows.items()}
            places |= {f"value[{1 + n} * K + k]": row for n, row in drifts.items()}
            for place, row in places.items():
                spelled = row.xreplace({v: sp.Symbol(_word(str(v)), real=True) for v in row.free_symbols})
                body.append(f"    {place} = 1.0 * ({printer().doprint(stabilise(spelled))})")
        head = "def moved(x, K, c, f, y, error, eta, b, value, shifted):"
        return ["@njit(**INNER)", head, *indented(body), "", "", *self._placed()]

    def _placed(self) -> list[str]:
        """Return ``drift_at``, the average drift of one vector along another: of the same unit, if any."""
        if not self._drifts():
            return []
        count = len(self.averages.species)
        places = [[-1] * count for _ in range(count)]
        for n, (p, q, _) in enumerate(self._drifts()):
            places[p][q] = n
        return [f"PLACES = np.array({places!r})", "", "", *DRIFT_AT.splitlines(), "", ""]

    def _displaced(self) -> list[str]:
        """Return what takes the gradient at fields that a step on the same sample has moved; ``eta``: its size.

        `uses` adds up the gradients of all steps, and what they move the readouts by.
        """
        averages = self.averages
        step = ["for k in range(K):", "    shifted[k] -= eta * c[k] * dg(shifted[k]) * error"]
        step += ["    f += c[k] * g(shifted[k])", "error = loss_slope(f, y)", "for k in range(K):"]
        start = ["for k in range(K):", "    shifted[k] = x[k]"]
        if averages.trial:
            return [*start, "f = 0.0", *step, "    b[k] = dg(shifted[k]) * error"]
        if averages.uses == 1:
            return []
        add = ["    b[k] += dg(shifted[k]) * error", "    value[k] += g(shifted[k]) * error"]
        return [*start, f"for use in range({averages.uses - 1}):", *indented(["f = 0.0", *step, *add])]

    def _kinks(self) -> list[str]:
        """Return ``own_kinks``, which fills the kinks along the axis of one field and returns their number."""
        setting = self.setting
        rows = (*(self.averages.coefficients or ()), *(formula for _, _, formula in self._drifts()))
        species = []
        for name in self.averages.species:
            found = set(setting.student_kinks)
            for formula in rows:
                found |= _planes(formula, f"lambda_{name}")
            species.append(sorted(found))
        teachers = [list(own) for own in setting.target_kinks] if setting.target is not None else []
        lists = {f"KINKS_{s}": own for s, own in enumerate(species)}
        lists |= {f"TEACHER_KINKS_{r}": own for r, own in enumerate(teachers)}
        if setting.target is None:
            lists["TEACHER_KINKS"] = list(setting.teacher_kinks)
        choice = [(f"{s} * K <= field < {s + 1} * K", f"KINKS_{s}") for s in range(len(species))]
        choice += [("field >= V", "TEACHER_KINKS")] if setting.target is None else []
        choice += [(f"field == V + {r}", f"TEACHER_KINKS_{r}") for r in range(len(teachers))]
        own: list[str] = []
        for test, name in choice:
            own += [f"if {test}:", f"    for q in range({name}.size):"]
            own += [f"        count = insert(origin + {name}[q] / slope, out, count)"]
        lists["REST"] = _rest_values(setting.student)
        lists["TURNS"] = sorted({*lists["REST"], *_turning_values(setting.student)})
        # Room for the kinks of a few fields, and for those of the loss and the sign; more are left to the accuracy.
        most = 4 * max(1, *(len(values) for values in lists.values()))
        lines = constants(**{name: [float(v) for v in values] for name, values in lists.items()})
        function = FIELD_KINKS.replace("{own}", "\n".join(indented(own))) + OWN_KINKS
        lines.append(f"MONOTONE = {is_monotone(setting.student)}")
        return [*lines, f"MOST = {most} + 16 * (LEVELS + 1)", "", "", function]


def is_monotone(student: Any) -> bool:
    """Whether an activation only grows or only falls, on a fine grid of the range of fields."""
    import numpy as np

    x = np.linspace(-40.0, 40.0, 16001)
    values = _values(student, x)
    steps, size = np.diff(values), 1e-14 * float(np.abs(values).max())
    return bool((steps >= -size).all() or (steps <= size).all())


def _values(student: Any, x: Any) -> Any:
    import numpy as np

    with np.errstate(all="ignore"):
        return sp.lambdify(X, student, ["scipy", "numpy"])(x) + 0.0 * x


def _turning_values(student: Any) -> list[float]:
    """Return the values that an activation turns at, of its local extrema next to zero; `MOST_TURNS` at most."""
    import numpy as np

    x = np.linspace(-12.0, 12.0, 4801)
    rising = np.sign(np.diff(_values(student, x)))
    found: dict[float, float] = {}
    for place in np.flatnonzero(rising[1:] * rising[:-1] < 0):
        low, high = x[place], x[place + 2]
        # An interval of three points holds the extremum: ten times finer at every turn, until it is known to rounding.
        for _ in range(8):
            fine = np.linspace(low, high, 41)
            best = int(np.argmax(rising[place] * _values(student, fine)))
            low, high = fine[max(best - 1, 0)], fine[min(best + 1, 40)]
        value = float(_values(student, np.array([0.5 * (low + high)]))[0])
        found.setdefault(round(value, 12), abs(low))
    return sorted(found, key=lambda value: found[value])[:MOST_TURNS]


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
