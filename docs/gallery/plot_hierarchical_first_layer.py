"""
The first layer climbs from d to the hidden directions
======================================================

.. image:: /gallery/figures/hierarchical_first_layer.png

Overlap q of first-layer neurons with the hidden subspace against time: the map, its small-step flow, and simulated
neurons; the floor left by a finite batch; and the half of the subspace that neurons keep when readouts have both
signs.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/hierarchical_first_layer.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
steps = [float(t) for t in range(0, 33, 2)]
settings = {"algorithm.step": 5.0, "algorithm.gradient_noise": True, "grid.time": steps, "limit.d": 144}
problem = dl.load(here / "runs" / "hierarchical-flow.toml", settings)

figure, axes = plt.subplots(1, 3, figsize=(7, 2.1), layout="constrained")
for ratio, colour in ((20.0, "C0"), (4.0, "C1")):
    chosen = dl.replace(problem, {"algorithm.batch_ratio": ratio})
    flow, discrete = dl.solve(chosen), dl.solve(dl.replace(chosen, {"algorithm.map": True}))
    axes[0].plot(steps, flow["subspace_overlap"], "--", color=colour)
    axes[0].plot(steps, discrete["subspace_overlap"], color=colour, label=f"batch ratio {ratio:g}")
    run = simulate(chosen, d=[144], replicas=4, dtype="float32")
    axes[0].errorbar(
        steps, run["subspace_overlap"].sel(d=144), run["subspace_overlap_se"].sel(d=144), fmt="o", ms=3, color=colour
    )
axes[0].set(xlabel="step", ylabel=r"$q = |P_{W^*} w|^2$", title="map (full), flow (dashed), d = 144")
axes[0].legend(fontsize=6)

signs = dl.replace(problem, {"target.readout": "rademacher", "algorithm.map": True})
classes = dl.solve(signs)["class_overlap"]
for value in (1.0, -1.0):
    axes[1].plot(steps, classes.sel(readout_value=value) / 2, label=f"a = {value:+.0f}")
run = simulate(signs, d=[144], replicas=4, dtype="float32")
axes[1].plot(steps, run["positive_readout_overlap"].sel(d=144), "o", ms=3, color="C0")
axes[1].set(xlabel="step", title="readouts of both signs")
axes[1].legend(fontsize=6)

sizes = [10**k for k in range(2, 9)]
times = [
    float(dl.solve(dl.replace(problem, {"limit.d": d, "algorithm.gradient_noise": False}))["escape_time"])
    for d in sizes
]
axes[2].semilogx(sizes, times)
axes[2].set(xlabel="$d$", title=r"time to $q = 1/2$: logarithmic")
dl.key(figure, simulation="networks at d = 144")
plt.show()
