"""What is packaged, what is imported, and what must not be in the repository."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

HEAVY = ("sympy", "numba", "scipy", "matplotlib", "xarray", "torch", "h5netcdf", "jinja2")
GROUPS = ("dimladder.theories", "dimladder.experiments", "dimladder.verbs")


def _setup(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg")
    return parser


def _pyproject(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


def _packages_on_disk(root: Path) -> set[str]:
    found = set()
    for top, name in (("theory", "dimladder"), ("validation", "dimladder_validation")):
        for init in (root / top / name).rglob("__init__.py"):
            found.add(".".join(init.parent.relative_to(root / top).parts))
    return found


def test_package_list_is_complete(root: Path) -> None:
    listed = set(_setup(root)["options"]["packages"].split())
    # The run files of the gallery are data of a package without code.
    assert listed == {*_packages_on_disk(root), "dimladder.runs"}


def test_every_data_file_matches_a_pattern(root: Path) -> None:
    patterns = {
        package: [p for p in re.split(r"[,\s]+", text) if p]
        for package, text in _setup(root)["options.package_data"].items()
    }
    packages = _packages_on_disk(root)
    missing = []
    for top, name in (("theory", "dimladder"), ("validation", "dimladder_validation")):
        for path in (root / top / name).rglob("*"):
            if (
                path.suffix not in (".bib", ".tex", ".mplstyle", ".toml", ".typed", ".json", ".csv", ".npz")
                and path.name != "py.typed"
            ):
                continue
            home = path.parent
            while ".".join(home.relative_to(root / top).parts) not in packages:
                home = home.parent
            package = ".".join(home.relative_to(root / top).parts)
            inside = path.relative_to(home)
            if not any(inside.match(p) for p in patterns.get(package, [])):
                missing.append(str(path.relative_to(root)))
    assert not missing


def test_no_setting_stands_in_both_files(root: Path) -> None:
    setup = _setup(root)
    assert set(setup.sections()) == {"options", "options.package_data"}
    assert set(setup["options"]) == {"package_dir", "packages"}
    pyproject = _pyproject(root)
    assert "setuptools" not in pyproject["tool"]
    assert not {"packages", "package-dir", "package-data"} & set(pyproject["project"])
    assert not (root / "setup.py").exists()


@pytest.mark.parametrize("group", GROUPS)
def test_declared_entry_points_are_installed(root: Path, group: str) -> None:
    declared = _pyproject(root)["project"]["entry-points"][group]
    installed = {e.name: e.value for e in entry_points(group=group) if (e.dist is None or e.dist.name == "dimladder")}
    assert installed == declared, "reinstall the package: pip install -e ."


@pytest.mark.parametrize(
    ("group", "name"), [(g, e.name) for g in GROUPS for e in sorted(entry_points(group=g), key=lambda e: e.name)]
)
def test_entry_point_loads(group: str, name: str) -> None:
    (entry,) = {e for e in entry_points(group=group) if e.name == name}
    loaded = entry.load()
    known = {"dimladder.theories": "name", "dimladder.experiments": "theory", "dimladder.verbs": "name"}
    assert getattr(loaded, known[group]) == name


def test_the_version_is_written_once_and_repeated_truly(root: Path) -> None:
    import dimladder

    release = _pyproject(root)["project"]["version"]
    assert dimladder.__version__ == release
    assert f"version: {release}" in (root / "CITATION.cff").read_text()
    assert f"## {release}" in (root / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "module", ["dimladder", "dimladder.cli", "dimladder.problem", "dimladder.paper", "dimladder_validation"]
)
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []


def test_help_imports_nothing_heavy() -> None:
    found = f"[m for m in {HEAVY!r} if m in sys.modules]"
    code = f"import sys; from dimladder.cli import main; main(['--help']); print(*{found}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "solve" in done.stdout


@pytest.mark.parametrize(("given", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "None")])
def test_the_command_gives_blas_one_thread_unless_told_otherwise(given: dict[str, str], threads: str) -> None:
    code = "import os; from dimladder.cli import main; main(['list']); print(os.environ.get('OPENBLAS_NUM_THREADS'))"
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split()[-1] == threads


def test_theory_cards_need_no_algebra() -> None:
    code = (
        "import sys; from dimladder import theories; [theories.find(n) for n in theories.names()];"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []


def test_everything_but_the_gpu_works_without_torch(runs: Path, tmp_path: Path) -> None:
    # None in sys.modules makes "import torch" raise ImportError, whether or not torch is installed.
    code = f"""
