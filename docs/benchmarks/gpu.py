"""Experiments on an accelerator: the law of the CPU, steps x replicas a second, and the part of the card's peak.

    PYTHONPATH=theory:validation python3 docs/benchmarks/gpu.py --out DIR [--device cuda] [--seconds 240]

Works without the package being installed. Every part has a share of the time, prints as it goes, and rewrites
``DIR/gpu.md`` and ``DIR/gpu.json`` when it ends, so that what is finished is kept. ``--device torch`` runs the same on
the CPU, to try the script out: laws at the same sizes, throughput at tiny ones, where parts of a peak mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import platform
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "docs" / "gallery" / "runs"
# Short runs of every experiment that computes on the device, one for each way in which it moves weights: run file,
# changes, size. A test holds it against the registry.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "one-pass, committee": ("online-erf", {"grid.time": [0.0, 0.5, 2.0]}, 100),
    "one-pass, reused samples": ("online-reuse", {"grid.time": [0.0, 1.0]}, 100),
    "one-pass, look-ahead": ("online-look-ahead", {"grid.time": [0.0, 1.0]}, 36),
    "one-pass, classes": ("online-classes", {"grid.time": [0.0, 1.0]}, 36),
    "one-pass, drift": ("online-drift", {"grid.time": [0.0, 1.0]}, 36),
    "staircase": (
        "staircase",
        {"student.particles": 20, "grid.time": [0.0, 1.0], "simulation.width": 50, "simulation.batch": 100},
        36,
    ),
    "multi-pass, committee": ("multi-pass-committee", {"simulation.method": "dense", "algorithm.steps": 6}, 36),
    "multi-pass, logistic": ("multi-pass-logistic", {"simulation.method": "dense", "algorithm.steps": 3}, 36),
    "multi-pass, flow": (
        "multi-pass-ridge",
        {
            "algorithm": {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 3},
            "simulation.method": "dense",
        },
        36,
    ),
    "mup, tanh": ("mup-tanh", {"algorithm.steps": 4}, 36),
    "mup, flow of a linear network": (
        "mup-linear",
        {"algorithm": {"kind": "gradient-flow", "learning_rate": 0.25, "steps": 4}},
        36,
    ),
    "mup, standard parametrisation": ("mup-tanh", {"algorithm.steps": 4, "student.parametrization": "sp"}, 36),
    "giant-step": ("giant-step-mixture", {"grid.sample_ratio": [0.5, 2.0]}, 36),
    "two-layer-linear": ("implicit-bias", {"grid.time": [0.5, 2.0]}, 4),
    "hierarchical-flow": ("hierarchical-flow", {"grid.time": [0.0, 1.0, 2.0]}, 36),
    "hierarchical-learners": (
        "hierarchical-learners",
        {
            "grid.kappa": [1.5], "algorithm.steps": [8, 12], "algorithm.second_width": 16,
            "algorithm.recipes": ["paper"], "algorithm.networks": ["layerwise", "joint", "two-layer"],
        },
        16,
    ),
    "hierarchical-layerwise": (
        "hierarchical-layerwise", {"grid.first_ratio": [1.0, 2.0], "grid.second_ratio": [1.0]}, 36,
    ),
    "hierarchical-branches": (
        "hierarchical-branches", {"grid.first_ratio": [2.0], "grid.second_ratio": [1.0]}, 36,
    ),
    "hierarchical-tree": ("hierarchical-tree", {"grid.kappa": [1.3]}, 64),
    "hierarchical-plateaus": ("hierarchical-plateaus", {"grid.kappa": [1.0, 1.5]}, 64),
    "ntk-ridge": ("triple-descent", {"grid.width_ratio": [0.3, 2.0]}, 60),
}  # fmt: skip
DTYPES = ("float64", "float32")
LEAST = 8
LEVEL = 1e-3  # of the two-sample tests of one case, over all its entries


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def register() -> None:
    """Make theories and experiments known by the entry points of pyproject.toml, where they are not installed."""
    from dimladder import registry

    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for group, table in document["project"]["entry-points"].items():
        kind = group.removeprefix("dimladder.")
        if kind not in ("theories", "experiments"):
            continue
        for name, place in table.items():
            if name not in registry.names(kind):  # type: ignore[arg-type]
                module, _, attribute = place.partition(":")
                registry.register(kind, getattr(importlib.import_module(module), attribute))  # type: ignore[arg-type]


class Report:
    """What is known so far, rewritten after every part."""

    def __init__(self, out: Path, facts: dict[str, str]) -> None:
        self.out, self.facts = out, facts
        self.cases: list[dict[str, Any]] = []
        self.rates: list[dict[str, Any]] = []
        self.peaks: dict[str, float] = {}
        out.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """Write Markdown and JSON."""
        content = {"facts": self.facts, "peaks": self.peaks, "cases": self.cases, "rates": self.rates}
        (self.out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (self.out / "gpu.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Return the page."""
        from dimladder_validation.report import markdown_table

        facts = "; ".join(f"{k} {v}" for k, v in self.facts.items())
        lines = ["# Experiments on an accelerator", "", f"Made by `docs/benchmarks/gpu.py` on {facts}.", ""]
        lines += ["## The same law as on the CPU", ""]
        lines += [
            "Independent replicas on the CPU (NumPy, float64) and on the device; two-sample Student tests of all",
            f"entries, in standard errors of the difference, at a joint level of {LEVEL:g} a case (Bonferroni).",
            "",
        ]
        rows = []
        for case in self.cases:
            if "error" in case:
                rows.append([case["run"], case["dtype"], "-", "-", "-", "-", "-", f"failed: {case['error']}"])
                continue
            rows.append([
                case["run"], case["dtype"], str(case["size"]), f"{case['replicas_cpu']} / {case['replicas']}",
                str(case["entries"]), f"{case['max_z']:.2f} of {case['allowed']:.2f}",
                f"{1e3 * case['seconds_cpu']:.3g} / {1e3 * case['seconds']:.3g}", "yes" if case["same"] else "NO",
            ])  # fmt: skip
        header = [
            "run",
            "dtype",
            "size",
            "replicas CPU / device",
            "entries",
            "max z",
            "ms a replica CPU / device",
            "same",
        ]
        lines += [markdown_table(header, rows), "## Throughput", ""]
        peaks = ", ".join(f"{k} {v:.3g}" for k, v in self.peaks.items())
        lines += [
            f"Measured peaks of the device: {peaks or 'none yet'}. Fractions are of the bandwidth of copies: the",
            "numbers that the algorithm must read and write, over the time of the whole run, draws included.",
            "",
        ]
        rows = [
            [
                r["what"],
                r["dtype"],
                r["shape"],
                str(r["replicas"]),
                f"{r['rate']:.3g}",
                f"{r['fraction']:.2g} of {r['of']}" if r["fraction"] else "-",
            ]
            for r in self.rates
        ]
        lines.append(markdown_table(["algorithm", "dtype", "shape", "replicas", "steps x replicas / s", "peak"], rows))
        return "\n".join(lines)


