"""One language: kinds by section, what theories read, refusals, choosing, and problems stated in Python."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

import dimladder as dl
from dimladder import registry
from dimladder.choose import candidates
from dimladder.cli import main
from dimladder.problem import KINDS, SECTIONS, Problem, Spec, kind_of, state, with_kinds
from dimladder.problem.data import Gaussian, Mixture, Spectrum
from dimladder.problem.grids import Grid, OdeSolver
from dimladder.problem.kinds import ABSENT, VARIANTS
from dimladder.problem.losses import LOSSES, VECTOR_LOSSES, Loss, LossFunction, loss_function
from dimladder.problem.students import TwoLayer
from dimladder.problem.targets import Committee, Index, power_shares
from dimladder.theories import Refusal, Theory
from run_files import TWO_LAYER_LINEAR


class Toy(Theory):
    """Reads one algorithm of two, and one key of it."""

    name = "toy"
    title = "A toy"
    summary = "It derives nothing."
    reads: ClassVar[dict[str, Any]] = {
        "target": {"index": "formula", "committee": "*"},
        "student": {"linear": "", None: ""},
        "loss": "function",
        "algorithm": {"one-pass": "learning_rate"},
    }
    axes = ("time",)
    solver = OdeSolver(rtol=1e-9)

    def checks(self, problem: Any) -> Any:
        if problem.algorithm.learning_rate > 1:
            yield Refusal("algorithm.learning_rate", "at most 1", "take less")

    def derive(self, problem: Any) -> Any:
        raise NotImplementedError


DOCUMENT: dict[str, Any] = {
    "target": {"kind": "index", "formula": "z"},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
    "grid": {"time": [0.0, 1.0]},
}


def asked(**changes: Any) -> list[str]:
    """Return the key paths that the toy refuses of the changed document."""
    document = {k: v for k, v in {**DOCUMENT, **changes}.items() if v is not None}
    return [refusal.path for refusal in Toy().refusals(state(document, Toy()))]


def test_the_table_is_sound() -> None:
    assert set(KINDS) == set(SECTIONS) - {"solver", "simulation"}
    for section, kinds in KINDS.items():
        for name, kind in kinds.items():
            assert kind_of(kind) == name
            assert kind.__doc__, name
            fields = {f.name: f for f in msgspec.structs.fields(kind)}
            assert "kind" not in fields, f"{section}.{name}: kind is the tag"
            if "/" in name:
                assert VARIANTS[name.partition("/")[0]] in fields
    for section, spec in ABSENT.items():
        assert kind_of(spec) in KINDS[section]


def test_what_is_read_is_accepted() -> None:
    assert asked() == []
    assert asked(student={"kind": "linear"}) == []
    assert asked(data={"kind": "gaussian"}) == []
    assert asked(loss={"function": "logistic", "penalty": "l2"}) == []
    assert asked(target={"kind": "committee", "readout": [1.0], "noise": 0.3}) == []


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"target": None}, ["target"]),
        ({"target": {"kind": "index", "formula": "z", "noise": 0.1, "flip": 0.1}}, ["target.noise", "target.flip"]),
        ({"target": {"kind": "cluster-labels"}}, ["target.kind"]),
        ({"student": {"kind": "linear", "bias": True}}, ["student.bias"]),
        ({"student": {"kind": "two-layer"}}, ["student.kind"]),
        ({"data": {"sample_ratio": 2.0}}, ["data.kind"]),
        ({"data": {"kind": "hypercube"}}, ["data.kind"]),
        ({"loss": {"ridge": 0.1}}, ["loss.ridge"]),
        ({"algorithm": {"kind": "one-pass", "learning_rate": 0.5, "batch_size": 2}}, ["algorithm.batch_size"]),
        ({"algorithm": {"kind": "minimise"}}, ["algorithm.kind"]),
        ({"initial": {"Q": [[1.0]]}}, ["initial.kind"]),
        ({"limit": {"d": 10}}, ["limit"]),
        ({"grid": {}}, ["grid.time"]),
        ({"grid": {"time": [0.0], "depth": [1]}}, ["grid.depth"]),
        # Its own checks are asked of what it reads only.
        ({"algorithm": {"kind": "one-pass", "learning_rate": 2.0}}, ["algorithm.learning_rate"]),
    ],
)
def test_what_is_not_read_is_refused_with_its_key(changes: dict[str, Any], paths: list[str]) -> None:
    assert asked(**changes) == paths


def test_an_absent_section_is_its_default_and_nothing_else() -> None:
    short = dl.loads(TWO_LAYER_LINEAR)
    written = dl.loads(TWO_LAYER_LINEAR, {"loss.function": "square", "data.kind": "gaussian", "data.seed": 0})
    assert short == written
    assert short.content_hash == written.content_hash
    assert dl.loads(short.to_toml()) == short


def test_a_file_with_and_without_its_theory_is_the_same_problem() -> None:
    named = dl.loads(TWO_LAYER_LINEAR, {"theory": "two-layer-linear"})
    assert named == dl.loads(TWO_LAYER_LINEAR)
    assert named.content_hash == dl.loads(TWO_LAYER_LINEAR).content_hash
    assert 'theory = "two-layer-linear"' in dl.loads(TWO_LAYER_LINEAR).to_toml()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"schema": 1}, ["schema 2", "docs/reference/language.md"]),
        ({"tarjet": 1}, ["tarjet", "did you mean 'target'"]),
        ({"data": 3}, ["data", "table"]),
        ({"student.kind": "depp"}, ["student.kind", "did you mean 'deep'"]),
        ({"target": {"formula": "z"}}, ["target.kind", "required", "committee"]),
        ({"data": {"kind": "points", "samples": 3}}, ["data.source", "required", "cosine"]),
        ({"data": {"kind": "points", "source": "cosin"}}, ["data.source", "did you mean 'cosine'"]),
        ({"data.smaples": 3}, ["data.smaples", "did you mean 'samples'"]),
        ({"target.formula": "tnah(z)"}, ["target.formula", "tanh"]),
        ({"solver": {"rtoll": 1e-3}}, ["solver.rtoll", "rtol"]),
        ({"solver.rtol": 2.0}, ["solver.rtol", "[1e-15, 1)"]),
        ({"simulation": {"size": [10]}}, ["simulation.size", "did you mean 'sizes'"]),
        ({"loss.function": "sqare"}, ["loss.function", "did you mean 'square'"]),
        ({"theory": "two-layer-liner"}, ["did you mean 'two-layer-linear'"]),
        ({"theory": "./nowhere.py"}, ["nowhere.py", "cannot be read"]),
        ({"theory": "two-layer-linear", "student.richness": 2.0}, ["student.richness", "not read", "which"]),
    ],
)
def test_a_mistake_says_where_and_what_to_do(overrides: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(dl.ConfigError) as caught:
        dl.loads(TWO_LAYER_LINEAR, overrides, "run.toml")
    for word in words:
        assert word in str(caught.value)


def test_a_question_that_nobody_answers_lists_the_nearest() -> None:
    with pytest.raises(dl.ConfigError, match="no theory answers") as caught:
        dl.loads(TWO_LAYER_LINEAR, {"student.richness": 2.0, "student.initial_norm": 0.3})
    assert "two-layer-linear" in str(caught.value)
    assert "student.richness" in str(caught.value)


def test_which_says_who_answers_and_why_others_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.toml"
    run.write_text(TWO_LAYER_LINEAR)
    assert main(["which", str(run)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == ["two-layer-linear", "answers"]
    assert main(["which", str(run), "--set", "student.richness=2", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["chosen"] is None
    assert answer["theories"]["two-layer-linear"]["refusals"][0]["path"] == "student.richness"


def test_a_theory_that_cannot_be_loaded_is_one_refusal_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ruined_theory.py").write_text("raise RuntimeError('half installed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = registry._entries("theories")
    missing = EntryPoint("missing", "no_such_module:THEORY", "dimladder.theories")
    ruined = EntryPoint("ruined", "ruined_theory:THEORY", "dimladder.theories")
    monkeypatch.setattr(
        registry,
        "_entries",
        lambda group: {**installed, "missing": missing, "ruined": ruined} if group == "theories" else {},
    )
    run = tmp_path / "run.toml"
    run.write_text(TWO_LAYER_LINEAR)
    assert main(["which", str(run)]) == 0
    *_, last = rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["two-layer-linear", "answers"]
    assert last.startswith("ruined")
    assert "cannot be loaded (RuntimeError: half installed)" in last
    assert dl.load(run).theory == "two-layer-linear"
    assert main(["list"]) == 0
    assert "No module named 'no_such_module'" in capsys.readouterr().out
    with pytest.raises(dl.DimladderError, match="reinstall"):
        dl.find_theory("missing")


def test_what_to_cite_needs_no_named_theory(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(TWO_LAYER_LINEAR)
    assert dl.cite(run) == dl.cite(dl.load(run))


def test_the_narrower_theory_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Toy):
        name = "toy-wide"
        reads: ClassVar[dict[str, Any]] = {**Toy.reads, "algorithm": {"one-pass": "*", "minimise": ""}}

    # Registered for this test only.
    monkeypatch.setattr(registry, "_given", {"theories": {}, "experiments": {}, "verbs": {}})
    registry.register("theories", Wide())
    registry.register("theories", Toy())
    ranked = [c.name for c in candidates(DOCUMENT) if c.answers]
    assert ranked[:2] == ["toy", "toy-wide"]
    batches = {**DOCUMENT, "algorithm": {**DOCUMENT["algorithm"], "batch_size": 2}}
    assert [c.name for c in candidates(batches) if c.answers][:1] == ["toy-wide"]
    with pytest.raises(dl.ConfigError, match="taken"):
        registry.register("theories", type("Thief", (Toy,), {"name": "two-layer-linear"})())


def test_a_theory_may_add_kinds_but_not_change_them() -> None:
    class Mine(Spec, frozen=True, kw_only=True, tag_field="kind", tag="mine"):
        """A kind of its own."""

        strength: float

    class Adding(Toy):
        kinds: ClassVar[dict[str, Any]] = {"algorithm": {"mine": Mine}}
        reads: ClassVar[dict[str, Any]] = {**Toy.reads, "algorithm": {"mine": "strength"}}

        def checks(self, problem: Any) -> Any:
            return ()

    document = {**DOCUMENT, "algorithm": {"kind": "mine", "strength": 2}}
    assert Adding().refusals(state(document, Adding())) == []
    with pytest.raises(dl.ConfigError, match=r"algorithm\.kind"):
        state(document, Toy())
    with pytest.raises(ValueError, match="taken"):
        with_kinds({"algorithm": {"one-pass": Mine}})


def test_problems_from_python_are_those_of_the_file() -> None:
    stated = dl.problem(
        data=Gaussian(samples=5, dimension=12),
        target={"kind": "index", "formula": "z"},
        student={"kind": "deep", "activation": "linear", "hidden_layers": np.int64(1), "initial_norm": np.float64(0.5)},
        algorithm={"kind": "gradient-flow"},
        grid={"time": np.array([0.0, 0.02, 0.2, 2.0])},
    )
    assert stated == dl.loads(TWO_LAYER_LINEAR)
    with pytest.raises(dl.ConfigError, match="did you mean 'grid'"):
        dl.problem(gird={"time": [0.0]})


def test_reprs_show_what_differs_from_the_defaults() -> None:
    assert repr(TwoLayer(width=3)) == "TwoLayer(width=3)"
    assert repr(Gaussian()) == "Gaussian()"
    shown = repr(dl.loads(TWO_LAYER_LINEAR))
    assert "theory='two-layer-linear'" in shown
    assert "Index(formula='z')" in shown
    assert "max_steps" not in shown
    assert "loss" not in shown
    assert "None" not in shown


@pytest.mark.parametrize("formula", ["z", "3*z", "0.5*z*2"])
def test_the_slope_of_a_linear_target(formula: str) -> None:
    assert Index(formula=formula).slope == pytest.approx(eval(formula, {"z": 1.0}))


@pytest.mark.parametrize(
    ("formula", "slope"), [("0*z", 0.0), ("1e-12*z", 1e-12), ("-2.5*z", -2.5), ("2*z + 1", None), ("z^2", None)]
)
def test_the_slope_of_borderline_targets(formula: str, slope: float | None) -> None:
    assert Index(formula=formula).slope == slope


def test_index_targets_say_what_is_inside() -> None:
    target = Index(formula="sign(z1*z3 + 0.5*n1)")
    assert (target.fields, target.noises, target.directions) == (("z1", "z3"), ("n1",), 3)
    assert target.slope is None
    logit = Index(formula="logit(2*z)")
    assert logit.is_logit
    assert logit.expression.text == "2*z"
    for bad in ("1", "z + z1", "z0", "x", "logit(z) + 1"):
        with pytest.raises(ValueError):
            Index(formula=bad)


def test_committee_readouts_are_rows_of_tasks() -> None:
    assert Committee(readout=(1.0, 2.0)).readouts == ((1.0, 2.0),)
    two = Committee(readout=((1.0, 0.0), (0.0, 1.0)))
    assert (two.units, two.readouts) == (2, ((1.0, 0.0), (0.0, 1.0)))
    with pytest.raises(ValueError, match="one row a task"):
        Committee(readout=(1.0, (1.0,)))


def test_spectra_are_laws_lists_or_files(tmp_path: Path) -> None:
    law = Spectrum(exponent=0.5, levels=4)
    variances, shares = law.blocks()
    assert variances @ shares == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(variances / variances[0], np.arange(1, 5) ** -1.5)
    blocks = Spectrum(variances=(2.0, 0.5), fractions=(0.25, 0.75))
    np.testing.assert_array_equal(blocks.eigenvalues(8), [2.0] * 2 + [0.5] * 6)
    single = Spectrum(variances=(9.0, 1.0), fractions=(0.0, 1.0))
    np.testing.assert_array_equal(single.eigenvalues(4), [9.0, 1.0, 1.0, 1.0])
    np.save(tmp_path / "s.npy", np.array([1.0, 3.0]))
    np.testing.assert_allclose(Spectrum(file=str(tmp_path / "s.npy")).blocks()[0], [0.5, 1.5])
    with pytest.raises(ValueError, match="whole"):
        blocks.counts(3)
    np.testing.assert_allclose(power_shares((0.2, 0.8), shares[:2]), [0.2, 0.8])
    for bad in ({"exponent": 0.5}, {"variances": (1.0,), "fractions": (0.5, 0.5)}, {}, {"fractions": (0.5, 0.4)}):
        with pytest.raises(ValueError):
            Spectrum(**bad)  # type: ignore[arg-type]


def test_mixtures_check_their_shapes() -> None:
    assert Mixture(means=((1.0, 0.0), (0.0, 1.0)), mean_overlap=((4.0, 0.0), (0.0, 4.0))).seed == 0
    for bad in (
        {"weights": (0.5, 0.4)}, {"weights": (0.2, 0.3, 0.5)}, {"means": ((1.0,),)}, {"variances": (1.0, 0.0)},
        {"spikes": ((1.0,),)}, {"alignment": 2.0}, {"sample_ratio": 1.0, "samples": 4}, {"samples": 4},
        {"dimension": 4},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Mixture(**bad)  # type: ignore[arg-type]


def test_axes_are_checked_by_name() -> None:
    assert Grid(time=(0.0, 1.0)).values("time") == (0.0, 1.0)
    assert Grid().values("time") == ()
    assert Grid(first_ratio=(1.0, math.inf)).values("first_ratio") == (1.0, math.inf)
    for bad in (
        {"time": (1.0, 0.0)},
        {"time": (-1.0,)},
        {"sample_ratio": (0.0,)},
        {"depth": ()},
        {"kappa": (math.inf,)},
    ):
        with pytest.raises(ValueError):
            Grid(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*LOSSES, "huber(y - f, 0.7)", "quantile(y - f, 0.25)", "(f - y)**4"])
def test_losses_derive_slope_curvature_and_kinks(name: str) -> None:
    loss, rng = loss_function(name), np.random.default_rng(0)
    f, y = 3 * rng.standard_normal(200), np.sign(rng.standard_normal(200))
    near = np.array([min((abs(a - k) for k in loss.kinks(b)), default=1.0) for a, b in zip(f, y, strict=True)])
    f, y = f[near > 1e-3], y[near > 1e-3]
    h = 1e-5
    up, down, here = (loss.evaluate(np, f + s, y) for s in (h, -h, 0.0))
    np.testing.assert_allclose(loss.slopes(f, y), (up - down) / (2 * h), atol=1e-7 * (1 + np.abs(f) ** 4).max())
    np.testing.assert_allclose(loss.curvatures(f, y), (up - 2 * here + down) / h**2, atol=1e-3 * (1 + f.max() ** 2))
    assert loss.convex


def test_losses_know_their_labels_and_their_convexity() -> None:
    assert [name for name in LOSSES if loss_function(name).two_valued] == ["logistic", "hinge"]
    assert loss_function("log(1 + exp(-y*f))").two_valued
    assert not loss_function("huber(y - f, 1)").two_valued
    assert not loss_function("-exp(-(f - y)**2)").convex
    assert not loss_function("tanh(-y*f)").convex
    assert loss_function("hinge").kinks(1.0) == (1.0,)
    assert loss_function("hinge").kinks(-1.0) == (-1.0,)
    assert loss_function("huber(y - f, 0.5)").kinks(2.0) == (1.5, 2.5)
    for name in VECTOR_LOSSES:
        assert loss_function(name).vector
        with pytest.raises(ValueError, match="several outputs"):
            _ = loss_function(name).slope


@pytest.mark.parametrize("bad", ["sqare", "f +", "x*f", "y", "huber(f)", "foo(f)", ""])
def test_an_unknown_loss_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):
        LossFunction(bad)
    with pytest.raises(ValueError):
        Loss(function=bad)


def test_ridge_has_one_normalisation() -> None:
    assert Loss(ridge_per_sample="1e-4*k").per_sample(50) == pytest.approx(5e-3)
    assert Loss(ridge_per_sample=0.1).per_sample(50) == 0.1
    for bad in (
        {"ridge": 1.0, "ridge_per_sample": 1.0}, {"ridge": -1.0}, {"ridge": "optimal"}, {"optimise": "mse"},
        {"penalty": "l3"}, {"ridge_per_sample": "m"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Loss(**bad)  # type: ignore[arg-type]


def test_the_problem_of_every_theory_has_the_sections_it_reads() -> None:
    for name in dl.theory_names():
        theory = dl.find_theory(name)
        table = with_kinds(theory.kinds)
        for section, kinds in theory.read_table().items():
            for kind, keys in kinds.items():
                if kind is None:
                    continue
                assert kind in table[section], f"{name} reads {section}.{kind}, which is no kind"
                known = {f.name for f in msgspec.structs.fields(table[section][kind])}
                assert set(keys.split()) - {"*"} <= known, f"{name}: {section}.{kind} has no such key"


def test_a_problem_names_every_section() -> None:
    fields = {f.name for f in msgspec.structs.fields(Problem)}
    assert fields == {*SECTIONS, "theory", "schema", "title"}


def test_the_page_of_the_language_is_up_to_date(root: Path) -> None:
    # In a process of its own: this one knows the theories that other tests registered.
    script = root / "docs" / "reference" / "make_language.py"
    code = f"import runpy, sys; sys.stdout.buffer.write(runpy.run_path({str(script)!r})['page']().encode())"
    page = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    kept = script.with_name("language.md").read_text(encoding="utf-8")
    assert page == kept, "run: python docs/reference/make_language.py"
