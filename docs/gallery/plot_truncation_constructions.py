"""
One hidden layer, and one hyperplane a class
============================================

.. image:: /gallery/figures/truncation_constructions.png

Explicit ReLU networks of clustered data (2309.10370, 2405.07098). Left: one hidden layer in eight dimensions; its cost
is linear in the noise-to-signal ratio, the best last layer with a tied bias gains next to nothing, a free bias does.
Middle: classes far too long for balls, and the hyperplanes that cut them off one after the other. Right: the least cost
over the last layer after every cut; after the last it is zero.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/truncation_constructions.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.problem.truncation.separable import sequential_cuts
from dimladder.problem.truncation.stated import given
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

here = Path(__file__).parent if "__file__" in globals() else Path()
shallow = dl.load(here / "runs" / "truncation-shallow.toml")
separable = dl.load(here / "runs" / "truncation-separable.toml")
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.3), layout="constrained")

names = {"construction_cost": "as constructed", "linear_cost": "best, bias tied", "affine_cost": "best, bias free"}
problems = [dl.replace(shallow, {"data.radius": r}) for r in (0.1, 0.3, 0.6, 1.0, 1.5)]
curves = [dl.solve(p) for p in problems]
ratio = [float(c["noise_to_signal"]) for c in curves]
runs = [simulate(p, d=[1600], replicas=8) for p in problems]
for (name, label), colour, style in zip(names.items(), ("C0", "C1", "C2"), ("-", "--", "-"), strict=True):
    left.plot(ratio, [float(c[name]) for c in curves], style, color=colour, label=label)
    means, errors = ([float(r[v][0]) for r in runs] for v in (name, f"{name}_se"))
    left.errorbar(ratio, means, 2 * np.array(errors), fmt="o", ms=3, color=colour)
left.set(xlabel=r"noise to signal $\delta_P$", ylabel="cost $C_N$", xlim=(0, None), ylim=(0, None))
left.legend(fontsize=6)

plane = dl.replace(separable, {"data.classes": 2, "data.counts": [60, 60], "data.elongation": 6.0, "data.seed": 7})
data = given(plane.data)
for j, points in enumerate(data.points):
    middle.scatter(*points, s=4, color=f"C{j}")
for cut in sequential_cuts(data):
    along = np.array([-cut.normal[1], cut.normal[0]])
    ends = np.stack([cut.point - 4 * along, cut.point + 4 * along], axis=1)
    middle.plot(*ends, color=f"C{cut.cluster}", lw=1)
    middle.plot(*cut.point, "k+")
middle.plot(*data.barycentre, "kx")
middle.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-2.5, 5.5), ylim=(-2.5, 5.5))

four = dl.replace(
    separable, {"data.classes": 4, "data.counts": [40, 50, 60, 70], "data.separation": 4.0, "data.seed": 9}
)
for problem, colour, label in ((separable, "C0", "three classes"), (four, "C1", "four classes")):
    curve, run = dl.solve(problem), simulate(problem, d=[1600], replicas=8)
    right.plot(curve["layer"], curve["affine_cost"], color=colour, label=label)
    right.errorbar(run["layer"], run["affine_cost"][0], 2 * run["affine_cost_se"][0], fmt="o", ms=3, color=colour)
right.set(xlabel="hidden layers, one a cut", ylabel="least cost $C_{\\mathrm{aff}}$", ylim=(0, None))
right.legend(fontsize=6)
dl.key(figure, simulation="networks on drawn points, mean and 2 s.e.")
