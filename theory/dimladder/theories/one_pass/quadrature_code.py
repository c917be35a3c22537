"""Printed code of the moments that have no closed form: by conditional quadrature, or over all fields at once."""

from __future__ import annotations

from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...problem.expressions import drop_atoms
from ...symbolic.factors import X
from ...symbolic.gaussian import Averager, Law
from ...symbolic.nodes import Expectation
from ...symbolic.printing import OBSERVE_SIGNATURE, assignments, printer
from .averages import products
from .derivation import Derived
from .layout import VIEWS
from .notation import LABEL, OUTPUT, Setting

INDENT = "    "
TOO_MANY = (
    "if not capacity(C, rule, KINKS, KINKS_T) < 4000:",
    "    # A trial state far from the curve, or a blow-up: nodes would be without number.",
)
# Moments that the quadrature over all fields fills.
SCRATCH = {"D": "D = np.empty((K, N))", "N": "NN = np.empty((K, K))", "H": "H = np.empty(K)"}


def functions_of_x(functions: dict[str, Any]) -> list[str]:
    """Return the source of functions of one field, and of their slopes almost everywhere."""
    write = printer()
    lines = []
    for name, function in functions.items():
        for prefix, body in (("", function), ("d", drop_atoms(sp.diff(function, X)))):
            value = f"    return 1.0 * ({write.doprint(body)})"
            lines += ["@njit(**OPTIONS)", f"def {prefix}{name}(x):", value, "", ""]
    return lines


def constants(**arrays: Any) -> list[str]:
    """Return the source of arrays of numbers."""
    kind = {float: "float64", int: "int64"}
    return [
        f"{name} = np.array({list(values)!r}, dtype=np.{kind[type(values[0]) if len(values) else float]})"
        for name, values in arrays.items()
    ]


def teacher_field(setting: Setting, field: int) -> str:
    """Return a teacher field in terms of the fields ``z`` along the axes of a target's kinks."""
    parts = [(axis[field], q) for q, axis in enumerate(setting.target_axes) if axis[field] != 0.0]
    return " + ".join(f"z[{q}]" if c == 1.0 else f"{c!r} * z[{q}]" for c, q in parts)


class Moments:
    """Code of moments that no closed form gives.

    Parameters
    ----------
    out : Derived
    first : str
        Where the parameters of the quadrature begin, in the source.
    """

    def __init__(self, out: Derived, first: str) -> None:
        self.out, self.setting, self.first = out, out.setting, first


