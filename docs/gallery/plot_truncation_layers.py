"""
Clusters cut layer by layer
===========================

.. image:: /gallery/figures/truncation_layers.png

Two clusters in the plane: each layer of the explicit network sends one cluster to a point,
and leaves the others where they are. The wedge is the cone that the layer keeps.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/truncation_layers.png'
import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.problem.truncation import geometry as g

plt.style.use(dl.style("double"))

data = g.ball_clusters(2, [60, 60], separation=3.0, mean_jitter=0.25, radius=0.25, seed=2)
cones = g.cones(data)
cones.require()
layers = g.hidden_layers(data, cones, g.default_shifts(cones))

figure, axes = plt.subplots(1, 3, figsize=(7, 2.4), sharex=True, sharey=True, layout="constrained")
for stage, axis in enumerate(axes):
    points = g.truncated(layers, data.inputs, stage)
    if stage < data.classes:
        apex, f = layers.base_points[:, stage], cones.directions[:, stage]
        rim = [np.arctan2(f[1], f[0]) + side * cones.theta / 2 for side in np.linspace(-1, 1, 40)]
        wedge = np.column_stack([apex, *(apex + 8 * np.array([np.cos(a), np.sin(a)]) for a in rim)])
        axis.fill(*wedge, color="0.92", zorder=0)
        axis.plot(*apex, "k+", ls="", label="apex")
    for j in range(data.classes):
        own = points[:, data.classes_of_points == j]
        axis.scatter(*own, s=8, label=f"class {j}")
    axis.plot(*data.barycentre, "kx", ls="", label="barycentre")
    axis.set(
        title=f"after {stage} layer{'' if stage == 1 else 's'}",
        xlabel="$x_1$",
        xlim=(-1, 4.5),
        ylim=(-1, 4.5),
        aspect="equal",
    )
axes[0].set_ylabel("$x_2$")
axes[0].legend(loc="upper right", fontsize=6)

# %%
# The network is exact, without training:

network = g.explicit_minimiser(data)
print(f"cost of the explicit network: {data.cost(network(data.inputs)):.1e}")
plt.show()
