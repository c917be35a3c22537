"""
Networks as trained in practice
===============================

.. image:: /gallery/figures/hierarchical_training.png

The pictures of the paper's experiments from two run files, at d = 25. Above: error against kappa of kernel, three sharp
stages (lines: theory, open: their simulation) and networks trained by both published recipes; the overlap of their
weights with the hidden subspace. Below: re-initialised layers and fresh samples; losses, and overlaps of weights and
features, along the training.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_training.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent / "runs" if "__file__" in globals() else Path("runs")
picture = dl.load(here / "hierarchical-learners.toml")
protocol = dl.load(here / "hierarchical-protocol.toml")
curve = dl.solve(dl.replace(picture, {"grid.kappa": {"start": 1.0, "stop": 2.0, "points": 11}}))
runs, protocols = (simulate(p, replicas=3, dtype="float32").dataset.isel(d=0) for p in (picture, protocol))

figure, ((errors, overlaps, asked), (losses, weights, features)) = plt.subplots(
    2, 3, figsize=(7, 4.6), layout="constrained"
)
for name, colour in (("quadratic kernel", "C1"), ("three layers", "C0")):
    errors.plot(curve["kappa"], curve["mse"].sel(estimator=name), color=colour, label=name)
    errors.plot(runs["kappa"], runs["mse"].sel(estimator=name), "o", color=colour, mfc="none", ms=4)
for network, colour in (("layerwise", "C2"), ("joint", "C3"), ("two-layer", "C4")):
    for recipe, style in (("repository", "-"), ("paper", "--")):
        trained = {"recipe": recipe, "network": network}
        label = network if recipe == "repository" else None
        errors.plot(
            runs["kappa"], runs["trained_mse"].sel(trained), style + "x", ms=3, lw=0.6, color=colour, label=label
        )
        last = runs["weight_overlap"].sel(trained).isel(record=-1, branch=0)
        overlaps.plot(runs["kappa"], last, style + "x", ms=3, color=colour, label=label)
overlaps.axhline(5**-0.5, color="0.7", lw=0.8)
for network, marker in (("layerwise", "o"), ("reinitialised", "s"), ("fresh", "^")):
    found = protocols["trained_mse"].sel(network=network).isel(recipe=0)
    asked.plot(protocols["kappa"], found, "-" + marker, ms=4, mfc="none", label=network)
at_end = runs.isel(recipe=0, kappa=-1)
for network, colour in (("layerwise", "C2"), ("joint", "C3")):
    steps = at_end["gradient_step"].sel(network=network) + 1
    losses.plot(steps, at_end["train_loss"].sel(network=network), "--", color=colour)
    losses.plot(steps, at_end["test_loss"].sel(network=network), color=colour, label=network)
steps = protocols["gradient_step"].sel(network="layerwise").isel(recipe=0) + 1
for kappa, colour in ((1.2, "C1"), (2.0, "C0")):
    chosen = protocols.sel(network="layerwise", kappa=kappa).isel(recipe=0, branch=0)
    weights.plot(steps, chosen["weight_overlap"], color=colour, label=rf"$\kappa$ = {kappa}")
    features.plot(steps, chosen["feature_overlap"], color=colour, label=rf"$\kappa$ = {kappa}")
errors.set(xlabel=r"$\kappa$", ylabel=r"$E[(f^* - f)^2]$", yscale="log", title="x: networks, dashed: 2nd recipe")
overlaps.set(xlabel=r"$\kappa$", ylabel="$M_W$", title="networks, dashed: 2nd recipe")
asked.set(xlabel=r"$\kappa$", ylabel=r"$E[(f^* - f)^2]$", title="networks on tanh(h)")
losses.set(xscale="log", xlabel="gradient steps + 1", ylabel="loss", title="test, dashed: training")
weights.set(xscale="log", xlabel="gradient steps + 1", ylabel="$M_W$", title="weights, layer by layer")
features.set(xscale="log", xlabel="gradient steps + 1", ylabel="$M_h$", title="features, layer by layer")
for axes in figure.axes:
    axes.legend(fontsize=5)
    axes.title.set_fontsize(7)
dl.key(figure, theory="theory of kernel and stages", simulation="their simulation")
plt.show()