def cases() -> list[tuple[str, Any, int]]:
    """Return name, problem and size of every case."""
    import dimladder as dl

    return [(name, dl.load(RUNS / f"{run}.toml", changes), size) for name, (run, changes, size) in CASES.items()]


def drawn(problem: Any, size: int, device: str, dtype: str, seed: int, seconds: float) -> tuple[Any, float]:
    """Return as many replicas as fit into the time, at least `LEAST`, and the seconds that one takes.

    The first ones, which compile, are not timed.
    """
    from dimladder_validation import replicate

    options: dict[str, Any] = {"d": size, "device": device, "dtype": dtype}
    replicate(problem, replicas=2, seed=seed + 1, **options)
    start = time.perf_counter()
    few = replicate(problem, replicas=LEAST, seed=seed + 2, **options)
    took = time.perf_counter() - start
    count = int(min(400, (seconds - took) * LEAST / max(took, 1e-6)))
    if count <= LEAST:
        return few, took / LEAST
    start = time.perf_counter()
    many = replicate(problem, replicas=count, seed=seed, **options)
    return many, (time.perf_counter() - start) / count


def compared(here: Any, there: Any, dtype: str) -> dict[str, Any]:
    """Return the two-sample statistics of all entries of two ensembles at one size."""
    z, freedom = [], 1e9
    largest = max(float(np.nanmax(np.abs(v[1][0]), initial=0.0)) for v in here.variables.values())
    for name, (_, values, _) in here.variables.items():
        a, b = values[0], there.variables[name][1][0]
        # The smallest eigenvalues carry the rounding of the largest numbers.
        rounding = (1e-4 if dtype == "float32" else 1e-9) * max(float(np.nanmax(np.abs(a), initial=0.0)), largest / 50)
        gap = a.mean(axis=0) - b.mean(axis=0)
        se = np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
        z.append(np.where(np.abs(gap) <= rounding, 0.0, gap / np.maximum(se, 1e-300)).ravel())
        freedom = min(freedom, len(a) - 1, len(b) - 1)
    joined = np.concatenate(z)
    joined = joined[np.isfinite(joined)]
    allowed = float(student_t.isf(LEVEL / 2 / max(joined.size, 1), freedom))
    worst = float(np.abs(joined).max(initial=0.0))
    return {"entries": int(joined.size), "max_z": worst, "allowed": allowed, "same": worst <= allowed}