class Conditional(Moments):
    """Moments by quadrature given one or two fields: `numerics.conditional`."""

    def functions(self) -> list[str]:
        """Return the activations, their slopes and kinks, and the quadrature."""
        setting = self.setting
        teacher = setting.student if setting.teacher is None else setting.teacher
        lines = functions_of_x({"g": setting.student, "gt": teacher})
        lines += constants(KINKS=list(setting.student_kinks), KINKS_T=list(setting.teacher_kinks))
        if setting.target is not None:
            lines += ["", "", *self._target_functions()]
        from ...numerics.conditional import CONDITIONAL_SOURCE, TARGET_SOURCE

        lines += ["", "", CONDITIONAL_SOURCE, "", ""]
        return lines + ([TARGET_SOURCE, "", ""] if setting.target is not None else [])

    def _target_functions(self) -> list[str]:
        """Return E[f*], E[f*^2] and E[(v . grad)^n f*] for teacher fields of given mean and covariance."""
        setting = self.setting
        count = setting.directions
        means = sp.symbols(f"m1:{count + 1}", real=True)
        direction = sp.symbols(f"v1:{count + 1}", real=True)
        entry = lambda a, b: sp.Symbol(f"S{min(a, b)}{max(a, b)}", real=True)  # noqa: E731
        law = Law(entry, lambda a: means[a - 1])
        averager = Averager(law)

        def mean_of(function: Any) -> Any:
            total = sp.Add(*(averager.average(product) for product in products(function, setting)))
            if total.has(Expectation):
                raise DerivationError("a polynomial target has moments in closed form", why=str(function))
            return total

        average = mean_of(setting.target)
        orders = [average]
        while orders[-1] != 0:
            orders.append(sp.expand(sum(v * sp.diff(orders[-1], m) for v, m in zip(direction, means, strict=True))))
        unpack = [f"    m{r} = m[{r - 1}]" for r in range(1, count + 1)]
        unpack += [f"    S{a}{b} = S[{a - 1}, {b - 1}]" for a in range(1, count + 1) for b in range(a, count + 1)]
        lines = [f"DEGREE = {len(orders) - 2}", "", ""]
        for name, value in (("target_average", average), ("target_square", mean_of(sp.expand(setting.target**2)))):
            shared, (result,) = assignments([value])
            head = ["@njit(**OPTIONS)", f"def {name}(m, S):"]
            lines += [*head, *unpack, *shared, f"    return 1.0 * ({result})", "", ""]
        shared, results = assignments(orders[:-1])
        lines += ["@njit(**OPTIONS)", "def target_directional(m, S, v, F):", *unpack]
        lines += [f"    v{r} = v[{r - 1}]" for r in range(1, count + 1)]
        return [*lines, *shared, *(f"    F[{n}] = {r}" for n, r in enumerate(results)), "", ""]

    def moments(self) -> list[str]:
        """Return the lines that fill D, N and H."""
        names = {str(stage.lhs.base) for stage in self.out.moments}
        target = self.setting.target is not None
        lines = [
            "# Quadrature: order of Mehler's series, then the rule; the weights of the error in the loss.",
            f"order = int(p[{self.first}])",
            f"rule = p[{self.first} + 1:]",
            *TOO_MANY, "    dy[:] = math.nan", "    return",
            "e = np.empty(N)",
            "for a in range(N):",
            "    e[a] = c[a]",
        ]
        lines += ["e[:K] = 0.0"] if self.setting.loss != "square" else []
        lines += ["e[K:] = 0.0"] if target else []
        if "D" in names or "H" in names:
            call = "field_moments(C, e, K, i, KINKS, KINKS_T, rule, D[i])"
            left = "H[i] = " if "H" in names else ""
            lines += ["for i in range(K):", f"{INDENT}{left}{call}"]
            if target:
                left = "H[i] += " if "H" in names else ""
                lines.append(f"{INDENT}{left}target_field_moments(C, K, i, DEGREE, KINKS, KINKS_T, rule, D[i])")
        if "N" in names:
            lines += [
                "for i in range(K):", "    for k in range(i + 1):",
                "        NN[i, k] = slope_moments(C, e, K, i, k, sigma, KINKS, KINKS_T, rule, order)",
            ]  # fmt: skip
            if target:
                lines.append("        NN[i, k] += target_slope_moments(C, e, K, i, k, DEGREE, KINKS, KINKS_T, rule)")
            lines.append("        NN[k, i] = NN[i, k]")
        return lines

    def error(self) -> list[str]:
        """Return the lines that return E[(f - f*)^2]/2."""
        lines = [f"rule = p[{self.first} + 1:]", *TOO_MANY, "    return math.nan"]
        if self.setting.target is None:
            return [*lines, "return 0.5 * mean_square_error(C, c, K, KINKS, KINKS_T, rule)"]
        students = "mean_square_error(C, c, K, KINKS, KINKS_T, rule)"
        return [*lines, "c[K:] = 0.0", f"return 0.5 * ({students} + target_error(C, c, K, KINKS, KINKS_T, rule))"]

    def observables(self) -> list[str]:
        """Return further functions of the state."""
        return []


