"""Run files: what loads, what is refused, and what the refusal says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dimladder.errors import ConfigError
from dimladder.problem import (
    Coefficients,
    Committee,
    Hierarchical,
    OdeSolver,
    Problem,
    Range,
    Spec,
    apply_overrides,
    axis_values,
    build,
    convert,
    parse_document,
    parse_override,
    read,
    to_builtins,
)
from dimladder.problem.grids import Grid
from dimladder.problem.targets import Index
from dimladder.problem.toml_writer import dumps


class Descent(Spec, frozen=True, kw_only=True, tag_field="kind", tag="descent"):
    learning_rate: float
    steps: int = 3


class Toy(Spec, frozen=True, kw_only=True):
    """A document of its own, checked as run files and campaigns are."""

    title: str = ""
    target: Committee | Index
    algorithm: Descent
    grid: Grid
    solver: OdeSolver = OdeSolver()


class Tree(Spec, frozen=True, kw_only=True):
    target: Hierarchical


TEXT = """
[target]
kind = "committee"
readout = [1, 1]
[algorithm]
kind = "descent"
learning_rate = 1
[grid]
time = { start = 0.1, stop = 10, points = 4, spacing = "log" }
"""


def load(**overrides: object) -> Toy:
    keys = {k.replace("__", "."): v for k, v in overrides.items()}
    return convert(apply_overrides(parse_document(TEXT), keys, "run.toml"), Toy, "run.toml")


def test_defaults_are_filled_in_and_written_back() -> None:
    problem = load()
    assert problem.target.noise == 0.0
    assert problem.algorithm.steps == 3
    again = convert(parse_document(dumps(to_builtins(problem))), Toy)
    assert again == problem


def test_content_hash_ignores_what_cannot_change_a_number() -> None:
    def hashed(**overrides: object) -> str:
        asked = load(**overrides)
        return Problem(theory="toy", title=asked.title, target=asked.target, algorithm=asked.algorithm).content_hash

    assert hashed(title="another title") == hashed()
    assert hashed(algorithm__learning_rate=1.0) == hashed()
    assert hashed(algorithm__learning_rate=1.5) != hashed()
    assert hashed(algorithm__steps=3) == hashed()


def test_a_problem_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load().algorithm.learning_rate = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"algorithm__lerning_rate": 1.0}, ["algorithm.lerning_rate", "did you mean 'learning_rate'"]),
        ({"algorithm__learning_rate": "fast"}, ["run.toml: algorithm.learning_rate", "float", '"fast"']),
        ({"target__kind": "comittee"}, ["target.kind", "did you mean 'committee'"]),
        ({"solver__method": "dop835"}, ["solver.method", "did you mean 'dop853'"]),
        ({"target__noise": -0.5}, ["run.toml: target.noise", "must be finite and not negative", "(the value is -0.5)"]),
        ({"target__readout": []}, ["target", "readout"]),
        ({"target__overlap": [[1.0]]}, ["target", "2 x 2"]),
        ({"target__activation": "tahn"}, ["target", "did you mean 'tanh'"]),
        ({"grid__time": {"start": 1.0, "stop": 2.0}}, ["grid.time.points", "required"]),
        ({"grid__time": [2.0, 1.0]}, ["grid", "increase"]),
        ({"grid__time": {"start": 0.0, "stop": 1.0, "points": 3, "spacing": "log"}}, ["grid", "logarithmic"]),
        ({"solver__rtol": 2.0}, ["run.toml: solver.rtol", "[1e-15, 1)"]),
        ({"tarjet": 1}, ["tarjet", "did you mean 'target'"]),
    ],
)
def test_a_bad_value_says_where_why_and_what_to_do(overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    message = str(caught.value)
    assert message.startswith("the run file does not describe a problem")
    for word in words:
        assert word in message


def test_a_missing_section_names_its_key() -> None:
    document = parse_document(TEXT)
    del document["algorithm"]
    with pytest.raises(ConfigError, match=r"algorithm.*required|required"):
        convert(document, Toy)


def test_unreadable_files() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read("/no/such/file.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_document("a = [1,")
    with pytest.raises(ConfigError, match="names no theory"):
        build({"title": "x"}, lambda name: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=0.5", ("a.b", 0.5)),
        ("a=[1, 2]", ("a", [1, 2])),
        ("a=inf", ("a", math.inf)),
        ('a="x = 1"', ("a", "x = 1")),
        ("a=dop853", ("a", "dop853")),
        ("a=true", ("a", True)),
    ],
)
def test_overrides_read_toml_values(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["a.b", "=1", "a=tanh(2*h)", "a=[1,"])
def test_unreadable_overrides(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_override(text)


def test_overrides_reach_into_lists_and_never_touch_the_document() -> None:
    document = parse_document(TEXT)
    changed = apply_overrides(document, {"target.readout.1": 5.0})
    assert changed["target"]["readout"] == [1, 5.0]
    assert document["target"]["readout"] == [1, 1]
    with pytest.raises(ConfigError, match="no entry"):
        apply_overrides(document, {"target.readout.7": 5.0})
    with pytest.raises(ConfigError, match="not a table"):
        apply_overrides(document, {"algorithm.kind.x": 5.0})


def test_axes_have_exact_ends() -> None:
    assert axis_values((0.0, 2.0)) == (0.0, 2.0)
    log = axis_values(Range(start=0.1, stop=1000.0, points=5, spacing="log"))
    assert (log[0], log[-1]) == (0.1, 1000.0)
    assert log[2] == pytest.approx(10.0, rel=1e-15)
    assert axis_values(Range(start=1.0, stop=2.0, points=1)) == (1.0,)


def tree(**target: object) -> Tree:
    base = {"kind": "hierarchical", "exponents": [0.5], "features": [{"2": 1.0}], "link": "tanh(h)"}
    return convert({"target": {**base, **target}}, Tree)


def test_hermite_coefficients_are_a_frozen_map() -> None:
    features = tree(features=[{"3": 0.5, "2": 1}]).target.features[0]
    assert dict(features) == {2: 1.0, 3: 0.5}
    assert features == Coefficients({"2": 1.0, "3": 0.5})
    assert convert(parse_document(dumps(to_builtins(tree()))), Tree) == tree()
    with pytest.raises(TypeError):
        features[2] = 1.0  # type: ignore[index]


@pytest.mark.parametrize(
    "bad",
    [
        {"exponents": [0.5, 0.6], "features": [{"2": 1.0}, {"2": 1.0}]},
        {"exponents": [1.0]},
        {"exponents": []},
        {"features": [{"two": 1.0}]},
        {"features": [{"0": 1.0}]},
        {"features": [{"2": 1.0}, {"2": 1.0}]},
        {"link": "tanh(x)"},
    ],
)
def test_impossible_hierarchies_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        tree(**bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "9" * 5000, "too many digits"), ("x = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("x = " + "[" * 40 + "]" * 40, "nested more than"), (".".join(["a"] * 3000) + " = 1", "nested more than"),
        ("x = 99999999999999999999", "64 bits"), ("x = 2020-01-01", "a date is no value"),
        ("x = nan", "nan is no number"), ("x = [1.0, -1e300]", "larger than 1e+150"), ("x = ", "Invalid value"),
    ],
    ids=["digits", "brackets", "lists", "dotted", "integer", "date", "nan", "huge", "nothing"],
)  # fmt: skip
def test_documents_that_python_cannot_hold_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_document(text, "run.toml")
    assert "run.toml" in str(refusal.value)
    assert said in str(refusal.value)


def test_a_byte_order_mark_and_any_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert convert(parse_document(read(file)), Toy) == load()


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_bytes(b"#" * 5_000_000)
    for path, said in ((binary, "UTF-8"), (large, "too large"), (tmp_path, "cannot be read"), ("a\0b", "cannot be")):
        with pytest.raises(ConfigError, match=said):
            read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=.5", 0.5),
        ("x=1.", 1.0),
        ("x=-.5e-3", -5e-4),
        ("x=+3.", 3.0),
        ("x = 7", 7),
        ("x=inf", math.inf),
        ("x=true", True),
    ],
)
def test_overrides_take_numbers_as_people_write_them(text: str, value: object) -> None:
    read_value = parse_override(text)[1]
    assert (read_value, type(read_value)) == (value, type(value))


@pytest.mark.parametrize("text", ["x=1\ny=2", "x=007", "x=" + "9" * 5000, "x=" + "[" * 3000, "x=1e", "x=", "x=tanh(h)"])
def test_overrides_that_are_no_value_are_refused_in_few_words(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_override(text)
    assert len(str(refusal.value)) < 700


@pytest.mark.parametrize(
    "time",
    [
        {"start": 0.0, "stop": 1.0, "points": 10**8}, {"start": -1e308, "stop": 1e308, "points": 5},
        {"start": 1.0, "stop": 1.0, "points": 3}, [1.0, 1.0], [0.0] * 200_000,
    ],
    ids=["points", "overflow", "one place", "twice", "list"],
)  # fmt: skip
def test_axes_are_bounded_and_increase(time: object) -> None:
    with pytest.raises(ConfigError, match="grid"):
        load(grid__time=time)


def test_an_axis_may_span_all_of_the_floating_point_numbers() -> None:
    values = axis_values(Range(start=1e-300, stop=1e300, points=3, spacing="log"))
    assert values == pytest.approx((1e-300, 1.0, 1e300))