def late(number: int, frame: Any) -> None:
    """End what takes several times its share."""
    raise TimeoutError("took several times its share of the time")


def laws(report: Report, device: str, seconds: float) -> None:
    """Compare every experiment with the CPU."""
    signal.signal(signal.SIGALRM, late)
    todo = cases()
    deadline = time.perf_counter() + seconds
    for place, (name, problem, size) in enumerate(todo):
        share = (deadline - time.perf_counter()) / (len(todo) - place)
        if share < 1.0:
            say(f"no time is left for {name} and what follows")
            break
        signal.alarm(math.ceil(max(15.0, 3 * share)))
        try:
            here, each_here = drawn(problem, size, "cpu", "float64", 1000, share / 3)
        except Exception as error:
            say(f"{name} on the CPU: {error}")
            report.cases.append({"run": name, "dtype": "float64", "error": f"on the CPU: {error}"[:120]})
            report.write()
            continue
        finally:
            signal.alarm(0)
        for dtype in DTYPES:
            row: dict[str, Any] = {"run": name, "dtype": dtype, "size": size}
            signal.alarm(math.ceil(max(15.0, 3 * share)))
            try:
                there, each = drawn(problem, size, device, dtype, 2000, share / 3)
                row |= compared(here, there, dtype)
                row |= {"seconds_cpu": each_here, "seconds": each}
                row |= {
                    f"replicas{k}": len(next(iter(e.variables.values()))[1][0])
                    for k, e in (("_cpu", here), ("", there))
                }
                say(f"{name} {dtype}: max z {row['max_z']:.2f} of {row['allowed']:.2f}, {1e3 * each:.3g} ms a replica")
            except Exception as error:
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
            finally:
                signal.alarm(0)
            report.cases.append(row)
            report.write()