class Fields(Moments):
    """Moments by quadrature over all fields at once: `numerics.fields`."""

    def functions(self) -> list[str]:
        """Return the activation, its slope and kinks, the target, the loss and its slope, and the quadrature."""
        setting = self.setting
        lines = functions_of_x({"g": setting.student})
        kinks = list(setting.student_kinks)
        if setting.target is None:
            lines += functions_of_x({"gt": setting.teacher})
            body = ["total = 0.0", "for m in range(A.size):", "    total += A[m] * gt(z[m])", "return total"]
            lines += constants(KINKS=kinks, KINKS_T=list(setting.teacher_kinks))
        else:
            shared, (value,) = assignments([setting.target], indent="")
            body = [f"z{r + 1} = {teacher_field(setting, r)}" for r in range(setting.directions)]
            body += [*shared, f"return 1.0 * ({value})"]
            starts = [0]
            for own in setting.target_kinks:
                starts.append(starts[-1] + len(own))
            flat = [k for own in setting.target_kinks for k in own]
            lines += constants(KINKS=kinks, TARGET_KINKS=flat, STARTS=starts)
            lines.append(f"AXES = np.array({[list(axis) for axis in setting.target_axes]!r})")
        lines += ["", "", "@njit(**OPTIONS)", "def target(z, A):", *(INDENT + line for line in body), "", ""]
        loss = setting.loss_function
        for name, function in (("loss", loss), ("loss_slope", sp.diff(loss, OUTPUT))):
            text = printer().doprint(function)
            lines += ["@njit(**OPTIONS)", f"def {name}({OUTPUT}, {LABEL}):", f"    return 1.0 * ({text})", "", ""]
        from ...numerics.fields import FIELDS_SOURCE

        return [*lines, FIELDS_SOURCE, "", ""]

    def _averages(self) -> list[str]:
        lines = [
            "# The values of the label noise with their weights, then the rule over all fields.",
            f"count = int(p[{self.first}])",
            f"noise = p[{self.first} + 1:{self.first} + 1 + 2 * count].reshape((count, 2))",
            f"rule = p[{self.first} + 1 + 2 * count:]",
            "moments, A = np.empty(2), np.empty(M)",
            "for m in range(M):",
            "    A[m] = -c[K + m]",
        ]
        covariance, kinks, after = "C", "TARGET_KINKS, STARTS", []
        if self.setting.target is not None:
            lines += [
                "# Teacher fields along the axes of the kinks.",
                "along, turned = np.empty((N, N)), np.empty(M)",
                "for a in range(N):",
                "    for b in range(N):",
                "        along[a, b] = C[a, b]",
                "for i in range(K):",
                "    for m in range(M):",
                "        turned[m] = 0.0",
                "        for n in range(M):",
                "            turned[m] += C[i, K + n] * AXES[m, n]",
                "    for m in range(M):",
                "        along[i, K + m], along[K + m, i] = turned[m], turned[m]",
            ]
            covariance = "along"
            after = [
                "for i in range(K):",
                "    for m in range(M):",
                "        turned[m] = 0.0",
                "        for n in range(M):",
                "            turned[m] += D[i, K + n] * AXES[n, m]",
                "    for m in range(M):",
                "        D[i, K + m] = turned[m]",
            ]
        else:
            lines += [
                "target_kinks, starts = np.empty(M * KINKS_T.size), np.empty(M + 1, np.int64)",
                "starts[0] = 0",
                "for m in range(M):",
                "    starts[m + 1] = starts[m] + KINKS_T.size",
                "    for q in range(KINKS_T.size):",
                "        target_kinks[starts[m] + q] = KINKS_T[q]",
            ]
            kinks = "target_kinks, starts"
        call = f"field_averages({covariance}, c[:K], A, K, KINKS, {kinks}, rule, noise, D, NN, H, moments)"
        return [*lines, call, *after]

    def moments(self) -> list[str]:
        """Return the lines that fill D, N and H."""
        named = {str(stage.lhs.base) for stage in self.out.moments}
        return [*self._scratch(*(name for name in SCRATCH if name not in named)), *self._averages()]

    def error(self) -> list[str]:
        """Return the lines that return E[(f - f*)^2]/2."""
        return [*self._scratch(*SCRATCH), *self._averages(), "return 0.5 * moments[0]"]

    def _scratch(self, *names: str) -> list[str]:
        """Return the lines that make room for moments which the quadrature fills and the flow does not use."""
        return [SCRATCH[name] for name in names]

    def observables(self) -> list[str]:
        """Return the function of the average loss, label noise included."""
        body = [*self._scratch(*SCRATCH), *self._averages(), "return moments[1]"]
        return [
            "", "", f"@njit({OBSERVE_SIGNATURE}, **FAST)", "def population_loss(y, p, work):", VIEWS.rstrip(),
            "    load(y, p, C, c)", *(INDENT + line for line in body),
        ]  # fmt: skip


def quadrature_of(out: Derived, first: str) -> Conditional | Fields | None:
    """Return the quadrature of a derivation whose averages are not all in closed form."""
    if out.route == "closed":
        return None
    return Conditional(out, first) if out.route == "conditional" else Fields(out, first)
