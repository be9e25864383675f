"""The real `python -m reinit` as a process of its own, in the environment of a pod.

Law: nothing of the program is replaced unless the test says so: code in `before` runs in each process of the pod before
the program does, as a `sitecustomize` module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cell import Cell
from jobs.result import Failure, RunResult
from jobs.store import Log, Store, open_store

TERMINATION = """
import pathlib, reinit.log
reinit.log.TERMINATION_LOG = pathlib.Path({path!r})
"""


@dataclass
class Pod:
    """One pod, to be started once."""

    folder: Path
    store_url: str
    cells: Sequence[Cell]
    seeds: Sequence[int] = (1,)
    data: Path | None = None
    model: Path | None = None
    before: str = ""
    environment: dict[str, str] | None = None
    arguments: Sequence[str] = ()
    out: str = ""
    errors: str = ""

    def start(self, within: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The running process, or that of a command which runs it."""
        self.folder.mkdir()
        (self.folder / "termination-log").touch()
        code = TERMINATION.format(path=str(self.folder / "termination-log")) + self.before
        (self.folder / "sitecustomize.py").write_text(code, encoding="utf-8")
        own = {
            "PYTHONPATH": str(self.folder),
            "REINIT_CELLS": json.dumps([cell.model_dump(mode="json") for cell in self.cells]),
            "REINIT_SEEDS": json.dumps(list(self.seeds)),
            "REINIT_STORE": self.store_url,
            "REINIT_PLACES": json.dumps(
                {name: str(path) for name, path in (("tiny", self.data), ("small", self.model)) if path}
            ),
            "REINIT_THREADS": "1",
            "REINIT_DEVICE": "cpu",
            "REINIT_POD": self.folder.name,
            # A commit while the tests run would make the next pod another numerics version.
            "REINIT_GIT_COMMIT": "c" * 40,
        }
        return subprocess.Popen(
            [*within, sys.executable, "-m", "reinit", *self.arguments],
            env={**os.environ, **own, **(self.environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, lines: str = "") -> int:
        """The exit code, when it has ended; `lines` are its standard input."""
        process = self.start()
        try:
            self.out, self.errors = process.communicate(lines, timeout=250)
        finally:
            process.kill()
        return process.returncode

    def stop_at(self, event: str, number: int, times: int = 1) -> int:
        """The exit code after this signal at the first such event, or at a later one."""
        process = self.start()
        assert process.stdout is not None
        for line in process.stdout:
            self.out += line
            times -= json.loads(line)["event"] == event
            if not times:
                process.send_signal(number)
                break
        try:
            out, self.errors = process.communicate(timeout=250)
        finally:
            process.kill()
        self.out += out
        return process.returncode

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it said on standard output, which is nothing but events."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> list[str]:
        """The kinds of its events."""
        return [event["event"] for event in self.events]

    @property
    def last_word(self) -> str:
        """What Kubernetes reads."""
        return (self.folder / "termination-log").read_text(encoding="utf-8")

    @property
    def store(self) -> Store:
        """The store, as a reader sees it."""
        return open_store(self.store_url)

    def logs(self, cell: Cell) -> tuple[Log, ...]:
        """Of all attempts at the cell."""
        return self.store.logs(cell.digest)

    def failures(self, cell: Cell) -> tuple[Failure, ...]:
        """Of all attempts at the cell."""
        return self.store.all_failures([cell.digest])[cell.digest].records


def assert_same_bits(one: Pod, other: Pod, cell: Cell, seeds: Sequence[int]) -> None:
    """Both stores have these runs of the cell and no others, to the bit."""
    expected, found = (pod.store.results(cell.digest).results for pod in (one, other))
    assert set(found) == set(expected) == set(seeds)
    for seed in seeds:
        before, after = expected[seed], found[seed]
        assert isinstance(before, RunResult)
        assert isinstance(after, RunResult)
        assert before.provenance.world_size == after.provenance.world_size
        measured = [(run.predictions, run.metrics, run.train_loss) for run in (before, after)]
        assert measured[0] == measured[1], f"{cell.name} seed {seed}"
