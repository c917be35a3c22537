"""
Three losses on two clusters
============================

.. image:: /gallery/figures/mixture_learning_curves.png
.. image:: /gallery/figures/mixture_learning_curves_2.png

Square, logistic and hinge losses on two opposite clusters of unequal weight: state evolution (lines) and direct fits at
d = 200 (points). The dotted line is the separability threshold, below which unpenalised logistic fits do not exist.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/mixture_learning_curves.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
base = dl.load(here / "runs" / "estimation-mixture.toml")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for loss, colour in (("square", "C0"), ("logistic", "C1"), ("hinge", "C2")):
    line = dl.solve(
        dl.replace(base, {"loss.function": loss, "grid.sample_ratio": {"start": 0.3, "stop": 6.0, "points": 120}})
    )
    points = simulate(
        dl.replace(base, {"loss.function": loss, "grid.sample_ratio": [0.5, 1.0, 2.0, 4.0]}), d=[200], replicas=8
    )
    for axis, name in zip(axes, ("classification_error", "train_loss"), strict=True):
        axis.plot(line["sample_ratio"], line[name], color=colour, label=loss)
        axis.errorbar(points["sample_ratio"], points[name][0], 2 * points[f"{name}_se"][0], fmt="o", color=colour, ms=4)
    if "separability_threshold" in line:
        axes[0].axvline(float(line["separability_threshold"]), color="0.6", ls=":")
axes[0].set(xlabel="samples / d", ylabel="classification error")
axes[1].set(xlabel="samples / d", ylabel="training loss, without penalty")
axes[0].legend(frameon=False)
dl.key(figure, simulation="minimisers, mean and 2 s.e.")

# %%
# The bias that a small cluster needs, and what a vanishing penalty does at the threshold.

figure, axis = plt.subplots(figsize=(3.9, 2.7), layout="constrained")
for ridge in (1e-1, 1e-2, 1e-3, 1e-4):
    line = dl.solve(
        dl.replace(base, {"loss.ridge": ridge, "grid.sample_ratio": {"start": 0.3, "stop": 8.0, "points": 80}})
    )
    axis.semilogy(line["sample_ratio"], np.asarray(line["q"]), label=f"ridge {ridge:g}")
axis.axvline(float(line["separability_threshold"]), color="0.6", ls=":")
axis.set(xlabel="samples / d", ylabel="$q = |w|^2$")
axis.legend(frameon=False)
