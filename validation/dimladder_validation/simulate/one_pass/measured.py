"""What is measured on trajectories of one-pass SGD: overlaps under the theory's names, and errors on fresh inputs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..base import Sample
from ..model_code import code_for
from .sgd import Trajectories, in_threads

if TYPE_CHECKING:
    import numpy as np

    from dimladder.problem.update_table import Table

TEST_POINTS = 13  # log2 of the number of test inputs


@cache
def _sobol(dimension: int) -> np.ndarray:
    from scipy.stats import qmc

    points: np.ndarray = qmc.Sobol(dimension, scramble=False).random_base2(TEST_POINTS)
    return points


def has_test_loss(table: Table) -> bool:
    """Whether the average loss is measured beside the generalisation error."""
    loss: Any = table.loss
    return not loss.quadratic if table.Y > 1 else loss.name not in ("square", "correlation")


def population_errors(
    table: Table, times: np.ndarray, gram: np.ndarray, a: np.ndarray, bias: np.ndarray, taught: np.ndarray,
    rng: np.random.Generator, species: int = 0,
) -> np.ndarray:  # fmt: skip
    """Return averages over fresh inputs of each source, shape (3, time, sources).

    E|f* - f|^2/2 and P(f f* < 0) (of several outputs: that another is the largest) without label noise, and the loss
    with it (0 where it is not measured), all units kept. Inputs enter through their fields only, which are Gaussian
    given the source: the average runs over 2^13 Sobol' points with one random shift, the same at every time and for
    every source. It is unbiased, and its error (about 1e-3 of the value for smooth activations) belongs to the scatter
    between replicas.

    Parameters
    ----------
    times : array (time,)
    gram, a, bias : arrays (time, B, P, n), (time, heads Y, K), (time, P)
        Of one replica.
    taught : array (time, B, M, F)
        Overlaps of teachers with all that does not learn: teachers and directions of the means.
    rng : Generator
    species : int
        Whose network it is.
    """
    import numpy as np
    from scipy.special import ndtri

    from .population import population_means

    code, losses = code_for(table), has_test_loss(table)
    K, M, moving = table.K, table.M, table.moving
    dimension = K + M + table.Y * int(losses)
    uniform = (_sobol(dimension) + rng.random(dimension)) % 1.0
    normal = ndtri(np.clip(uniform, 1e-16, 1.0 - 1e-16))
    own = slice(species * K, (species + 1) * K)
    result = np.full((3, len(a), table.sources), np.nan)
    firsts = [int(np.argmax(table.emitter == source)) for source in range(table.sources)]
    variances, noise = table.along("variances", times), table.along("noise", times)
    for place in range(len(a)):
        if not (np.isfinite(gram[place]).all() and np.isfinite(a[place]).all()):
            continue
        rows = np.concatenate([gram[place][:, own], np.zeros((len(gram[place]), M, table.n))], axis=1)
        rows[:, K:, moving:] = taught[place]
        rows[:, K:, own] = gram[place][:, own, moving : moving + M].transpose(0, 2, 1)
        order = np.r_[K : K + M, 0:K]  # teachers first: students that come close keep their digits
        seen = np.r_[moving : moving + M, species * K : (species + 1) * K]
        for source, c in enumerate(firsts):
            covariance = np.einsum("b,bpq->pq", variances[place, c], rows[:, order][:, :, seen])
            mean = rows.sum(axis=0)[order, moving + M :] @ table.means[c]
            mean[M:] += bias[place, own]
            out = np.empty(3)
            population_means(
                np.ascontiguousarray(normal[:, : K + M]),
                np.ascontiguousarray(noise[place, c] * normal[:, -table.Y :]),
                np.ascontiguousarray(covariance), losses, mean,
                a[place, table.head[c] * table.Y : (table.head[c] + 1) * table.Y].copy(),
                table.teacher_rows[c].astype(float), table.labels[c].copy(), code.model, code.value, out,
            )  # fmt: skip
            result[:, place, source] = out
    return result


def sample(table: Table, times: np.ndarray, runs: Trajectories, threads: int = 1) -> Sample:
    """Return the measured variables under the theory's names (`docs/theory/gram-chain.md` lists them)."""
    import numpy as np

    K, M, moving = table.K, table.M, table.moving
    own = slice(0, moving if table.outputs else K)
    vector = "vector" if table.outputs else "student"
    gram = runs.gram
    # Momentum of order one has a velocity at finite d alone: the table of the limit has not.
    extra = gram.shape[-1] - table.n
    # Overlaps of teachers with all fixed vectors: where they drift, they have the last rows.
    taught = np.broadcast_to(table.gram[:, moving : moving + M, moving:], (*gram.shape[:3], M, M + table.D))
    drifts = gram.shape[-2] > moving + extra
    if drifts:
        taught, gram = gram[..., moving + extra :, moving + extra :], gram[..., : moving + extra, :]
    if extra:
        kept = np.r_[0:moving, moving + extra : gram.shape[-1]]
        gram, bias = gram[..., :moving, :][..., kept], runs.bias[..., :moving]
    else:
        bias = runs.bias
    total = gram.sum(axis=2)
    variables: dict[str, Any] = {"Q": (("time", vector, vector), total[:, :, own, own])}
    if M:
        variables["M"] = (("time", vector, "teacher"), total[:, :, own, moving : moving + M])
    if drifts:
        variables["T"] = (("time", "teacher", "teacher"), taught.sum(axis=2)[..., :M])
    if len(table.shares) > 1:
        variables["Q_block"] = (("time", "block", "student", "student"), gram[..., :K, :K])
        if M:
            variables["M_block"] = (("time", "block", "student", "teacher"), gram[..., :K, moving : moving + M])
    if table.D:
        variables["mean_overlap"] = (("time", "student", "direction"), total[:, :, :K, moving + M :])
    shape = {"head": table.heads, "output": table.Y, "student": K}
    kept = {name: size for name, size in shape.items() if size > 1 or name == "student"}
    variables["a"] = (("time", *kept), runs.a.reshape(*runs.a.shape[:2], *kept.values()))
    if table.bias_rate is not None:
        variables["bias"] = (("time", "student"), bias[..., :K])
    weights = table.source_weights(times)
    for species, name in enumerate(table.species):
        if species and name not in table.outputs:
            continue

        def one(replica: int, species: int = species) -> np.ndarray:
            rng = runs.test_streams[replica]
            return population_errors(
                table, np.asarray(times), gram[replica], runs.a[replica], bias[replica], taught[replica], rng, species
            )

        if table.slope is not None:
            break
        found = np.stack(in_threads(one, len(gram), threads), axis=1)
        average = (found * weights).sum(axis=-1)
        ending = f"_{name}" if species else ""
        variables[f"generalization_error{ending}"] = (("time",), average[0])
        if species:
            continue
        if table.sources > 1:
            variables["error"] = (("time", "source"), found[0])
        if table.signs or table.classes:
            variables["classification_error"] = (("time",), average[1])
        if has_test_loss(table):
            variables["test_loss"] = (("time",), average[2])
    return Sample({"time": np.asarray(times)}, variables)
