"""How far the runs of this process are, in plain words and as numbers.

Law: pure arithmetic on a clock; nothing here decides anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.cell import Cell

POD_SECONDS: Final = 10.0
"""Least time between two step events in a pod, where people read them."""
PIPE_SECONDS: Final = 0.5
"""The same behind a pipe, where a bar draws them."""


@dataclass(frozen=True)
class Said:
    """An event's text for people, and its fields."""

    message: str
    fields: dict[str, Any]


class Progress:
    """Of runs that follow each other.

    Args:
        every_seconds: least time between two step events.
        plan: the cell of each run to come; empty where the runs are not known before.
        clock: seconds.
    """

    def __init__(
        self, every_seconds: float, plan: Sequence[Cell] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_seconds = every_seconds
        self._clock = clock
        self._runs, self._runs_done = len(plan), 0
        self._steps, self._steps_done = sum(cell.steps for cell in plan), 0
        self._resumed = 0
        self._first: float | None = None
        self._run: tuple[Cell, int]
        self._said_at, self._said_step = 0.0, 0

    def begin(self, cell: Cell, seed: int) -> Said:
        """The next run starts."""
        self._run = cell, seed
        self._said_at, self._said_step = self._clock(), 0
        if self._first is None:
            self._first = self._said_at
        if not self._runs:
            self._steps += cell.steps
        return Said(f"{self._name}, {cell.steps:,} steps", {**self._fields, "steps": cell.steps})

    def resume(self, step: int) -> None:
        """The run in progress goes on after so many steps, which this process did not do."""
        self._said_at, self._said_step = self._clock(), step
        self._resumed += step

    def step(self, step: int, loss: float) -> Said | None:
        """After `step` steps of the run: what to say, None where the last word is too fresh, or before the first."""
        now, (cell, _) = self._clock(), self._run
        if not step or now - self._said_at < self._every_seconds or self._first is None:
            return None
        rate = (step - self._said_step) / (now - self._said_at)
        self._said_at, self._said_step = now, step
        done = self._steps_done + step
        # Over all that went by, so that the scoring of runs to come is in it.
        left = (now - self._first) / (done - self._resumed) * (self._steps - done)
        pace = f"{rate:,.1f} steps a second" if rate >= 1 else f"{1 / rate:,.1f} s a step"
        numbers = {"step": step, "steps": cell.steps, "loss": loss}
        estimates = {"steps_per_second": round(rate, 4), "left_seconds": round(left)}
        return Said(
            f"{self._name}: step {step:,} of {cell.steps:,}, loss {loss:.4f}, {pace}, about {in_words(left)} left",
            {**self._fields, **numbers, **estimates},
        )

    def end(self) -> None:
        """The run is kept."""
        self._runs_done += 1
        self._steps_done += self._run[0].steps

    @property
    def _name(self) -> str:
        cell, seed = self._run
        all_runs = f"{self._runs_done} of {self._runs} runs done; " if self._runs else ""
        return f"{all_runs}{cell.name} seed {seed}"

    @property
    def _fields(self) -> dict[str, Any]:
        cell, seed = self._run
        all_runs = {"runs_done": self._runs_done, "runs": self._runs} if self._runs else {}
        return {"digest": cell.digest, "seed": seed, **all_runs}


def in_words(seconds: float) -> str:
    """A duration in its two largest units, rounded: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
