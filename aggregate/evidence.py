"""Evidence: one-sided p-values for a statement and against it, and how those of its parts combine.

Law: a statement *holds* where the test against its opposite rejects at (1 - level) / 2, and *fails* where the test
against itself does; for a single bound that is the whole interval of `level` on one side. What many parts are tested
for is paid for: any one of them by Holm's method, all of them together by nothing (an intersection-union test).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from aggregate.claim import Verdict
from aggregate.stats import LEVEL, Interval

ALPHA: Final = (1 - LEVEL) / 2
"""Of each one-sided test."""


class Known(Protocol):
    """A number with its interval, and one-sided tests of it; 1 where there is nothing to test with."""

    @property
    def interval(self) -> Interval:
        """At the level of the project."""
        ...

    def above(self, bound: float) -> float:
        """The p-value of "not above the bound": small where the number is above."""
        ...

    def below(self, bound: float) -> float:
        """The p-value of "not below the bound": small where the number is below."""
        ...


@dataclass(frozen=True)
class Evidence:
    """What speaks for a statement and what against it."""

    holds: float = 1.0
    """p-value of its opposite."""
    fails: float = 1.0
    """p-value of itself."""
    why: str = ""
    """What keeps it from being tested; empty where it was."""

    @property
    def verdict(self) -> Verdict:
        """At the level of the project."""
        if self.holds < ALPHA:
            return "holds"
        return "fails" if self.fails < ALPHA else "not enough data"

    @property
    def opposite(self) -> "Evidence":
        """Of the opposite statement."""
        return replace(self, holds=self.fails, fails=self.holds)


def is_above(known: Known, bound: float) -> Evidence:
    """The number is above the bound."""
    return Evidence(known.above(bound), known.below(bound), _untested(known))


def is_below(known: Known, bound: float) -> Evidence:
    """The number is below the bound."""
    return is_above(known, bound).opposite


def is_within(known: Known, margin: float) -> Evidence:
    """The number lies inside ±margin: two one-sided tests.

    It fails where the whole interval lies beyond one of the ends. Only one of them can be the near one, so that this
    is not paid for.
    """
    return Evidence(
        holds=max(known.above(-margin), known.below(margin)),
        fails=min(known.above(margin), known.below(-margin)),
        why=_untested(known),
    )


def _untested(known: Known) -> str:
    interval = known.interval
    return interval.note if interval.low is None or interval.low == interval.high else ""


def all_of(parts: Sequence[Evidence]) -> Evidence:
    """Every part holds. It holds by the weakest of them; it fails by the strongest against, paid for by Holm.

    Parts that could not be tested keep it from holding, and are not paid for.
    """
    if not parts:
        return Evidence(why="nothing to judge")
    tested = [part.fails for part in parts if (part.holds, part.fails) != (1, 1)]
    why = next((part.why for part in parts if part.why), "")
    return Evidence(max(part.holds for part in parts), min(holm(tested), default=1.0), why)


def any_of(parts: Sequence[Evidence]) -> Evidence:
    """At least one part holds. By De Morgan not all of their opposites do."""
    return all_of([part.opposite for part in parts]).opposite


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, each in the place of its own.

    With p(1) ≤ ... ≤ p(m): adjusted p(i) = max over j ≤ i of min(1, (m - j + 1) · p(j)). Rejecting what is below α
    keeps the probability of any false rejection below α, whatever the dependence.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979), 65-70.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
