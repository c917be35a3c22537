"""
An even link
============

.. image:: /gallery/figures/hierarchical_even.png

cos(1.5h) has no first order: E[y h] = 0. Left: overlap with d^0.7 hidden directions at d = 64. The label-weighted
covariance of x sees them through the second order of its own fluctuations, from n ~ d^(1 + 2 eps) samples; the
quadratics of x, whose leading eigenvector is folded to a matrix, from n ~ d^2/2. Right: subspace, feature and error on
n = d^kappa samples a stage with d^(1/2) directions, both stages by quadratics.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_even.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent / "runs" if "__file__" in globals() else Path("runs")
problem = dl.load(here / "hierarchical-even.toml")
fine = {"start": 1.6, "stop": 2.6, "points": 26}
few = {"grid.kappa": [1.8, 2.0, 2.2, 2.4], "limit.d": 64}

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for estimator, colour in (("covariance", "C1"), ("flattened", "C0")):
    chosen = {"algorithm.first.estimator": estimator, "target.exponents": [0.7]}
    curve = dl.solve(dl.replace(problem, chosen | few | {"grid.kappa": fine}))
    left.plot(curve["kappa"], curve["subspace_overlap"], color=colour, label=estimator)
    measured = simulate(dl.replace(problem, chosen | few), d=[64], replicas=3, dtype="float32")
    left.errorbar(
        measured["kappa"], measured["subspace_overlap"].isel(d=0), measured["subspace_overlap_se"].isel(d=0),
        color=colour, fmt="o", mfc="none",
    )  # fmt: skip
curve = dl.solve(dl.replace(problem, {"limit.d": [64, 196], "grid.kappa": fine}))
measured = simulate(dl.replace(problem, few), d=[64], replicas=4, dtype="float32")
for name, label, colour in (
    ("subspace_overlap", "$q$", "C3"), ("feature_correlation", r"$\rho$", "C0"), ("mse", "error", "C2"),
):  # fmt: skip
    for d, style in ((64, "-"), (196, "--")):
        right.plot(curve["kappa"], curve[name].sel(d=d), style, color=colour, label=f"{label}, d = {d}")
    right.errorbar(
        measured["kappa"], measured[name].isel(d=0), measured[f"{name}_se"].isel(d=0),
        color=colour, fmt="o", mfc="none",
    )  # fmt: skip
left.set(xlabel=r"$\kappa = \log n / \log d$", ylabel="$q$", title=r"$d_{\mathrm{eff}} = d^{0.7}$, d = 64")
right.set(xlabel=r"$\kappa = \log n / \log d$", title=r"$d_{\mathrm{eff}} = d^{0.5}$")
left.legend()
right.legend(fontsize=5)
dl.key(figure)
plt.show()
