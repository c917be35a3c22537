"""Printed code of the averages of one source for several outputs; the face of `source_code`, with vectors.

    averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R)
    errors(K, M, mu, C, c, y0, sigma, rule, work, out)

``c`` (Y, N) holds the weights ``(mask a, -A)`` of all fields output by output, ``y0`` (Y) the label, ``R`` is (Y, K).
``out`` becomes (E|f - f*|^2/2 without noise, the share of samples whose largest output is another than the label's,
E[loss]).
"""

from __future__ import annotations

from typing import Any

from ...symbolic.loops import SymmetricArray
from .layout import covariance_element, place_of
from .source_averages import MU
from .source_code import closed_source
from .vector_averages import VectorAverages
from .vector_quadrature import VectorQuadrature


def vector_functions(averages: VectorAverages) -> list[str]:
    """Return the source of ``averages``, ``errors`` and ``averages_work_size``, and of all that they call."""
    return closed_functions(averages) if averages.route == "closed" else VectorQuadrature(averages).functions()


def elements() -> dict[str, Any]:
    """Return where the entries of each indexed quantity stand."""
    arrays: dict[str, Any] = {"N": "N2", "S": "S", "G": "G", "R": "R", "y0": "y0", "y": "unit_label"}
    arrays["C"] = SymmetricArray(covariance_element)
    arrays["c"] = lambda o, p: f"c[{o}, {place_of(p)}]"
    arrays["U"] = lambda i, p: f"U[{i}, {place_of(p)}]"
    arrays["H"] = lambda i, p: f"H[{i}, {place_of(p)}]"
    arrays[str(MU)] = lambda p: f"mu[{place_of(p)}]"
    return arrays


def closed_functions(averages: VectorAverages) -> list[str]:
    """Return the source of all functions where the averages have closed forms."""
    first = "    N, Y = K + M, c.shape[0]"
    head = [first, "    S = work[:K]", "    unit_label = work[K:2 * K]"]
    head += ["    U = work[2 * K:2 * K + K * N].reshape((K, N))", "    place = 2 * K + K * N"]
    errors = ["    out[0] = 0.0", "    for o in range(c.shape[0]):"]
    errors += ["        out[0] += half_square(o, K, M, mu, C, c, y0, work)"]
    return closed_source(
        averages, elements(), averages.definitions, averages.error_of_output, head=head,
        before=[first, "    place = 0"], half="o, K, M, mu, C, c, y0, work", errors=errors, own="2 * K + K * N",
        share="wrong_share(K, M, mu, C, c, y0, rule[1 + int(rule[0]):], work)" if averages.classes else "math.nan",
        signs=VectorQuadrature(averages).signs() if averages.classes else [],
    )  # fmt: skip
