"""Rows, filters, holdouts, nested subsets and tokens, from real files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import ConfigurationError, DataError, SpecError
from jobs.tasks import GLUE, FolderSource, Holdout, Task
from reinit.data import folder_revision, read_task, subset, words
from reinit.places import Places
from reinit.streams import stream_seed
from reinit.tokens import Tokens

TRAIN = "sentence\tlabel\nit 's \"good\t1\nbad film\t0\na\t1\nquite long a sentence\t0\n"
DEV = "sentence\tlabel\nfine\t1\npoor\t0\n"


def a_folder(path: Path, train: str = TRAIN, dev: str = DEV) -> Path:
    path.mkdir(exist_ok=True)
    (path / "train.tsv").write_text(train, encoding="utf-8")
    (path / "dev.tsv").write_text(dev, encoding="utf-8")
    return path


def a_task(folder: Path, **changes: object) -> Task:
    fields: dict[str, object] = {
        "name": "tiny",
        "source": FolderSource(name="tiny", revision=folder_revision(folder, ["train.tsv", "dev.tsv"])),
        "text": ("sentence",),
        "label": "label",
        "labels": ("0", "1"),
        "metrics": ("accuracy",),
        "train_rows": 4,
        "validation_rows": (2,),
    }
    return Task.model_validate({**fields, **changes})


def rows_of(count: int) -> Task:
    """A task of which only the number of training rows matters."""
    return GLUE["wnli"].model_copy(update={"train_rows": count})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return a_folder(tmp_path / "tiny")


@pytest.fixture
def places(folder: Path) -> Places:
    return Places({"tiny": folder})


def test_a_folder_is_read_with_literal_quotes_and_labels_in_class_order(folder: Path, places: Places) -> None:
    rows = read_task(a_task(folder, labels=("1", "0")), places)
    assert rows.train.texts[0] == ("it 's \"good",)
    assert rows.train.labels == [0.0, 1.0, 0.0, 1.0]
    assert rows.validation["dev.tsv"].texts == [("fine",), ("poor",)]


def test_a_file_without_header_takes_the_columns_that_the_task_names(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "cola", "gj04\t1\t\tIt ran.\ngj04\t0\t*\tIt run ran.\n", "x\t1\t\tYes.\n")
    source = FolderSource(
        name="tiny",
        revision=folder_revision(folder, ["train.tsv", "dev.tsv"]),
        columns=("source", "label", "star", "sentence"),
    )
    task = a_task(folder, source=source, train_rows=2, validation_rows=(1,))
    rows = read_task(task, Places({"tiny": folder}))
    assert rows.train.texts == [("It ran.",), ("It run ran.",)]


def test_filters_drop_rows_before_the_holdout_is_cut(folder: Path, places: Places) -> None:
    task = a_task(folder, max_words=3, where={"label": "1"}, holdout=Holdout(rows=1, seed=0), train_rows=1,
                  validation_rows=(1,))  # fmt: skip
    rows = read_task(task, places)
    assert sorted(rows.train.texts + rows.validation["holdout"].texts) == [("a",), ("it 's \"good",)]


def test_the_holdout_is_the_same_whatever_the_seed_of_a_run_and_disjoint_from_training(
    folder: Path, places: Places
) -> None:
    task = a_task(folder, holdout=Holdout(rows=2, seed=3), train_rows=2)
    order = np.random.RandomState(3).permutation(4)
    rows = read_task(task, places)
    texts = ["it 's \"good", "bad film", "a", "quite long a sentence"]
    assert rows.validation["holdout"].texts == [(texts[index],) for index in sorted(order[:2])]
    assert rows.train.texts == [(texts[index],) for index in sorted(order[2:])]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": ("phrase",)}, "phrase"),
        ({"label": "gold"}, "gold"),
        ({"where": {"genre": "x"}}, "genre"),
        ({"labels": ("0", "2")}, "unknown label"),
        ({"train_rows": 5}, "another number of rows"),
        ({"validation_rows": (3,)}, "another number of rows"),
        ({"holdout": Holdout(rows=4, seed=0), "validation_rows": (4,)}, "leaves no row"),
    ],
)
def test_a_task_that_the_data_do_not_fit_is_refused_with_what_was_expected_and_got(
    folder: Path, places: Places, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        read_task(a_task(folder, **changes), places)
    assert "got" in str(refusal.value)


def test_other_bytes_than_the_revision_names_are_refused(folder: Path, places: Places) -> None:
    task = a_task(folder)
    (folder / "dev.tsv").write_text(DEV.replace("fine", "Fine"), encoding="utf-8")
    with pytest.raises(DataError, match="not the ones the study names"):
        read_task(task, places)


def test_a_row_with_a_field_too_many_is_named_by_its_number(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "tiny", TRAIN + "one\ttwo\t1\n")
    with pytest.raises(DataError, match=r"row 5"):
        read_task(a_task(folder), Places({"tiny": folder}))


def test_a_label_that_is_no_number_is_refused_in_a_regression_task(folder: Path, places: Places) -> None:
    task = a_task(folder, labels=None, metrics=("pearson",), label="sentence")
    with pytest.raises(DataError, match="not a number"):
        read_task(task, places)


@given(seed=st.integers(0, 2**32 - 1), small=st.integers(1, 99), large=st.integers(1, 99))
def test_subsets_of_one_seed_are_nested_and_never_repeat_a_row(seed: int, small: int, large: int) -> None:
    task = rows_of(100)
    small, large = sorted((small, large))
    few, many = subset(task, small, seed), subset(task, large, seed)
    assert few.tolist() == many[:small].tolist()
    assert len(set(many.tolist())) == large
    assert sorted(subset(task, "full", seed).tolist()) == list(range(100))


def test_different_seeds_see_different_subsets() -> None:
    task = rows_of(1000)
    assert len({tuple(subset(task, 20, seed).tolist()) for seed in range(50)}) == 50


def test_every_row_is_drawn_equally_often_over_seeds() -> None:
    """1,000 subsets of 20 out of 100: each row's count is binomial with mean 200 and sd 12.6."""
    task = rows_of(100)
    counts = np.bincount(np.concatenate([subset(task, 20, seed) for seed in range(1000)]), minlength=100)
    assert abs(counts - 200).max() < 4.5 * 12.65
    assert 8 < counts.std() < 17


