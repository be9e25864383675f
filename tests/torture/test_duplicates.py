"""Several pods at once on the same runs: one result, or a conflict that is shown and never averaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pandas as pd
import pytest

from jobs.backends import open_objects
from jobs.found import Found
from jobs.store import open_store
from tests.figures import full, record
from tests.torture.study import Tiny
from tests.zygote import Forked, zygote

ROUNDS: Final = full(10, 1)
TARGET: Final = "several pods on one run: one result, or a conflict that is shown and never averaged"
OTHER_BITS: Final = {"MKL_CBWR": "COMPATIBLE"}
"""Sums in another order, by a switch of the matrix library that no provenance names: as a machine that errs would."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("duplicates"), "[2]", 2)


@pytest.fixture(scope="module")
def address(tiny: Tiny) -> Iterator[str]:
    with zygote(tiny.folder) as one:
        yield one


class Pods:
    """Pods of one cell at the same time, each a process of its own, on one bucket."""

    def __init__(self, tiny: Tiny, url: str, address: str) -> None:
        self.tiny, self.url, self.address, self.started = tiny, url, address, 0
        tiny.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        (self.planned,) = (each for each in tiny.plan if each.cell.treatment.kind == "reinit" and len(tiny.plan) == 1)

    def run(self, *variables: dict[str, str]) -> list[str]:
        """Start one with each of these variables, wait for all, give their logs."""
        running = []
        for each in variables:
            self.started += 1
            log = self.tiny.folder / f"pod-{self.started}.log"
            own = self.tiny.pod(self.planned, self.url, f"pod-{self.started}") | each
            with log.open("wb") as output, Path(os.devnull).open("rb") as nothing:
                descriptors = nothing.fileno(), output.fileno(), output.fileno()
                running.append((Forked(self.address, "pod", [], own, descriptors), log))
        assert [pod.wait(240) for pod, _ in running] == [0] * len(running), [log.read_text() for _, log in running]
        return [log.read_text() for _, log in running]

    @property
    def keys(self) -> set[str]:
        """Of results."""
        return set(open_objects(self.url, attempts=3).keys("runs/"))

    @property
    def found(self) -> Found:
        """What the store makes of them."""
        return open_store(self.url).results(self.planned.cell.digest)

    def table(self, *more: str) -> pd.DataFrame:
        """What `reinit aggregate` makes of them: each run in one row."""
        table = self.tiny.aggregated(self.url, *more)
        assert sorted(table["seed"]) == list(self.planned.seeds)
        return table


@pytest.mark.parametrize("several", [2, 3])
def test_pods_that_agree_settle_to_one_result_a_run_and_a_retry_does_nothing(
    tiny: Tiny, address: str, s3_url: str, several: int
) -> None:
    objects = runs = 0
    for number in range(ROUNDS):
        pods = Pods(tiny, f"{s3_url}/{number}", address)
        pods.run(*[{}] * several)
        found, keys = pods.found, pods.keys
        assert sorted(found.results) == list(pods.planned.seeds)
        assert not found.contradictions
        assert {each.largest_difference for each in found.duplicates} <= {0.0}
        assert len({key.split(".")[1] for key in keys}) == len(pods.planned.seeds), "another science"
        for seed, result in found.results.items():
            of_seed = [each for each in found.duplicates if each.seed == seed]
            assert not of_seed or result.key == of_seed[0].keys[0], "not the earliest"
        objects, runs = objects + len(keys), runs + len(found.results)
        assert all("every run of this Job is in the store already" in log for log in pods.run({}))
        assert pods.keys == keys
    assert set(pods.table()["status"]) == {"done"}
    assert objects > runs, "the pods were never at one run at the same time"
    record(
        "test_duplicates", f"{several} pods at once: {objects} objects of {runs} runs, each in the frame once", TARGET
    )


def test_a_pod_of_another_numerics_version_is_a_duplicate_that_is_shown_and_in_no_mean(
    tiny: Tiny, address: str, s3_url: str
) -> None:
    pods = Pods(tiny, s3_url, address)
    pods.run({}, {"REINIT_THREADS": "2"}, {"ATEN_CPU_CAPABILITY": "default"})
    found, table = pods.found, pods.table()
    assert [(each.seed, len(each.keys)) for each in found.duplicates] == [(seed, 3) for seed in pods.planned.seeds]
    assert not found.contradictions
    for seed, score in zip(table["seed"], table["score"], strict=True):
        assert score == found.results[seed].score  # type: ignore[union-attr]
    differ = max(each.largest_difference or 0.0 for each in found.duplicates)
    said = "another thread count, another instruction set: duplicates, shown with their largest difference"
    record("test_duplicates", f"{said} ({differ:g}), the earliest counts", TARGET)


def test_pods_that_contradict_each_other_leave_a_run_without_a_score(tiny: Tiny, address: str, s3_url: str) -> None:
    pods = Pods(tiny, s3_url, address)
    pods.run({}, OTHER_BITS)
    found = pods.found
    refused = tiny.aggregate(s3_url)
    assert refused.returncode == 65
    assert all(key.rpartition("/")[2] in refused.stderr for key in pods.keys), refused.stderr
    table = pods.table("--allow-partial")
    assert [each.seed for each in found.contradictions] == list(pods.planned.seeds)
    assert {key for each in found.contradictions for key in each.keys} == pods.keys
    assert not found.results
    assert set(table["status"]) == {"contradictory"}
    assert table["score"].isna().all()
    # A third opinion settles nothing: the runs are not done again.
    assert all("in the store already" in log for log in pods.run({}))
    record("test_duplicates", "other bits under one numerics version: refused, both named, no score", TARGET)
