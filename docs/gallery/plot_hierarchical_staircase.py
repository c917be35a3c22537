"""
The learning staircase with its true heights
============================================

Generalisation error of kernels, two-layer and deep networks on tanh(3h) against kappa = log n / log d, as d grows
without bound; and what d_eff = floor(sqrt d) leaves of it, by Monte Carlo over the symmetric Hermite basis.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

here = Path(__file__).parent if "__file__" in globals() else Path()
problem = dl.load(here / "runs" / "hierarchical-plateaus.toml")
curve = dl.solve(problem)
coarse = dl.replace(problem, {"grid.kappa": [0.5, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75]})
measured = simulate(coarse, d=[64, 256], replicas=4)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
colours = {"kernel": "tab:orange", "two-layer": "tab:green", "deep": "tab:blue"}
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
            label=f"ideal at d = {d}" if learner == "kernel" else None,
        )
left.axhline(float(curve["null_mse"]), color="0.7", lw=0.8)
for threshold in set(curve["threshold"].values):
    left.axvline(threshold, color="0.8", lw=0.8, ls=":")
left.set(xlabel=r"$\kappa = \log n / \log d$", ylabel=r"$E[(f^* - f)^2]$", xlim=(0, 4))
left.legend(fontsize=8)

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
for level, threshold in zip(deep["level"].values, deep["threshold"].values, strict=True):
    right.axvline(threshold, color="0.8", lw=0.8, ls=":")
    right.text(threshold, 0.42 - 0.03 * level, f"level {level}", fontsize=7)
right.set(xlabel=r"$\kappa$", xlim=(0, 5))
right.legend(fontsize=8)
figure.tight_layout()
plt.show()
