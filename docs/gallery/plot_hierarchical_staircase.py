"""
The learning staircase with its true heights
============================================

.. image:: /gallery/figures/hierarchical_staircase.png

Generalisation error of kernels, two-layer and deep networks on tanh(3h) against kappa = log n / log d, as d grows
without bound; and what d_eff = floor(sqrt d) leaves of it, by Monte Carlo over the symmetric Hermite basis.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_staircase.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
problem = dl.load(here / "runs" / "hierarchical-plateaus.toml")
curve = dl.solve(problem)
coarse = dl.replace(problem, {"grid.kappa": [0.5, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75]})
measured = simulate(coarse, d=[64, 256], replicas=4)

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
colours = {"kernel": "C1", "two-layer": "C2", "deep": "C0"}
for learner, colour in colours.items():
    error = curve["mse"].sel(learner=learner)
    left.step(curve["kappa"], error, where="post", color=colour, label=learner)
    for d, marker in ((64, "s"), (256, "o")):
        points = measured["mse"].sel(learner=learner, d=d)
        left.plot(
            points["kappa"],
            points,
            marker,
            color=colour,
            fillstyle="none",
        )
left.axhline(float(curve["null_mse"]), color="0.7", lw=0.8)
for threshold in set(curve["threshold"].values):
    left.axvline(threshold, color="0.8", lw=0.8, ls=":")
left.set(xlabel=r"$\kappa = \log n / \log d$", ylabel=r"$E[(f^* - f)^2]$", xlim=(0, 4))
left.legend(fontsize=6)

# A tree of depth four: d -> d^0.7 -> d^0.4 -> 1. Each level climbs at its own kappa.
tree = dl.replace(
    problem,
    {
        "target.exponents": [0.7, 0.4],
        "target.features": [{"2": 0.8, "3": 0.6}, {"2": 0.8, "4": 0.6}],
        "target.link": "tanh(h)",
        "grid.kappa": {"start": 0.0, "stop": 5.0, "points": 501},
    },
)
deep = dl.solve(tree)
for learner, colour in colours.items():
    right.step(deep["kappa"], deep["mse"].sel(learner=learner), where="post", color=colour, label=learner)
for threshold in sorted({float(t) for t in deep["threshold"].values}):
    levels = [str(n) for n, t in zip(deep["level"].values, deep["threshold"].values, strict=True) if t == threshold]
    right.axvline(threshold, color="0.8", lw=0.8, ls=":")
    name = f"level {levels[0]}" if len(levels) == 1 else f"levels {', '.join(levels)}"
    right.text(threshold - 0.05, 0.02, name, fontsize=6, rotation=90, ha="right", va="bottom")
right.set(xlabel=r"$\kappa$", xlim=(0, 5))
right.legend(fontsize=6)
dl.key(figure, simulation="ideal learners at d = 64 (squares) and 256 (circles)")
plt.show()
