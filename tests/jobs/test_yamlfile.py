"""YAML is read as version 1.2 means it, and whatever is not plain YAML is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.yamlfile import MOST_BYTES, MOST_VALUES, parse_yaml, path_text, read_yaml


def value_of(text: str) -> Any:
    return parse_yaml(f"key: {text}\n", "a.yaml").data["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1e5", 1e5),
        ("1E+2", 100.0),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("12345e6", 12345e6),
        ("010", 10),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
    ],
)
def test_numbers_booleans_and_null_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "n", "1:30", "2024-01-01", "50_000", "1e", "e5", "+", ".", "sha256:0"]
)
def test_words_that_older_yaml_guesses_at_stay_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["'1e-5'", '"true"', "'null'", "! 5"])
def test_quoted_values_are_text(text: str) -> None:
    assert isinstance(value_of(text), str)


def test_keys_are_text() -> None:
    text = "{500: 1, full: 2, true: 3, 1e-5: 4}"
    assert parse_yaml(text, "a.yaml").data == {"500": 1, "full": 2, "true": 3, "1e-5": 4}


def test_every_value_has_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n    d:\n      3\n", "a.yaml")
    assert document.where(("a",)) == "a.yaml:1 a"
    assert document.where(("b", 1, "d")) == "a.yaml:5 b[1].d"
    assert document.where(("b", 1, "gone")) == "a.yaml:4 b[1].gone"
    assert document.where(()) == "a.yaml:1"


def test_paths_are_written_for_people() -> None:
    assert path_text(("families", 0, "sizes", 1)) == "families[0].sizes[1]"


def test_an_alias_stands_for_its_anchor() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "a.yaml").data == {"a": [1, 2], "b": [1, 2]}


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1\r\nb: x\r\n", "a.yaml").data == {"a": 1, "b": "x"}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", "not a mapping", None),
        ("# only a comment", "not a mapping", None),
        ("- a\n- b\n", "not a mapping", None),
        ("a word", "not a mapping", None),
        ("a: 1\nb: 2\na: 3\n", "the key `a` stands twice", 3),
        ("a:\n  500: 1\n  '500': 2\n", "the key `500` stands twice", 3),
        ("a: 1\n---\nb: 2\n", "a second document", 2),
        ("a: !!python/object/apply:os.system ['true']\n", "tags", 1),
        ("a: !!str 5\n", "tags", 1),
        ("a: 1\n!!str b: 2\n", "plain text", 2),
        ("? [1, 2]\n: 3\n", "plain text", 1),
        ("? {a: 1}\n: 3\n", "plain text", 1),
        ("a: *nowhere\n", "names nothing", 1),
        ("a: &a [*a]\n", "names nothing", 1),
        ("a: 1\n" + "b: " + "[" * 5000, "nested too deeply", 2),
        ("a: " + "{b: " * 5000, "nested too deeply", 1),
        (LAUGHS, "too many values", 5),
        (f"a: [{'1,' * (MOST_VALUES + 1)}]", "too many values", 1),
        ("a: [1\nb: 2\n", "not YAML", 2),
        ("a: 'open\n", "not YAML", 2),
        ("a:\n\t- 1\n", "not YAML", 2),
        ("a: b: c\n", "not YAML", 1),
        ("a: 1\nb: \0\n", "not YAML", 2),
        ('a: "\\0"\n', "control character", 1),
        ('a: "\\e[31mred"\n', "control character", 1),
        ('"\\a": 1\n', "control character", 1),
        ('a: "\\u202e"\n', "control character", 1),
        ("a: x\u2066y\n", "control character", 1),
        ("a: " + "9" * 5000, "too many digits", 1),
        ("a: 1\nb: .nan\n", "finite", 2),
        ("a: -.inf\n", "finite", 1),
        ("a: \ud800\n", "UTF-8", 1),
        ("#" * (MOST_BYTES + 1), "too large", None),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else str(value),
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, problem: str, line: int | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "a.yaml")
    assert problem in caught.value.problem
    assert caught.value.where == ("a.yaml" if line is None else f"a.yaml:{line}")


def test_bytes_that_are_not_text_are_refused_with_their_line() -> None:
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        parse_yaml(b"a: 1\nb: \xff\n", "a.yaml")
    assert (caught.value.where, caught.value.got) == ("a.yaml:2", "byte 0xff")


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(st.binary(max_size=200), st.text("a:-[]{}&*!|>'\"?#%@`,\n\t 1.eE~", max_size=60)))
def test_no_input_ends_in_anything_but_a_mapping_or_a_spec_error(text: bytes | str) -> None:
    try:
        assert isinstance(parse_yaml(text, "a.yaml").data, dict)
    except SpecError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["", "absent.yaml", "a" * 5000, "a\0b"])
def test_a_path_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        read_yaml(tmp_path / name)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("é: ü\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml").data == {"é": "ü"}
