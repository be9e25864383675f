"""Tables: the summary of each setting, and coverage, as Markdown, LaTeX, CSV and for the terminal.

Law: pure functions. A table is first a `Sheet` of plain strings, the same for every format; each format then escapes
every one of them, whether it came from a user or not.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from aggregate.coverage import Extras, coverage, notes
from aggregate.frame import STATUSES, rows
from aggregate.stats import LEVEL, Interval, Paired
from aggregate.summary import CellSummary, Setting, summarise
from aggregate.text import latex, markdown, prose, spreadsheet, visible

NONE = "–"
"""Stands where there is no number."""


HEADER = (
    "treatment", "cell", "kept", "n", "mean", "95% interval", "sd", "difference", "95% interval", "pairs", "marks",
)  # fmt: skip
"""`kept` counts preserved layers; `difference` is to plain finetuning, with its own interval and number of pairs."""

MOST_NOTES = 12
"""Notes below a table in the terminal; the files have them all."""


@dataclass(frozen=True)
class Sheet:
    """A table of strings, not yet escaped."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    """Columns aligned to the right."""
    loud: frozenset[int] = frozenset()
    """Rows that must not be overlooked."""
    notes: tuple[str, ...] = ()


def setting_sheets(frame: pd.DataFrame) -> list[Sheet]:
    """One sheet per setting: a row per cell with mean, interval and difference to plain finetuning."""
    return [_setting_sheet(setting) for setting in summarise(frame)]


def _setting_sheet(setting: Setting) -> Sheet:
    return Sheet(
        title=f"{setting.title}: {setting.metric}",
        header=HEADER,
        rows=tuple(_cell_row(cell) for cell in setting.cells),
        numeric=frozenset(range(2, 10)),
        loud=frozenset(index for index, cell in enumerate(setting.cells) if cell.holes),
        notes=_setting_notes(setting),
    )


def _cell_row(cell: CellSummary) -> tuple[str, ...]:
    kept = NONE if cell.preserved_layers is None else str(cell.preserved_layers)
    score = cell.score
    which = (cell.treatment, cell.digest[:8] or NONE, kept, _n(cell))
    start = (*which, number(score.mean), bounds(score), number(score.sd))
    if cell.is_plain:
        return (*start, "baseline", NONE, NONE, "; ".join(cell.marks))
    if cell.difference is None:
        return (*start, NONE, NONE, NONE, "; ".join(cell.marks))
    difference = cell.difference.interval
    pairs = str(difference.n) if isinstance(cell.difference, Paired) else NONE
    return (*start, number(difference.mean, sign=True), bounds(difference, sign=True), pairs, "; ".join(cell.marks))


def _n(cell: CellSummary) -> str:
    return str(cell.score.n) if cell.score.n == cell.planned else f"{cell.score.n} of {cell.planned}"


def _setting_notes(setting: Setting) -> tuple[str, ...]:
    lines = ["Mean and 95% Student t interval (n - 1 degrees of freedom) over seeds, given one validation set."]
    if any(cell.preserved_layers is not None for cell in setting.cells):
        lines.append("Kept: pretrained layers below the redrawn ones, where these reach up to the top.")
    if not any(cell.is_plain for cell in setting.cells):
        lines.append("The study has no plain finetuning here, so no differences are shown.")
    else:
        lines.append("Difference to plain finetuning, paired by seed; pairs counts the seeds that both have.")
    if any(cell.treatment_kind == "probe" for cell in setting.cells):
        lines.append("A probe trains no network: no difference is taken between its score and a finetune's.")
    orders = [cell for cell in setting.cells if cell.unit == "order"]
    if orders:
        lines.append("Mean over orders: seeds averaged first, n counts orders, the interval is over orders.")
    if any(cell.difference for cell in orders):
        lines.append(
            "Its difference is of two means over different units, with Welch's interval: orders against plain "
            "finetuning at the orders' seeds, which adds an error of its own."
        )
    if holes := sum(cell.holes for cell in setting.cells if cell.unit == "seed"):
        lines.append(f"INCOMPLETE: planned runs without a score: {holes}. They are in no number; see marks.")
    if setting.unplanned:
        lines.append(f"Results of seeds outside the plan, in no number: {setting.unplanned}.")
    return (*lines, *setting.provenances.mixed)


def coverage_sheet(frame: pd.DataFrame, extras: Extras) -> Sheet:
    """Coverage as a sheet: each count with its share, and every hole named below."""
    table = rows(coverage(frame))
    lines = []
    for row in table:
        shares = [
            f"{row[status]} ({row[f'{status}_percent']:.1f}%)" if status == "done" or row[status] else "0"
            for status in STATUSES
        ]
        where = [row[name] for name in ("model", "task", "size", "recipe", "family")]
        lines.append((*where, str(row["planned"]), *shares))
    return Sheet(
        title="Coverage",
        header=("model", "task", "size", "recipe", "family", "planned", *STATUSES),
        rows=tuple(lines),
        numeric=frozenset(range(5, 6 + len(STATUSES))),
        loud=frozenset(index for index, row in enumerate(table) if row["done"] < row["planned"]),
        notes=tuple(notes(frame, extras)),
    )


def number(value: float | None, *, sign: bool = False) -> str:
    """Three decimals, zero never signed."""
    if value is None:
        return NONE
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return "0.000" if float(text) == 0 else text


def bounds(interval: Interval, *, sign: bool = False) -> str:
    """`low to high`, which needs no escaping and cannot be misread beside a minus."""
    if interval.low is None or interval.high is None:
        return NONE
    return f"{number(interval.low, sign=sign)} to {number(interval.high, sign=sign)}"


# --------------------------------------------------------------------------------------------------------- formats


def to_markdown(sheets: Iterable[Sheet], *, title: str, note: str = "") -> str:
    """A document of GitHub-flavoured Markdown: loud rows are bold, notes are a list below their table."""
    blocks = [f"# {markdown(prose(title))}"]
    if note:
        blocks.append(f"> {markdown(prose(note))}")
    for sheet in sheets:
        rule = ["---:" if column in sheet.numeric else "---" for column in range(len(sheet.header))]
        lines = [_line(map(markdown, sheet.header)), _line(rule)]
        for index, row in enumerate(sheet.rows):
            cells = [markdown(value) for value in row]
            lines.append(_line(f"**{cell}**" if cell and index in sheet.loud else cell for cell in cells))
        blocks += [f"## {markdown(prose(sheet.title))}", "\n".join(lines)]
        if sheet.notes:
            blocks.append("\n".join(f"- {markdown(prose(text))}" for text in sheet.notes))
    return "\n\n".join(blocks) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def to_latex(sheets: Iterable[Sheet], *, title: str, note: str = "") -> str:
    """`table` environments for a document that loads booktabs; loud rows are bold."""
    blocks = [f"% {visible(prose(title))}", "% Needs \\usepackage{booktabs}."]
    if note:
        blocks.insert(1, f"% {visible(prose(note))}")
    blocks += [_latex_table(sheet) for sheet in sheets]
    return "\n".join(blocks) + "\n"


def _latex_table(sheet: Sheet) -> str:
    columns = "".join("r" if column in sheet.numeric else "l" for column in range(len(sheet.header)))
    caption = " ".join([latex(prose(sheet.title)) + ".", *(latex(prose(text)) for text in sheet.notes)])
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(latex, sheet.header)) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(sheet.rows):
        cells = [latex(value) for value in row]
        bold = [rf"\textbf{{{cell}}}" if cell and index in sheet.loud else cell for cell in cells]
        lines.append(" & ".join(bold) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def to_rich(sheet: Sheet) -> Table:
    """A table for the terminal: every cell is a `Text`, so nothing in it is markup, and loud rows are red."""
    lines = [prose(text) for text in sheet.notes[:MOST_NOTES]]
    if more := len(sheet.notes) - len(lines):
        lines.append(f"... and {more} more")
    title, caption = Text(prose(sheet.title)), Text("\n".join(lines))
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="right" if column in sheet.numeric else "left")
    for index, row in enumerate(sheet.rows):
        table.add_row(*(Text(visible(value)) for value in row), style="bold red" if index in sheet.loud else None)
    return table


def table_csv(frame: pd.DataFrame) -> str:
    """All settings in one CSV, a row per cell, numbers in full precision and empty where there is none."""
    return to_csv([_flat(setting, cell) for setting in summarise(frame) for cell in setting.cells])


def _flat(setting: Setting, cell: CellSummary) -> dict[str, object]:
    difference = Interval(None, None, None, 0, None) if cell.difference is None else cell.difference.interval
    return {
        "model": setting.model,
        "task": setting.task,
        "size": setting.size,
        "rows": setting.rows,
        "recipe": setting.recipe,
        "metric": setting.metric,
        "treatment": cell.treatment,
        "variant": cell.variant,
        "families": "; ".join(cell.families),
        "cell": cell.cell,
        "digest": cell.digest,
        "preserved_layers": cell.preserved_layers,
        "unit": cell.unit,
        "planned": cell.planned,
        "n": cell.score.n,
        "mean": cell.score.mean,
        "low": cell.score.low,
        "high": cell.score.high,
        "sd": cell.score.sd,
        "level": LEVEL,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "difference_sd": difference.sd,
        "pairs": difference.n if isinstance(cell.difference, Paired) else None,
        **{f"runs_{status}": cell.runs[status] for status in STATUSES},
        "marks": "; ".join(cell.marks),
        "notes": " ".join(setting.provenances.mixed),
    }


def runs_csv(frame: pd.DataFrame) -> str:
    """The frame itself as CSV, a row per run; timestamps in ISO 8601, lists joined by semicolons."""
    return to_csv(
        [{name: _field(value) for name, value in row.items()} for row in rows(frame)],
        header=[str(name) for name in frame.columns],
    )


def _field(value: Any) -> object:
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def coverage_csv(frame: pd.DataFrame) -> str:
    """`coverage` as CSV."""
    return to_csv(rows(coverage(frame)))


def to_csv(records: Sequence[Mapping[str, object]], header: Sequence[str] = ()) -> str:
    """Records as CSV: numbers plain, None empty, text made safe for spreadsheets."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(header or (records[0] if records else ()))
    writer.writerow([spreadsheet(name) for name in names])
    for record in records:
        values = [record[name] for name in names]
        writer.writerow(["" if value is None else _csv(value) for value in values])
    return out.getvalue()


def _csv(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else spreadsheet(str(value))
