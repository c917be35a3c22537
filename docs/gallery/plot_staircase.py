"""
Climbing a merged staircase
===========================

.. image:: /gallery/figures/staircase.png

A wide network learns z1 + z1 z2 + z1 z2 z3 + z1 z2 z3 z4 by SGD: (a) its risk and (b) its Fourier coefficients, the
mean-field theory as lines, networks of 200 neurons in 100 dimensions as markers (mean and standard error of 4). Lower
steps come first, and each makes the next one visible. (c) Theory for targets with a missing step, or with a symmetry:
the risk stays above the dotted bounds.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/staircase.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
run = here / "runs" / "staircase.toml"
fine = {"start": 0.5, "stop": 1000.0, "points": 80, "spacing": "log"}
coarse = {"start": 1.0, "stop": 1000.0, "points": 16, "spacing": "log"}

figure, axes = plt.subplots(1, 3, figsize=(7, 2.1), layout="constrained")
curve = dl.solve(dl.load(run, {"grid.time": fine}))
measured = simulate(dl.load(run, {"grid.time": coarse}), dtype="float32")
axes[0].plot(curve["time"], curve["risk"], "k-")
axes[0].errorbar(measured["time"], measured["risk"][0], measured["risk_se"][0], fmt="ko", ms=4)
axes[0].set(ylabel="risk", ylim=(0, 4.1))
for k, name in enumerate(curve["fourier"].monomial.values):
    shown = rf"${str(name).replace('*', '').replace('z', 'z_')}$"
    axes[1].plot(curve["time"], curve["fourier"].sel(monomial=name), f"C{k}-", label=shown)
    mean, error = (measured[v].sel(monomial=name)[0] for v in ("fourier", "fourier_se"))
    axes[1].errorbar(measured["time"], mean, error, fmt=f"C{k}o", ms=4)
axes[1].set_ylabel(r"Fourier coefficient $\hat f_S$")

TARGETS = {
    "all steps": "z1 + z1*z2 + z1*z2*z3 + z1*z2*z3*z4",
    "second step missing": "z1 + z1*z2*z3 + z1*z2*z3*z4",
    "two equal staircases": "z1 + z1*z2 + z3 + z3*z4",
    "two unequal ones": "z1 + z1*z2 + 0.8*z3 + 0.8*z3*z4",
}
for k, (name, target) in enumerate(TARGETS.items()):
    other = dl.solve(dl.load(run, {"target.formula": target, "grid.time": fine}))
    axes[2].plot(other["time"], other["risk"], f"C{k}-", label=name)
    if float(other["risk_floor"]) > 0:
        axes[2].axhline(float(other["risk_floor"]), color=f"C{k}", ls=":")
axes[2].set(ylabel="risk", ylim=(0, 6.6), yticks=[0, 1, 2, 3, 4])
for axis, letter in zip(axes, "abc", strict=True):
    axis.set(xscale="log", xlabel=r"time $\eta\,\times$ steps", title=f"({letter})")
axes[1].legend(frameon=False)
axes[2].legend(frameon=False, loc="upper right", fontsize=6)
dl.key(figure, simulation="networks at $d = 100$")
