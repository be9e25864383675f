"""Tasks say everything about their data, and refuse to say what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.tasks import BUILT_IN, GLUE, GLUE_COMMIT, SUPERGLUE, FolderSource, Holdout, HubSource, PackageSource, Task

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


FACTS: dict[str, tuple[tuple[str, ...], int | None, tuple[str, ...], tuple[int, ...]]] = {
    # columns in the order the model sees them, classes, official metrics with ours for the headline first, rows
    "cola": (("sentence",), 2, ("matthews",), (8_551, 1_043)),
    "sst2": (("sentence",), 2, ("accuracy",), (67_349, 872)),
    "mrpc": (("sentence1", "sentence2"), 2, ("f1", "accuracy"), (3_668, 408)),
    "qqp": (("question1", "question2"), 2, ("f1", "accuracy"), (363_846, 40_430)),
    "stsb": (("sentence1", "sentence2"), None, ("pearson", "spearman"), (5_749, 1_500)),
    "mnli": (("premise", "hypothesis"), 3, ("accuracy",), (392_702, 9_815, 9_832)),
    "qnli": (("question", "sentence"), 2, ("accuracy",), (104_743, 5_463)),
    "rte": (("sentence1", "sentence2"), 2, ("accuracy",), (2_490, 277)),
    "wnli": (("sentence1", "sentence2"), 2, ("accuracy",), (635, 71)),
    "boolq": (("question", "passage"), 2, ("accuracy",), (9_427, 3_270)),
    "cb": (("premise", "hypothesis"), 3, ("f1_macro", "accuracy"), (250, 56)),
}


def test_built_in_tasks_have_the_columns_classes_metrics_and_rows_that_their_benchmarks_publish() -> None:
    found = {
        name: (task.text, task.labels and len(task.labels), task.metrics, (task.train_rows, *task.validation_rows))
        for name, task in BUILT_IN.items()
    }
    assert found == FACTS
    assert len(GLUE) == 9


def test_labels_are_the_hubs_numbers_in_their_order() -> None:
    for task in BUILT_IN.values():
        assert task.label == "label"
        assert task.labels is None or task.labels == tuple(map(str, range(len(task.labels))))


def test_built_in_tasks_name_one_commit_of_their_benchmark() -> None:
    sources = [task.source for task in GLUE.values() if isinstance(task.source, HubSource)]
    assert {(source.name, source.revision) for source in sources} == {("nyu-mll/glue", GLUE_COMMIT)}
    sources = [task.source for task in SUPERGLUE.values() if isinstance(task.source, HubSource)]
    assert {source.name for source in sources} == {"aps/super_glue"}
    assert all(isinstance(task.source, HubSource) and task.source.config == name for name, task in BUILT_IN.items())


def test_mnli_is_scored_on_both_its_splits_the_matched_one_first() -> None:
    assert GLUE["mnli"].splits == ("validation_matched", "validation_mismatched")
    assert GLUE["mnli"].headline == "validation_matched/accuracy"
    assert GLUE["mnli"].outputs == 3


def test_similarity_is_a_regression() -> None:
    assert GLUE["stsb"].labels is None
    assert GLUE["stsb"].outputs == 1
    assert GLUE["stsb"].headline == "validation/pearson"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_read_back_as_themselves(name: str) -> None:
    task = BUILT_IN[name]
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
