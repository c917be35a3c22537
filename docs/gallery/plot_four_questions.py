"""
One target, one network, four questions: one pass, many passes, the minimiser, and Bayes
========================================================================================

.. image:: /gallery/figures/four_questions.png

A linear network learns y = z + noise/2. All curves come from one run file, four_questions.toml, whose [algorithm] is
set: SGD that sees each sample once; descent on all of the data, stopped where it is best and left running; the
minimiser of the same loss; and the posterior mean, which nobody beats. Lines: theories. Dots: their experiments at
d = 400.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/four_questions.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

plt.style.use(dl.style("double"))

HERE = Path(__file__).parent
RUN = HERE / "four_questions.toml"
RATIOS = np.unique(np.concatenate([np.geomspace(0.2, 8.0, 33), np.geomspace(0.8, 1.25, 13)]))
DOTS = np.array([0.3, 0.6, 1.0, 1.6, 3.0, 6.0])
START = {"initial": {"Q": [[0.0]], "M": [[0.0]]}}
# What each question changes in the run file, as by --set: its algorithm, and what that algorithm needs to know.
QUESTIONS = {
    "one pass": START | {"algorithm": {"kind": "one-pass", "learning_rate": 0.5}},
    "minimiser": {"algorithm": {"kind": "minimise"}, "loss.ridge_per_sample": 1e-3},
    "Bayes": {},
}


def along(name: str, ratios: np.ndarray) -> dict:
    """Return where a question is asked: one pass of n samples ends at time n/d."""
    return {"grid": {"time" if name == "one pass" else "sample_ratio": ratios.tolist()}}


def error(answer, index=()) -> np.ndarray:
    """Return E (f - f*)^2 of a curve or a measurement."""
    twice = "generalization_error" in answer
    return np.asarray(answer["generalization_error" if twice else "mse"].values)[index] * (2 if twice else 1)


def many_passes(ratio: float) -> dict:
    """Return what training on n = ratio d samples changes, with a rate below the edge of stability of this data set."""
    rate = 1.0 / (1.0 + ratio**-0.5) ** 2
    descent = {"kind": "gradient-descent", "learning_rate": rate, "steps": 400}
    return START | {"algorithm": descent, "data.sample_ratio": float(ratio), "grid": {}}


def main() -> None:
    picture, axes = plt.subplots(figsize=(3.9, 2.7), layout="constrained")
    for colour, (name, change) in enumerate(QUESTIONS.items()):
        line = error(dl.solve(dl.load(RUN, change | along(name, RATIOS)))).ravel()
        axes.plot(RATIOS, line, color=f"C{colour}", label=name)
        measured = simulate(dl.load(RUN, change | along(name, DOTS)))
        axes.plot(DOTS, error(measured, 0).ravel(), "o", ms=3.5, color=f"C{colour}")
    runs = [dl.solve(dl.load(RUN, many_passes(ratio))) for ratio in RATIOS]
    axes.plot(RATIOS, [error(r).min() for r in runs], color="C3", label="many passes, stopped in time")
    axes.plot(RATIOS, [error(r)[-1] for r in runs], "--", color="C3", label="after 400 passes")
    for ratio in DOTS:
        measured = error(simulate(dl.load(RUN, many_passes(ratio))), 0)
        best = int(np.argmin(error(dl.solve(dl.load(RUN, many_passes(ratio))))))
        axes.plot([ratio, ratio], measured[[best, -1]], "o", ms=3.5, color="C3")
    axes.set(xscale="log", yscale="log", ylim=(0.025, 5))
    axes.set(xlabel="samples per dimension", ylabel=r"$\mathbb{E}(f-f^*)^2$")
    ticks = [0.2, 0.5, 1, 2, 5]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    heights = [0.05, 0.1, 0.2, 0.5, 1, 2]
    axes.set_yticks(heights, [f"{height:g}" for height in heights])
    axes.set_yticks([], minor=True)
    axes.legend(frameon=False, fontsize=6)
    dl.key(picture, simulation="experiments, $d = 400$")
    save(picture, HERE / "figures" / "four_questions.png", "single")


if __name__ == "__main__":
    main()
