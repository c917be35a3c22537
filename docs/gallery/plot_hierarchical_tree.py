"""
A tree of two hidden levels
===========================

.. image:: /gallery/figures/hierarchical_tree.png

What is explained of the features of each level, and of the scalar feature, on n = d^kappa samples a level: leading
order (lines) and spectral estimates at d = 64 and 100, where blocks of 7 to 10 features are far from normal.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_tree.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("single"))

here = Path(__file__).parent / "runs" if "__file__" in globals() else Path("runs")
problem = dl.load(here / "hierarchical-tree.toml")
figure, axes = plt.subplots(figsize=(3.4, 2.6), layout="constrained")
names = {"linear level": "C0", "second level": "C1", "scalar feature": "C2"}
for d, style, marker in ((64, "--", "s"), (100, "-", "o")):
    fine = {"start": 1.3, "stop": 2.4, "points": 45}
    curve = dl.solve(dl.replace(problem, {"limit.d": d, "grid.kappa": fine}))
    few = dl.replace(problem, {"limit.d": d, "grid.kappa": [1.5, 1.8, 2.1, 2.3]})
    measured = simulate(few, d=[d], replicas=3, dtype="float32").dataset.isel(d=0)
    for data, line, options in (
        (curve, style, {}), (measured, marker, {"mfc": "none", "ms": 4}),
    ):  # fmt: skip
        values = [
            data["level_overlap"].sel(level=1),
            data["level_overlap"].sel(level=2),
            data["feature_correlation"] ** 2,
        ]
        for value, (name, colour) in zip(values, names.items(), strict=True):
            label = f"{name}, d = {d}" if line == style else None
            axes.plot(data["kappa"], value, line, color=colour, label=label, **options)
axes.set(xlabel=r"$\kappa = \log n / \log d$", ylabel="explained", ylim=(-0.02, 1.02))
axes.legend(fontsize=5)
dl.key(figure, simulation="estimates, d = 64 (squares), 100 (circles)")
plt.show()
