"""A study of many short runs, for tests that start it again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pandas as pd

from aggregate.frame import read_frame
from jobs.cluster import Cluster
from jobs.environment import pod_environment
from jobs.plan import Plan, PlannedCell
from jobs.store import Found, Store
from jobs.study import load_study
from tests.reinit.tiny import write_sentences
from tests.test_local_runs import a_study, command, environment

IMAGE: Final = "registry.example/reinit@sha256:" + "0" * 64


class Tiny:
    """A study of many runs that take a fraction of a second each."""

    def __init__(self, folder: Path, preserved: str, seeds: int) -> None:
        self.folder = folder
        self.data = write_sentences(folder / "data")
        self.study = a_study(self.data, seeds=seeds)
        self.study.write_text(self.study.read_text().replace("[6, 2]", preserved))
        self.plan: Plan = load_study(str(self.study)).plan()
        # One name for the code, whatever somebody does to the checkout meanwhile.
        self.environment = environment(folder) | {"REINIT_GIT_COMMIT": "c" * 40}

    def pod(self, planned: PlannedCell, store: str, name: str) -> dict[str, str]:
        """Environment of the pod of a cell."""
        site = Cluster(image=IMAGE, store="s3://bucket/b", gpus=0, cpu="1", places={"tiny": str(self.data)})
        own = pod_environment(planned.cell, planned.seeds, site)
        return self.environment | own | {"REINIT_STORE": store, "REINIT_POD": name}

    def command(self, store: str, *more: str) -> list[str]:
        """`reinit run` as a user starts it."""
        return command(self.study, store, self.data, *more)

    def found(self, store: Store) -> dict[str, Found]:
        """All that the store has of the study."""
        return store.all_results([each.cell.digest for each in self.plan])

    def done(self, store: Store) -> int:
        """Runs that the store has."""
        return sum(len(each.done) for each in self.found(store).values())

    def aggregate(self, store: str, *more: str) -> subprocess.CompletedProcess[str]:
        """`reinit aggregate`."""
        main = [sys.executable, "-c", "from jobs.cli import main; main()", "aggregate", str(self.study)]
        whole = [*main, "--store", store, "-o", str(self.folder / "tables"), *more]
        return subprocess.run(whole, env=self.environment, capture_output=True, text=True, check=False, timeout=250)

    def aggregated(self, store: str, *more: str) -> pd.DataFrame:
        """The frame that `reinit aggregate` writes."""
        done = self.aggregate(store, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_frame(self.folder / "tables" / "runs.parquet")
