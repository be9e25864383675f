"""Foreign text is shown as itself: no error, warning or line to paste moves a cursor or hides a character."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs import views
from jobs.environment import compact
from jobs.errors import MOST_PART, MOST_PROBLEM, ReinitError
from jobs.found import Damaged, Found
from jobs.shown import clipped, visible
from tests.aggregate.evil import EVIL

ANY = st.text(st.characters(), max_size=60)


@given(ANY)
def test_visible_text_is_printable_and_printable_text_is_left_alone(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
    assert (visible(text) == text) == text.isprintable()


def test_clipped_text_ends_in_an_ellipsis_exactly_where_something_was_cut() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "ab…"


@given(ANY, ANY)
def test_an_error_quotes_anything_and_stays_printable(problem: str, got: str) -> None:
    shown = str(ReinitError(problem, where=got, got=got, remedy=got))
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_an_error_is_bounded_whatever_it_quotes() -> None:
    huge = "x" * 10**6
    error = ReinitError(huge, where=huge, expected=huge, got=huge, allowed=huge, remedy=huge)
    assert len(str(error)) < MOST_PROBLEM + 5 * (MOST_PART + 20)
    assert len(error.args[0]) == MOST_PROBLEM


@pytest.mark.parametrize("text", [*EVIL.values(), ":bomb:", "[link=https://evil.example]x[/link]", "\\[bold]"])
def test_a_key_of_a_strange_object_is_shown_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(views, "errors", Console(file=out, width=500, highlight=False, emoji=views.errors._emoji))
    views.warn({"d": Found("d", damaged=(Damaged(f"runs/{text}", text),))})
    assert out.getvalue() == f"not a result, so not counted: runs/{visible(text)}: {visible(text)}\n"


def test_the_consoles_draw_no_pictures_of_words_between_colons() -> None:
    assert not views.console._emoji
    assert not views.errors._emoji


@given(st.dictionaries(ANY, ANY, max_size=3))
def test_json_to_paste_is_printable_and_means_the_same(value: dict[str, str]) -> None:
    import json

    assert compact(value).isprintable()
    assert json.loads(compact(value)) == value
