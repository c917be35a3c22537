"""Numbers of the literature in this theory's convention: f = sum_k a_k g(w_k.x/sqrt d), time = steps/d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...errors import ConfigError, did_you_mean

Source = Literal["saad-solla", "goldt", "veiga", "arnaboldi", "ben-arous"]
SOURCES = ("saad-solla", "goldt", "veiga", "arnaboldi", "ben-arous")


@dataclass(frozen=True)
class Numbers:
    """One set-up in this theory's convention.

    Attributes
    ----------
    learning_rate : float
    noise : float
        Standard deviation of the label noise.
    student_readout, teacher_readout : float
        Common value of a_k and of A_m.
    train_readout, spherical : bool
    time_per_unit : float
        This theory's time for one unit of the source's time.
    """

    learning_rate: float
    noise: float
    student_readout: float
    teacher_readout: float
    train_readout: bool
    spherical: bool
    time_per_unit: float

    def overrides(self, width: int, teachers: int) -> dict[str, Any]:
        """Return the overrides that turn a committee run file into this set-up."""
        return {
            "algorithm.learning_rate": self.learning_rate,
            "algorithm.spherical": self.spherical,
            "target.noise": self.noise,
            "target.readout": [self.teacher_readout] * teachers,
            "student.train_readout": self.train_readout,
            "initial.a": [self.student_readout] * width,
        }


def convert(source: str, *, width: int, teachers: int, learning_rate: float, noise: float = 0.0) -> Numbers:
    """Read the numbers of a paper.

    Parameters
    ----------
    source : {"saad-solla", "goldt", "veiga", "arnaboldi", "ben-arous"}
        Saad and Solla (1995): eta, soft committees with unit readouts. Goldt et al. (2019): both layers trained at eta.
        Veiga et al. (2022): f = (1/p) sum g, teacher (1/k) sum g, learning rate gamma, `noise` is the variance Delta.
        Arnaboldi et al. (2023): the same with time steps x gamma/(p d). Ben Arous, Gheissari and Jagannath (2021): one
        unit on the sphere, step delta/N.
    width, teachers : int
        Number of student (K, p) and teacher (M, k) units.
    learning_rate, noise : float
        As in the source.

    Raises
    ------
    ConfigError
        For an unknown source.
    """
    if source in ("saad-solla", "goldt"):
        return Numbers(learning_rate, noise, 1.0, 1.0, source == "goldt", False, 1.0)
    if source in ("veiga", "arnaboldi"):
        unit = width / learning_rate if source == "arnaboldi" else 1.0
        return Numbers(learning_rate, noise**0.5, 1.0 / width, 1.0 / teachers, False, False, unit)
    if source == "ben-arous":
        return Numbers(learning_rate, noise, 1.0, 1.0, False, True, 1.0)
    raise ConfigError(f"unknown convention {source!r}", hint=did_you_mean(source, SOURCES))
