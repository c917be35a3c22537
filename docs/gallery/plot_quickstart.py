"""
The picture of the README: three-layer learning of a hierarchical target, theory and simulation
===============================================================================================

.. image:: /gallery/figures/quickstart.png

Run it from anywhere: ``python docs/gallery/plot_quickstart.py``; it takes about a minute.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/quickstart.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import compare

HERE = Path(__file__).parent


def main() -> None:
    problem = dl.load(HERE / "quickstart.toml")
    comparison = compare(problem)
    print(comparison.verdict)
    names = ["subspace_overlap", "feature_correlation", "mse"]
    # The largest size first: it is drawn solid.
    curves = list(comparison.curves.values())[::-1]
    picture = dl.figure([*curves, comparison.measurement], variables=names, style="double")
    save(picture, HERE / "figures" / "quickstart.png", "double")


if __name__ == "__main__":
    main()
