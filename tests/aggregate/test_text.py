"""Foreign text in every format. `WRITE_GOLDEN=1 pytest tests/aggregate/test_text.py` writes the golden files anew."""

import csv
import io
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from aggregate.tables import Sheet, to_csv, to_latex, to_markdown, to_rich
from aggregate.text import latex, markdown, prose, spreadsheet, visible
from tests.aggregate.evil import EVIL

GOLDEN = Path(__file__).parents[1] / "golden" / "aggregate"
SHEET = Sheet(
    title=EVIL["starts a new row"],
    header=("what it does", "text"),
    rows=tuple(EVIL.items()),
    numeric=frozenset(),
    loud=frozenset({0, 9}),
    notes=tuple(EVIL.values()),
)
TITLE = EVIL["runs in a browser"]
ANY_TEXT = st.text(max_size=40)


def terminal(sheet: Sheet) -> str:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None, legacy_windows=False).print(to_rich(sheet))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


FORMATS = {
    "evil.md": lambda: to_markdown([SHEET], title=TITLE, note=TITLE),
    "evil.tex": lambda: to_latex([SHEET], title=TITLE, note=TITLE),
    "evil-float.tex": lambda: to_latex([replace(SHEET, wide=frozenset({1}))], title=TITLE, note=TITLE, floats=True),
    "evil.csv": lambda: to_csv([{"what it does": what, "text": text} for what, text in EVIL.items()]),
    "evil.txt": lambda: terminal(SHEET),
}


@pytest.mark.parametrize("name", FORMATS)
def test_ten_evil_strings_come_out_as_the_golden_file_has_them(name: str) -> None:
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_bytes(FORMATS[name]().encode())
    assert FORMATS[name]() == (GOLDEN / name).read_bytes().decode()


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_lets_a_control_or_bidirectional_character_through(name: str) -> None:
    categories = {unicodedata.category(char) for char in FORMATS[name]().replace("\n", "")}
    assert categories.isdisjoint({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def markdown_cells(text: str) -> list[list[str]]:
    """The cells of all tables, as a reader sees them."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rows: list[list[str]] = []
    for token in parser.parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4:
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special", "strong_open", "strong_close"}
            rows[-1].append("".join(child.content for child in children))
    return rows


def test_a_markdown_reader_sees_every_evil_string_as_it_is() -> None:
    rows = markdown_cells(FORMATS["evil.md"]())
    assert rows[1:] == [[what, visible(text).strip()] for what, text in EVIL.items()]


@given(ANY_TEXT)
def test_a_markdown_reader_sees_any_text_as_it_is(text: str) -> None:
    sheet = Sheet("t", ("a", "b"), (("x" + text + "x", "end"),), frozenset())
    rows = markdown_cells(to_markdown([sheet], title="t"))
    assert rows[1] == ["x" + visible(text) + "x", "end"]


@pytest.mark.parametrize("text", ["- a", "+ a", "# a", "1. a", "2) a", "---", "> a", "* a", "0.5", "-0.5", "    a"])
def test_a_markdown_reader_sees_a_note_as_one_item_of_one_list(text: str) -> None:
    document = to_markdown([Sheet("t", ("a",), (("b",),), frozenset(), notes=(text, "last"))], title="t")
    tokens = MarkdownIt("commonmark").enable("table").parse(document)
    items = [tokens[i + 2].children for i, token in enumerate(tokens) if token.type == "list_item_open"]
    assert ["".join(child.content for child in item or []) for item in items] == [prose(text), "last"]


@given(ANY_TEXT)
def test_latex_has_no_active_character_that_is_not_ours(text: str) -> None:
    # A letter that pdfLaTeX lacks stands inside a condition, with its code point for where it cannot be set.
    known = re.sub(r"\\ifdefined\\Umathchar (.)\\else \{\[\}U\+[0-9A-F]{4,6}\{\]\}\\fi\{\}", r"\1", latex(text))
    ours = r"\\text[a-z]+\{\}|\\dots\{\}|\\[{}$&#_%]|\{''\}|\{[][*]\}|\$-\$|\$\\times\$|\$\\pm\$"
    assert not re.search(r"[\\{}$&#_%^~<>|\"`\[\]*]", re.sub(ours, "", known))


@given(ANY_TEXT)
def test_no_field_of_a_csv_starts_a_formula_and_none_is_lost(text: str) -> None:
    (header, (field, last)) = csv.reader(io.StringIO(to_csv([{"a": text, "b": "end"}])))
    assert (header, last) == (["a", "b"], "end")
    assert not re.match(r"\s*[=+\-@]", field)
    assert field.removeprefix("'") == visible(text).removeprefix("'")


@given(ANY_TEXT)
def test_prose_is_one_line_that_prints(text: str) -> None:
    assert prose(text).isprintable()
    assert prose(prose(text)) == prose(text)


def test_plain_names_stay_plain() -> None:
    name = "sst2-500-reinit-0to2_7-1a2b3c4d"
    assert visible(name) == markdown(name) == spreadsheet(name) == name
    assert latex(name) == r"sst2-500-reinit-0to2\_7-1a2b3c4d"


def test_a_minus_before_a_number_is_set_as_one() -> None:
    assert latex("-0.021 to +0.003") == "$-$0.021 to +0.003"


def test_numbers_in_a_csv_stay_numbers() -> None:
    assert to_csv([{"a": -0.5, "b": None, "c": 3, "d": True}]) == "a,b,c,d\n-0.5,,3,true\n"
