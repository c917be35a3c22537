"""Makes the measurements that come with the package: those of the campaign quick, one a problem.

python docs/benchmarks/store_measurements.py [FOLDER]

FOLDER: of `dimladder validate quick -o FOLDER`; default: run it
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dimladder.results import Measurement, open_result
from dimladder_validation.campaign import load_campaign, validate
from dimladder_validation.measurements import FOLDER


def store(results: Path) -> None:
    """Copy the measurement of every case that is not that of an earlier one."""
    seen = set()
    for case in load_campaign("quick")[0].case:
        found = open_result(results / case.name)
        assert isinstance(found, Measurement)
        stats = found.stats
        key = (stats["problem"], stats["seed"], stats["replicas"], tuple(found[stats["size"]].values.tolist()))
        if key not in seen:
            seen.add(key)
            found.save(FOLDER / f"{case.name}.nc")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        store(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            validate("quick", temporary)
            store(Path(temporary))
