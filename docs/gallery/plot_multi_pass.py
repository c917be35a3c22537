"""
Overfitting, epoch by epoch: three ways to go through the same data, and what the number of samples does
========================================================================================================

.. image:: /gallery/figures/multi_pass.png

Left: a soft committee on three noisy samples a dimension, trained on all of them at once, on batches of a tenth drawn
anew at every update, and on the same batches reshuffled each epoch. Right: the reshuffled batches at four sample
ratios, test error only, with the time at which to stop. Lines: theory. Dots: gradient descent at d = 1000, error bars
below the size of a dot.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/multi_pass.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

HERE = Path(__file__).parent
RUN = HERE / "runs" / "multi-pass-committee.toml"
QUICK = {"solver.samples": 16384, "simulation.sizes": [1000]}
SHOWN = [1, 2, 4, 7, 12, 20, 30, 42, 60]


def main() -> None:
    picture, (left, right) = plt.subplots(1, 2, figsize=(7, 3.1), layout="constrained")
    ways = {
        "all samples": {"algorithm.batch_fraction": 1.0},
        "fresh batches": {"algorithm.batching": "fresh"},
        "reshuffled": {},
    }
    for colour, (name, change) in enumerate(ways.items()):
        problem = dl.load(RUN, QUICK | change)
        curve, measured = dl.solve(problem), simulate(problem, replicas=12)
        for variable, style in (("test_loss", "-"), ("train_loss", "--")):
            line = name if variable == "test_loss" else None
            left.plot(curve["time"], curve[variable], style, color=f"C{colour}", label=line)
            dots = np.asarray(measured[variable].values)[0][SHOWN]
            left.plot(SHOWN, dots, "o", ms=3, color=f"C{colour}")
    left.set(xlabel="updates", ylabel="loss", xlim=(0, 60), ylim=(0, 0.55))
    left.legend(frameon=False, title="test —, train - -")
    for colour, ratio in enumerate((1.5, 3.0, 6.0, 12.0)):
        problem = dl.load(RUN, QUICK | {"data.sample_ratio": ratio})
        curve, measured = dl.solve(problem), simulate(problem, replicas=6)
        right.plot(curve["time"], curve["generalization_error"], color=f"C{colour}", label=f"{ratio:g}")
        dots = np.asarray(measured["generalization_error"].values)[0][SHOWN]
        right.plot(SHOWN, dots, "o", ms=3, color=f"C{colour}")
        stop = int(np.argmin(curve["generalization_error"].values))
        right.plot(stop, curve["generalization_error"].values[stop], "v", color=f"C{colour}", ms=7, mfc="none")
    right.set(xlabel="updates", ylabel=r"$\varepsilon_g$", xlim=(0, 60), yscale="log")
    right.plot([], [], "v", color="0.25", ms=7, mfc="none", label="stop here")
    right.legend(frameon=False, title=r"$n/d$")
    dl.key(picture, simulation="gradient descent")
    save(picture, HERE / "figures" / "multi_pass.png", "double")


if __name__ == "__main__":
    main()
