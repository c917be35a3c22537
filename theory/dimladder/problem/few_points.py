"""NumPy as a namespace of formulas, without SciPy."""

from __future__ import annotations

import math
from typing import Any


class _FewPoints:
    """NumPy with the erf of `math`, for a few thousand points: there the import of scipy.special would cost more."""

    @staticmethod
    def erf(u: Any) -> Any:
        import numpy as np

        return np.frompyfunc(math.erf, 1, 1)(u).astype(float) if np.ndim(u) else math.erf(u)

    def __getattr__(self, name: str) -> Any:
        import numpy as np

        return getattr(np, name)


FEW_POINTS = _FewPoints()
