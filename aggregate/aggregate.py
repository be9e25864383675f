"""`reinit aggregate` without the command: from a plan and what the store holds to tables and figures in a folder.

Law: nothing is written unless everything could be made, each file appears whole or not at all, and the same results
give the same bytes.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggregate import claims, effect_tables, figures, report, tables
from aggregate.cost import cost_csv, cost_json, costs
from aggregate.coverage import Extras, extras_in, holes, notes, refuse_holes
from aggregate.effects import Effects, measure
from aggregate.frame import frame
from aggregate.paper import paper_sheets
from aggregate.reference import Authors, Comparison, compare, reference_records, reference_sheet
from aggregate.text import prose, visible
from jobs.errors import ConfigurationError
from jobs.found import Damaged, Found
from jobs.plan import Plan, merged
from jobs.price import Price
from jobs.store import Failures

FILES: Final = (
    "table.md",
    "table.tex",
    "table.csv",
    "runs.csv",
    "runs.parquet",
    "coverage.md",
    "coverage.csv",
    "claims.json",
    "claims.md",
    "effects.csv",
    "cost.csv",
    "cost.json",
    "paper.md",
    "paper.tex",
    "reference.md",
    "reference.tex",
    "reference.csv",
    *(f"{name}.{kind}" for name in figures.NAMES for kind in figures.KINDS),
    "report.html",
)
"""What a study's folder may hold: `paper` and figures where the study has their cells, `reference` where asked for."""


class About(Protocol):
    """What a study says about itself."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def note(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Written:
    """What came of it."""

    files: tuple[Path, ...]
    tables: tuple[Table, ...]
    """For the terminal: a table per setting, then coverage, then the claims."""
    frame: pd.DataFrame
    claims: tuple[claims.Claim, ...]
    notes: tuple[str, ...]
    """What a reader must know: holes, contradictions, damage, duplicates; empty for a complete study."""


@dataclass(frozen=True)
class Together:
    """What several studies say about themselves, as one."""

    studies: tuple[About, ...]

    @property
    def name(self) -> str:
        """All names."""
        return ", ".join(study.name for study in self.studies)

    @property
    def title(self) -> str:
        """All titles, each after its study's name."""
        return "; ".join(f"{study.name}: {study.title}" for study in self.studies)

    @property
    def note(self) -> str:
        """All notes, likewise."""
        return " ".join(f"{study.name}: {study.note}" for study in self.studies)


def aggregate_studies(  # noqa: PLR0913  what the store holds, and what is asked for
    studies: Sequence[tuple[About, Plan]],
    found: Mapping[str, Found],
    failures: Mapping[str, Failures],
    out: Path,
    *,
    strays: Sequence[Damaged] = (),
    allow_partial: bool = False,
    reference: Authors | None = None,
    price: Price | None = None,
    console: Console | None = None,
) -> Written:
    """Write the tables and figures of some studies, of one or of their union, into `out`, which is made if need be.

    A cell that several studies have is one, with the seeds of all; the column `study` names them. Claims that compare
    studies need all their cells.

    Args:
        studies: each study's name, title and note, with its cells and their seeds.
        found: `Store.survey` of their cells.
        failures: `Store.all_failures` of their digests.
        out: folder; files of an earlier aggregation are replaced, others are left alone.
        strays: of the same survey, which are noted and refuse nothing.
        allow_partial: write although runs are missing, marked wherever they show.
        reference: values to draw beside the study's and to compare with them.
        price: of a GPU-hour; None says nothing of money.
        console: where the tables are printed; None prints nothing.

    Raises:
        DataError: something planned has no score, or the store holds contradictions or damage, and `allow_partial` is
            false, or nothing in the study can be compared with `reference`. Nothing is written.
    """
    abouts = {study.name: study for study, _ in studies}
    names: dict[str, dict[str, None]] = {}
    for study, plan in studies:
        for planned in plan:
            names.setdefault(planned.cell.digest, {})[study.name] = None
    by_digest = {digest: ", ".join(of_cell) for digest, of_cell in names.items()}
    runs = frame(merged(plan for _, plan in studies), found, failures, study=by_digest)
    about = next(iter(abouts.values())) if len(abouts) == 1 else Together(tuple(abouts.values()))
    extras = extras_in(found, failures, strays)
    return aggregate_runs(
        about, runs, extras, out, allow_partial=allow_partial, reference=reference, price=price, console=console
    )


