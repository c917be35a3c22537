"""Inputs and labels: synthetic, written out, or images from scikit-learn or local files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DomainError
from .expressions import Expression
from .point_data import CosinePoints, DigitsPoints, ExplicitPoints, FilePoints, GaussianPoints

Points = CosinePoints | GaussianPoints | ExplicitPoints | DigitsPoints | FilePoints

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_points(data: Points) -> tuple[np.ndarray, np.ndarray, int]:
    """Return inputs (M, d), labels (M,), training samples first, and the number m of training samples.

    Raises
    ------
    ConfigError
        For a file that cannot be read, a package that is missing, or too few samples.
    DomainError
        When an input is zero, so that nothing can be learnt from it.
    """
    match data:
        case CosinePoints():
            inputs, labels, m = *_cosine(data), data.samples
        case GaussianPoints():
            inputs, labels, m = *_gaussian(data), data.samples
        case ExplicitPoints():
            inputs = np.array(data.inputs + data.test_inputs, dtype=float)
            labels, m = np.array(data.labels + data.test_labels, dtype=float), len(data.inputs)
            inputs = _normalised(inputs) if data.normalize else inputs
        case DigitsPoints():
            images, classes = _digits()
            inputs, labels = _two_classes(images, classes, data.classes, data)
            m = data.samples
        case FilePoints():
            images, targets = _read(data)
            if data.classes is not None:
                inputs, labels = _two_classes(images, targets, data.classes, data)
            else:
                inputs, labels = _chosen(images, targets.astype(float), data)
            m = data.samples
    if not np.isfinite(inputs).all() or not np.isfinite(labels).all():
        raise DomainError("the data are not finite", where="data")
    empty = np.flatnonzero(~inputs.any(axis=1))
    if len(empty):
        raise DomainError("an input is the zero vector", where=f"data, sample {empty[0]}", hint="leave it out")
    return inputs, labels, m


def _normalised(inputs: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(inputs, axis=1, keepdims=True)
    return inputs / np.where(norms > 0, norms, 1.0)


def _alternating(total: int, samples: int) -> np.ndarray:
    i = np.arange(total)
    return np.where(i % 2 == 0, 1.0, -1.0) * (1 + 0.25 * i / max(samples - 1, 1))


def _cosine(data: CosinePoints) -> tuple[np.ndarray, np.ndarray]:
    total = data.samples + data.test_samples
    mu, j = np.arange(1, total + 1)[:, None], np.arange(1, data.dimension + 1)
    return _normalised(np.cos(mu * j + 0.3 * mu)), _alternating(total, data.samples)


def _gaussian(data: GaussianPoints) -> tuple[np.ndarray, np.ndarray]:
    total = data.samples + data.test_samples
    generator = np.random.default_rng(data.seed)
    inputs = generator.standard_normal((total, data.dimension)) / np.sqrt(data.dimension)
    if data.normalize:
        inputs = _normalised(inputs)
    if data.labels == "random-sign":
        return inputs, generator.choice([-1.0, 1.0], size=total)
    if data.labels == "alternating":
        return inputs, _alternating(total, data.samples)
    formula = Expression(data.labels, "x*")
    values = formula.evaluate(np, **{v: inputs[:, int(v[1:]) - 1] for v in formula.variables})
    return inputs, np.broadcast_to(np.asarray(values, dtype=float), (total,)).copy()


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            "the digits need scikit-learn, which is not installed",
            where="data.source", why=str(error), hint="pip install 'dimladder[data]', or use another source",
        ) from None  # fmt: skip
    bunch = load_digits()
    return bunch.data.astype(float), bunch.target


def _two_classes(
    images: np.ndarray, targets: np.ndarray, classes: tuple[int, int], data: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return balanced samples of two classes, in turn, with labels +1 and -1."""
    generator = np.random.default_rng(data.seed)
    total = data.samples + data.test_samples
    picks = [generator.permutation(np.flatnonzero(targets == c)) for c in classes]
    need = [(total + 1) // 2, total // 2]
    for c, pick, n in zip(classes, picks, need, strict=True):
        if len(pick) < n:
            raise ConfigError(
                f"class {c} has {len(pick)} samples, {n} are needed", where="data.samples", hint="ask for fewer"
            )
    order = np.array([picks[i % 2][i // 2] for i in range(total)], dtype=int)
    return _prepared(images[order], data), np.where(np.arange(total) % 2 == 0, 1.0, -1.0)


def _chosen(images: np.ndarray, labels: np.ndarray, data: FilePoints) -> tuple[np.ndarray, np.ndarray]:
    total = data.samples + data.test_samples
    if len(images) < total:
        raise ConfigError(f"{data.path} holds {len(images)} samples, {total} are asked for", where="data.samples")
    order = np.random.default_rng(data.seed).permutation(len(images))[:total]
    return _prepared(images[order], data), labels[order]


def _prepared(images: np.ndarray, data: Any) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(float)
    if data.center:
        # The mean of the training samples only: a held-out sample must not move the others.
        flat = flat - flat[: data.samples].mean(axis=0)
    return _normalised(flat)


def _read(data: FilePoints) -> tuple[np.ndarray, np.ndarray]:
    path = Path(data.path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                for key in (data.inputs_key, data.labels_key):
                    if key not in archive:
                        raise ConfigError(
                            f"{path} has no array {key!r}",
                            where="data.path",
                            hint=f"it holds: {', '.join(archive.files)}",
                        )
                images, targets = archive[data.inputs_key], archive[data.labels_key]
        else:
            if not data.labels_path:
                raise ConfigError(
                    "IDX images come with a file of labels", where="data.labels_path", hint="give its path"
                )
            images, targets = read_idx(path), read_idx(Path(data.labels_path))
    except OSError as error:
        raise ConfigError("the data file cannot be read", where=f"data.path: {path}", why=str(error)) from None
    if len(images) != len(targets) or targets.ndim != 1:
        raise ConfigError(
            f"{len(images)} inputs do not go with labels of shape {targets.shape}",
            where="data.path",
            hint="one label a sample",
        )
    return images, targets


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file (the MNIST format), gzip-compressed or not.

    Raises
    ------
    ConfigError
        When the file cannot be read, is not IDX or is cut short.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise ConfigError("the data file cannot be read", where=f"data.path: {path}", why=str(error)) from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES:
        raise ConfigError(f"{path} is not an IDX file", where="data.path", hint="give an .npz or an IDX file")
    rank = raw[3]
    if len(raw) < 4 + 4 * rank:
        raise ConfigError(f"{path} is cut short", where="data.path", why="its header is incomplete")
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    dtype = np.dtype(IDX_TYPES[raw[2]])
    body = raw[4 + 4 * rank :]
    if len(body) != int(np.prod(shape)) * dtype.itemsize:
        raise ConfigError(f"{path} is cut short", where="data.path", why=f"its header announces the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape)
