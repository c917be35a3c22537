"""
Online SGD of a soft committee: plateau and specialisation, both layers trained
===============================================================================

.. image:: /gallery/figures/online_committee.png

The theory is drawn on a fine grid of times; the simulations follow the exact finite-d law of the overlaps.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/online_committee.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import compare, simulate

HERE = Path(__file__).parent


def main() -> None:
    problem = dl.load(HERE / "runs" / "online-erf.toml")
    fine = {"start": 0.5, "stop": 500.0, "points": 200, "spacing": "log"}
    curve = dl.solve(dl.replace(problem, {"grid.time": fine}))
    measurement = simulate(problem, d=[800])
    print(compare(problem, measurement).reasons)
    picture = dl.figure([curve, measurement], variables=["generalization_error", "Q", "M", "a"], style="double")
    save(picture, HERE / "figures" / "online_committee.png", "double")


if __name__ == "__main__":
    main()
