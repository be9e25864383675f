"""The claims of the paper, judged by what the frame holds, and the tables and the file of them.

Law: always E1 to E13 for every model and recipe, whatever is there. A claim without the cells that it needs says which.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Final

import pandas as pd

from aggregate.claim import Claim, Estimate, Part, Unit, Verdict
from aggregate.grid import groups
from aggregate.rules import RULES, judged_by
from aggregate.tables import NONE, Sheet, bounds, number
from aggregate.text import clipped

__all__ = [
    "Claim",
    "Estimate",
    "Part",
    "Unit",
    "Verdict",
    "evaluate",
    "sheets",
    "short_sheets",
    "summary_sheets",
    "to_json",
]

NOTE: Final = (
    "Holds and fails need the whole 95% interval on one side of the bound; anything else is not enough data, "
    "and so is what has no spread to judge by."
)

_SHORT: Final = 160


def evaluate(frame: pd.DataFrame) -> tuple[Claim, ...]:
    """E1 to E13, in this order, for every model and recipe of the frame; see `grid.groups` for which recipes."""
    found = groups(frame) or {("", ""): []}
    return tuple(
        judged_by(rule, subjects, model, recipe) for (model, recipe), subjects in found.items() for rule in RULES
    )


SCHEMA_VERSION: Final = 1
"""Of `claims.json`."""


def to_json(claims: Iterable[Claim], holes: str = "") -> str:
    """All claims with rules, reasons, parts and estimates, for programs; each estimate names its part.

    Args:
        claims: in the order in which they shall stand.
        holes: what is missing of the study; empty for a complete one.
    """
    document = {"schema_version": SCHEMA_VERSION, "holes": holes, "claims": [_plain(claim) for claim in claims]}
    return json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _plain(claim: Claim) -> dict[str, object]:
    plain = asdict(claim)
    plain["parts"] = [{name: value for name, value in part.items() if name != "estimates"} for part in plain["parts"]]
    plain["estimates"] = [
        {"part": part.where, "what": each.what, "unit": each.unit, "bound": each.bound, "meaning": each.meaning}
        | asdict(each.interval)
        for part in claim.parts
        for each in part.estimates
    ]
    return plain


def summary_sheets(claims: Sequence[Claim], holes: str = "") -> list[Sheet]:
    """A row a claim, in one table for each model and recipe."""
    return [
        Sheet(
            title=_titled("Claims of the paper", model, recipe),
            header=("claim", "in words", "verdict", "why"),
            rows=tuple((claim.id, claim.text, claim.verdict, claim.reason) for claim in of_group),
            numeric=frozenset(),
            notes=(holes, NOTE) if holes else (NOTE,),
        )
        for (model, recipe), of_group in _by_group(claims).items()
    ]


def short_sheets(claims: Sequence[Claim], holes: str = "") -> list[Sheet]:
    """The summary for a terminal: reasons cut to a few lines, the files have them whole."""
    return [
        replace(each, rows=tuple((*row[:-1], clipped(row[-1], _SHORT)) for row in each.rows))
        for each in summary_sheets(claims, holes)
    ]


def sheets(claims: Sequence[Claim], holes: str = "") -> list[Sheet]:
    """The summary, then a table for each claim with every number that it rests on."""
    return [*summary_sheets(claims, holes), *(_sheet(claim) for claim in claims if claim.estimates)]


def _sheet(claim: Claim) -> Sheet:
    return Sheet(
        title=_titled(f"{claim.id}: {claim.verdict}", claim.model, claim.recipe),
        header=("estimate", "mean", "95% interval", "n", "unit", "bound", "note"),
        rows=tuple(map(_row, claim.estimates)),
        numeric=frozenset((1, 2, 3, 5)),
        notes=(claim.text, claim.rule, claim.reason),
    )


def _row(estimate: Estimate) -> tuple[str, ...]:
    interval = estimate.interval
    bound = NONE if estimate.bound is None else f"{number(estimate.bound)}"
    notes = [text for text in (estimate.meaning and f"bound: {estimate.meaning}", interval.note) if text]
    which = (estimate.what, number(interval.mean), bounds(interval), str(interval.n), estimate.unit)
    return (*which, bound, "; ".join(notes))


def _by_group(claims: Iterable[Claim]) -> dict[tuple[str, str], list[Claim]]:
    found: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        found.setdefault((claim.model, claim.recipe), []).append(claim)
    return found


def _titled(title: str, model: str, recipe: str) -> str:
    return ", ".join(part for part in (title, model, recipe) if part)
