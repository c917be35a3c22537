"""
Several outputs: a vector target, softmax of three clusters, classes of a teacher
=================================================================================

.. image:: /gallery/figures/online_outputs.png

Lines are the theory, points the exact finite-d law of the overlaps. Left: E|f - f*|^2/2 of a network with two rows of
readouts. Middle: cross-entropy and share of wrong classes on a mixture of three clusters, each of one class. Right: the
class is the largest of three teacher fields, smoothing of the labels makes little difference to what is wrong.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/online_outputs.png'
from pathlib import Path

import matplotlib.pyplot as plt

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

HERE = Path(__file__).parent
FINE = {"start": 0.3, "stop": 50.0, "points": 21, "spacing": "log"}
TEACHERS = {
    "data": {}, "target": {"kind": "vector-index", "formulas": ["z1", "z2", "-z1 - z2"], "argmax": True},
    "student": {"kind": "two-layer", "width": 2, "readout": [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]},
    "algorithm": {"kind": "one-pass", "learning_rate": 1.0}, "theory": "one-pass",
    "initial": {"Q": [[0.5, 0.0], [0.0, 0.5]], "M": [[0.1, 0.05], [0.05, 0.1]]},
}  # fmt: skip


def draw(axes, problem, names, size=200, **style):
    """Draw a fine curve, and what is measured at the times of the problem."""
    curve = dl.solve(dl.replace(problem, {"grid.time": FINE}))
    measured = simulate(problem, d=[size], replicas=32, seed=3)
    for name, label in names.items():
        (line,) = axes.semilogx(curve["time"], curve[name], label=label, **style)
        here = measured[name].values[0]
        axes.errorbar(
            measured["time"].values[1:], here[1:], measured[f"{name}_se"].values[0][1:], fmt="o", ms=2.5,
            color=line.get_color(),
        )  # fmt: skip


def main() -> None:
    picture, (left, middle, right) = plt.subplots(1, 3, figsize=(6.8, 2.1), layout="constrained")
    vector = dl.load(HERE / "runs" / "online-outputs.toml", {"grid.time": [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]})
    draw(left, vector, {"generalization_error": None})
    left.set(xlabel=r"$t$ = steps / $d$", ylabel=r"$\varepsilon_g$", ylim=(0, None), title="two outputs")
    wrong = {"classification_error": r"$\varepsilon_{01}$"}
    clusters = dl.load(HERE / "runs" / "online-classes.toml")
    draw(middle, clusters, {"test_loss": r"$\mathbb{E}[\ell]$"} | wrong)
    middle.set(xlabel=r"$t$", ylim=(0, None), title="three clusters")
    middle.legend(frameon=False)
    for smoothing in (0.0, 0.3):
        loss = {"function": "cross-entropy", "smoothing": smoothing}
        problem = dl.problem(**TEACHERS, loss=loss, grid={"time": [0.0, 1.0, 3.0, 10.0, 40.0]})
        draw(right, problem, {"classification_error": rf"smoothing {smoothing:g}"})
    right.set(xlabel=r"$t$", ylabel=r"$\varepsilon_{01}$", ylim=(0, None), title="three teacher fields")
    right.legend(frameon=False)
    dl.key(picture, simulation="exact law at $d = 200$")
    save(picture, HERE / "figures" / "online_outputs.png", "double")


if __name__ == "__main__":
    main()
