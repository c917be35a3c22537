"""
One flow, three data laws: power-law spectra, tasks in turn with a head each, XOR clusters with biases
======================================================================================================

.. image:: /gallery/figures/online_data_laws.png

Left: e_g of a soft committee under spectra s_k ~ k^-(1+alpha); the plateau shortens and the decay becomes a power law.
Middle: error on either task; the second teacher is shown from t = 10 on. Right: XOR, error and its four clusters.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/online_data_laws.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.paper.draw import save

plt.style.use(dl.style("double"))

HERE = Path(__file__).parent
LOG = {"start": 0.1, "stop": 1000.0, "points": 61, "spacing": "log"}


def main() -> None:
    picture, (left, middle, right) = plt.subplots(1, 3, figsize=(6.8, 2.1), layout="constrained")
    for alpha in (-0.9, 0.0, 0.5, 1.0):
        given = {"data.spectrum": {"exponent": alpha, "levels": 40}, "grid.time": LOG}
        curve = dl.solve(dl.load(HERE / "runs" / "online-power-law.toml", given))
        left.loglog(curve["time"], curve["generalization_error"], label=rf"$\alpha = {alpha:g}$")
    left.set(xlabel=r"$t$ = steps / $d$", ylabel=r"$\varepsilon_g$")
    left.legend(frameon=False)

    times = np.linspace(0.0, 40.0, 201).tolist()
    for ball, style in (({"decay": 1.0, "coupling": 1.0, "direct": 0.0}, "-"), ({"beta": 0.0}, "--")):
        given = {"algorithm.momentum": ball, "grid.time": times}
        curve = dl.solve(dl.load(HERE / "runs" / "online-continual.toml", given))
        for source in range(2):
            label = f"task {source + 1}" if style == "-" else None
            middle.semilogy(times, curve["error"][:, source], style, color=f"C{source}", label=label)
    middle.axvline(10.0, color="0.7", lw=0.8)
    middle.set(xlabel=r"$t$", title="dashed: without momentum")
    middle.legend(frameon=False)

    curve = dl.solve(dl.load(HERE / "runs" / "online-xor.toml", {"grid.time": LOG | {"stop": 100.0}}))
    right.semilogx(curve["time"], curve["error"], color="0.75", lw=0.8)
    right.semilogx(curve["time"], curve["generalization_error"], color="C3")
    right.set(xlabel=r"$t$", ylabel=r"$\varepsilon_g$, $\varepsilon_c$", ylim=(0, None))
    save(picture, HERE / "figures" / "online_data_laws.png", "double")


if __name__ == "__main__":
    main()
