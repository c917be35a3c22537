"""Random streams: one key a replica, whatever the run around it."""

from __future__ import annotations

import numpy as np

import dimladder as dl
from dimladder_validation.simulate.streams import stream, stream_hash, streams
from run_files import TANH_UNIT


def draw(*key: object) -> np.ndarray:
    return stream(*key).random(3)  # type: ignore[arg-type]


def test_every_part_of_the_key_matters() -> None:
    base = (0, "h", "e", 100, 0)
    others = [
        (1, "h", "e", 100, 0),
        (0, "g", "e", 100, 0),
        (0, "h", "f", 100, 0),
        (0, "h", "e", 101, 0),
        (0, "h", "e", 100, 1),
    ]
    draws = [tuple(draw(*key)) for key in [base, *others]]
    assert len(set(draws)) == len(draws)
    assert tuple(draw(*base)) == draws[0]


def test_key_does_not_confuse_neighbouring_parts() -> None:
    # Concatenated without separators, (experiment "e1", size 0) and ("e", 10) would collide.
    assert not np.array_equal(draw(0, "h", "e1", 0, 0), draw(0, "h", "e", 10, 0))


def test_a_replica_does_not_depend_on_the_range_it_is_drawn_with() -> None:
    whole = [g.random() for g in streams(3, "h", "e", 50, 0, 6)]
    parts = [g.random() for g in [*streams(3, "h", "e", 50, 0, 2), *streams(3, "h", "e", 50, 2, 6)]]
    assert whole == parts


def test_streams_are_uncorrelated() -> None:
    x = np.array([g.standard_normal(4000) for g in streams(0, "h", "e", 7, 0, 12)])
    off = np.corrcoef(x)[np.triu_indices(12, 1)]
    # 66 correlations of standard deviation 1/sqrt(4000): the largest stays below 4.5 of them.
    assert np.abs(off).max() < 4.5 / np.sqrt(4000)


def test_hash_ignores_what_does_not_change_a_replica() -> None:
    problem = dl.loads(TANH_UNIT)
    same = {
        "title": "x",
        "simulation.sizes": [50, 60],
        "simulation.replicas": 99,
        "simulation.seed": 5,
        "solver.rtol": 1e-5,
    }
    for key, value in same.items():
        assert stream_hash(dl.replace(problem, {key: value})) == stream_hash(problem), key
    other = {
        "algorithm.learning_rate": 0.3,
        "grid.time": [0.0, 2.0],
        "simulation.method": "weights",
        "target.noise": 0.1,
    }
    for key, value in other.items():
        assert stream_hash(dl.replace(problem, {key: value})) != stream_hash(problem), key


def test_hash_sees_numbers_not_their_type() -> None:
    problem = dl.loads(TANH_UNIT)
    assert stream_hash(dl.replace(problem, {"target.noise": 0})) == stream_hash(
        dl.replace(problem, {"target.noise": 0.0})
    )
