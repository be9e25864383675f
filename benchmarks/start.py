"""From the start of a pod's process to its first training step: each stage, its wall and CPU seconds.

    python benchmarks/start.py [STUDY CELL] [--place NAME=FOLDER] [--store URL] [--repeat 3]

The process is the pod's own, `python -m reinit` with the environment of a manifest, ended when it has made one step.
Stages are timed exclusively: an import's seconds are its own modules' alone, whoever asked for them. Of several starts,
after one that fills the file cache and keeps the tokens that a start keeps, the one with the fewest CPU-seconds is
shown; `at` is when a stage was first begun. Scheduling, pulling the image and starting the container come before and
are not measured.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

STAGES: Final = {
    "jobs.store": {"Store.check": "store: check", "Store.results": "store: what is done"},
    "jobs.outbox": {"Outbox.send_earlier": "store: outbox"},
    "reinit.data": {
        "rows_from": "rows: check revision",
        "read_task": "rows: read and check",
        "TaskRows.sha256": "rows: hash",
    },
    "reinit.tokens": {"Tokens.take": "rows: tokenise", "Tokens.encoded": "rows: tokenise"},
    "reinit.tokencache": {
        "tokeniser_files": "tokens: find",
        "determined_by": "tokens: find",
        "TokenCache.find": "tokens: find",
        "TokenCache.keep": "tokens: keep",
    },
    "reinit.places": {"resolve_model": "weights: find", "weights_sha256": "weights: hash"},
    "reinit.network": {
        "load_tokenizer": "tokeniser: load",
        "vocabulary_of": "configuration: read",
        "_read_config": "configuration: read",
        "_check_size": "network: check size",
        "_read_network": "network: load",
        "Network.__init__": "network: keep pristine",
        "Network.prepare": "network: prepare",
    },
    "reinit.ranks": {"join_ranks": "ranks: join"},
    "reinit.provenance": {"code_commit": "provenance", "read_provenance": "provenance"},
    "reinit.engine": {"build_engine": "engine: build"},
    "reinit.train": {"train": "first step"},
}
"""Module to the functions in it that are stages; one that this version does not have is none."""

IMPORTS: Final = frozenset(
    {"boto3", "botocore", "datasets", "deepspeed", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "scipy"}
    | {"sklearn", "sympy", "tokenizers", "torch", "transformers", "huggingface_hub", "jobs", "reinit"}
)
"""Packages whose import is a stage; any other counts to the stage that imports it."""

REST: Final = "interpreter, and the rest"
"""What is in no other stage."""

REPORT, BEGAN = "START_REPORT", "START_BEGAN"
"""Variables for the process that is measured: the file to write to, and when it was started."""


class Clock:
    """Exclusive seconds of named stages of this process's main thread."""

    def __init__(self, began: float) -> None:
        """`began` is when the process was started, by the machine's monotonic clock."""
        self._began = began
        self._rows: dict[str, list[float]] = {}
        self._stack = [REST]
        self._wall, self._cpu = began, 0.0
        self._rows[REST] = [0.0, 0.0, 0.0]

    def _turn(self) -> None:
        """Charge what has gone by to the stage on top."""
        wall, cpu = time.monotonic(), time.process_time()
        row = self._rows[self._stack[-1]]
        row[1] += wall - self._wall
        row[2] += cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside is charged to `name`, but for stages inside it."""
        self._turn()
        self._rows.setdefault(name, [self._wall - self._began, 0.0, 0.0])
        self._stack.append(name)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def report(self) -> dict[str, list[float]]:
        """Stage to its start, wall and CPU seconds, in the order in which they began."""
        self._turn()
        return self._rows


class Hook(importlib.abc.MetaPathFinder):
    """Times the modules of `IMPORTS`, and wraps the functions of `STAGES` before anybody takes a reference to them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """What the other finders find, its execution timed."""
        root = name.partition(".")[0]
        if root not in IMPORTS:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                break
        else:
            return None
        if spec.loader is not None and hasattr(spec.loader, "exec_module"):
            run = spec.loader.exec_module

            def timed(module: ModuleType) -> None:
                with self._clock.stage(f"import {root}"):
                    run(module)
                for place, stage in STAGES.get(name, {}).items():
                    self._wrap(module, place, stage)

            spec.loader.exec_module = timed  # type: ignore[method-assign]
        return spec

    def _wrap(self, module: ModuleType, place: str, stage: str) -> None:
        owner: Any = module
        *parents, last = place.split(".")
        for parent in parents:
            owner = getattr(owner, parent, None)
        if owner is None or last not in vars(owner):
            return
        what: Any = vars(owner)[last]
        function: Any = what.fget if isinstance(what, property) else what
        timed = self._timed(function, stage)
        setattr(owner, last, property(timed) if isinstance(what, property) else timed)

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._clock.stage(stage):
                return function(*arguments, **named)

        return timed


