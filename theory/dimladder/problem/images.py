"""Two classes of real images as a mixture: IDX files on disk (the layout of MNIST and Fashion-MNIST), or the digits
of scikit-learn.

Recipe of Demir & Dogan 2025, section on real data: x = sqrt(theta/tr S_c) (image - mean) + N(0, I), S_c the class
covariance, so that both classes have equal traces and the data spread is theta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .clusters import Clusters, mixture_clusters
from .data import Images
from .points import read_idx
from .spec import Problem

Array = NDArray[np.float64]


@lru_cache(maxsize=4)
def load_images(path: str) -> tuple[Array, NDArray[np.int64]]:
    """Return images scaled to [0, 1], shape (count, pixels), and their labels.

    Parameters
    ----------
    path : str
        A folder with ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (``.gz`` or not); empty for the 8 x 8
        digits that come with scikit-learn.
    """
    if not path:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ConfigError(
                "the default images need scikit-learn",
                why=str(error),
                hint="pip install 'dimladder[data]', or give data.path",
            ) from None
        digits = load_digits()
        return np.asarray(digits.data, dtype=float) / 16.0, np.asarray(digits.target, dtype=np.int64)
    arrays = []
    for stem in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        found = next((p for p in (Path(path) / stem, Path(path) / f"{stem}.gz") if p.is_file()), None)
        if found is None:
            raise ConfigError(
                f"{stem} (or {stem}.gz) is missing",
                where=f"data.path = {path}",
                hint="give the folder that holds the IDX files",
            )
        arrays.append(read_idx(found))
    images, labels = arrays
    if images.shape[0] != labels.shape[0]:
        raise ConfigError(
            "images and labels do not match", where=path, why=f"{images.shape[0]} images, {labels.shape[0]} labels"
        )
    scale = 255.0 if images.dtype.kind == "u" else 1.0
    return images.reshape(images.shape[0], -1).astype(float) / scale, labels.astype(np.int64)


@dataclass(frozen=True)
class ImageClusters(Clusters):
    """Clusters whose covariances are those of two classes of images, and whose samples are the images themselves.

    Attributes
    ----------
    images : tuple of ndarray (count_c, n)
        Scaled images of each class; noise N(0, I) is added to every draw.
    """

    images: tuple[Array, ...] = field(default=())

    def sample(self, stream: np.random.Generator, count: int) -> tuple[Array, NDArray[np.int64]]:
        """Draw images with replacement, with fresh unit noise: not Gaussian, and that is the point."""
        cluster = stream.choice(self.weights.size, size=count, p=self.weights)
        x = stream.standard_normal((count, self.n))
        for c, rows in enumerate(self.images):
            own = np.flatnonzero(cluster == c)
            x[own] += rows[stream.integers(0, rows.shape[0], own.size)]
        return x, cluster


def image_clusters(data: Images, strength: float, n: int) -> ImageClusters:
    """Build the mixture with the class means and covariances of the images.

    Raises
    ------
    ConfigError
        When a class is missing, or n is not the number of pixels.
    """
    images, labels = load_images(data.path)
    if images.shape[1] != n:
        raise ConfigError(
            "the input dimension must be the number of pixels",
            where="limit.n",
            why=f"the images have {images.shape[1]} pixels, n is {n}",
            hint=f"set limit.n = {images.shape[1]} (and simulation.sizes = [{images.shape[1]}])",
        )
    chosen = []
    for label in data.classes:
        rows = images[labels == label]
        if rows.shape[0] < 10:
            raise ConfigError(
                f"class {label} has {rows.shape[0]} images",
                where="data.classes",
                why=f"labels: {sorted(set(labels.tolist()))}",
            )
        chosen.append(rows)
    overall = np.mean([rows.mean(axis=0) for rows in chosen], axis=0)
    scaled, spikes = [], []
    for rows in chosen:
        centre = overall if data.keep_means else rows.mean(axis=0)
        spread = np.cov(rows.T, bias=True)
        factor = math.sqrt(strength / float(np.trace(spread)))
        scaled.append(factor * (rows - centre))
        values, vectors = np.linalg.eigh(factor**2 * spread)
        keep = values > 1e-10 * values[-1]
        spikes.append((values[keep], np.ascontiguousarray(vectors[:, keep].T)))
    means = np.array([rows.mean(axis=0) for rows in scaled])
    return ImageClusters(np.array(data.weights), means, np.ones((len(chosen), n)), tuple(spikes), None, tuple(scaled))


def clusters(problem: Problem, n: int, strength: float = 1.0) -> Clusters:
    """Return the clusters of a problem in n dimensions, Gaussian or of images; arguments as `mixture_clusters`."""
    if isinstance(problem.data, Images):
        return image_clusters(problem.data, strength, n)
    return mixture_clusters(problem, n, strength)
