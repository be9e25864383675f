"""Data sets of a hub, read from its cache or from a mapped folder, with nothing written beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError
from jobs.tasks import GLUE, HubSource, Task
from reinit.data import Rows, read_task
from reinit.hubdata import bound_to, patterns_of, read_card
from reinit.places import Places
from tests.reinit.hubcache import (
    AX,
    COMMIT,
    SCRIPT,
    SST2,
    a_card,
    a_config,
    a_repository,
    listing,
    make_read_only,
    make_writable,
    parquet,
)


def a_task(**changes: Any) -> Task:
    """GLUE's sst2 as `SST2` has it; `changes` are of its source."""
    source = HubSource(**{"name": "nyu-mll/glue", "config": "sst2", "revision": COMMIT} | changes)
    return GLUE["sst2"].model_copy(update={"source": source, "train_rows": 3, "validation_rows": (2,)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of this machine, and a cache of `datasets` that would show if it were used."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    return tmp_path / "home" / "hub"


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def is_sst2(train: Rows, validation: Rows) -> bool:
    texts = [text for (text,) in (*train.texts, *validation.texts)]
    return texts == list("abcde") and [*train.labels, *validation.labels] == [1, 0, 1, 0, 1]


def test_a_cached_data_set_is_read_offline_and_nothing_is_written(cache: Path) -> None:
    a_repository(cache, "dataset", "nyu-mll/glue", SST2)
    make_read_only(cache)
    before = listing(cache.parent)
    try:
        rows = read_task(a_task(), Places())
        assert is_sst2(rows.train, rows.validation["validation"])
        assert listing(cache.parent) == before
    finally:
        make_writable(cache)


@pytest.mark.parametrize("folder", ["glue", COMMIT])
def test_a_folder_that_the_site_maps_the_name_to_goes_the_same_way(cache: Path, tmp_path: Path, folder: str) -> None:
    mapped = put(tmp_path / folder, SST2)
    make_read_only(mapped)
    before = listing(tmp_path)
    try:
        rows = read_task(a_task(), Places({"nyu-mll/glue": mapped}))
        assert is_sst2(rows.train, rows.validation["validation"])
        assert listing(tmp_path) == before
    finally:
        make_writable(mapped)
    assert not cache.exists()


def test_a_mapped_snapshot_of_another_commit_is_refused(tmp_path: Path) -> None:
    mapped = put(tmp_path / ("f" * 40), SST2)
    with pytest.raises(DataError, match="another commit") as refusal:
        read_task(a_task(), Places({"nyu-mll/glue": mapped}))
    assert (refusal.value.expected, refusal.value.got) == (COMMIT, "f" * 40)


def test_a_fresh_process_with_a_read_only_home_of_the_hub_writes_nothing_into_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    a_repository(home / "hub", "dataset", "nyu-mll/glue", SST2 | AX, listed=SST2 | AX)
    make_read_only(home)
    before = listing(home)
    code = (
        "import sys\nfrom jobs.tasks import Task\nfrom reinit.data import read_task\nfrom reinit.places import Places\n"
        "print(read_task(Task.model_validate_json(sys.argv[1]), Places()).train.labels)"
    )
    elsewhere = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, a_task().model_dump_json()],
            env=environment | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "[1.0, 0.0, 1.0]\n", done.stderr
        assert listing(home) == before
    finally:
        make_writable(home)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]  # what was needed meanwhile is gone


