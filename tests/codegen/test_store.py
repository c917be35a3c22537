"""Generated code: printed once, found again by another process, right where it matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from dimladder import cache
from dimladder.symbolic import store
from dimladder.symbolic.printing import flow_module
from dimladder.symbolic.systems import Equations

x, y, a = sp.symbols("x y a", real=True)


def source() -> str:
    system = Equations(
        {x: a * x * (1 - x) + sp.erf(y), y: -sp.Rational(1, 3) * y * sp.Heaviside(x, 0) + sp.tanh(x * y)},
        (a,),
        {"norm": x**2 + y**2},
    )
    return flow_module(system, "test")


def test_generated_code_is_the_printed_equations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    module = store.module(("values", 1), source)
    state, p = np.array([0.3, -0.7]), np.array([1.7])
    dy, jacobian = np.zeros(2), np.zeros((2, 2))
    module.rhs(0.0, state, dy, p, np.zeros(0))
    exact = [1.7 * 0.3 * 0.7 + float(sp.erf(-0.7)), 0.7 / 3 + float(sp.tanh(-0.21))]
    np.testing.assert_allclose(dy, exact, rtol=1e-14)
    module.jac(0.0, state, jacobian, p, np.zeros(0))
    for j in range(2):
        h, plus, minus = 1e-6, np.zeros(2), np.zeros(2)
        step = h * np.eye(2)[j]
        module.rhs(0.0, state + step, plus, p, np.zeros(0))
        module.rhs(0.0, state - step, minus, p, np.zeros(0))
        np.testing.assert_allclose(jacobian[:, j], (plus - minus) / (2 * h), rtol=1e-8)
    seen = np.empty(1)
    module.observe(0.0, state, p, seen)
    assert seen[0] == pytest.approx(0.58)


def test_one_derivation_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    store.module(("shared",), source)
    assert store.module(("shared",), lambda: pytest.fail("derived again")).rhs is not None
    script = (
        "from dimladder.symbolic import store\n"
        "def build(): raise SystemExit('derived again')\n"
        "build.__module__ = 'test_store'\n"
        "store.code_version.cache_clear()\n"
        "import sys, types; sys.modules['test_store'] = types.ModuleType('test_store')\n"
        f"sys.modules['test_store'].__file__ = {__file__!r}\n"
        "module = store.module(('shared',), build)\n"
        "assert 'sympy' not in sys.modules\n"
        "assert sum(module.rhs.stats.cache_hits.values()) == 1, module.rhs.stats\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def test_an_unwritable_cache_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("DIMLADDER_CACHE", str(blocked))
    assert store.module(("unwritable",), source).OBSERVABLES == ("norm",)


def files(folder: Path, *endings: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in endings]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_damaged_files_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))

    def answer() -> float:
        monkeypatch.setattr(store, "_MODULES", {})
        dy = np.zeros(2)
        store.module(("damage", damage), source).rhs(0.0, np.array([0.3, -0.7]), dy, np.array([1.7]), np.zeros(0))
        return float(dy[1])

    right = answer()
    whole = {p: p.read_bytes() for p in files(tmp_path, ".py", ".nbi", ".nbc")}
    assert {p.suffix for p in whole} == {".py", ".nbi", ".nbc"}
    for suffix in (".py", ".nbi", ".nbc"):
        for path in files(tmp_path, suffix):
            content = whole[path]
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            path.write_bytes({"empty": b"", "cut": content[:middle], "flipped": flipped}[damage])
        caplog.clear()
        assert answer() == right
        assert "derived again" in caplog.text if suffix == ".py" else "compiled again" in caplog.text
        caplog.clear()
        assert answer() == right
        assert caplog.text == ""


def test_code_that_others_may_write_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert cache.folder("generated").parent == cache.scratch()
    assert "everybody may write it" in caplog.text
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path / "own"))
    caplog.clear()
    store.module(("distrust",), source)
    assert cache.folder("generated") == tmp_path / "own" / "generated"
    (file,) = files(tmp_path / "own" / "generated", ".py")
    file.chmod(0o666)
    monkeypatch.setattr(store, "_MODULES", {})
    store.module(("distrust",), source)
    assert "everybody may write it" in caplog.text
    assert cache.distrusted(file) == ""


def test_compiled_code_of_the_library_lies_in_the_cache_or_in_a_folder_of_the_process(tmp_path: Path) -> None:
    script = (
        "from dimladder.numerics import basics\n"
        "from dimladder import cache\n"
        "print(basics.pdf.by_numba(0.0), basics.pdf.of_numbers(0.0), cache.folder('compiled'))\n"
    )
    for chosen, inside in ((tmp_path / "new", True), (Path(os.devnull) / "no", False)):
        environment = {**os.environ, "DIMLADDER_CACHE": str(chosen), "HOME": str(Path(os.devnull) / "no")}
        child = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
        )
        assert child.returncode == 0, child.stderr
        assert (str(chosen) in child.stdout) is inside
        assert "0.398" in child.stdout
        assert any(tmp_path.rglob("*.nbi"))
        assert any(tmp_path.rglob("native_*.o"))


def test_compiled_code_of_a_kernel_belongs_to_its_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dimladder.numerics import jit

    kernel, neighbour = tmp_path / "kernel.py", tmp_path / "neighbour.py"
    kernel.write_text("")
    neighbour.write_text("a = 1")
    monkeypatch.setattr(jit, "_ROOTS", (str(tmp_path),))

    def stamp() -> str:
        jit._sources.cache_clear()
        return str(jit.Locator(stamp, str(kernel)).get_source_stamp())

    before = stamp()
    assert stamp() == before
    neighbour.write_text("a = 2")
    assert stamp() != before
