"""Printed code of the averages of one source by quadrature over all its fields, for several outputs.

What a sample moves unit i by, ``b_i = g'(lambda_i) sum_o a_oi dl/df_o``, is averaged as it is; see `source_quadrature`.
The chance of a wrong class is exact along the last axis of a unit, where outputs meet at points.
"""

from __future__ import annotations

import re
from typing import Any

from ...numerics.pasted import text_of
from ...numerics.points import POINTS_SOURCE
from ...problem.stable import stabilise
from ...symbolic.pieces import STABLE_SOURCE
from ...symbolic.printing import assignments, printer
from .layout import indented
from .quadrature_code import constants, functions_of_x
from .source_quadrature import is_monotone
from .source_quadrature_text import (
    AVERAGES,
    CAPACITY,
    CENTRED_MEAN,
    CLEAR,
    FIELD_KINKS,
    LAW,
    STRAIGHT,
    STRAIGHT_MEAN,
    WORK,
    WRONG_SHARE,
    filled,
)
from .vector_averages import VectorAverages
from .vector_quadrature_text import (
    SOFTMAX,
    VECTOR_INTEGRATE,
    VECTOR_KINKS,
    VECTOR_SCRATCH,
    VECTOR_SCRATCH_SIZE,
    WRONG_CLASS,
)

# Planes of the teachers beyond this are left to the accuracy of the quadrature.
MOST_ALONG = 100


