"""
Networks as trained in practice
===============================

.. image:: /gallery/figures/hierarchical_training.png

Error and overlaps against kappa for the published layer-wise and joint rules, the two-layer network and the
quadratic kernel, at d = 25; and the two questions of protocol: re-initialised later layers, fresh data for each layer.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_training.png'
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.problem import Coefficients, Hierarchical
from dimladder.theories.hierarchical.staircase import Staircase
from dimladder_validation.simulate import hierarchical_training as training
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.hierarchical_target import Realization

plt.style.use(dl.style("double"))

d, kappas, seeds = 25, [1.0, 1.5, 2.0], 2
target = Hierarchical(
    exponents=(0.5,), features=(Coefficients({2: 1.0}),), hermite="orthonormal", link="tanh(3*h)", readout="rademacher"
)
recipe = replace(training.REPOSITORY, second_width=60)
steps = (recipe.steps(d)[0], 300)
largest = int(d ** max(kappas))
cpu = backend_for("cpu", "float32")
runs = {
    "layer-wise": lambda t, n, r: training.train_layerwise(
        t, n, recipe, r, cpu, largest=largest, steps=steps, records=2
    ),
    "re-initialised": lambda t, n, r: training.train_layerwise(
        t, n, recipe, r, cpu, largest=largest, steps=steps, records=2, reinitialize=True
    ),
    "fresh data": lambda t, n, r: training.train_layerwise(
        t, n, recipe, r, cpu, largest=largest, steps=steps, records=2, fresh=True
    ),
    "joint": lambda t, n, r: training.train_joint(t, n, recipe, r, cpu, largest=largest, steps=400, records=2),
    "two-layer": lambda t, n, r: training.train_two_layer(t, n, recipe, r, cpu, largest=largest),
    "kernel": lambda t, n, r: training.polynomial_kernel_ridge(t, n, r, cpu),
}
error = {name: np.empty((len(kappas), seeds)) for name in runs}
weight = {name: np.full((len(kappas), seeds), np.nan) for name in runs}
for k, kappa in enumerate(kappas):
    for seed in range(seeds):
        for name, train in runs.items():
            rng = np.random.default_rng([seed, k])
            done = train(Realization.draw(target, d, rng, cpu), int(d**kappa), rng)
            error[name][k, seed] = done.test_error
            if done.weight_overlap:
                weight[name][k, seed] = done.weight_overlap[-1][0]

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for name in runs:
    left.semilogy(kappas, np.median(error[name], axis=1), "o-", ms=4, label=name)
    if np.isfinite(weight[name]).all():
        right.plot(kappas, np.median(weight[name], axis=1), "o-", ms=4, label=name)
stairs = Staircase.of(target)
for learner, style in (("kernel", ":"), ("two-layer", "--")):
    left.axhline(stairs.error(learner, max(kappas)), color="0.6", ls=style, lw=0.8)
left.set(
    xlabel=r"$\kappa$", ylabel="generalisation error", title="lines: limits of kernel and two-layer at the last kappa"
)
right.axhline(d**-0.25, color="0.7", lw=0.8)
right.set(xlabel=r"$\kappa$", ylabel="$M_W$")
left.legend(fontsize=6)
plt.show()