def aggregate_runs(
    study: About,
    runs: pd.DataFrame,
    extras: Extras,
    out: Path,
    *,
    allow_partial: bool = False,
    reference: Authors | None = None,
    price: Price | None = None,
    console: Console | None = None,
) -> Written:
    """What `aggregate_studies` does, from the frame on."""
    if not allow_partial:
        names = [each.name for each in study.studies] if isinstance(study, Together) else [study.name]
        refuse_holes(runs, extras, studies=names)
    sheets = [*tables.setting_sheets(runs), tables.coverage_sheet(runs, extras)]
    comparisons = compare(runs, reference) if reference else []
    judged, measured, said = claims.evaluate(runs), measure(runs), tuple(notes(runs, extras))
    paper, compared = paper_sheets(runs), [reference_sheet(comparisons)] if comparisons else []
    contents = _contents(study, runs, sheets, paper, comparisons) | _meaning(study, runs, judged, measured)
    drawings, pictures = _figures(study, runs, reference)
    contents |= drawings
    spent = costs(runs, extras, price)
    contents |= {"cost.csv": cost_csv(spent).encode(), "cost.json": cost_json(spent).encode()}
    page = report.to_html(
        study,
        runs,
        extras,
        sheets=[*paper, *sheets[:-1], *compared],
        coverage=sheets[-1],
        claims=judged,
        effects=effect_tables.sheets(measured),
        pictures=pictures,
        costs=spent,
    )
    contents["report.html"] = page.encode("utf-8")
    files = _write(contents, out)
    shown = tuple(map(tables.to_rich, [*sheets, *claims.short_sheets(judged, holes(runs))]))
    written = Written(files, shown, runs, judged, said)
    if console is not None:
        _print(study, written, console)
    return written


def _contents(
    study: About,
    runs: pd.DataFrame,
    sheets: Sequence[tables.Sheet],
    paper: Sequence[tables.Sheet],
    comparisons: Sequence[Comparison],
) -> dict[str, bytes]:
    *settings, coverage = sheets
    texts = {
        "table.md": tables.to_markdown(settings, title=study.title, note=study.note),
        "table.tex": tables.to_latex(settings, title=study.title, note=study.note),
        "table.csv": tables.table_csv(runs),
        "runs.csv": tables.runs_csv(runs),
        "coverage.md": tables.to_markdown([coverage], title=study.title, note=study.note),
        "coverage.csv": tables.coverage_csv(runs),
    }
    if paper:
        texts["paper.md"] = tables.to_markdown(paper, title=study.title, note=study.note)
        texts["paper.tex"] = tables.to_latex(paper, title=study.title, note=study.note, floats=True)
    if comparisons:
        sheet = reference_sheet(comparisons)
        texts["reference.md"] = tables.to_markdown([sheet], title=study.title, note=study.note)
        texts["reference.tex"] = tables.to_latex([sheet], title=study.title, note=study.note)
        texts["reference.csv"] = tables.to_csv(reference_records(comparisons))
    contents = {name: text.encode("utf-8") for name, text in texts.items()}
    parquet = io.BytesIO()
    runs.to_parquet(parquet, index=False)
    contents["runs.parquet"] = parquet.getvalue()
    return contents


def _meaning(study: About, runs: pd.DataFrame, judged: Sequence[claims.Claim], measured: Effects) -> dict[str, bytes]:
    """Claims and effects, marked where runs are missing."""
    sheets = claims.sheets(judged, holes(runs))
    texts = {
        "claims.json": claims.to_json(judged, holes(runs)),
        "claims.md": tables.to_markdown(sheets, title=study.title, note=study.note),
        "effects.csv": tables.to_csv(effect_tables.records(measured), header=effect_tables.HEADER),
    }
    return {name: text.encode("utf-8") for name, text in texts.items()}


def _figures(
    study: About, runs: pd.DataFrame, reference: Authors | None
) -> tuple[dict[str, bytes], list[report.Picture]]:
    """The files of each figure, and the pictures of the page; one figure at a time is held."""
    contents: dict[str, bytes] = {}
    pictures = []
    for drawing in figures.drawn(runs, title=study.title, reference=reference):
        rendered = figures.render(drawing)
        contents |= {f"{drawing.name}.{kind}": data for kind, data in rendered.files.items()}
        pictures.append(report.Picture(drawing.name, rendered.page, drawing.title, drawing.caption))
        drawing.figure.clear()
    return contents, pictures


def _write(contents: Mapping[str, bytes], out: Path) -> tuple[Path, ...]:
    """Every file beside its place first, then all into place; a figure that no longer applies is removed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".aggregate-") as folder:
            for name, content in contents.items():
                (Path(folder) / name).write_bytes(content)
            for name in contents:
                # Replaces a link instead of writing to where it leads.
                (Path(folder) / name).replace(out / name)
        for name in set(FILES) - set(contents):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError("tables cannot be written", where=str(out), got=error.strerror) from error
    return tuple(out / name for name in FILES if name in contents)


def _print(study: About, written: Written, console: Console) -> None:
    console.print(Text(prose(study.title), style="bold"))
    console.print(Text(prose(study.note)))
    for table in written.tables:
        console.print()
        console.print(table)
    for file in written.files:
        console.print(Text(f"wrote {visible(str(file))}"))
