"""
The cost of every truncation state
==================================

.. image:: /gallery/figures/truncation_states.png

Eight states of three clusters: the printed cost, the corrected ones, and what full training makes of each state. Only
the two constant states are critical points; training leaves all others.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/truncation_states.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.problem.truncation.stated import load
from dimladder.theories.truncation.states import state_network
from dimladder_validation.simulate.truncation.states import train

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
problem = dl.load(
    here / "runs" / "truncation-states.toml",
    {"data.separation": 6.0, "data.radius": 0.6, "data.seed": 13, "data.counts": [30, 40, 50]},
)
curve = dl.solve(problem)
states = [str(s) for s in curve["state"].values]
data = load(problem.data)
trained = [
    data.cost(train(data, state_network(problem, s), rate=1e-3, steps=3000, records=1)[0](data.inputs)) for s in states
]

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.5), layout="constrained")
place = np.arange(len(states))
for name, marker, label in (
    ("printed_cost", "x", "printed"), ("linear_cost", "s", "bias clamped"), ("affine_cost", "o", "bias free"),
):  # fmt: skip
    left.plot(place, curve[name], marker, label=label, fillstyle="none")
left.plot(place, trained, "v", color="0.5", label="after 3000 steps on all parameters")
left.set(xticks=place, xticklabels=states, xlabel="state", ylabel="$C_N$")
left.legend(fontsize=6)
right.semilogy(place, np.maximum(curve["hidden_gradient_norm"], 1e-17), "ko")
right.set(xticks=place, xticklabels=states, xlabel="state", ylabel=r"$\max |\partial C^2/\partial b_l|$")
plt.show()
