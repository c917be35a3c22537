"""Slopes of bias and variance against width, for the networks of the muP theory page.

    python docs/benchmarks/mup_width.py            # prints the table, some minutes on one core
    python docs/benchmarks/mup_width.py --write    # and writes mup_width.md beside this file

Every case trains independent networks at each width. The variance of the outputs and the squared error of the last
feature kernel should fall like 1/n, the bias of the mean output (debiased by its own standard error) like 1/n as well.
A bias below its noise is left out of the fit, and said so. With three layers the powers set in late: at n = 32 (tanh)
and n = 128 (SiLU) n x bias is still 15 to 40 % below its later value, so the fits start above.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import dimladder as dl
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.mup import EXPERIMENT

HERE = Path(__file__).parent
RUN = HERE.parent / "gallery" / "runs" / "mup-tanh.toml"
# name: overrides, widths, networks at each width
CASES = {
    "tanh, L = 1": ({"student.hidden_layers": 1, "algorithm.steps": 19}, (16, 32, 64, 128), (4000, 3000, 2000, 1000)),
    "tanh, L = 2": ({"algorithm.steps": 19}, (16, 32, 64, 128), (4000, 3000, 1500, 800)),
    "tanh, L = 3": ({"student.hidden_layers": 3, "algorithm.steps": 15}, (64, 128, 256), (3000, 2000, 800)),
    "SiLU, L = 3": (
        {"student.hidden_layers": 3, "student.activation": "silu", "algorithm.steps": 15},
        (256, 512, 1024),
        (500, 250, 80),
    ),
    "linear, L = 3": (
        {
            "student.hidden_layers": 3,
            "student.activation": "linear",
            "algorithm.learning_rate": 0.25,
            "algorithm.steps": 24,
        },
        (64, 128, 256),
        (3000, 2000, 800),
    ),
}


def slope(widths: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Return the weighted log-log slope and its standard error; errors are relative."""
    x = np.log(widths)
    w = 1 / errors**2
    centred = x - np.average(x, weights=w)
    return float(np.sum(w * centred * np.log(values)) / np.sum(w * centred**2)), float(np.sum(w * centred**2) ** -0.5)


def measure(name: str) -> list[str]:
    """Return the rows of one case."""
    overrides, widths, counts = CASES[name]
    problem = dl.load(RUN, overrides)
    curve = dl.solve(problem)
    limit, kernel = curve["f"].values, curve["feature_kernel"].values[-1]
    rows, found = [], []
    for n, count in zip(widths, counts, strict=True):
        streams = [np.random.default_rng([11, n, i]) for i in range(count)]
        sample = EXPERIMENT.run(problem, n, streams, backend_for()).variables
        f, features = sample["f"][1], sample["feature_kernel"][1][:, -1]
        variance = f.var(axis=0, ddof=1)
        squared = ((features - kernel) ** 2).sum(axis=(1, 2)).mean() / (kernel**2).sum()
        gap2 = np.mean((f.mean(axis=0) - limit) ** 2 - variance / count)
        # The outputs at all times and samples fluctuate together: their mean gap is no better known than one of them.
        noise = np.sqrt(variance.mean() / count)
        seen = gap2 > noise**2
        relative = noise / np.sqrt(gap2) if seen else np.nan
        found.append((n, variance.mean(), squared, np.sqrt(max(gap2, 0.0)), relative, count))
        bias = f"{n * found[-1][3]:.3f}" if seen else "below noise"
        rows.append(f"| {name} | {n} | {count} | {n * variance.mean():.3f} | {n * squared:.3f} | {bias} |")
    n, variance, squared, bias, relative, count = np.array(found).T
    spread = np.sqrt(2 / count)
    fits = [slope(n, variance, spread), slope(n, squared, spread)]
    good = np.isfinite(relative)
    fits += [slope(n[good], bias[good], relative[good])] if good.sum() > 1 else [(np.nan, np.nan)]
    cells = " | ".join(f"{s:.2f} +- {e:.2f}" if np.isfinite(s) else "-" for s, e in fits)
    return [*rows, f"| **{name}** | slope | | {cells} |"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write mup_width.md")
    parser.add_argument("--only", help="one case")
    args = parser.parse_args()
    lines = [
        "# Bias and variance against width",
        "",
        "Measured by `python docs/benchmarks/mup_width.py --write`. The columns n Var f (mean over times and samples),",
        "n E|dPhi|^2/|Phi|^2 (last layer, last time) and n x bias (root mean square over times and samples) are",
        "constant where 1/n has set in; the rows `slope` hold the fitted powers.",
        "",
        "| case | n | networks | n Var f | n E dPhi^2/Phi^2 | n bias |",
        "|---|---|---|---|---|---|",
    ]
    for name in CASES:
        if args.only in (None, name):
            start = time.perf_counter()
            rows = measure(name)
            print("\n".join(rows), f"({time.perf_counter() - start:.0f} s)", flush=True)
            lines += rows
    if args.write:
        (HERE / "mup_width.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
