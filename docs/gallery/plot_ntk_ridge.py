"""
The tangent kernel between its two interpolation thresholds
===========================================================

.. image:: /gallery/figures/ntk_ridge.png

Test error of ridge regression with the neural tangent kernel of one hidden layer against its width over the number of
samples. Where the second layer alone has as many parameters as there are samples the error peaks, unless the ridge
(colour) is large. Lines: theory. Markers: kernels of networks at 200 samples of 100 dimensions, mean and standard error
of 12; at small widths they lie above the theory, and come nearer as the number of samples grows.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/ntk_ridge.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

HERE = Path(__file__).parent
WIDTHS = [0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0]


def main() -> None:
    problem = dl.load(HERE / "runs" / "triple-descent.toml", {"grid.width_ratio": WIDTHS})
    results = []
    for ridge in (1e-6, 1e-3, 1e-1):
        changed = dl.replace(problem, {"loss.ridge": ridge})
        results += [dl.solve(changed), simulate(changed, d=200, replicas=12)]
    picture = dl.figure(results, variables=["test_mse", "train_mse"], style="double")
    save(picture, HERE / "figures" / "ntk_ridge.png", "double")


if __name__ == "__main__":
    main()
