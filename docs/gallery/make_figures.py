"""Run gallery scripts and keep their pictures as ``figures/<name>.png``.

``python docs/gallery/make_figures.py`` runs all, ``python docs/gallery/make_figures.py truncation_flow`` one.
"""

import runpy
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    for script in sorted(HERE.glob("plot_*.py")):
        name = script.stem.removeprefix("plot_")
        if names and name not in names:
            continue
        plt.close("all")
        runpy.run_path(str(script), run_name="__main__")
        for count, number in enumerate(plt.get_fignums()):
            suffix = "" if count == 0 else f"_{count + 1}"
            plt.figure(number).savefig(HERE / "figures" / f"{name}{suffix}.png", dpi=150)
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