def test_only_what_the_configuration_needs_is_fetched_and_the_card_says_what_that_is(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    asked: list[list[str] | None] = []

    def answer(name: str, *, repo_type: str, allow_patterns: list[str] | None, **_: object) -> str:
        from huggingface_hub.utils._paths import filter_repo_objects

        asked.append(allow_patterns)
        shutil.rmtree(cache, ignore_errors=True)
        remote = SST2 | AX | {"glue.py": b"raise RuntimeError('run')"}
        names = filter_repo_objects(remote, allow_patterns=allow_patterns)
        return str(a_repository(cache, repo_type, name, {each: remote[each] for each in names}))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    rows = read_task(a_task(), Places())
    assert is_sst2(rows.train, rows.validation["validation"])
    assert asked == [["README.md"], ["README.md", "sst2/train-*", "sst2/validation-*"]]


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": a_card(), "train.csv": b"sentence,label\na,1\nb,0\nc,1\n", "dev.csv": b"sentence,label\nd,0\n"},
        {"train.jsonl": b'{"sentence": "a", "label": 1}\n' * 3, "validation.jsonl": b'{"sentence": "a", "label": 1}\n'},
        {
            "README.md": a_card({"config_name": "default", "data_dir": "new"}),
            "new/train.tsv": b"sentence\tlabel\na\t1\nb\t0\nc\t1\n",
            "new/validation.tsv": b"sentence\tlabel\nd\t0\n",
            "old/train.tsv": b"sentence\tlabel\nz\t1\n",
        },
    ],
)
def test_a_repository_without_patterns_in_its_card_is_read_as_its_files_are_named(
    cache: Path, files: dict[str, bytes]
) -> None:
    a_repository(cache, "dataset", "some/data", files)
    task = a_task(name="some/data", config=None).model_copy(update={"validation_rows": (1,)})
    assert len(read_task(task, Places()).train) == 3


def test_a_repository_with_a_script_alone_is_refused_and_the_script_is_not_run(cache: Path, tmp_path: Path) -> None:
    a_repository(cache, "dataset", "nyu-mll/glue", SCRIPT)
    script = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    mapped = put(tmp_path / "glue", SCRIPT | {"glue.py": script.encode()})
    for places in (Places(), Places({"nyu-mll/glue": mapped})):
        with pytest.raises(DataError, match="code that would make some is never run") as refusal:
            read_task(a_task(), places)
        assert ".parquet" in str(refusal.value.expected)
        assert refusal.value.got == "LICENSE, README.md, dataset_infos.json"
        assert "refs/convert/parquet" in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_an_empty_folder_is_refused_alike(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of rows") as refusal:
        read_task(a_task(), Places({"nyu-mll/glue": tmp_path}))
    assert refusal.value.got == "no files"


@pytest.mark.parametrize(
    "card", [b"---\nconfigs: 3\n---\n", b"---\n[\n---\n", b"---\nconfigs:\n- data_files: x\n---\n"]
)
def test_a_card_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path, card: bytes) -> None:
    with pytest.raises(DataError, match="card of a data set cannot be read") as refusal:
        read_task(a_task(), Places({"nyu-mll/glue": put(tmp_path, SST2 | {"README.md": card})}))
    assert refusal.value.where == str(tmp_path / "README.md")


@pytest.mark.parametrize("config", ["sst-2", None])
def test_a_configuration_that_the_card_does_not_list_is_refused_with_those_it_does(
    cache: Path, config: str | None
) -> None:
    a_repository(cache, "dataset", "nyu-mll/glue", SST2)
    with pytest.raises(DataError, match="no such configuration") as refusal:
        read_task(a_task(config=config), Places())
    assert refusal.value.allowed == "ax, sst2"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.csv", "https://a.example/x.csv", "zip://x.csv::a.zip", "a/../../b"]
)
def test_a_card_that_names_files_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    files = SST2 | {"README.md": a_card(a_config("sst2", train=path))}
    with pytest.raises(DataError, match="outside its repository") as refusal:
        read_task(a_task(), Places({"nyu-mll/glue": put(tmp_path, files)}))
    assert refusal.value.got == path


@pytest.mark.parametrize(
    ("config", "patterns"),
    [
        ({"data_files": "a.csv"}, ["a.csv"]),
        ({"data_files": ["./a.csv", "b/*"]}, ["a.csv", "b/*"]),
        ({"data_files": [{"split": "train", "path": ["x/**/t*", "y"]}]}, ["x/**/t*", "x/t*", "y"]),
        ({"data_dir": "d/"}, ["d/**"]),
        ({"data_dir": "d", "data_files": "a.csv"}, ["d/a.csv"]),
        ({}, None),
    ],
)
def test_patterns_match_all_that_the_card_means(tmp_path: Path, config: dict[str, Any], patterns: Any) -> None:
    put(tmp_path, {"README.md": a_card({"config_name": "sst2", **config})})
    source = a_task().source
    assert isinstance(source, HubSource)
    assert patterns_of(read_card(tmp_path, source), source) == patterns


