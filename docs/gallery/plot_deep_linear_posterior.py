"""
Depth makes the kernel of a Bayesian network smaller
====================================================

.. image:: /gallery/figures/deep_linear_posterior.png

Scale of the kernel that a deep linear network of finite width has after the data are seen, against its depth, for two
ratios of samples to width (colour). One: the kernel of the prior. Lines: the self-consistent scale of the proportional
limit. Markers: Langevin samples of the weights at width 40, mean and standard error of 8 data sets.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/deep_linear_posterior.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

HERE = Path(__file__).parent


def main() -> None:
    problem = dl.load(HERE / "runs" / "deep-linear-posterior.toml")
    results = []
    for alpha in (0.3, 0.8):
        changed = dl.replace(problem, {"data.alpha": alpha})
        results += [dl.solve(changed), simulate(changed, d=40, replicas=8)]
    save(dl.figure(results, variables=["kernel_scale"]), HERE / "figures" / "deep_linear_posterior.png")


if __name__ == "__main__":
    main()
