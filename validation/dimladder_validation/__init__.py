"""Finite-size experiments, their comparison with the theories of dimladder, and the verdict.

>>> from dimladder_validation import simulate, compare
>>> comparison = compare(problem, d=[200, 400, 800], replicas=32)  # doctest: +SKIP
>>> comparison.verdict  # doctest: +SKIP
'agree'
"""

from __future__ import annotations

from .along import compare_along
from .compare import Comparison, compare
from .measurements import stored, stored_for, stored_names
from .probe import Probe, feature_kernels, measured
from .simulate import replicate, simulate

__all__ = [
    "Comparison", "Probe", "compare", "compare_along", "feature_kernels", "measured", "replicate", "simulate", "stored",
    "stored_for", "stored_names",
]  # fmt: skip
