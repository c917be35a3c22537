"""
The figures of the giant-step paper
===================================

.. image:: /gallery/figures/giant_step_paper.png

Demir and Dogan (2503.00856) compare networks after one large step with their polynomial models, by simulation; here
lines are a theory of the networks themselves, points are networks. Left to right, top: half the test error against the
width (figure 1a); the training error with its penalty (figure 6); against the split of the exponent between spikes and
learning rate (1b); against the total exponent (1c). Bottom: labels by cluster, against the weight of the first (2a);
against the alignment of the spikes (2b); against their number (2c, where the published strengths are random: here they
are equal); images of digits, class means removed (3a and 7a, with the digits of scikit-learn). The network is smaller
than the published one, at the same product of width and ridge. On images the Gaussian theory has no right to hold, and
does not.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/giant_step_paper.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
n = 100
base = dl.load(
    here / "runs" / "giant-step-figures.toml",
    {"limit.n": n, "limit.draws": 4, "loss.ridge_per_sample": f"{0.1 / n}*k"},
)
images = dl.load(here / "runs" / "giant-step-images.toml", {"limit.draws": 4, "grid.sample_ratio": [4.0]})


def layers(activation, width):
    return {"student.layers": [{"activation": activation, "width_ratio": width}]}


# What varies, its values for lines and for points, and the changes that a value makes.
clusters = {"target": {"kind": "cluster-labels"}}
panels = [
    ("width $k/m$", base, np.array([0.3, 0.6, 1.0, 1.5, 2.0]), lambda v, act: layers(act, v)),
    ("width $k/m$", base, np.array([0.3, 0.6, 1.0, 1.5, 2.0]), lambda v, act: layers(act, v)),
    (r"split $\alpha$", base, np.linspace(0, 1, 6), lambda v, act: {**layers(act, 1.0), "algorithm.split": v}),
    (r"total $\beta$", base, np.linspace(0, 0.95, 6), lambda v, act: {**layers(act, 1.0), "algorithm.total": v}),
    (r"weight $\rho_1$", base, np.linspace(0.1, 0.9, 5),
     lambda v, act: {**layers(act, 1.0), **clusters, "data.weights": [v, 1 - v]}),
    (r"alignment $\gamma_1\cdot\gamma_2$", base, np.linspace(-1, 1, 5),
     lambda v, act: {**layers(act, 1.0), "data.alignment": v}),
    ("spikes a cluster", base, np.array([1, 2, 4, 8]),
     lambda v, act: {**layers(act, 1.0), "data.spikes": [[1.0] * int(v)] * 2}),
    ("digits, width $k/m$", images, np.array([0.3, 0.6, 1.0, 1.5]), lambda v, act: layers(act, 4.0 * v)),
]  # fmt: skip

figure, axes = plt.subplots(2, 4, figsize=(7, 3.6), layout="constrained")
for number, (axis, (label, problem, values, change)) in enumerate(zip(axes.flat, panels, strict=True)):
    name, scale = ("train_objective", 1.0) if number == 1 else ("test_mse", 0.5)
    for activation, colour in (("relu", "C0"), ("tanh", "C1"), ("sigmoid", "C2")):
        problems = [dl.replace(problem, change(float(v), activation)) for v in values]
        lines = [float(dl.solve(p)[name][0]) for p in problems]
        axis.plot(values, scale * np.array(lines), color=colour, label=activation)
        for value, point in list(zip(values, problems, strict=True))[::2]:
            measured = simulate(point, d=[point.limit.n], replicas=6)
            mean, error = (float(measured[v][0, 0]) for v in (name, f"{name}_se"))
            axis.errorbar(value, scale * mean, 2 * scale * error, fmt="o", ms=3, color=colour)
    axis.set(xlabel=label, ylim=(0, None))
axes[0, 0].set_ylabel("half the mean squared error")
axes[1, 0].set_ylabel("half the mean squared error")
axes[0, 1].set_title("training, with penalty", fontsize=7)
axes[0, 0].legend(fontsize=6)
dl.key(figure, simulation="networks, mean and 2 s.e.")
