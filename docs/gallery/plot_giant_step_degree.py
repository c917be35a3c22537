"""
The polynomial model breaks below the degree it needs
=====================================================

.. image:: /gallery/figures/giant_step_degree.png

Test error of a two-layer network after one giant step on two spiked clusters against the total exponent beta, for three
ways of sharing it between spikes and learning rate, with polynomial models of degree 1 and 2. The dotted lines are
where
the sharper degree rule asks for degree 2.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/giant_step_degree.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.theories.giant_step.degrees import needed_degree

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
base = dl.load(
    here / "runs" / "giant-step-mixture.toml", {"grid.sample_ratio": [1.0], "limit.n": 200, "limit.draws": 4}
)
totals = np.linspace(0.1, 0.9, 7)

figure, axes = plt.subplots(1, 3, figsize=(7, 2.3), sharey=True, layout="constrained")
for axis, split in zip(axes, (0.0, 0.25, 0.5), strict=True):
    rows = {"network": [], "degree 1": [], "degree 2": []}
    for total in totals:
        for degree in (1, 2):
            curve = dl.solve(
                dl.replace(
                    base, {"algorithm.total": total, "algorithm.split": split, "algorithm.hermite_degree": degree}
                )
            )
            variance = float(curve["label_variance"])
            rows[f"degree {degree}"].append(float(curve["test_mse_hermite"][0]) / variance)
        rows["network"].append(float(curve["relative_error"][0]))
    for (name, values), style in zip(rows.items(), ("k-", "C0--", "C1--"), strict=True):
        axis.plot(totals, values, style, label=name)
    edge = next((t for t in np.linspace(0, 1, 1001) if needed_degree(t, split, "aligned") >= 2), None)
    if edge is not None:
        axis.axvline(edge, color="0.6", ls=":")
    axis.set(title=rf"$\alpha = {split:g}$", xlabel=r"total exponent $\beta$")
axes[0].set_ylabel(r"test error / $\mathrm{Var}\, y$")
axes[0].legend(frameon=False)