def test_a_cache_that_lacks_files_of_the_configuration_says_so_even_where_it_has_no_list_of_them(cache: Path) -> None:
    a_repository(cache, "dataset", "nyu-mll/glue", {name: SST2[name] for name in list(SST2)[:3]})
    with pytest.raises(ConfigurationError, match="lacks this data set"):
        read_task(a_task(), Places())


def test_a_hub_task_without_cache_or_place_is_refused_with_what_to_do(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="switched off") as refusal:
        read_task(GLUE["rte"], Places())
    assert "--place nyu-mll/glue=" in str(refusal.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("files", "changes", "refusal", "text"),
    [
        (SST2, {"train": "training"}, DataError, "training"),
        (SST2 | {"sst2/train-00001-of-00002.parquet": b"cut off"}, {}, DataError, "(?i)parquet"),
        (SST2 | {"sst2/train-00001-of-00002.parquet": parquet(text=["c"])}, {}, DataError, "(?i)cast|column"),
        (SST2, {"name": "no hub id/at/all"}, SpecError, "neither a hub id"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    cache: Path, files: dict[str, bytes], changes: dict[str, Any], refusal: type[ReinitError], text: str
) -> None:
    a_repository(cache, "dataset", "nyu-mll/glue", files)
    with pytest.raises(refusal, match=text):
        read_task(a_task(**changes), Places())


def test_named_labels_come_as_their_numbers_from_other_formats_too(tmp_path: Path) -> None:
    info = {
        "config_name": "sst2",
        "features": [
            {"name": "sentence", "dtype": "string"},
            {"name": "label", "dtype": {"class_label": {"names": {"0": "negative", "1": "positive"}}}},
        ],
    }
    rows = [{"sentence": text, "label": label} for text, label in zip("abc", [1, 0, 1], strict=True)]
    files = {
        "README.md": a_card(a_config("sst2", train="t.jsonl", validation="v.jsonl"), dataset_info=[info]),
        "t.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "v.jsonl": "\n".join(map(json.dumps, rows[:2])).encode(),
    }
    read = read_task(a_task(), Places({"nyu-mll/glue": put(tmp_path, files)}))
    assert read.train.labels == [1.0, 0.0, 1.0]


def test_rows_are_bound_to_a_commit_that_is_vouched_for_and_else_to_the_bytes_of_their_files(tmp_path: Path) -> None:
    source = HubSource(name="nyu-mll/glue", config="sst2", revision=COMMIT)
    assert bound_to(source, Places()) == COMMIT
    assert bound_to(source, Places({"nyu-mll/glue": put(tmp_path / COMMIT, SST2)})) == COMMIT

    def of_folder(name: str, files: dict[str, bytes]) -> str:
        return bound_to(source, Places({"nyu-mll/glue": put(tmp_path / name, files)}))

    bound = of_folder("one", SST2)
    assert bound == of_folder("two", SST2)
    assert bound.startswith("sha256:")
    rows = next(name for name in SST2 if name.endswith(".parquet") and "sst2" in name)
    assert of_folder("three", {**SST2, rows: SST2[rows] + b" "}) != bound
    # Files of other configurations have no part in it.
    assert of_folder("four", {**SST2, "cola/train-0.parquet": b"other"}) == bound


def test_a_folder_that_is_named_by_another_commit_is_bound_to_nothing(tmp_path: Path) -> None:
    source = HubSource(name="nyu-mll/glue", config="sst2", revision=COMMIT)
    with pytest.raises(DataError, match="another commit"):
        bound_to(source, Places({"nyu-mll/glue": put(tmp_path / ("f" * 40), SST2)}))
