"""Quantities as the API server reads them, literal in, literal out."""

from __future__ import annotations

from decimal import Decimal

import pytest

from jobs.quantity import quantity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5Gi", "1536Mi"),
        ("500m", "0.5"),
        ("1e3", "1k"),
        ("1E3", "1k"),
        ("1E", "1000P"),
        (".5", "500m"),
        ("1.", "1"),
        ("+2", "2"),
        ("0.1", "100m"),
        ("12345678901234567890", "12345678901234567890"),
        ("100n", "0.1u"),
        (4, "4"),
        (0.5, "500m"),
    ],
)
def test_equal_amounts_are_equal(one: object, other: str) -> None:
    assert quantity(one) == quantity(other) is not None


def test_amounts_are_exact() -> None:
    assert quantity("0.1") == Decimal("0.1")
    assert quantity("1Ei") == Decimal(2**60)
    assert quantity("9007199254740993") == Decimal(9007199254740993)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1 Gi", "Gi", "1gi", "1K", "1MB", "1e", "1Gi2", "one", "0x10", ".", "1_000", None, True, []],
)
def test_what_the_server_does_not_read_is_no_amount(text: object) -> None:
    assert quantity(text) is None
