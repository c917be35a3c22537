"""Training in revealed directions: infinite-width networks without response functions, or one network of finite width.

An initial weight matrix W (independent standard normals over root N) is only ever multiplied by features of the layer
below, and its transpose by gradients of the layer above. Keep orthonormal families F of those features and V of those
gradients, < f_i f_j > = < v_i v_j > = delta_ij, with their images U = W F and R = W^T V. The part of x that is new,
normalised to f, has conditionally on everything revealed (Bolthausen 2014)

    U_new = zeta + sum_j v_j (< R_j f > - < zeta v_j >),     zeta ~ N(0, 1) fresh,     W x = sum_i U_i < f_i x >,

and gradients are sent back in the same way. The first term of the sum is what the response functions of the literature
average to; no derivative is taken, so kinks need no care. With N particles a layer, < > is their mean.

Particles with independent nodes *are* a network of width N, exactly in law: ``lazy-weights``. With Sobol' nodes in the
order of time, a start that is exactly uncorrelated and f(0) = 0, they are the infinitely wide one, up to sampling:
``particles``. Memory: about ``6 L N m T`` numbers. Time: about ``10 (L - 1) N (m T)^2`` multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ...problem.training import Training
from .march import March, Nodes, train_columns

# A direction whose part outside the known ones is smaller than this fraction is a linear function of them.
LOST = 1e-7
CLOSE = 0.5  # below this fraction a remainder is orthogonalised again


class Weights:
    """A square matrix of independent standard normals over root N, revealed by multiplication.

    Parameters
    ----------
    forward, backward : (capacity, N) arrays
        Standard normals for the images of as many directions. They are overwritten.
    """

    def __init__(self, forward: np.ndarray, backward: np.ndarray) -> None:
        self.count = np.zeros(2, dtype=np.int64)
        self.images = (forward, backward)
        self.bases = (np.zeros_like(forward), np.zeros_like(backward))

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``W x`` of the rows of x, shape (b, N), and the eigenvalues of what was new in them, ascending."""
        return self._apply(0, x)

    def backward(self, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``W^T g`` of the rows of g, and the eigenvalues of what was new in them."""
        return self._apply(1, g)

    def _apply(self, side: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, count, basis, image = rows.shape[1], int(self.count[side]), self.bases[side], self.images[side]
        known, before = basis[:count], np.einsum("in,in->i", rows, rows)
        along = rows @ known.T / n
        rest = rows - along @ known
        if (np.einsum("in,in->i", rest, rest) < CLOSE**2 * before).any():
            more = rest @ known.T / n
            rest -= more @ known
            along += more
        # Largest direction first: it takes the best of the nodes that are left.
        mix, sizes, new = np.linalg.svd(rest / np.sqrt(n), full_matrices=False)
        kept = min(int((sizes > LOST * np.sqrt(before.max() / n)).sum()), len(basis) - count)
        fresh = slice(count, count + kept)
        basis[fresh] = np.sqrt(n) * new[:kept]
        other = int(self.count[1 - side])
        seen, theirs = self.bases[1 - side][:other], self.images[1 - side][:other]
        image[fresh] += ((basis[fresh] @ theirs.T - image[fresh] @ seen.T) / n) @ seen
        self.count[side] += kept
        return along @ image[:count] + (mix[:, :kept] * sizes[:kept]) @ image[fresh], sizes[::-1] ** 2


class RevealedMarch(March):
    """A march whose weights are revealed as they are used.

    Parameters
    ----------
    training : Training
    nodes : sequence of Nodes, one a layer
        Of one number of samples and equal weights. They are overwritten.
    exact_start : bool
        For infinite width: inputs and readout exactly uncorrelated over the particles at the start, and f(0) = 0.
    """

    def __init__(self, training: Training, nodes: Sequence[Nodes], *, exact_start: bool = True) -> None:
        if exact_start:
            _decorrelate(nodes, training.points)
        super().__init__(training, nodes, exact_start=exact_start)
        self.result.a, self.result.b = [], []
        self.weights = [Weights(upper.forward, lower.backward) for lower, upper in pairwise(nodes)]

    def _hidden(self, index: int, t: int) -> np.ndarray:
        out, m, total = self.result, self.training.samples, self.training.points
        rows = slice(t * total, (t + 1) * total)
        h, new = self.weights[index - 1].forward(self.x[index - 1][rows])
        out.forward_pivots[t, index] = new[0]
        learned = train_columns(out.phi[index - 1][rows, : t * total], total, m) * out.rates[:t].ravel()
        return h + learned @ self.g[index][: t * m]

    def _returned(self, index: int, t: int) -> np.ndarray:
        out, m, total = self.result, self.training.samples, self.training.points
        rows = slice(t * m, (t + 1) * m)
        z, new = self.weights[index].backward(self.g[index + 1][rows])
        out.backward_pivots[t, index] = new[0]
        x = self.x[index].reshape(self.training.times, total, -1)[:t, :m].reshape(t * m, z.shape[1])
        return z + (out.g[index + 1][rows, : t * m] * out.rates[:t].ravel()) @ x

    def arrays(self) -> dict[str, np.ndarray]:
        out = super().arrays()
        for i, weights in enumerate(self.weights):
            out[f"count{i}"] = weights.count
            for side in range(2):
                out |= {f"basis{i}.{side}": weights.bases[side], f"image{i}.{side}": weights.images[side]}
        return out


def network(training: Training, width: int, generator: np.random.Generator) -> RevealedMarch:
    """Return the march of one network of that width, drawn from `generator`: exact in law, biased by O(1/width)."""
    from .sampling import sampled_nodes

    return RevealedMarch(training, sampled_nodes(training, width, generator, "monte-carlo"), exact_start=False)


def _decorrelate(nodes: Sequence[Nodes], points: int) -> None:
    """Make the nodes that are used before training exactly uncorrelated, of variance one, where there are enough."""
    inputs, readout = nodes[0].forward[:points], nodes[-1].backward[:1]
    for start in [[inputs, readout]] if len(nodes) == 1 else [[inputs], [readout]]:
        rows = np.concatenate(start)
        n = rows.shape[1]
        if n <= 2 * len(rows):
            continue
        rows = np.linalg.solve(np.linalg.cholesky(rows @ rows.T / n), rows)
        for part, values in zip(start, np.split(rows, np.cumsum([len(p) for p in start])[:-1]), strict=True):
            part[:] = values


def memory(training: Training, samples: int) -> int:
    """Return the bytes a march holds at once: particles with their nodes and directions, and kernels."""
    k, kt, layers = training.times * training.samples, training.times * training.points, training.layers
    per_sample = layers * (kt + k + training.points) + 2 * (layers - 1) * (kt + k) + 2 * (training.points + 1)
    return 8 * (per_sample * samples + layers * (kt * kt + k * k))
