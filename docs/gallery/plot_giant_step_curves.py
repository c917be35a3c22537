"""
One giant step: network, polynomial model, theory
=================================================

.. image:: /gallery/figures/giant_step_curves.png

Errors against the sample ratio after one gradient step on two spiked clusters: deterministic equivalents (lines) and
the
network itself at n = 200 (points), for regression and for real images.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/giant_step_curves.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
ratios = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
base = dl.load(
    here / "runs" / "giant-step-mixture.toml", {"limit.n": 200, "limit.draws": 8, "grid.sample_ratio": ratios}
)
images = dl.replace(
    base,
    {
        "data": {"kind": "images", "classes": [0, 1], "keep_means": True},
        "target": {"kind": "cluster-labels"},
        "limit.n": 64,
        "student.layers": [{"activation": "relu", "width_ratio": 2.0}],
        "algorithm.total": 0.9,
        "algorithm.split": 0.0,
        "loss.ridge_per_sample": "1e-3*k",
        "grid.sample_ratio": [1.0, 2.0, 4.0, 6.0],
    },
)

figure, axes = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for axis, problem, title in (
    (axes[0], base, "spiked clusters, ReLU link"),
    (axes[1], images, "digits 0 and 1, class means kept"),
):
    theory, measured = dl.solve(problem), simulate(problem, d=[problem.limit.n], replicas=6)
    shown = {"test_mse": "test", "train_mse": "training", "test_mse_hermite": "test, polynomial model"}
    for colour, (name, label) in enumerate(shown.items()):
        colour = f"C{colour}"
        axis.plot(theory["sample_ratio"], theory[name], color=colour, label=label)
        axis.errorbar(
            measured["sample_ratio"], measured[name][0], 2 * measured[f"{name}_se"][0], fmt="o", color=colour, ms=4
        )
    axis.set(title=title, xlabel="samples over dimension $m/n$", ylabel="mean squared error", yscale="log")
axes[0].legend(frameon=False)
dl.key(figure, simulation="networks, mean and 2 s.e.")
