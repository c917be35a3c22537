"""
Feature learning at infinite width
==================================

.. image:: /gallery/figures/mup_features.png

Training under muP in the infinite-width limit: the loss with and without the response functions, networks of finite
width beside it, and the smallest eigenvalues that keep the features apart.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/mup_features.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
problem = dl.load(here / "runs" / "mup-tanh.toml", {"algorithm.learning_rate": 0.25})
exact = dl.solve(problem, samples=2048)
ablated = {
    "no responses": dl.solve(problem, samples=2048, approximation="no-responses"),
    "frozen kernels": dl.solve(problem, approximation="lazy"),
}
networks = simulate(problem, d=(64, 256), replicas=32)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.1), layout="constrained")
time = exact["time"].values
left.semilogy(time, exact["loss"], "k", label="infinite width")
for (name, curve), style in zip(ablated.items(), ("--", ":"), strict=True):
    left.semilogy(time, curve["loss"], "k" + style, label=name)
for width, mean, error in zip(
    networks["width"].values, networks["loss"].values, networks["loss_se"].values, strict=True
):
    left.errorbar(time, mean, 2 * error, fmt=".", label=f"$n={width}$")
left.set(xlabel="updates $t$", ylabel="loss")
left.legend(fontsize=6)

for layer in exact["layer"].values:
    middle.plot(time, exact["feature_min_eigenvalue"].sel(layer=layer), label=f"layer {layer}")
middle.set(xlabel="updates $t$", ylabel=r"$\lambda_{\min}(\Phi^l(t,t))$", ylim=(0, None))
middle.legend(fontsize=6)

floor = 1e-10
for name, layer, style in (("forward_innovation", 2, "-"), ("backward_innovation", 1, "--")):
    values = exact[name].sel(layer=layer).values
    right.semilogy(time, np.where(values > floor, values, np.nan), style, label=name.replace("_", " "))
right.set(xlabel="updates $t$", ylabel="smallest conditional variance")
right.legend(fontsize=6)
dl.key(figure, simulation="networks of finite width")
