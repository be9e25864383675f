"""The report: one HTML page that holds everything, needs nothing from elsewhere, and works without a network.

Law: a pure function of the frame and of what was made from it. Every text in it is data and is escaped by the template;
the only markup that passes is our own figures'. The page's policy lets nothing load and no script run but its own.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final, Protocol

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from aggregate.claim import Claim, Verdict
from aggregate.claims import estimates_sheet
from aggregate.cost import Costs, cell_sheet, table_sheet
from aggregate.cost import costs as costs_of
from aggregate.coverage import Extras, notes
from aggregate.frame import rows
from aggregate.summary import count_statuses, summarise
from aggregate.tables import NONE, Sheet
from aggregate.text import counted, prose, visible

MARKS: Final[Mapping[Verdict, str]] = {"holds": "✓", "fails": "✗", "not enough data": "?"}
"""Beside each verdict, for whoever sees no colours."""

MOST_WARNINGS: Final = 8
"""Shown at once; the rest unfold."""


class About(Protocol):
    """What a study says about itself."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def note(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Picture:
    """A figure as the page holds it."""

    name: str
    svg: str
    """An `<svg>` element that describes itself and whose ids no other picture of the page has."""
    title: str
    caption: str


def to_html(  # noqa: PLR0913  a parameter for each section
    study: About,
    runs: pd.DataFrame,
    extras: Extras,
    *,
    sheets: Sequence[Sheet],
    coverage: Sheet,
    claims: Sequence[Claim] = (),
    effects: Sequence[Sheet] = (),
    pictures: Sequence[Picture] = (),
    costs: Costs | None = None,
) -> str:
    """The page.

    Args:
        study: its title and note.
        runs: the frame.
        extras: what the store holds besides one good result per run.
        sheets: tables of scores.
        coverage: what was planned and what became of it.
        claims: with their verdicts; none leaves the section out.
        effects: further tables.
        pictures: figures; none leaves the section out.
        costs: what the runs took; counted here unless given, without money.
    """
    script = _text("report.js")
    costs = costs or costs_of(runs, extras)
    several_models = len({(claim.model, claim.recipe) for claim in claims}) > 1
    return _template().render(
        title=prose(study.title),
        paragraphs=[prose(part) for part in study.note.split("\n\n") if part.strip()],
        facts=_facts(runs, costs),
        sections=_sections(claims, pictures, effects),
        warnings=_warnings(runs, extras),
        most_warnings=MOST_WARNINGS,
        # Its notes are the warnings, which stand above.
        what=replace(coverage, notes=()),
        claims=[_Shown(claim, f"claim-{index}", several_models) for index, claim in enumerate(claims)],
        verdicts=_verdicts(claims, several_models=several_models),
        marks=MARKS,
        pictures=[(each, Markup(each.svg)) for each in pictures],  # noqa: S704  our own, its texts escaped by its writer
        sheets=sheets,
        effects=effects,
        costs=[table_sheet(costs), cell_sheet(costs)],
        provenance=provenance_sheet(runs),
        script=Markup(script),  # noqa: S704  our own file
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


class _Shown:
    """A claim with its anchor and its table of statistics."""

    def __init__(self, claim: Claim, anchor: str, named: bool) -> None:  # noqa: FBT001
        self.claim, self.anchor = claim, anchor
        self.of = ", ".join(part for part in (claim.model, claim.recipe) if part) if named else ""
        self.sheet = estimates_sheet(claim)


def _template() -> Template:
    def shown(value: object) -> object:
        """Before it is escaped: what would not show, or would turn the text around, by its escape."""
        return value if isinstance(value, Markup) else visible(str(value))

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=shown)
    return environment.from_string(_text("report.html"))


def _text(name: str) -> str:
    return (files("aggregate") / name).read_text(encoding="utf-8")


def _facts(runs: pd.DataFrame, costs: Costs) -> list[tuple[str, str]]:
    counts, cost = count_statuses(runs), costs.total.used
    planned = sum(counts.values())
    facts = [
        ("runs with a score", f"{counts['done']:,} of {planned:,}"),
        ("cells", f"{runs['digest'].nunique():,}"),
        ("model", ", ".join(dict.fromkeys(runs["model"]))),
        ("time, runs one after another", f"{cost.wall_seconds / 3600:,.1f} h"),
    ]
    if cost.gpu_seconds:
        facts.append(("GPU time", f"{cost.gpu_seconds / 3600:,.1f} h"))
    if costs.price is not None:
        money = costs.price.of((cost + costs.total.unused).gpu_seconds / 3600)
        facts.append(("cost", f"{money:,.2f} {costs.price.currency}"))
    if counts["diverged"]:
        facts.append(("diverged runs", f"{counts['diverged']:,}"))
    finished = runs["finished_at"].dropna()
    if len(finished):
        first, last = finished.min().date().isoformat(), finished.max().date().isoformat()
        facts.append(("finished", first if first == last else f"{first} to {last}"))
    return facts


def _sections(claims: Sequence[Claim], pictures: Sequence[Picture], effects: Sequence[Sheet]) -> list[tuple[str, str]]:
    sections = [
        ("what", "What was run", True),
        ("claims", "Claims", bool(claims)),
        ("figures", "Figures", bool(pictures)),
        ("tables", "Tables", True),
        ("effects", "Effects", bool(effects)),
        ("cost", "Cost and time", True),
        ("provenance", "Provenance", True),
    ]
    return [(anchor, name) for anchor, name, is_there in sections if is_there]


def _warnings(runs: pd.DataFrame, extras: Extras) -> list[str]:
    """Everything that a reader must know first: holes, damage, mixed provenance."""
    mixed = [f"{setting.title}: {line}" for setting in summarise(runs) for line in setting.provenances.mixed]
    dirty = sorted({commit for commit in runs["git_commit"].dropna() if commit.endswith("+dirty")})
    edited = [f"Code with uncommitted changes: {', '.join(dirty)}."] if dirty else []
    return [*notes(runs, extras), *edited, *mixed]


def _verdicts(claims: Sequence[Claim], *, several_models: bool) -> Sheet:
    header = ("claim", "verdict", *(("model",) if several_models else ()), "what it says")
    lines = [
        (
            claim.id,
            f"{MARKS[claim.verdict]} {claim.verdict}",
            *((", ".join(part for part in (claim.model, claim.recipe) if part),) if several_models else ()),
            claim.text,
        )
        for claim in claims
    ]
    return Sheet("Verdicts", header, tuple(lines), frozenset())


def provenance_sheet(frame: pd.DataFrame) -> Sheet:
    """A row for each combination of code, image, device, numerics version and data, with the runs that have it."""
    columns = ("git_commit", "image", "device", "numerics", "weights_sha256", "rows_sha256")
    counts: dict[tuple[str, ...], int] = {}
    tasks: dict[tuple[str, ...], dict[str, None]] = {}
    for run in rows(frame):
        if run["numerics"] is None:
            continue
        key = tuple(run[name] or NONE for name in columns)
        counts[key] = counts.get(key, 0) + 1
        tasks.setdefault(key, {})[run["task"]] = None
    lines = [
        (", ".join(tasks[key]), str(count), *key[:4], *(each[:12] for each in key[4:])) for key, count in counts.items()
    ]
    header = ("tasks", "runs", "git commit", "image", "device", "numerics version", "weights", "rows")
    note = f"{counted(len(lines), 'combination')}; weights and rows by the start of the sha256 of what was read."
    return Sheet("Code, image, device and data", header, tuple(lines), frozenset({1}), notes=(note,))
