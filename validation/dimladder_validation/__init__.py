"""Finite-size experiments, their comparison with the theories of dimladder, and the verdict.

>>> from dimladder_validation import simulate, compare
>>> comparison = compare(problem, d=[200, 400, 800], replicas=32)  # doctest: +SKIP
>>> comparison.verdict  # doctest: +SKIP
'agree'
"""

from __future__ import annotations

from .along import compare_along
from .compare import Comparison, compare
from .probe import Probe, measured
from .simulate import replicate, simulate

__all__ = ["Comparison", "Probe", "compare", "compare_along", "measured", "replicate", "simulate"]
