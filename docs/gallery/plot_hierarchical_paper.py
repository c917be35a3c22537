"""
The published example, end to end
=================================

.. image:: /gallery/figures/hierarchical_paper.png

tanh(3h) with P = He_2/2 + He_3/6 in d^(1/2) hidden directions, learned from n = d^kappa samples a stage: the staircase
of kernels, two-layer and deep networks as d grows without bound, the constants at finite d, and simulations of both the
quadratic kernel and the three stages. The kernel's line is of leading order, from the null error of d -> infinity.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_paper.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.theories.hierarchical import union
from dimladder.theories.hierarchical.analysis import link_of
from dimladder.theories.hierarchical.staircase import Staircase
from dimladder_validation import simulate
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.hierarchical.features import union_features
from dimladder_validation.simulate.hierarchical.target import Realization

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
fine = {"start": 1.0, "stop": 2.4, "points": 29}
problem = dl.load(here / "runs" / "hierarchical-paper.toml", {"grid.kappa": fine, "target.readout": "rademacher"})
target = problem.target
curve = dl.solve(dl.replace(problem, {"limit.d": [64, 144, 400]}))
few = dl.replace(problem, {"limit.d": 144, "grid.kappa": [1.2, 1.4, 1.6, 1.8, 2.0, 2.2]})
measured = simulate(few, d=[64, 144], replicas=3)

# The quadratic kernel on x itself: degree 2 alone, the penalty of least error.
d, backend = 64, backend_for("cpu", "float32")
link, stairs = link_of(target), Staircase.of(target)
count = union.feature_count(d, 2)
power = stairs.error("kernel", 1.0) - stairs.error("kernel", 2.0)
share = np.ones(1)


def kernel(n):
    """The mean squared error of the theory, and the penalty."""
    task = union.Task((2,), np.array([count / n]), np.array([power]), share, link.second_moment, 1.0)
    penalties = union.penalties_of(task, "optimal", "optimal", np.array([count]))
    return union.union_state(task, penalties).error, float(penalties.values[0])


def kernel_run(n, seed):
    """The same of one fit."""
    rng = np.random.default_rng(seed)
    truth = Realization.draw(target, d, rng, backend)

    def draw(size):
        x = truth.inputs(size, rng)
        return union_features(x, (2,), backend), truth(x)

    phi, y = draw(n)
    theta = np.linalg.solve(phi.T @ phi / n + kernel(n)[1] * np.eye(count), phi.T @ (y - y.mean()) / n)
    phi, f = draw(4000)
    return float(np.mean((phi @ theta - f) ** 2))


figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for learner, colour in (("kernel", "C1"), ("two-layer", "C2"), ("deep", "C0")):
    heights = [stairs.error(learner, k) for k in curve["kappa"].values]
    left.step(curve["kappa"], heights, where="post", color=colour, lw=0.8, ls=":", label=rf"{learner}, $d \to \infty$")
sizes = np.round(d ** curve["kappa"].values)
left.plot(curve["kappa"], [kernel(n)[0] for n in sizes], color="C1", label=f"quadratic kernel, d = {d}")
for kappa in (1.3, 1.6, 1.9, 2.2):
    left.plot(kappa, np.mean([kernel_run(round(d**kappa), s) for s in range(2)]), "s", color="C1", mfc="none")
for size, style, marker in ((64, "--", "s"), (144, "-", "o"), (400, "-.", None)):
    chosen = curve["mse"].sel(d=size)
    left.plot(curve["kappa"], chosen, style, color="C0", label=f"three layers, d = {size}")
    for name, colour in (("subspace_overlap", "C3"), ("feature_correlation", "C1")):
        label = {"subspace_overlap": "$q$", "feature_correlation": r"$\rho$"}[name]
        right.plot(curve["kappa"], curve[name].sel(d=size), style, color=colour, label=f"{label}, d = {size}")
        if marker:
            points = measured[name].sel(d=size)
            right.errorbar(few.grid.values("kappa"), points, measured[f"{name}_se"].sel(d=size), fmt=marker,
                           color=colour, mfc="none", ms=4)  # fmt: skip
    if marker:
        left.errorbar(few.grid.values("kappa"), measured["mse"].sel(d=size), measured["mse_se"].sel(d=size),
                      fmt=marker, color="C0", mfc="none", ms=4)  # fmt: skip
left.set(xlabel=r"$\kappa = \log n / \log d$", ylabel=r"$E[(f^* - f)^2]$", ylim=(0, 0.8))
right.set(xlabel=r"$\kappa = \log n / \log d$", ylabel="overlap, correlation", ylim=(-0.02, 1.02))
left.legend(fontsize=6)
right.legend(fontsize=6)
dl.key(figure, simulation="simulation of kernel and stages")
plt.show()
