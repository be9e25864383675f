"""Where checkpoints are kept: in parts, verified, and the only thing that is ever deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.checkpoints
from jobs.backends import open_objects
from jobs.checkpoints import Binding, Checkpoints
from jobs.errors import SpecError, TransientError
from jobs.found import NotVerifiedError
from jobs.objects import FileObjects, Objects
from jobs.patient import PatientObjects

BINDING = Binding(digest="a" * 64, seed=3, numerics="b" * 12, steps=100)
KINDS = ("runs", "predictions", "failures", "logs", "checks", "checkpointsx")


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    url = (tmp_path / "store").as_uri() if request.param == "file" else request.getfixturevalue("s3_url")
    return open_objects(url, attempts=2)


def kept_in(objects: Objects, key: bytes | None = None) -> Checkpoints:
    return Checkpoints(PatientObjects(objects, (0.0,)), key)


def a_folder(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / f"{name}.pt").write_bytes(data)
    return folder


def test_nothing_but_a_checkpoint_can_be_deleted(objects: Objects) -> None:
    for kind in KINDS:
        objects.put(f"{kind}/x", b"x")
        with pytest.raises(SpecError, match="nothing but checkpoints"):
            objects.delete(f"{kind}/x")
        assert objects.get(f"{kind}/x") == b"x"
    for key in ("checkpoints", "checkpoints/", "checkpoints/../runs/x", "/checkpoints/x"):
        with pytest.raises(SpecError):
            objects.delete(key)
    objects.put("checkpoints/x", b"x")
    objects.delete("checkpoints/x")
    objects.delete("checkpoints/x")
    assert list(objects.keys("checkpoints/")) == []


def test_files_come_back_as_they_were_and_old_ones_go_and_all_of_a_run_can_go(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.checkpoints, "PART_BYTES", 10)
    store = kept_in(objects)
    other = store.put(
        BINDING.model_copy(update={"numerics": "c" * 12}), 90, 1.0, a_folder(tmp_path / "other", x=b"other")
    )
    for step in (10, 20, 30):
        files = {"empty": b"", "one": b"0123456789", "more": b"shared part" + b"%d" % step * 20}
        kept = store.put(BINDING, step, 1.5, a_folder(tmp_path / str(step), **files))
        store.prune(kept)
    good, others = store.find(BINDING)
    assert [each.manifest.step for each in good] == [30, 20]
    assert [each.key for each in others] == [other.key]
    assert "numerics" in others[0].reason
    (back := tmp_path / "back").mkdir()
    store.fetch(good[0], back)
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "30").iterdir()
    }
    with pytest.raises(FileExistsError):
        store.fetch(good[0], back)
    assert store.seeds(BINDING.digest) == {3}
    objects.put(f"checkpoints/{BINDING.digest}/4/{'d' * 64}", b"a part without a manifest")
    store.clear(BINDING.digest, 3)
    assert store.seeds(BINDING.digest) == {4}


def test_an_attempt_that_gives_up_leaves_no_manifest(tmp_path: Path) -> None:
    store = kept_in(FileObjects(tmp_path / "store"))
    with pytest.raises(TransientError, match="no time"):
        store.put(BINDING, 1, 1.0, a_folder(tmp_path / "x", x=b"x"), lambda: True)
    assert store.find(BINDING) == ([], [])


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=64), part=st.integers(1, 20), key=st.none() | st.binary(min_size=16, max_size=20))
def test_any_bytes_in_parts_of_any_size_come_back_and_one_byte_more_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, part: int, key: bytes | None
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    store = kept_in(FileObjects(tmp_path / "store"), key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.checkpoints, "PART_BYTES", part)
        kept = store.put(BINDING, 1, 1.0, a_folder(tmp_path / "x", x=data))
        (back := tmp_path / "back").mkdir()
        store.fetch(store.find(BINDING)[0][0], back)
        assert (back / "x.pt").read_bytes() == data
        for path in tmp_path.glob("store/checkpoints/*/*/*"):
            if path.suffix != ".json":
                path.write_bytes(path.read_bytes() + b"x")
        (again := tmp_path / "again").mkdir()
        if data:
            with pytest.raises(NotVerifiedError):
                store.fetch(kept, again)
