"""
Several features: easy and hard directions
==========================================

.. image:: /gallery/figures/hierarchical_branches.png

Left: networks trained on two branches, an easy target (a committee) and a hard one (a parity): the overlap of the
weights with each branch along the training. Right: the sharp theory of a target whose second direction one transform of
the label does not tell apart from the first, and a second one does, with simulations.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_branches.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent / "runs" if "__file__" in globals() else Path("runs")
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")

hard = dl.load(here / "hierarchical-parity.toml")
easy = dl.replace(hard, {"target.link": "tanh(2*h1) + tanh(2*h2)"})
for problem, name, colour in ((easy, "committee", "C0"), (hard, "parity", "C3")):
    run = simulate(problem, replicas=3, dtype="float32").dataset.isel(d=0, kappa=0, recipe=0)
    for network, style in (("layerwise", "-"), ("joint", "--")):
        steps = run["gradient_step"].sel(network=network)
        for branch in (1, 2):
            left.plot(steps + 1, run["weight_overlap"].sel(network=network, branch=branch), style, color=colour,
                      marker="os"[branch - 1], ms=3, label=f"{name}, {network}" if branch == 1 else None)  # fmt: skip
left.axhline(np.sqrt(6 / 36), color="0.7", lw=0.8)
left.set(xscale="log", xlabel="gradient steps + 1", ylabel="$M_W$ of branch 1 (circles), 2 (squares)")
left.set_title("trained networks; lines join their means")
left.legend(fontsize=6)

problem = dl.load(here / "hierarchical-branches.toml", {
    "algorithm.first.order": "refined", "grid": {"kappa": {"start": 1.2, "stop": 2.4, "points": 9}}, "limit.d": 144,
})  # fmt: skip
few = {"grid.kappa": [1.5, 1.9, 2.3]}
for transforms, style, marker in ((["identity"], "--", "s"), (["identity", "abs(y)"], "-", "o")):
    chosen = dl.replace(problem, {"algorithm.second.label_transforms": transforms})
    curve, points = dl.solve(chosen), dl.replace(chosen, few)
    measured = simulate(points, d=[144], replicas=2, dtype="float32")
    for branch, colour in ((1, "C0"), (2, "C1")):
        label = rf"$R_{branch}$, {len(transforms)} transform{'s' if len(transforms) > 1 else ''}"
        right.plot(curve["kappa"], curve["feature_correlation"].sel(branch=branch), style, color=colour, label=label)
        right.errorbar(few["grid.kappa"], measured["feature_correlation"].sel(branch=branch).isel(d=0),
                       measured["feature_correlation_se"].sel(branch=branch).isel(d=0), fmt=marker, color=colour,
                       mfc="none", ms=4)  # fmt: skip
right.set(xlabel=r"$\kappa = \log n / \log d$", ylabel="multiple correlation with $h_m$", ylim=(-0.02, 1.02))
right.set_title("theory (lines) and simulation (markers)")
right.legend(fontsize=6)
plt.show()