class VectorQuadrature:
    """Averages over all fields of a source; as `vector_code.closed_functions` gives them."""

    def __init__(self, averages: VectorAverages) -> None:
        self.averages, self.setting, self.loss = averages, averages.setting, averages.vector_loss

    def functions(self) -> list[str]:
        """Return the source of all functions."""
        share = (
            "wrong_share(K, M, mu, C, c, y0, rule[1 + int(rule[0]):], work)" if self.averages.classes else "math.nan"
        )
        text = filled(
            VECTOR_INTEGRATE + CLEAR + AVERAGES, VECTOR_SCRATCH,
            signature="K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R", rate="", no_rate="", share=share,
            count="OUTPUTS * K", shape=".reshape((OUTPUTS, K))",
            readouts="\n".join(indented(["for o in range(R.shape[0]):", "    for k in range(R.shape[1]):",
                                         "        R[o, k] = number"])),
        )  # fmt: skip
        return [*self._law(), *self._loss(), *self._own_kinks(), *self._signs(), text]

    def signs(self) -> list[str]:
        """Return the source of ``wrong_share`` and of all that it calls."""
        return [*self._law(), *self._own_kinks(), *self._signs()]

    def _signs(self) -> list[str]:
        if not self.averages.classes:
            return []
        words = {"chance": "P(argmax f != argmax y)", "weights": "size", "head": "3", "room": "ALONG"}
        return [filled(WRONG_SHARE, VECTOR_SCRATCH, **words, label="frame, star", frame="frame") + WRONG_CLASS]

    def _law(self) -> list[str]:
        """Return activation, target and how points are made."""
        stable = re.sub(r"@njit\(.*\)", "@njit(**OPTIONS)", STABLE_SOURCE.strip())
        lines = ["SPECIES = 1", f"CAPACITY = {CAPACITY}", f"OUTPUTS = {self.loss.outputs}", "", "", stable, "", ""]
        lines += [*functions_of_x({"g": self.setting.student}), *self._target()]
        mean = CENTRED_MEAN if self.averages.centred else STRAIGHT_MEAN
        work = WORK.replace("{size}", VECTOR_SCRATCH_SIZE)
        return [*lines, POINTS_SOURCE, "", "", mean, STRAIGHT, LAW, work]

    def _target(self) -> list[str]:
        """Return ``target(z, c, K, y0, star)``, which fills the label without noise."""
        averages = self.averages
        head = ["@njit(**OPTIONS)", "def target(z, c, K, y0, star):"]
        if not averages.index:
            lines = functions_of_x({"gt": self.setting.teacher})
            body = ["for o in range(star.size):", "    star[o] = y0[o]", "    for m in range(z.size):"]
            body += ["        if c[o, K + m] != 0.0:", "            star[o] -= c[o, K + m] * gt(z[m])"]
            return [*lines, *head, *indented(body), "", ""]
        shared, values = assignments([stabilise(f) for f in averages.index], indent="")
        used = set().union(*(f.free_symbols for f in averages.index))
        body = [f"{s} = z[{int(str(s)[1:]) - 1}]" for s in sorted(used, key=str)]
        body += [*shared, *(f"star[{o}] = 1.0 * ({value})" for o, value in enumerate(values))]
        if averages.argmax:
            body += ["best = 0", "for o in range(1, star.size):", "    if star[o] > star[best]:", "        best = o"]
            body += ["for o in range(star.size):", "    star[o] = 1.0 if o == best else 0.0"]
        return [*head, *indented(body), "", ""]

    def _loss(self) -> list[str]:
        """Return the loss and its slopes, of vectors."""
        if self.loss.softmax:
            smooth = self.loss.smoothing
            text = SOFTMAX.replace("{kept}", repr(1.0 - smooth)).replace("{rest}", repr(smooth / self.loss.outputs))
            return [text_of("softmax", "softmax"), "", text]
        write = printer()
        read = [f"{s} = {name}[{o}]" for name, row in (("f", self.loss.f), ("y", self.loss.y))
                for o, s in enumerate(row)]  # fmt: skip
        shared, slopes = assignments([stabilise(s) for s in self.loss.slopes], indent="")
        fill = [*shared, *(f"out[{o}] = 1.0 * ({slope})" for o, slope in enumerate(slopes))]
        return [
            "@njit(**OPTIONS)", "def loss(f, y):", *indented(read),
            f"    return 1.0 * ({write.doprint(stabilise(self.loss.value))})", "", "",
            "@njit(**OPTIONS)", "def loss_slope(f, y, out):", *indented([*read, *fill]), "", "",
        ]  # fmt: skip

    def _own_kinks(self) -> list[str]:
        """Return ``own_kinks``, which fills the kinks along the axis of one field and returns their number."""
        averages, setting = self.averages, self.setting
        rows: dict[str, list[Any]] = {"KINKS": list(setting.student_kinks)}
        own = ["if field < K:", "    for q in range(KINKS.size):"]
        own.append("        count = insert(origin + KINKS[q] / slope, out, count)")
        if not averages.index:
            rows["TEACHER_KINKS"] = list(setting.teacher_kinks)
            own += ["if field >= K:", "    for q in range(TEACHER_KINKS.size):"]
            own.append("        count = insert(origin + TEACHER_KINKS[q] / slope, out, count)")
        loss, teacher = list(self.loss.planes), list(averages.planes[:MOST_ALONG])
        directions = max([1, *(len(normal) for normal, _ in teacher)])
        lines = constants(TEACHER_LEVELS=[float(level) for _, level in teacher])
        lines += constants(**{name: [float(v) for v in values] for name, values in rows.items()})
        lines += [
            f"PLANES = np.array({[list(u) for u, _ in loss]!r}, dtype=np.float64)"
            f".reshape(({len(loss)}, {self.loss.outputs}))",
            f"TEACHER_PLANES = np.array({[list(n) for n, _ in teacher]!r}, dtype=np.float64)"
            f".reshape(({len(teacher)}, {directions}))",
            f"MONOTONE = {is_monotone(setting.student)}",
            # Room for the kinks of a few fields and of the planes; where outputs meet, too.
            f"ALONG = {4 * max(1, *map(len, rows.values()))} + {len(teacher)} + 16 * {len(loss)}",
            f"MOST = ALONG + 16 * {1 + self.loss.outputs}", "", "",
        ]  # fmt: skip
        lines += ["@njit(**OPTIONS)", "def plane_level(number, y):"]
        lines += [f"    {y} = y[{o}]" for o, y in enumerate(self.loss.y)]
        for number, (_, level) in enumerate(loss):
            lines += [f"    if number == {number}:", f"        return 1.0 * ({printer().doprint(stabilise(level))})"]
        lines += ["    return math.inf", "", ""]
        return [*lines, FIELD_KINKS.replace("{own}", "\n".join(indented(own))) + VECTOR_KINKS]
