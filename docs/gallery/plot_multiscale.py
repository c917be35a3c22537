"""
Epoch-wise double descent from features of two speeds
=====================================================

.. image:: /gallery/figures/multiscale.png

Ridge regression whose inputs have many fast and few slow directions, against the time that one over the ridge stands
for. The fast ones are learned, then overfitted; then the slow ones come. Colour: variance of the slow directions.
Lines: theory. Markers: fits at d = 200, mean and standard error of 40.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/multiscale.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

HERE = Path(__file__).parent
TIMES = {"start": 1.0, "stop": 3e3, "points": 15, "spacing": "log"}


def main() -> None:
    problem = dl.load(HERE / "runs" / "multiscale.toml", {"grid.time_ridge": TIMES})
    results = []
    for slow in (2.5e-6, 2.5e-5, 2.5e-4):
        changed = dl.replace(problem, {"data.spectrum.variances": [0.25, slow]})
        results += [dl.solve(changed), simulate(changed, d=200, replicas=40)]
    picture = dl.figure(results, variables=["generalization_error", "overlap"], style="double")
    save(picture, HERE / "figures" / "multiscale.png", "double")


if __name__ == "__main__":
    main()
