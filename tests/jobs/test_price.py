"""A price is an amount and a currency, and an estimate in money has two digits."""

import pytest

from jobs.errors import SpecError
from jobs.price import Price, price_of, rounded


@pytest.mark.parametrize(
    ("text", "price"),
    [("2.50 EUR", Price(2.5, "EUR")), ("0 USD", Price(0.0, "USD")), ("120 JPY", Price(120.0, "JPY"))],
)
def test_a_price_is_read_as_it_is_written(text: str, price: Price) -> None:
    assert price_of(text) == price
    assert price_of(price.text) == price


@pytest.mark.parametrize("text", ["", "2.50", "EUR", "2,50 EUR", "-1 EUR", "2.5 eur", "2.5  EUR", "1e3 EUR", "inf EUR"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match=r"2\.50 EUR"):
        price_of(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0.0, "0"), (0.0416, "0.042"), (0.999, "1.0"), (1.0, "1.0"), (9.96, "10"), (42.4, "42")),
        *((99.6, "100"), (137.1, "140"), (4_249.0, "4,200")),
    ],
)
def test_two_digits_are_shown(number: float, text: str) -> None:
    assert rounded(number) == text
