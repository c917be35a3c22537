"""
Three stages with constants
===========================

.. image:: /gallery/figures/hierarchical_layerwise.png

Stage 1 (overlap of the learned subspace), stage 2 (correlation of the learned feature) and the error, leading order and
refined theory against a simulated three-stage network; the gap to leading order closes as d grows.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_layerwise.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
problem = dl.load(
    here / "runs" / "hierarchical-layerwise.toml",
    {"grid.first_ratio": [0.5, 1.0, 2.0, 4.0, 8.0], "grid.second_ratio": [4.0]},
)
fine = dl.replace(problem, {"grid.first_ratio": [float(v) for v in np.geomspace(0.3, 12, 60)]})
sizes = [64, 144, 256]
measured = simulate(problem, d=sizes, replicas=4, dtype="float32")

names = {
    "subspace_overlap": "subspace overlap $q$",
    "feature_correlation": r"corr$(\hat h, h^*)$",
    "mse": "mean squared error",
}
figure, axes = plt.subplots(1, 4, figsize=(7, 2.1), layout="constrained")
leading = dl.solve(fine)
refined = {
    d: dl.solve(
        dl.replace(
            fine,
            {
                "algorithm.first.order": "refined",
                "limit.d": d,
                "grid.first_ratio": [0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0],
            },
        )
    )
    for d in (64, 256)
}
for axis, (name, label) in zip(axes, names.items(), strict=False):
    flat = lambda v: v.isel(second_ratio=0) if "second_ratio" in v.dims else v  # noqa: E731
    axis.semilogx(leading["first_ratio"], flat(leading[name]), "k", label="leading order")
    for d, style in ((64, ":"), (256, "--")):
        axis.semilogx(refined[d]["first_ratio"], flat(refined[d][name]), style, color="0.4", label=f"refined, d = {d}")
    for d, marker in zip(sizes, "s^o", strict=True):
        axis.errorbar(
            problem.grid.values("first_ratio"), flat(measured[name].sel(d=d)), flat(measured[name + "_se"].sel(d=d)),
            fmt=marker, ms=4, fillstyle="none", label=f"simulation, d = {d}",
        )  # fmt: skip
    axis.set(xlabel=r"$n_1 / (d\, d_{\rm eff})$", title=label)
axes[0].legend(fontsize=6)
exact = dl.solve(problem)
for ratio in (0.5, 1.0, 2.0):
    gap = [
        abs(
            float(
                measured["subspace_overlap"].sel(d=d, first_ratio=ratio)
                - exact["subspace_overlap"].sel(first_ratio=ratio)
            )
        )
        for d in sizes
    ]
    axes[3].loglog(sizes, gap, "o-", ms=4, label=f"ratio {ratio:g}")
axes[3].set(xlabel="d", title="|simulation - leading order| of $q$")
axes[3].legend(fontsize=6)
plt.show()
