"""`Claim`: a statement of the paper with the verdict that the data allow, and every number that the verdict rests on.

Law: a verdict is never bare. With it stand the rule that gave it, the estimates with their intervals and n, and why it
is not a stronger one.
"""

from dataclasses import dataclass
from typing import Literal

from aggregate.stats import Interval

Verdict = Literal["holds", "fails", "not enough data"]
"""`holds` and `fails` need the whole interval on one side of the bound; anything else is not enough data."""

Unit = Literal["seed", "order"]
"""What an interval's n counts: what would be drawn anew if the experiment were repeated."""


@dataclass(frozen=True)
class Estimate:
    """One number with its interval, and what it is judged against."""

    what: str
    """`loss of layers 6 to 11, sst2, 500 examples`."""
    interval: Interval
    unit: Unit = "seed"
    bound: float | None = None
    """What the interval is compared with, in the interval's own unit; None for a number that is only shown."""
    meaning: str = ""
    """What the bound is: `10% of the gain`."""


def said(interval: Interval) -> str:
    """`0.012 (0.005 to 0.019, n = 3)`."""
    if interval.mean is None:
        return interval.note
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f} ({interval.note})"
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f}, n = {interval.n})"


@dataclass(frozen=True)
class Part:
    """One of the statements that a claim is made of: the claim at one task and size, or for one variant."""

    where: str
    verdict: Verdict
    reason: str
    estimates: tuple[Estimate, ...] = ()
    p_holds: float = 1.0
    """One-sided p-value against the opposite of the statement; 1 where nothing could be tested."""
    p_fails: float = 1.0
    """One-sided p-value against the statement."""
    judged: bool = True
    """Whether the claim's verdict rests on it; a part that is only shown does not count."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper under one model and recipe."""

    id: str
    """`E1` to `E13`."""
    text: str
    """The claim in plain words."""
    verdict: Verdict
    rule: str
    """The rule and the margin that gave the verdict."""
    estimates: tuple[Estimate, ...]
    """Those of all parts, in their order."""
    reason: str
    """Why this verdict; where it is not enough data, what is missing."""
    parts: tuple[Part, ...] = ()
    model: str = ""
    recipe: str = ""
    """What the recipe has that the paper's has not; empty for the paper's."""
