"""
Four parametrisations against width
===================================

.. image:: /gallery/figures/mup_widths.png

Networks of three hidden layers after training, in the four parametrisations of Chen, Yang, Zhao and Gu (2503.09565):
how far the last features moved, how independent they are, and how independent those before and after training are.
Under SP and NTP features stop moving as networks widen; under IP they collapse; under muP all three approach the
infinite-width limit, which the theory gives.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/mup_widths.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
base = dl.load(here / "runs" / "mup-widths.toml")
# Learning rates at which each of them reaches a small loss.
rates = {"sp": 8.0, "ntp": 2.0, "ip": 2.0, "mup": 1.0}
names = {"sp": "SP", "ntp": "NTP", "ip": "IP", "mup": r"$\mu$P"}
panels = {
    "relative_feature_change": r"$|h(T) - h(0)|\,/\,|h(0)|$",
    "preactivation_min_eigenvalue": r"$\lambda_{\min}$ of $h(T)$",
    "space_time_min_eigenvalue": r"$\lambda_{\min}$ of $[x(0), x(T)]$",
}

figure, axes = plt.subplots(1, 3, figsize=(7, 2.2), layout="constrained")
for name, colour in zip(rates, ("C0", "C1", "C2", "C3"), strict=True):
    problem = dl.replace(base, {"student.parametrization": name, "algorithm.learning_rate": rates[name]})
    measured = simulate(problem)
    print(f"{name}: losses {measured['loss'].values[:, -1].round(6).tolist()}")
    for axis, variable in zip(axes, panels, strict=True):
        values, errors = (measured[v].sel(layer=3) for v in (variable, f"{variable}_se"))
        axis.errorbar(measured["width"], values, 2 * errors, fmt="o:", ms=3, lw=0.8, color=colour, label=names[name])
limit = dl.solve(base)
for axis, (variable, label) in zip(axes, panels.items(), strict=True):
    axis.axhline(float(limit[variable].sel(layer=3)), color="C3", lw=1)
    axis.set(xscale="log", yscale="log", xlabel="width $n$", ylabel=label)
    axis.set_xticks(base.simulation.sizes, [str(n) for n in base.simulation.sizes], minor=False)
    axis.minorticks_off()
axes[0].legend(fontsize=6)
dl.key(figure, simulation="networks, mean and 2 s.e.", theory="infinite width under muP")