def test_a_seed_fills_both_words_of_the_generator() -> None:
    seed = stream_seed(1, "subset")
    low, high = words(seed)
    assert low + (high << 32) == seed
    assert max(low, high) < 2**32


class _Tokenizer:
    """Characters as tokens; counts how many rows it was asked for."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, *columns: list[str], max_length: int, **_options: object) -> dict[str, list[list[int]]]:
        self.rows += len(columns[0])
        return {
            "input_ids": [[ord(letter) for letter in "".join(row)][:max_length] for row in zip(*columns, strict=True)]
        }


def test_each_row_is_tokenised_once_however_often_it_is_asked_for(folder: Path, places: Places) -> None:
    tokenizer = _Tokenizer()
    tokens = Tokens(read_task(a_task(folder), places).train, tokenizer, max_length=4)  # type: ignore[arg-type]
    first = tokens.take([2, 0, 2])
    assert [example.input_ids for example in first] == [[97], [105, 116, 32, 39], [97]]
    assert tokens.take([0, 2])[0] is first[1]
    assert tokenizer.rows == 2
    assert len(tokens.all()) == 4
    assert tokenizer.rows == 4


CSV = 'text,label\n"fine, really",1\npoor,0\ngood,1\n'


def a_package_task(content: str = CSV) -> Task:
    return Task.model_validate(
        {
            "name": "movies",
            "source": {
                "kind": "package",
                "name": "movies-in-no-registry",
                "file": "movies/rows.csv",
                "revision": "sha256:" + hashlib.sha256(content.encode()).hexdigest(),
            },
            "text": ("text",),
            "label": "label",
            "labels": ("0", "1"),
            "metrics": ("accuracy",),
            "holdout": {"rows": 1, "seed": 0},
            "train_rows": 2,
            "validation_rows": (1,),
        }
    )


def test_a_packages_file_is_read_from_a_place_where_the_package_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "rows.csv").write_text(CSV, encoding="utf-8")
    places = Places({"movies-in-no-registry": tmp_path})
    rows = read_task(a_package_task(), places)
    assert {*rows.train.texts, *rows.validation["holdout"].texts} == {("fine, really",), ("poor",), ("good",)}
    with pytest.raises(DataError, match="not the ones the study names"):
        read_task(a_package_task("other bytes"), places)
    with pytest.raises(ConfigurationError, match="not installed") as refusal:
        read_task(a_package_task(), Places())
    assert "--place movies-in-no-registry=FOLDER" in str(refusal.value)


def test_bytes_that_are_no_text_are_refused_by_file(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "tiny")
    (folder / "train.tsv").write_bytes(TRAIN.encode() + "café\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not a table in UTF-8"):
        read_task(a_task(folder), Places({"tiny": folder}))


def test_the_hash_of_the_rows_moves_with_every_text_label_and_split(folder: Path, places: Places) -> None:
    task = a_task(folder)
    hashes = {
        read_task(changed, places).sha256
        for changed in (task, a_task(folder, labels=("1", "0")), a_task(folder, max_words=3, train_rows=3))
    }
    assert len(hashes) == 3
    assert read_task(task, places).sha256 in hashes


@pytest.mark.parametrize("name", ["../train.tsv", "/etc/passwd", "a/../../x.tsv"])
def test_a_tasks_file_never_leads_out_of_its_folder(folder: Path, places: Places, name: str) -> None:
    source = FolderSource(name="tiny", revision="sha256:" + "0" * 64, train=name)
    with pytest.raises(SpecError, match="leads out of its folder"):
        read_task(a_task(folder, source=source), places)
