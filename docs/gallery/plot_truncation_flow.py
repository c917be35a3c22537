"""
A threshold sweeps through its data
===================================

.. image:: /gallery/figures/truncation_flow.png

Flow lines of t' = F(t)(target - t) for a Gaussian cluster, and fifteen data sets of a hundred points, each with its
exact flow.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/truncation_flow.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.numerics.threshold_path import threshold_path
from dimladder.problem.coordinates import draw

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
times = np.linspace(0, 10, 101)
problem = dl.load(here / "runs" / "truncation-flow.toml", {"grid.time": times})

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.5), sharey=True, layout="constrained")
for start in (0.2, 0.4, 0.5, 0.6, 0.75, 1.0, 1.4, 2.2, 2.6):
    curve = dl.solve(dl.replace(problem, {"initial.threshold": start}))
    left.plot(times, curve["threshold"], color="C0", lw=1)
left.axhspan(0.75, 1.25, color="0.92", zorder=0, label="data, one standard deviation")
left.axhline(problem.data.target, color="0.6", ls=":", label="target")
left.legend(loc="upper right")
left.set(title="population: plateau below the data", xlabel="time $t$", ylabel=r"threshold $\vartheta$")

rng = np.random.default_rng(0)
for _ in range(15):
    right.plot(
        times, threshold_path(*draw(problem.data, rng, 100), problem.initial.threshold, times), color="0.7", lw=0.8
    )
right.plot(times, dl.solve(problem)["threshold"], color="C0", lw=2)
right.set(title="data sets of 100 points (grey), population", xlabel="time $t$")
plt.show()
