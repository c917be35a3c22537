"""``[data] kind = "points"``: a fixed set of inputs and labels, drawn, written out, read or placed in clusters."""

from __future__ import annotations

from typing import Literal

from .checks import Matrix, Row, at_least, count, finite, not_negative, positive
from .expressions import Expression
from .spec import Spec


class CosinePoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """``X[mu, j] = cos(mu j + 0.3 mu)``, rows normalised; labels ``(+,-,+,-)(1 + 0.25 i/(m-1))``.

    Held-out samples continue both sequences.
    """

    source: Literal["cosine"] = "cosine"
    samples: int
    dimension: int
    test_samples: int = 0

    def __post_init__(self) -> None:
        count(samples=self.samples, dimension=self.dimension)
        at_least(0, test_samples=self.test_samples)


class GaussianPoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """Independent Gaussian inputs of squared norm close to one (exactly one when `normalize`).

    `labels` is ``"random-sign"``, ``"alternating"``, or a formula in the coordinates ``x1, x2, ...``.
    """

    source: Literal["gaussian"] = "gaussian"
    samples: int
    dimension: int
    seed: int = 0
    labels: str = "random-sign"
    normalize: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        count(samples=self.samples, dimension=self.dimension)
        at_least(0, test_samples=self.test_samples, seed=self.seed)
        if self.labels not in ("random-sign", "alternating"):
            beyond = [v for v in Expression(self.labels, "x*").variables if not 1 <= int(v[1:]) <= self.dimension]
            if beyond:
                raise ValueError(f"labels uses {', '.join(beyond)}, but the inputs are x1..x{self.dimension}")


class ExplicitPoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """Inputs and labels written out, one row a sample."""

    source: Literal["explicit"] = "explicit"
    inputs: Matrix
    labels: Row
    test_inputs: Matrix = ()
    test_labels: Row = ()
    normalize: bool = False

    def __post_init__(self) -> None:
        if not self.inputs or len(self.inputs) != len(self.labels):
            raise ValueError(f"{len(self.inputs)} inputs need as many labels, got {len(self.labels)}")
        if len(self.test_inputs) != len(self.test_labels):
            raise ValueError(
                f"{len(self.test_inputs)} test_inputs need as many test_labels, got {len(self.test_labels)}"
            )
        if len({len(row) for row in (*self.inputs, *self.test_inputs)}) != 1:
            raise ValueError("inputs must all have the same number of coordinates")
        finite(inputs=self.inputs, test_inputs=self.test_inputs, labels=self.labels, test_labels=self.test_labels)


class DigitsPoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """The 8 x 8 digits that ship with scikit-learn: two classes labelled +1 and -1, balanced, rows normalised.

    Pixels are centred over the chosen samples when `center`.
    """

    source: Literal["digits"] = "digits"
    samples: int
    classes: tuple[int, int] = (0, 1)
    seed: int = 0
    center: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        count(samples=self.samples)
        at_least(0, test_samples=self.test_samples, seed=self.seed)
        if len(set(self.classes)) != 2 or not all(0 <= c <= 9 for c in self.classes):
            raise ValueError(f"classes must be two different digits 0..9, got {list(self.classes)}")


class FilePoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """A local data set: an ``.npz`` with arrays `inputs_key` and `labels_key`, or IDX files (optionally ``.gz``).

    With `classes`, two integer classes become labels +1 and -1; without, the labels are used as they are.
    """

    source: Literal["file"] = "file"
    path: str
    labels_path: str = ""
    inputs_key: str = "x"
    labels_key: str = "y"
    samples: int
    classes: tuple[int, int] | None = None
    seed: int = 0
    center: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        count(samples=self.samples)
        at_least(0, test_samples=self.test_samples, seed=self.seed)


class BallClusters(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """Q clusters, class j uniform in a ball about ``separation e_j + mean_jitter N(0, 1)``.

    `counts` are the N_j; labels are ``e_j + label_jitter N(0, 1)``. Inputs have `dimension` coordinates, by default as
    many as there are classes; every ball is stretched by `elongation` along a random direction of its own.
    """

    source: Literal["clusters"] = "clusters"
    classes: int
    counts: tuple[int, ...]
    separation: float
    mean_jitter: float = 0.0
    radius: float
    label_jitter: float = 0.3
    dimension: int = 0
    elongation: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(2, classes=self.classes)
        count(classes=self.classes, counts=sum(self.counts))
        at_least(0, dimension=self.dimension)
        if 0 < self.dimension < self.classes:
            raise ValueError(f"dimension must be at least the number of classes, {self.classes}, or 0 for as many")
        positive(elongation=self.elongation)
        if len(self.counts) != self.classes:
            raise ValueError(f"counts must list one number a class: {len(self.counts)} for {self.classes} classes")
        if min(self.counts) < 1:
            raise ValueError("counts: every class needs at least one point")
        positive(separation=self.separation)
        not_negative(radius=self.radius, mean_jitter=self.mean_jitter, label_jitter=self.label_jitter)
        at_least(0, seed=self.seed)


class ClassPoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """``points[j][i]`` is point i of class j, ``labels[j]`` the label vector of class j (unit vectors by default)."""

    source: Literal["classes"] = "classes"
    points: tuple[Matrix, ...]
    labels: Matrix = ()

    def __post_init__(self) -> None:
        lengths = {len(x) for group in self.points for x in group}
        if len(self.points) < 2 or any(not group for group in self.points) or len(lengths) != 1:
            raise ValueError("points must list at least two non-empty classes of points of one dimension")
        if self.labels and (
            len(self.labels) != len(self.points) or any(len(y) != len(self.points) for y in self.labels)
        ):
            raise ValueError("labels must list one vector a class, each with one entry a class")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.points)


class ClassFile(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """A NumPy ``.npz``: ``x`` (N, Q) inputs, ``label`` (N,) classes 0..Q-1, optional ``y`` (Q, Q) label vectors."""

    source: Literal["class-file"] = "class-file"
    path: str
    classes: int
