"""What a peer is asked, and what it answers. No peer imports this project beyond this file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One finetune."""

    model: str
    """Folder of weights and tokeniser."""
    texts: list[str]
    labels: list[int]
    orders: list[list[int]]
    """Rows in the order of each epoch."""
    scored_texts: list[str]
    scored_labels: list[int]
    redrawn: list[int]
    """Layers to initialise anew."""
    seed: int
    batch_size: int
    learning_rate: float
    max_length: int
    grad_clip: float
    most_steps: int | None = None
    """Stop after so many, unscored: only the time of a step is wanted."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(-(-len(order) // self.batch_size) for order in self.orders)


@dataclass
class Answer:
    """What came of it."""

    readings: list[tuple[float, float]] = field(default_factory=list)
    """CPU and wall seconds since the process started, before the first step and after each."""
    losses: list[float] = field(default_factory=list)
    """Of each step, where the peer reads it."""
    score: float | None = None
    """Accuracy on the scored rows."""
    _offset: float = field(default=0.0, repr=False)

    def tick(self) -> None:
        """Read the clocks."""
        self.readings.append((time.process_time(), time.perf_counter() - self._offset))


def serve(work: Callable[[Job, Answer], None]) -> None:
    """Be the process: read the question, work, write the answer."""
    asked, answered = map(Path, sys.argv[1:3])
    answer = Answer(_offset=time.perf_counter() - time.process_time())
    work(Job(**json.loads(asked.read_text(encoding="utf-8"))), answer)
    said = asdict(answer)
    del said["_offset"]
    answered.write_text(json.dumps(said), encoding="utf-8")
