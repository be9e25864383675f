"""`Price`: what a GPU-hour costs here, as a site or a user says it.

Law: there is no price unless somebody gives one, and no currency is ever turned into another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from jobs.errors import SpecError

PRICE: Final = r"^[0-9]{1,9}(\.[0-9]{1,6})? [A-Z]{3}$"
"""An amount and the three letters of a currency (ISO 4217): `2.50 EUR`."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one GPU for one hour."""

    amount: float
    currency: str
    """Three letters, as ISO 4217 has them."""

    @property
    def text(self) -> str:
        """As it is written: `2.5 EUR`."""
        return f"{self.amount:g} {self.currency}"

    def of(self, gpu_hours: float) -> float:
        """Money for so many GPU-hours."""
        return self.amount * gpu_hours


def price_of(text: str) -> Price:
    """The price that the text says.

    Raises:
        SpecError: it is not an amount and a currency.
    """
    if re.fullmatch(PRICE, text) is None:
        raise SpecError("not the price of a GPU-hour", expected="an amount and a currency: '2.50 EUR'", got=text[:80])
    amount, _, currency = text.partition(" ")
    return Price(float(amount), currency)


def rounded(number: float) -> str:
    """Two digits that count, and never more: `0.42`, `4.2`, `42`, `4,200`; an estimate has no more."""
    if number <= 0:
        return "0"
    digits = 1 - int(f"{number:.1e}".partition("e")[2])
    return f"{round(number, digits):,.{max(digits, 0)}f}"
