"""Tasks say everything about their data, and refuse to say what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.tasks import GLUE, FolderSource, Holdout, HubSource, PackageSource, Task

HASH = f"sha256:{'0' * 64}"
HUB = {"kind": "hub", "name": "some/reviews", "revision": "0" * 40}
FIELDS: dict[str, Any] = {
    "name": "reviews",
    "source": HubSource(name="some/reviews", revision="0" * 40),
    "text": ("text",),
    "label": "label",
    "labels": ("bad", "good"),
    "metrics": ("accuracy",),
    "train_rows": 100,
    "validation_rows": (10,),
}


def a_task(**changes: Any) -> Task:
    return Task(**{**FIELDS, **changes})


def test_the_papers_tasks_have_the_papers_rows_and_metrics() -> None:
    facts = {
        name: (GLUE[name].train_rows, *GLUE[name].validation_rows, GLUE[name].headline)
        for name in ("sst2", "qnli", "cola")
    }
    assert facts == {
        "sst2": (67_349, 872, "validation/accuracy"),
        "qnli": (104_743, 5_463, "validation/accuracy"),
        "cola": (8_551, 1_043, "validation/matthews"),
    }
    assert GLUE["qnli"].text == ("question", "sentence")


def test_mnli_is_scored_on_both_its_splits_the_matched_one_first() -> None:
    assert GLUE["mnli"].splits == ("validation_matched", "validation_mismatched")
    assert GLUE["mnli"].headline == "validation_matched/accuracy"
    assert GLUE["mnli"].outputs == 3


def test_similarity_is_a_regression() -> None:
    assert GLUE["stsb"].labels is None
    assert GLUE["stsb"].outputs == 1
    assert GLUE["stsb"].headline == "validation/pearson"


@pytest.mark.parametrize("name", GLUE)
def test_built_in_tasks_read_back_as_themselves(name: str) -> None:
    task = GLUE[name]
    assert task.name == name
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert hash(Task.model_validate_json(task.model_dump_json())) == hash(task)


def test_rows_cut_from_training_data_are_a_split_called_holdout() -> None:
    source = PackageSource(name="reviews", file="reviews.csv", revision=HASH)
    assert a_task(source=source, holdout=Holdout(rows=10, seed=0)).headline == "holdout/accuracy"
    assert a_task(holdout=Holdout(rows=10, seed=0)).splits == ("holdout",)


def test_a_folders_splits_are_its_files() -> None:
    assert a_task(source=FolderSource(name="SST-2", revision=HASH)).splits == ("dev.tsv",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": PackageSource(name="r", file="r.csv", revision=HASH)}, "cut validation rows with holdout"),
        ({"labels": None}, "a regression task"),
        ({"metrics": ("pearson",)}, "does not allow metrics"),
        ({"labels": ("one",)}, "at least two different"),
        ({"labels": ("same", "same")}, "at least two different"),
        ({"labels": ("a", "b", "c"), "metrics": ("f1",)}, "f1 is binary"),
        ({"validation_rows": (10, 10)}, "one number for each"),
        ({"source": {**HUB, "validation": ["a", "a"]}, "validation_rows": (1, 1)}, "must differ"),
        ({"text": ()}, "at least 1"),
        ({"text": ("a", "b", "c")}, "at most 2"),
        ({"metrics": ()}, "at least 1"),
        ({"train_rows": 0}, "greater than 0"),
        ({"name": "SST 2"}, "pattern"),
        ({"name": "-sst2"}, "pattern"),
        ({"name": "a" * 33}, "pattern"),
        ({"name": "sst2\n"}, "pattern"),
        ({"source": {**HUB, "revision": "main"}}, "pattern"),
        ({"source": {"kind": "url", "name": "r"}}, "expected tags"),
        ({"columns": ["a"]}, "Extra inputs"),
    ],
    ids=repr,
)  # fmt: skip
def test_definitions_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        a_task(**changes)


@pytest.mark.parametrize("name", ["a", "0", "sst2", "a" * 32, "a-b--c"])
def test_names_are_dns_labels(name: str) -> None:
    assert a_task(name=name).name == name
