"""From order parameters to the variables of the run file with error bars, and the diagnostics of the theorem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...problem.training import Training
from ...symbolic.systems import OrderParameter, Variable
from .march import OrderParameters

ORDER_PARAMETERS = (
    OrderParameter("f", ("sample",), r"f_\mu(t)", "network output on the training inputs after t updates"),
    OrderParameter(
        "feature_kernel",
        ("layer", "sample", "sample"),
        r"\Phi^l_{\mu\nu}",
        "x^l . x^l / n at the last time",
        symmetric=True,
    ),
    OrderParameter(
        "gradient_kernel",
        ("layer", "sample", "sample"),
        r"G^l_{\mu\nu}",
        "g^l . g^l / n at the last time",
        symmetric=True,
    ),
)

# name -> (dims, latex, long name)
VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "loss": (("time",), r"\mathcal{L}(t)", "mean training loss after t updates"),
    "test_loss": (("time",), r"\mathcal{L}_\mathrm{test}(t)", "mean loss on the held-out samples"),
    "f": (("time", "sample"), r"f_\mu(t)", "output on the training inputs"),
    "test_f": (("time", "test_sample"), r"f_\mu(t)", "output on the held-out inputs"),
    "feature_kernel": (("layer", "sample", "sample"), r"\Phi^l_{\mu\nu}(T, T)", "feature kernel at the last time"),
    "gradient_kernel": (("layer", "sample", "sample"), r"G^l_{\mu\nu}(T, T)", "gradient kernel at the last time"),
    "feature_min_eigenvalue": (
        ("time", "layer"), r"\lambda_{\min}(\Phi^l(t, t))",
        "smallest eigenvalue of the Gram matrix of post-activations",
    ),
    "preactivation_min_eigenvalue": (
        ("layer",), r"\lambda_{\min}(H^l)",
        "smallest eigenvalue of the Gram matrix of pre-activations at the last time",
    ),
    "space_time_min_eigenvalue": (
        ("layer",), r"\lambda_{\min}([x_0, x_{T}])",
        "smallest eigenvalue of the joint Gram matrix of first and last features",
    ),
    "relative_feature_change": (
        ("layer",), r"\|h(T)-h(0)\|/\|h(0)\|",
        "root mean square change of the pre-activations, relative to their start",
    ),
    "forward_innovation": (
        ("time", "layer"), r"\lambda_{\min}(\mathrm{Var}[u^l(t)|u^l(<t)])",
        "smallest eigenvalue of the conditional covariance of the forward Gaussian (0 where the process is constant)",
    ),
    "backward_innovation": (
        ("time", "layer"), r"\lambda_{\min}(\mathrm{Var}[r^l(t)|r^l(<t)])",
        "smallest eigenvalue of the conditional covariance of the backward Gaussian (0 where the process is constant)",
    ),
    "readout_speed": (
        ("time",), r"\sum_{\mu\nu} p_\mu \Delta_\mu \Phi^L_{\mu\nu} \Delta_\nu p_\nu",
        "squared velocity of the readout weights per unit learning rate; it vanishes only with every "
        "residual on the batch",
    ),
    "pl_rate": (
        ("time",), r"\frac{2}{m} \lambda_{\min}(\Phi^L(t, t))",
        "certified decay rate of the squared loss under gradient flow, per unit of learning rate times updates",
    ),
}  # fmt: skip

SPACE_TIME: dict[str, tuple[tuple[str, ...], str, str]] = {
    "feature_kernel_history": (("layer", "time", "sample", "time", "sample"), r"\Phi^l_{\mu\nu}(t,s)",
    "feature kernel"),
    "gradient_kernel_history": (("layer", "time", "sample", "time", "sample"), r"G^l_{\mu\nu}(t,s)", "gradient kernel"),
    "feature_response": (
        ("layer", "time", "sample", "time", "sample"), r"A^l_{\mu\nu}(t,s)", "feature response (0 in the last layer)",
    ),
    "gradient_response": (
        ("layer", "time", "sample", "time", "sample"), r"B^l_{\mu\nu}(t,s)", "gradient response (0 in the first layer)",
    ),
}  # fmt: skip


def summarize(
    training: Training, result: OrderParameters, *, squared_loss: bool, space_time: bool
) -> dict[str, np.ndarray]:
    """Return the variables of one realisation by name."""
    m, total, layers, times = training.samples, training.points, training.layers, training.times
    last, first = slice((times - 1) * total, (times - 1) * total + m), slice(0, m)
    out = {"loss": training.loss(result.f), "f": result.f[:, :m]}
    if total > m:
        out |= {"test_loss": training.loss(result.f, test=True), "test_f": result.f[:, m:]}
    out["feature_kernel"] = np.array([phi[last, last] for phi in result.phi])
    out["gradient_kernel"] = np.array([g[(times - 1) * m :, (times - 1) * m :] for g in result.g])
    equal = [equal_times(phi, times, total, m) for phi in result.phi]
    smallest = np.array([np.linalg.eigvalsh(e)[:, 0] for e in equal]).T
    out["feature_min_eigenvalue"] = smallest
    out["preactivation_min_eigenvalue"] = np.array([np.linalg.eigvalsh(pre[1][:m, :m])[0] for pre in result.pre])
    joint = np.r_[np.arange(m), np.arange(last.start, last.stop)]
    out["space_time_min_eigenvalue"] = np.array(
        [np.linalg.eigvalsh(phi[np.ix_(joint, joint)])[0] for phi in result.phi]
    )
    out["relative_feature_change"] = np.array(
        [
            np.sqrt(change[first].sum() / np.trace(pre[0][first, first]))
            for change, pre in zip(result.change, result.pre, strict=True)
        ]
    )
    out |= {"forward_innovation": result.forward_pivots, "backward_innovation": result.backward_pivots}
    pull = training.weights * result.error_signal
    out["readout_speed"] = np.einsum("ti,tij,tj->t", pull, equal[-1], pull)
    if squared_loss:
        out["pl_rate"] = 2 / m * smallest[:, -1]
    if space_time:
        k = (times, m, times, m)
        empty = np.zeros(k)
        phis = [phi.reshape(times, total, times, total)[:, :m, :, :m] for phi in result.phi]
        out |= {
            "feature_kernel_history": np.array(phis),
            "gradient_kernel_history": np.array([g.reshape(k) for g in result.g]),
        }
        if len(result.a) == layers - 1:
            a = [a.reshape(times, total, times, m)[:, :m] for a in result.a] + [empty]
            b = [empty] + [b.reshape(k) for b in result.b]
            out |= {"feature_response": np.array(a), "gradient_response": np.array(b)}
    assert len(out["feature_kernel"]) == layers
    return out


def equal_times(kernel: np.ndarray, times: int, rows: int, keep: int) -> np.ndarray:
    """Return ``K(t, t)`` on the first `keep` samples of each time, shape (times, keep, keep)."""
    return np.array([kernel[t * rows : t * rows + keep, t * rows : t * rows + keep] for t in range(times)])


def averaged(realisations: Sequence[dict[str, np.ndarray]], *, deterministic: bool) -> dict[str, Variable]:
    """Return means over realisations with ``<name>_se`` beside each.

    The standard error is that of the mean over scrambles; zero for a deterministic method, NaN for a single scramble.
    """
    table = VARIABLES | SPACE_TIME
    out: dict[str, Variable] = {}
    for name in realisations[0]:
        values = np.array([r[name] for r in realisations])
        dims, latex, meaning = table[name]
        if deterministic:
            error = np.zeros_like(values[0])
        elif len(values) == 1:
            error = np.full_like(values[0], np.nan)
        else:
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        out[name] = Variable(dims, values.mean(axis=0), latex, meaning)
        out[f"{name}_se"] = Variable(dims, error, rf"\mathrm{{s.e.}}[{latex}]", f"standard error of {meaning}")
    return out
