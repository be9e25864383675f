"""From comparisons to a part of a claim: its verdict, and a reason that names what decided it or what was missing.

Law: a part without a verdict says why: cells that the frame lacks, runs without a score, no gain to share, or an
interval that reaches across its bound.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aggregate.claim import Estimate, Part, Unit, said
from aggregate.evidence import Evidence, Known, all_of

MARGIN: Final = 0.1
"""Share of the gain below which a loss, a gain or a difference counts as none."""

Combine = Callable[[Sequence[Evidence]], Evidence]

_NAMED: Final = 3


@dataclass(frozen=True)
class Comparison:
    """One comparison of a number with a bound."""

    name: str
    """What the reason calls it."""
    evidence: Evidence
    estimate: Estimate


def compared(
    what: str,
    where: str,
    known: Known,
    evidence: Evidence,
    *,
    name: str = "",
    bound: float = 0.0,
    meaning: str = "",
    unit: Unit = "seed",
) -> Comparison:
    """A comparison with the number that it compares; its reason says `name`, or else `what`."""
    return Comparison(name or what, evidence, Estimate(f"{what}, {where}", known.interval, unit, bound, meaning))


def shown(what: str, where: str, known: Known, *, unit: Unit = "seed") -> Estimate:
    """A number that is not compared with anything."""
    return Estimate(f"{what}, {where}", known.interval, unit)


def part(
    where: str, comparisons: Sequence[Comparison], combine: Combine = all_of, *, beside: Iterable[Estimate] = ()
) -> Part:
    """The comparisons together, and the estimates that stand beside theirs."""
    evidence = combine([each.evidence for each in comparisons])
    return Part(
        where=where,
        verdict=evidence.verdict,
        reason=_reason(comparisons, evidence),
        estimates=(*(each.estimate for each in comparisons), *beside),
        p_holds=evidence.holds,
        p_fails=evidence.fails,
    )


def missing(where: str, what: str) -> Part:
    """A part that cannot be tested for want of cells."""
    return Part(where, "not enough data", what)


def evidence_of(parts: Iterable[Part]) -> list[Evidence]:
    """What the parts that are judged bring to a claim."""
    return [Evidence(each.p_holds, each.p_fails) for each in parts if each.judged]


def _reason(comparisons: Sequence[Comparison], evidence: Evidence) -> str:
    verdict = evidence.verdict
    if verdict != "not enough data":
        decisive = [each for each in comparisons if each.evidence.verdict == verdict]
        return _list([f"{each.name}: {said(each.estimate.interval)}" for each in decisive])
    reasons = [each for each in comparisons if each.evidence.verdict == "not enough data"]
    if not reasons:
        return f"decided one by one, and not after Holm's correction for {len(comparisons)} comparisons"
    return _list(list(dict.fromkeys(_open(each) for each in reasons)))


def _open(comparison: Comparison) -> str:
    interval, bound = comparison.estimate.interval, comparison.estimate.bound
    if comparison.evidence.why:
        return f"{comparison.name}: {comparison.evidence.why}"
    return f"{comparison.name}: {said(interval)} is not clear of {bound:g}"


def _list(words: Sequence[str]) -> str:
    more = [f"and {len(words) - _NAMED} more"] if len(words) > _NAMED else []
    return "; ".join([*words[:_NAMED], *more])
