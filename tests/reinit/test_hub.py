"""Models and data sets of a hub, from a cache laid out as the hub's client lays it out."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import ConfigurationError, DataError, SpecError
from jobs.tasks import GLUE, HubSource, Task
from reinit.data import read_task
from reinit.hub import files_of
from reinit.places import Places

CARD = """---
license: other
dataset_info:
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': negative, '1': positive}}}
  splits:
  - {name: train, num_bytes: 1, num_examples: 3}
  - {name: validation, num_bytes: 1, num_examples: 2}
configs:
- config_name: cola
  data_files:
  - {split: train, path: cola/train-*}
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
  - split: validation
    path: [sst2/validation-*]
---
A text with --- in it.
"""


def a_snapshot(folder: Path, card: str = CARD) -> Path:
    """A dataset repository as the hub lays it out: one configuration in Parquet files, named in the card's header."""
    (folder / "sst2").mkdir(parents=True)
    for split, texts, labels in (("train", ["a", "b", "c"], [1, 0, 1]), ("validation", ["d", "e"], [0, 1])):
        table = pa.table({"sentence": texts, "label": labels})
        pq.write_table(table, folder / "sst2" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def in_cache(cache: Path, snapshot: Path, name: str, revision: str) -> Path:
    """The snapshot in a hub cache: files are links to blobs, named by what they hold."""
    repository = cache / f"datasets--{name.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(file for file in snapshot.rglob("*") if file.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        link = repository / "snapshots" / revision / file.relative_to(snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository


def sst2(**changes: object) -> Task:
    return GLUE["sst2"].model_copy(update={"train_rows": 3, "validation_rows": (2,), **changes})


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below, with its size and time of change."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_a_hub_task_reads_a_snapshot_that_the_site_maps_its_name_to(tmp_path: Path) -> None:
    rows = read_task(sst2(), Places({"nyu-mll/glue": a_snapshot(tmp_path / "glue")}))
    assert rows.train.texts == [("a",), ("b",), ("c",)]
    assert rows.train.labels == [1.0, 0.0, 1.0]
    assert rows.validation["validation"].labels == [0.0, 1.0]


def test_a_hub_task_reads_the_cache_offline_and_leaves_no_trace_in_it(cache: Path, tmp_path: Path) -> None:
    source = GLUE["sst2"].source
    assert isinstance(source, HubSource)
    in_cache(cache, a_snapshot(tmp_path / "glue"), source.name, source.revision)
    before = state(cache)
    rows = read_task(sst2(), Places())
    assert [len(rows.train), len(rows.validation["validation"])] == [3, 2]
    assert state(cache) == before


def test_a_snapshot_of_another_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the ones the study names"):
        read_task(sst2(), Places({"nyu-mll/glue": a_snapshot(tmp_path / ("0" * 40))}))


def test_a_hub_task_without_cache_or_place_is_refused_with_what_to_do(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(ConfigurationError, match="switched off") as refusal:
        read_task(GLUE["rte"], Places())
    assert "--place nyu-mll/glue=" in str(refusal.value)


def test_a_data_set_whose_name_is_no_hub_id_is_refused(cache: Path) -> None:
    assert cache.is_dir()
    task = sst2(source=HubSource(name="a b/c/d", revision="0" * 40))
    with pytest.raises(SpecError, match="neither a hub id nor mapped"):
        read_task(task, Places())


def test_a_configuration_or_split_that_is_not_there_is_refused_with_the_folder(tmp_path: Path) -> None:
    places = Places({"nyu-mll/glue": a_snapshot(tmp_path / "glue")})
    source = GLUE["sst2"].source
    for changes in ({"config": "absent"}, {"validation": ("test",)}):
        with pytest.raises(DataError, match="cannot load split") as refusal:
            read_task(sst2(source=source.model_copy(update=changes)), places)
        assert str(tmp_path / "glue") in str(refusal.value)


def test_a_repository_of_code_alone_is_refused_and_its_code_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "glue"
    folder.mkdir()
    (folder / "glue.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match="cannot load split"):
        read_task(sst2(), Places({"nyu-mll/glue": folder}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("header", "config", "files"),
    [
        (CARD, "sst2", ["sst2/train-*", "sst2/validation-*"]),
        (CARD, "cola", ["cola/train-*"]),
        (CARD, "absent", ["*"]),
        (CARD, None, ["cola/train-*"]),
        ("---\nconfigs:\n- {config_name: a, data_files: a}\n- {config_name: b, data_files: [b], default: true}\n---\n",
         None, ["b"]),
        ("---\nconfigs:\n- {config_name: a, data_dir: below}\n---\n", "a", ["below/*"]),
        ("---\nlicense: other\n---\n", None, ["*"]),
        ("no header at all", None, ["*"]),
        ("---\n: [\n---\n", None, ["*"]),
        ("---\nconfigs: 3\n---\n", None, ["*"]),
        ("---\nconfigs: [3, {config_name: a, data_files: {split: 1}}]\n---\n", "a", ["*"]),
    ],
)  # fmt: skip
def test_only_the_files_of_a_configuration_are_fetched_where_the_card_says_which(
    tmp_path: Path, header: str, config: str | None, files: list[str]
) -> None:
    (tmp_path / "README.md").write_text(header, encoding="utf-8")
    assert files_of(tmp_path / "README.md", config) == files


def test_a_repository_without_a_card_is_fetched_whole(tmp_path: Path) -> None:
    assert files_of(tmp_path / "README.md", None) == ["*"]
