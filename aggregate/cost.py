"""What the runs took: time on the clock and on GPUs, for each cell and for each table.

Law: sums count every result there is, diverged ones too, since each was paid for. A hole costs nothing here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aggregate.frame import rows
from aggregate.tables import NONE, Sheet
from aggregate.text import counted

HOUR = 3600.0


@dataclass(frozen=True)
class Cost:
    """Of some results together."""

    runs: int
    wall_seconds: float
    """Sum over runs, from the pristine network to the last prediction; runs side by side count each."""
    gpu_seconds: float
    """Wall seconds times GPUs, over the workers that shared them; 0 for runs on a CPU."""

    @property
    def text(self) -> str:
        """`58 runs, 1.25 hours, of them 0.00 GPU-hours` as a reader says it."""
        gpu = f", {self.gpu_seconds / HOUR:,.2f} GPU-hours" if self.gpu_seconds else ", no GPU"
        return f"{counted(self.runs, 'run')}, {self.wall_seconds / HOUR:,.2f} hours one after another{gpu}"


def total(frame: pd.DataFrame) -> Cost:
    """Of every result in the frame."""
    return _cost(rows(frame))


def cost_sheet(frame: pd.DataFrame) -> Sheet:
    """A row per cell that has a result, in the order of the frame, with the mean time of a run and the sums."""
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for run in rows(frame):
        by_cell.setdefault(run["digest"], []).append(run)
    lines = []
    for runs in by_cell.values():
        cost, first = _cost(runs), runs[0]
        if not cost.runs:
            continue
        steps = [run["steps"] for run in runs if run["steps"] is not None]
        lines.append(
            (
                *(first["task"], first["size"], first["treatment"], first["digest"][:8], str(cost.runs)),
                f"{max(steps):,}" if steps else NONE,
                f"{cost.wall_seconds / cost.runs:,.1f}",
                f"{cost.wall_seconds / HOUR:,.3f}",
                f"{cost.gpu_seconds / HOUR:,.3f}" if cost.gpu_seconds else NONE,
            )
        )
    return Sheet(
        title="Cost and time",
        header=("task", "size", "treatment", "cell", "runs", "steps", "seconds a run", "hours", "GPU-hours"),
        rows=tuple(lines),
        numeric=frozenset(range(4, 9)),
        notes=(
            f"Together: {total(frame).text}.",
            "From the pristine network to the last prediction; loading libraries, weights and rows is not counted.",
        ),
    )


def _cost(runs: Sequence[dict[str, Any]]) -> Cost:
    paid = [run for run in runs if run["wall_seconds"] is not None]
    return Cost(len(paid), sum(run["wall_seconds"] for run in paid), sum(run["gpu_seconds"] or 0.0 for run in paid))
