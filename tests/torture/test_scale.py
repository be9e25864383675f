"""A study of 10,000 cells: every command does it on two cores, in memory that is bounded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import yaml

from aggregate.frame import read_frame
from jobs.cluster import read_cluster
from jobs.manifest import job
from jobs.plan import Plan
from jobs.result import RunResult
from jobs.study import load_study
from tests.figures import full, record
from tests.kube_api import serve
from tests.make import a_result, some_predictions
from tests.s3 import S3Server

TASKS: Final = full(10, 2)
SIZES: Final = full(20, 5)
TREATMENTS: Final = 50
CELLS: Final = TASKS * SIZES * TREATMENTS
TARGET: Final = "10,000 cells on 2 cores: memory bounded, times printed"

MEBIBYTES: Final = {"plan": 350, "render": 400, "lint": 150, "status": 650, "aggregate": 1700, "compact": 350}
"""Most resident memory of each command's process.

A notebook has 8 GiB. Each bound is one and a half times to twice what 10,000 cells were measured to take: 5 to 30 KiB
for a cell on top of the libraries, and for `aggregate` figures of 200 panels as well. What grew with the square of the
cells would be far above.
"""

LAUNCHER: Final = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""A small process between: a child's peak begins with the memory of whoever forked it, and a test's own is large."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    """Curves, single layers and every other layer of a network of 24, over tasks and sizes."""
    path = folder / "large.yaml"
    everywhere = {"sizes": [100 * (number + 1) for number in range(SIZES)], "seeds": 1}
    content = {
        "name": "large",
        "title": "Ten thousand cells",
        "note": "For tests.",
        "model": {"name": "google-bert/bert-large-uncased", "revision": "0" * 40, "layers": 24},
        "recipe": {"duration": {"kind": "epochs", "epochs": 1}},
        "tasks": [a_task(number) for number in range(TASKS)],
        "families": [{"family": family, **everywhere} for family in ("progressive", "single", "alternate")],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def a_task(number: int) -> dict[str, object]:
    return {
        "name": f"task-{number}",
        "source": {"kind": "folder", "name": f"task-{number}", "revision": "sha256:" + f"{number:064x}"},
        "text": ["sentence"],
        "label": "label",
        "labels": ["0", "1"],
        "metrics": ["accuracy"],
        "train_rows": 10_000,
        "validation_rows": [1_000],
    }


@pytest.fixture(scope="module")
def plan(study: Path) -> Plan:
    found = load_study(str(study)).plan()
    assert len(found) == CELLS
    return found


@pytest.fixture(scope="module")
def site(folder: Path) -> Path:
    path = folder / "cluster.yaml"
    content = {"image": "registry.example/reinit@sha256:" + "0" * 64, "store": "s3://bucket/prefix"}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def objects(plan: Plan) -> dict[str, bytes]:
    """A result of every run."""
    found = {f"predictions/{result.predictions}": some_predictions() for result in results(plan)}
    return found | {result.key: result.to_bytes() for result in results(plan)}


def results(plan: Plan) -> Iterator[RunResult]:
    for number, each in enumerate(plan):
        yield a_result(each.cell, score=0.5 + (number * 7919 % 1000) / 2500, later=number)


class Measured:
    """Commands, each with its time and its peak memory."""

    def __init__(self, where: str) -> None:
        self.figures: list[str] = []
        self.where = where

    def run(self, command: str, *arguments: object) -> str:
        """`reinit COMMAND ARGUMENTS` in a process of its own, which the kernel accounts for."""
        main = [sys.executable, "-c", "from jobs.cli import main; main()", command, *map(str, arguments)]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", LAUNCHER, *main], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        assert done.returncode == 0, done.stdout + done.stderr
        mebibytes = int(done.stderr.split()[-1]) / 1024
        self.figures.append(f"{command} {seconds:.0f} s, {mebibytes:.0f} MiB of at most {MEBIBYTES[command]}")
        assert mebibytes <= MEBIBYTES[command]
        return done.stdout

    def record(self) -> None:
        """All since the last time."""
        record("test_scale", f"{CELLS:,} cells, {self.where}: {'; '.join(self.figures)}", TARGET)
        self.figures.clear()


def test_a_study_of_ten_thousand_cells_goes_through_every_command(
    folder: Path, study: Path, plan: Plan, site: Path, objects: dict[str, bytes]
) -> None:
    store = folder / "store"
    for key, data in objects.items():
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(data)
    measured = Measured("results in a folder")
    said = measured.run("plan", study, "--store", store.as_uri())
    assert f"{CELLS:,} cells, {CELLS:,} runs" in said
    measured.run("render", study, "--cluster", site, "-o", folder / "manifests")
    assert sum(path.read_text().count("\nkind: ") for path in (folder / "manifests").glob("0*.yaml")) == CELLS
    measured.run("lint", folder / "manifests", "--queue-resources", "cpu,memory,nvidia.com/gpu")
    with serve() as cluster:
        read = read_cluster(site)
        for each in plan:
            thing = job("large", each.cell, each.seeds, read)
            done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            cluster.add("jobs", {**thing, "status": {"succeeded": 1, "conditions": [done]}})
        kubeconfig = cluster.kubeconfig(folder)
        options = ("--cluster", site, "--store", store.as_uri(), "--kubeconfig", kubeconfig)
        said = measured.run("status", study, *options)
    assert f"{CELLS:,}" in said
    measured.record()
    aggregated(measured, study, store.as_uri(), folder / "tables")
    measured.record()


def test_ten_thousand_results_are_read_from_a_bucket(
    folder: Path, study: Path, objects: dict[str, bytes], s3_server: S3Server, s3_bucket: str
) -> None:
    with ThreadPoolExecutor(8) as pool:
        put = s3_server.client.put_object
        list(pool.map(lambda pair: put(Bucket=s3_bucket, Key=f"a/{pair[0]}", Body=pair[1]), objects.items()))
    measured = Measured("results in a bucket")
    before = measured.run("plan", study, "--store", f"s3://{s3_bucket}/a")
    said = measured.run("compact", "--store", f"s3://{s3_bucket}/a")
    assert f"{CELLS:,} results in snapshots" in said
    assert measured.run("plan", study, "--store", f"s3://{s3_bucket}/a") == before
    measured.record()
    aggregated(measured, study, f"s3://{s3_bucket}/a", folder / "tables-of-bucket")
    measured.record()


def aggregated(measured: Measured, study: Path, store: str, out: Path) -> None:
    measured.run("aggregate", study, "--store", store, "-o", out)
    table = read_frame(out / "runs.parquet")
    assert len(table) == CELLS
    assert set(table["status"]) == {"done"}
