"""
Where gradient flow of a linear network comes to rest
=====================================================

.. image:: /gallery/figures/implicit_bias.png

A two-layer linear network with fewer samples than dimensions, trained by gradient flow from a start of small norm
(colour): its loss, its distance from the interpolator of least norm, and its excess risk. The smaller the start, the
longer the plateau, and the nearer the end to that interpolator. Lines: the closed flow.
Markers: the weights, integrated.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/implicit_bias.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

HERE = Path(__file__).parent
TIMES = {"start": 0.02, "stop": 1.5, "points": 20, "spacing": "log"}


def main() -> None:
    problem = dl.load(HERE / "runs" / "implicit-bias.toml", {"grid.time": TIMES})
    results = []
    for norm in (1e-6, 1e-3, 1.0):
        changed = dl.replace(problem, {"student.initial_norm": norm})
        results += [dl.solve(changed), simulate(changed, d=4, replicas=2)]
    picture = dl.figure(results, variables=["loss", "solution_gap", "risk"], style="double")
    save(picture, HERE / "figures" / "implicit_bias.png", "double")


if __name__ == "__main__":
    main()
