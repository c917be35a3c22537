"""Random streams of the simulations: one root seed, one independent stream a replica.

The key of a stream is (seed, problem, experiment, size, replica). It names the replica, not its place in a run: more
replicas, more sizes, another order or other batches never change the numbers that an old replica sees.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# How the theory is integrated and what the run is called do not change a replica.
NOT_IN_KEY = frozenset({"title", "schema", "solver", "export"})


def stream_hash(problem: Any) -> str:
    """Return the hexadecimal hash of the part of a problem that a replica depends on.

    Left out are the solver's settings and, of ``[simulation]``, the list of sizes, the number of
    replicas and the seed: they may change while the replicas already simulated stay what they are.
    """
    from dimladder.problem import to_builtins

    content = {key: value for key, value in to_builtins(problem).items() if key not in NOT_IN_KEY}
    if isinstance(content.get("simulation"), dict):
        own = ("sizes", "replicas", "seed")
        content["simulation"] = {k: v for k, v in content["simulation"].items() if k not in own}
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _canonical(value: Any) -> Any:
    """Numbers that are equal hash alike: ``1`` and ``1.0`` describe the same problem."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return value


def stream(seed: int, problem_hash: str, experiment: str, size: int, replica: int) -> np.random.Generator:
    """Return the generator of one replica.

    Parameters
    ----------
    seed : int
        Root seed, not negative.
    problem_hash : str
        `stream_hash` of the problem.
    experiment : str
        Name of the experiment: two experiments on one problem share no stream.
    size, replica : int
        The size coordinate and the index of the replica, from 0.
    """
    import numpy as np

    words = hashlib.sha256(f"{problem_hash}|{experiment}|{size}".encode()).digest()
    spawn_key = tuple(int.from_bytes(words[k : k + 4], "little") for k in range(0, 16, 4))
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=(*spawn_key, replica))))


def streams(
    seed: int, problem_hash: str, experiment: str, size: int, first: int, last: int
) -> list[np.random.Generator]:
    """Return the generators of the replicas ``first <= r < last``."""
    return [stream(seed, problem_hash, experiment, size, replica) for replica in range(first, last)]