import sys
sys.modules["torch"] = None
import dimladder as dl
from dimladder_validation import simulate
problem = dl.load({str(runs / "truncation-flow.toml")!r})
curve = dl.solve(problem)
measured = simulate(problem, d=[100], replicas=4)
assert curve.status == "success" and set(measured["threshold"].dims) == {{"samples", "time"}}
dl.export([curve, measured], {str(tmp_path)!r}, ["pdf", "csv", "pgf", "tex", "macros", "bib"])
from dimladder.errors import SimulationError
try:
    simulate(problem, d=[100], replicas=2, device="cuda")
except SimulationError as error:
    assert "torch" in str(error)
else:
    raise AssertionError("a GPU without torch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.pdf").stat().st_size > 1000


# Written in pieces, so that this file does not match itself.
FOREIGN = [
    "/" + "work/", "/" + "tmp/", "/" + "root/", "/" + "home/", "pypi" + ".org/simple", "files.python" + "hosted",
    "index" + "-url", "extra-index" + "-url", "no_" + "proxy", "http_" + "proxy",
]  # fmt: skip


def _tracked(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [root / line for line in listed.stdout.splitlines() if (root / line).is_file()]


def test_no_machine_path_or_package_host_in_any_file(root: Path) -> None:
    found = []
    for path in _tracked(root):
        if path.suffix in (".png", ".nc", ".npz", ".pdf"):
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(root)}: {word}" for word in FOREIGN if word in text]
    assert not found


def test_top_level_is_the_agreed_one(root: Path) -> None:
    names = {p.relative_to(root).parts[0] for p in _tracked(root)}
    allowed = {
        "setup.cfg", "pyproject.toml", "theory", "validation", "tests", "docs", "README.md", "LICENSE", "CITATION.cff",
        "CHANGELOG.md", "CONTRIBUTING.md", ".ci", ".gitignore",
    }  # fmt: skip
    assert names <= allowed


def test_committed_figures_are_small(root: Path) -> None:
    large = [p.name for p in _tracked(root) if p.suffix == ".png" and p.stat().st_size > 200_000]
    assert not large


def test_no_modules_import_each_other_in_a_circle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grimp = pytest.importorskip("grimp")
    monkeypatch.syspath_prepend(root / "theory")
    monkeypatch.syspath_prepend(root / "validation")
    graph = grimp.build_graph("dimladder", "dimladder_validation", cache_dir=None, exclude_type_checking_imports=True)
    below = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    # Take away what imports nothing that is left; what stays imports itself in the end.
    while free := [m for m, imported in below.items() if not imported & below.keys()]:
        for m in free:
            del below[m]
    assert not below, f"modules in circles, or above one: {sorted(below)}"


@pytest.mark.slow
def test_wheel_holds_code_data_and_nothing_else(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("build")
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("the build backend needs setuptools 77")
    import shutil

    # From a copy, so that building leaves nothing in the checkout.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    for name in ("theory", "validation"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    runs = root / "docs" / "gallery" / "runs"
    shutil.copytree(runs, source / "docs" / "gallery" / "runs")
    # The backend of this environment: no network is needed.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "dimladder/py.typed", "dimladder_validation/py.typed", "dimladder/theories/references.bib",
        "dimladder/paper/templates/figure.tex", "dimladder/paper/templates/base.mplstyle",
    ):  # fmt: skip
        assert needed in names
    modules = {
        str(p.relative_to(source / top)) for top in ("theory", "validation") for p in (source / top).rglob("*.py")
    }
    assert modules <= names
    assert {f"dimladder/runs/{path.name}" for path in runs.glob("*.toml")} <= names
    assert {n.split("/")[0].split("-")[0] for n in names} == {"dimladder", "dimladder_validation"}


def test_every_kernel_is_compiled_into_the_cache_of_the_library(root: Path) -> None:
    # numba's own decorators put compiled code beside the source, which may be read-only, and trust damaged files.
    plain = re.compile(r"^(from numba import .*\b(njit|jit|vectorize)\b|import numba$)", re.MULTILINE)
    allowed = {"theory/dimladder/numerics/jit.py", "theory/dimladder/symbolic/printing.py"}
    found = [
        str(path.relative_to(root))
        for top in ("theory", "validation")
        for path in (root / top).rglob("*.py")
        if plain.search(path.read_text(encoding="utf-8"))
    ]
    unlocated = [name for name in set(found) - allowed if "jit import" not in (root / name).read_text(encoding="utf-8")]
    assert not unlocated, "import njit from dimladder.numerics.jit"
