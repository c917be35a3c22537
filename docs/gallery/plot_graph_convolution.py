"""
Homophily, heterophily and double descent
=========================================

.. image:: /gallery/figures/graph_convolution.png

Test risk, training risk and accuracy of one linear graph convolution without ridge on the contextual stochastic block
model, against the fraction of labelled nodes. Colour: homophily of the graph; at zero the graph says nothing, and
neighbours of the other class teach as much as those of one's own. Lines: replica theory. Markers: fits on graphs of 800
nodes, mean and standard error of 8.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/graph_convolution.png'
from pathlib import Path

import dimladder as dl
from dimladder.paper.draw import save
from dimladder_validation import simulate

HERE = Path(__file__).parent
FRACTIONS = {"start": 0.25, "stop": 0.9, "points": 14}


def main() -> None:
    problem = dl.load(HERE / "runs" / "graph-convolution.toml", {"grid.train_fraction": FRACTIONS})
    results = []
    for homophily in (-1.0, 0.0, 2.0):
        changed = dl.replace(problem, {"data.homophily": homophily})
        results += [dl.solve(changed), simulate(changed, d=800, replicas=8)]
    picture = dl.figure(results, variables=["test_risk", "train_risk", "test_accuracy"], style="double")
    save(picture, HERE / "figures" / "graph_convolution.png", "double")


if __name__ == "__main__":
    main()