def be_the_pod() -> None:
    """Run `python -m reinit` in this process until the first step of its first run."""
    clock = Clock(float(os.environ[BEGAN]))
    sys.meta_path.insert(0, Hook(clock))
    from reinit import session

    def stopping(self: session.Session, cells: Any) -> Any:
        worker = prepare(self, cells)
        run = worker.run

        def until_a_step(cell: Any, seed: int, _on_step: object, keeper: Any = None) -> Any:
            def stop(_step: int, _loss: float) -> None:
                Path(os.environ[REPORT]).write_text(json.dumps(clock.report()), encoding="utf-8")
                os._exit(0)

            return run(cell, seed, stop, keeper)

        vars(worker)["run"] = until_a_step
        return worker

    prepare, session.Session.prepare = session.Session.prepare, stopping  # type: ignore[method-assign]
    from reinit.__main__ import main

    sys.exit(main())


def main() -> None:
    """Measure and print."""
    from jobs.study import load_study

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="?", default="demo")
    parser.add_argument("cell", nargs="?", help="a prefix of a cell's name; by default the first")
    parser.add_argument("--place", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--store", metavar="URL", help="by default a new folder")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    plan = load_study(options.study).plan()
    planned = plan.find(options.cell) if options.cell else plan[0]
    places = dict(place.split("=", 1) for place in options.place)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "REINIT_CELLS": json.dumps([planned.cell.model_dump(mode="json")]),
            "REINIT_SEEDS": json.dumps(list(planned.seeds)),
            "REINIT_STORE": options.store or Path(folder, "store").as_uri(),
            "REINIT_PLACES": json.dumps(places),
            "TOKENIZERS_PARALLELISM": "false",
        }
        starts = [_start(environment, Path(folder, "report.json")) for _ in range(options.repeat + 1)][1:]
    print(f"{planned.cell.name}: of {len(starts)} starts with a warm file cache, the one with the fewest CPU-seconds")
    _print(starts)


def _start(environment: dict[str, str], report: Path) -> dict[str, list[float]]:
    environment = {**environment, REPORT: str(report), BEGAN: str(time.monotonic())}
    ran = subprocess.run(  # noqa: S603  this file
        [sys.executable, __file__],
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ran.returncode:
        sys.exit(ran.stdout)
    rows: dict[str, list[float]] = json.loads(report.read_text(encoding="utf-8"))
    return rows


def _print(starts: Sequence[dict[str, list[float]]]) -> None:
    totals = [[sum(row[which] for row in rows.values()) for rows in starts] for which in (1, 2)]
    best = starts[totals[1].index(min(totals[1]))]
    print(f"{'stage':<26}{'at s':>8}{'wall s':>8}{'CPU s':>8}")
    for name, (at, wall, cpu) in sorted(best.items(), key=lambda row: row[1][0]):
        print(f"{name:<26}{at:>8.2f}{wall:>8.2f}{cpu:>8.2f}")
    print(f"{'until the first step':<34}{sum(row[1] for row in best.values()):>8.2f}{min(totals[1]):>8.2f}")
    print(f"{'of all starts, from':<34}{min(totals[0]):>8.2f}{min(totals[1]):>8.2f}")
    print(f"{'to':>19}{'':<15}{max(totals[0]):>8.2f}{max(totals[1]):>8.2f}")


if __name__ == "__main__":
    be_the_pod() if REPORT in os.environ else main()
