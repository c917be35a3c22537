"""What the learners of one hierarchical target reach at finite d: quadratic kernel, three spectral stages, and networks
trained as in practice, with their overlaps and losses along the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..base import Backend, Closing, Experiment, Sample
from . import training
from .branches import branch_stages
from .layerwise import rows_of, three_stages
from .replicas import Realizations
from .target import Realization

ESTIMATORS = ("quadratic kernel", "three layers")
RECIPES = {"paper": training.PAPER, "repository": training.REPOSITORY}
PATHS = ("train_loss", "test_loss")
OVERLAPS = ("weight_overlap", "feature_overlap")


class LearnersExperiment(Experiment):
    """Measures `mse` and the overlaps of the theory, and beyond it what trained networks do.

    ``trained_mse(recipe, network, kappa)``, ``weight_overlap`` and ``feature_overlap`` (M_W and M_h of the paper, with
    a branch), ``train_loss`` and ``test_loss`` at ``records`` points of the training, whose gradient steps are
    ``gradient_step(recipe, network, record)``. What a network does not have is NaN.
    """

    theory = "hierarchical-learners"
    batch_size = 4
    device_batch_size = 32

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.2, reason="sizes enter through d_eff = floor(d^eps): 1/d_eff closes as d^-eps only")

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("null_mse",) if problem.target.branches == 1 else ()

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return dimladder.replace(problem, {"limit.d": size})

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        n = max(round(size**kappa) for kappa in problem.grid.values("kappa"))
        recipes = [RECIPES[name] for name in problem.algorithm.recipes]
        p1 = max(training.first_width(recipe, n) for recipe in recipes)
        p2 = problem.algorithm.second_width or max(recipe.second_width for recipe in recipes)
        data = (2 * n + 1000) * size + 2 * training.CHUNK_NUMBERS
        return data + 5 * n * (p1 + p2) + 5 * p1 * (size + p2)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import msgspec

        target, algorithm = problem.target, problem.algorithm
        kappas, branches = problem.grid.values("kappa"), target.branches
        stages = msgspec.structs.replace(problem, algorithm=algorithm.stages)
        single = branches == 1
        rows = rows_of(stages, size)
        counts = [row.second[0] for row in rows]
        many, shape = len(streams), (len(algorithm.recipes), len(algorithm.networks), len(kappas))
        mse, null = np.empty((many, 2, len(kappas))), np.empty(many)
        overlap, correlation = np.empty((2, many, len(kappas), branches))
        trained = np.empty((many, *shape))
        paths = {name: np.full((many, *shape, algorithm.records), np.nan) for name in PATHS}
        overlaps = {name: np.full((many, *shape, algorithm.records, branches), np.nan) for name in OVERLAPS}
        steps = np.full((many, *shape[:2], algorithm.records), np.nan)
        truths: list[list[Realization]] = [[] for _ in counts]
        for r, stream in enumerate(streams):
            learn = three_stages if single else branch_stages
            q, rho, error, (null[r], _) = learn(stages, size, rows, stream, backend)
            overlap[r], correlation[r] = q.reshape(-1, branches), rho.reshape(-1, branches)
            mse[r, 1] = error[:, 0]
            for k, n in enumerate(counts):
                truth = Realization.draw(target, size, stream, backend)
                truths[k].append(truth)
                mse[r, 0, k] = training.polynomial_kernel_ridge(
                    truth, n, stream, backend, ridge_strength=algorithm.kernel_ridge
                )
        for k, n in enumerate(counts):
            together = Realizations.of(truths[k])
            for i, recipe in enumerate(algorithm.recipes):
                for j, network in enumerate(algorithm.networks):
                    record = train(network, recipe, algorithm, together, n, max(counts), streams)
                    trained[:, i, j, k] = record.test_error
                    place = _spread(len(record.steps), algorithm.records)
                    for name, table in (*paths.items(), *overlaps.items()):
                        taken = getattr(record, name)
                        if taken is not None:
                            table[:, i, j, k] = taken[:, place]
                    steps[:, i, j] = np.array(record.steps)[place]
        kept = ("recipe", "network", "kappa", "record")
        return Sample(
            {
                "estimator": list(ESTIMATORS), "kappa": np.array(kappas), "branch": np.arange(1, branches + 1),
                "recipe": list(algorithm.recipes), "network": list(algorithm.networks),
                "record": np.arange(algorithm.records),
            },
            {
                "mse": (("estimator", "kappa"), mse),
                "subspace_overlap": (("kappa", "branch"), overlap),
                "feature_correlation": (("kappa", "branch"), correlation),
                "null_mse": ((), null),
                "trained_mse": (kept[:3], trained),
                "gradient_step": (("recipe", "network", "record"), steps),
                **{name: (kept, values) for name, values in paths.items()},
                **{name: ((*kept, "branch"), values) for name, values in overlaps.items()},
            },
        )  # fmt: skip


def _spread(taken: int, wanted: int) -> np.ndarray:
    """Return which of the `taken` records stand for `wanted` ones, first and last among them."""
    return np.round(np.linspace(0, taken - 1, wanted)).astype(int)


def train(
    network: str, name: str, algorithm: Any, truths: Realizations, n: int, largest: int,
    streams: Sequence[np.random.Generator],
) -> training.Record:  # fmt: skip
    """Train one network a replica on n samples by a published recipe; `largest` sets the first width of all of them."""
    recipe = RECIPES[name]
    if algorithm.second_width is not None:
        recipe = replace(recipe, second_width=algorithm.second_width)
    first, second = algorithm.steps or recipe.steps(truths.d)
    if network == "joint":
        return training.train_joint(
            truths, n, recipe, streams, largest=largest, steps=second, records=algorithm.records
        )
    if network == "two-layer":
        return training.train_two_layer(truths, n, recipe, streams, largest=largest, steps=second)
    return training.train_layerwise(
        truths, n, recipe, streams, largest=largest, steps=(first, second),
        records=max(2, algorithm.records // 2), reinitialize=network == "reinitialised", fresh=network == "fresh",
    )  # fmt: skip


EXPERIMENT = LearnersExperiment()