def timed(action: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Return the best of some timings, the device waited for; the first run is a warm-up."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    best = math.inf
    for repeat in range(repeats + 1):
        wait()
        start = time.perf_counter()
        action()
        wait()
        best = min(best, time.perf_counter() - start) if repeat else math.inf
    return best


def peaks(report: Report, device: str, seconds: float) -> None:
    """Measure the bandwidth of copies, and the rate of matrix products, in both precisions."""
    import torch

    where = "cpu" if device == "torch" else device
    small = where == "cpu"
    a = torch.empty(1 << (22 if small else 28), dtype=torch.float32, device=where)
    b = torch.empty_like(a)
    report.peaks["bytes/s"] = 2 * a.nbytes / timed(lambda: b.copy_(a), device)
    n = 512 if small else 8192
    for dtype in DTYPES:
        x = torch.randn(n, n, dtype=getattr(torch, dtype), device=where)
        report.peaks[f"{dtype} flop/s"] = 2 * n**3 / timed(lambda x=x: x @ x, device)
    say(", ".join(f"{k} {v:.3g}" for k, v in report.peaks.items()))
    report.write()


def throughput(report: Report, device: str, seconds: float) -> None:
    """Time one-pass SGD on weights, and then every other way of moving weights, at sizes that fill the device."""
    from simulation_throughput import problem

    from dimladder_validation.simulate import backend_for, streams
    from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array

    deadline = time.perf_counter() + seconds
    small = device == "torch"
    width = teachers = 4
    what = problem(width, teachers)
    d, steps = 784, 40 if small else 2000
    for replicas, graphs in ((16, True),) if small else ((16, True), (1024, False), (1024, True), (4096, True)):
        for dtype in DTYPES:
            if time.perf_counter() > deadline:
                say("no time is left for more throughput")
                return
            backend = dataclasses.replace(backend_for(device, dtype), graphs=graphs)
            size = 4 if dtype == "float32" else 8

            def run(backend: Any = backend, replicas: int = replicas) -> None:
                chain = streams(0, "benchmark", "gpu", d, 0, replicas)
                weight_sgd_array(what, np.array([steps / d]), d, chain, backend)

            try:
                took = timed(run, device, repeats=1)
            except Exception as error:
                say(f"weight SGD, {replicas} replicas, {dtype}: {error}")
                continue
            how = "" if graphs else ", launched step by step"
            rate = steps * replicas / took
            # Inputs written and read three times; students read twice and written; teachers read; a step and a replica.
            numbers = (4 + 3 * width + teachers) * d
            report.rates.append({
                "what": "one-pass SGD on weights", "dtype": dtype, "shape": f"d = {d}, K = M = {width}, batch 1{how}",
                "replicas": replicas, "rate": rate, "fraction": rate * numbers * size / report.peaks["bytes/s"],
                "of": "bandwidth",
            })  # fmt: skip
            say(f"weight SGD, {replicas} replicas, {dtype}{how}: {rate:.3g} steps x replicas a second")
            report.write()
    trained(report, device, deadline)


@dataclasses.dataclass(frozen=True)
class Load:
    """A run that fills the device, and what one step of one replica has to do there.

    Attributes
    ----------
    what, run : str
    changes : dict
    size, replicas : int
    steps : int
    work : float
        Numbers read and written, or multiplications and additions.
    of : {"bandwidth", "flops"}
    """

    what: str
    run: str
    changes: dict[str, Any]
    size: int
    replicas: int
    steps: int
    work: float
    of: str


def loads() -> list[Load]:
    """Return the runs, each a bound that the algorithm itself sets: what it must move, or multiply."""
    found = []
    for width, replicas in ((1024, 64), (4096, 8), (8192, 4)):
        # Hidden weights: read forwards and backwards, read and written in the update; their gradient written, read.
        moved = 6 * width**2
        changes = {"algorithm.steps": 4}
        found.append(Load("gradient descent, muP", "mup-tanh", changes, width, replicas, 4, moved, "bandwidth"))
    d, n = 1000, 3000
    changes = {"simulation.method": "dense", "algorithm.steps": 40, "algorithm.batch_fraction": 1.0}
    # The inputs are read for the fields before and after the update, and for the gradient.
    found.append(
        Load("many passes over a data set", "multi-pass-committee", changes, d, 64, 40, 3 * n * d, "bandwidth")
    )
    d, p2, n = 64, 600, 64**2
    p1, batch, steps = int(n**0.9), int(0.7 * n), 60
    changes = {
        "grid.kappa": [2.0], "algorithm.steps": [8, steps], "algorithm.recipes": ["paper"], "limit.d": d,
        "algorithm.second_width": p2, "algorithm.networks": ["joint"], "algorithm.records": 2,
    }  # fmt: skip
    # Forwards, and backwards twice; what the other learners of the run take is in its time.
    work = 6 * batch * p1 * (d + p2)
    found.append(Load("three layers, all together", "hierarchical-learners", changes, d, 16, steps, work, "flops"))
    d, width, batch = 100, 1000, 4000
    changes = {"grid.time": [0.0, 2.0], "simulation.width": width, "simulation.batch": batch}
    changes |= {"student.particles": 20, "simulation.learning_rate": 0.05}
    found.append(Load("batch SGD, hypercube", "staircase", changes, d, 32, 40, 4 * batch * width * d, "flops"))
    n = 800
    changes = {"grid.sample_ratio": [1.0]}
    # Gradient; features of sample and test points; the Gram matrices of two readouts, and their solution.
    work = 4 * n**3 + 2 * (n + 4000) * n**2 + 2 * (2 * n**3 + 2 * n**3 / 3)
    found.append(Load("one giant step and two readouts", "giant-step-mixture", changes, n, 16, 1, work, "flops"))
    changes = {"grid.time": [1.0, 10.0]}
    found.append(Load("gradient flow, linear network", "implicit-bias", changes, 256, 256, 0, 0.0, "bandwidth"))
    return found


def trained(report: Report, device: str, deadline: float) -> None:
    """Time every other way of moving weights."""
    import dimladder as dl
    from dimladder_validation import replicate

    small = device == "torch"
    for load in loads():
        size, replicas = (min(load.size, 25), 2) if small else (load.size, load.replicas)
        changes = dict(load.changes)
        if small and "limit.d" in changes:
            changes |= {"limit.d": size, "algorithm.second_width": 8}
        for dtype in DTYPES:
            if time.perf_counter() > deadline:
                say("no time is left for more throughput")
                return
            try:
                problem = dl.load(RUNS / f"{load.run}.toml", changes)
                options = {"d": size, "replicas": replicas, "device": device, "dtype": dtype}
                took = timed(lambda p=problem, o=options: replicate(p, **o), device, repeats=1)
            except Exception as error:
                say(f"{load.what}, {size}, {dtype}: {str(error).splitlines()[0]}")
                continue
            rate = max(load.steps, 1) * replicas / took
            bytes_of = 4 if dtype == "float32" else 8
            peak = report.peaks["bytes/s"] / bytes_of if load.of == "bandwidth" else report.peaks[f"{dtype} flop/s"]
            report.rates.append({
                "what": load.what, "dtype": dtype, "shape": f"{load.run} at {size}", "replicas": replicas, "rate": rate,
                "fraction": 0.0 if small else rate * load.work / peak, "of": load.of,
            })  # fmt: skip
            say(f"{load.what}, {size}, {dtype}: {rate:.3g} steps x replicas a second, {load.of}")
            report.write()


def facts(device: str) -> dict[str, str]:
    """Return what the numbers depend on."""
    import scipy
    import torch

    name = torch.cuda.get_device_name(0) if device.startswith("cuda") else f"the CPU ({platform.machine()})"
    return {
        "device": name, "torch": torch.__version__, "CUDA": str(torch.version.cuda), "NumPy": np.__version__,
        "SciPy": scipy.__version__, "Python": platform.python_version(),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0, help="for all parts together (default 240)")
    args = parser.parse_args()
    start = time.perf_counter()
    if args.device == "torch":
        import torch

        torch.set_num_threads(1)  # the tensors are small
    register()
    report = Report(args.out, facts(args.device))
    say("; ".join(f"{k} {v}" for k, v in report.facts.items()))
    for part, share in ((peaks, 0.05), (throughput, 0.3), (laws, 1.0)):
        try:
            part(report, args.device, share * (args.seconds - (time.perf_counter() - start)))
        except Exception:  # what the other parts find is kept
            traceback.print_exc()
        report.write()
    wrong = [c for c in report.cases if not c.get("same")]
    say(f"{len(report.cases) - len(wrong)} of {len(report.cases)} cases have the law of the CPU; {args.out / 'gpu.md'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
