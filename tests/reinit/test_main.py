"""What a pod reads from its environment: its own chunk of the seeds, and whether it starts ranks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import Cluster
from jobs.environment import chunks, pod_environment
from jobs.errors import ConfigurationError, SpecError
from reinit.environment import checkpoint_seconds, pod_runs, ranks_to_start
from tests.make import a_cell

SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")
CELL = a_cell(6)


def environment(seeds: list[int], **more: str) -> dict[str, str]:
    cells = json.dumps([CELL.model_dump(mode="json")])
    return {"REINIT_CELLS": cells, "REINIT_SEEDS": json.dumps(seeds), **more}


@pytest.mark.parametrize(("index", "seeds"), [("0", (3, 1)), ("1", (4, 5)), ("2", (9,))])
def test_a_pod_of_an_indexed_job_runs_its_chunk_and_the_last_may_be_short(index: str, seeds: tuple[int, ...]) -> None:
    given = environment([3, 1, 4, 5, 9], REINIT_SEEDS_PER_POD="2", JOB_COMPLETION_INDEX=index)
    assert pod_runs(given) == ((CELL,), seeds)


def test_without_a_chunk_size_a_pod_runs_every_seed() -> None:
    assert pod_runs(environment([1, 2, 3])) == ((CELL,), (1, 2, 3))


@pytest.mark.parametrize(
    "more",
    [
        {"REINIT_SEEDS_PER_POD": "2"},
        {"REINIT_SEEDS_PER_POD": "0", "JOB_COMPLETION_INDEX": "0"},
        {"REINIT_SEEDS_PER_POD": "two", "JOB_COMPLETION_INDEX": "0"},
        {"REINIT_SEEDS_PER_POD": "", "JOB_COMPLETION_INDEX": "0"},
        {"REINIT_SEEDS_PER_POD": "2", "JOB_COMPLETION_INDEX": "-1"},
        {"REINIT_SEEDS_PER_POD": "2", "JOB_COMPLETION_INDEX": "1.0"},
        {"REINIT_SEEDS_PER_POD": "2", "JOB_COMPLETION_INDEX": "٣"},
        {"REINIT_SEEDS_PER_POD": "2", "JOB_COMPLETION_INDEX": "2"},
        {"REINIT_SEEDS_PER_POD": "2", "JOB_COMPLETION_INDEX": "9" * 5000},
    ],
)
def test_a_number_that_is_none_or_beyond_the_seeds_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=r"REINIT_SEEDS_PER_POD|JOB_COMPLETION_INDEX"):
        pod_runs(environment([1, 2, 3], **more))


@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True), size=st.integers(1, 10))
def test_the_pods_of_a_rendered_job_run_every_seed_once_in_order(seeds: list[int], size: int) -> None:
    site = SITE.model_copy(update={"seeds_per_pod": size})
    told = pod_environment(CELL, seeds, site)
    pods = [pod_runs({**told, "JOB_COMPLETION_INDEX": str(index)})[1] for index in range(chunks(seeds, site))]
    assert [seed for pod in pods for seed in pod] == seeds
    assert all(len(pod) <= size for pod in pods)


@pytest.mark.parametrize(
    ("told", "ranks"),
    [
        ({}, 0),
        ({"REINIT_GPUS": "0"}, 0),
        ({"REINIT_GPUS": "1"}, 0),
        ({"REINIT_GPUS": "4"}, 4),
        ({"REINIT_GPUS": "4", "RANK": "0"}, 0),
    ],
)
def test_ranks_are_started_once_and_only_for_several_gpus(told: dict[str, str], ranks: int) -> None:
    assert ranks_to_start(told) == ranks


def test_a_number_of_gpus_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="REINIT_GPUS"):
        ranks_to_start({"REINIT_GPUS": "all"})


def test_the_time_between_checkpoints_is_a_number_of_seconds() -> None:
    assert checkpoint_seconds({}) == 300
    assert checkpoint_seconds({"REINIT_CHECKPOINT_SECONDS": "0"}) == 0
    assert checkpoint_seconds({"REINIT_CHECKPOINT_SECONDS": "12.5"}) == 12.5


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "soon"])
def test_a_time_between_checkpoints_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="REINIT_CHECKPOINT_SECONDS"):
        checkpoint_seconds({"REINIT_CHECKPOINT_SECONDS": text})
