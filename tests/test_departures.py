"""docs/departures.md is kept true: each departure names a test, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "departures.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
HEADS = {"point", "---"}


def points() -> list[list[str]]:
    """The cells of every row of the page's tables."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].strip(" -") and row[0].strip() not in HEADS]


def test_every_departure_names_a_test() -> None:
    assert len(points()) > 20
    assert not [row[0] for row in points() if "`tests/" not in row[-1]]


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_every_test_that_the_page_names_exists(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
