"""One commit of a repository as a folder: what the hub's client is asked for, and what its cache may hold."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from jobs.cell import Model
from jobs.errors import ConfigurationError, DataError, TransientError
from reinit.hub import CODE, Repository, fetch, is_commit
from reinit.places import Places, resolve_model
from tests.reinit.hubcache import COMMIT, a_repository, listing, make_read_only, make_writable

MODEL = Repository("model", "some/model", COMMIT)
DATA = Repository("dataset", "some/data", COMMIT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_commit_is_forty_hexadecimal_digits() -> None:
    assert is_commit(COMMIT)
    assert not is_commit("main")
    assert not is_commit(COMMIT.upper().replace("0", "G"))


@pytest.mark.parametrize("repository", [MODEL, DATA])
def test_a_cached_commit_is_found_without_a_network_and_nothing_is_written(cache: Path, repository: Repository) -> None:
    files = {"a.txt": b"a", "deep/b.txt": b"b"}
    snapshot = a_repository(cache, repository.kind, repository.name, files, listed=files)
    make_read_only(cache)
    before = listing(cache)
    try:
        assert fetch(repository, ["*.txt"]) == snapshot
        assert listing(cache) == before
    finally:
        make_writable(cache)


@pytest.mark.parametrize("repository", [MODEL, DATA])
def test_what_the_cache_lacks_is_refused_offline_with_both_remedies(cache: Path, repository: Repository) -> None:
    a_repository(cache, repository.kind, repository.name, {"a.txt": b"a"}, listed=["a.txt", "b.txt"])
    with pytest.raises(ConfigurationError, match=f"lacks this {repository.noun}") as refusal:
        fetch(repository, ["*.txt"])
    assert "reinit doctor STUDY" in str(refusal.value)
    assert f"--place {repository.name}=FOLDER" in str(refusal.value)
    assert fetch(repository, ["a.*"]).name == COMMIT
    with pytest.raises(ConfigurationError, match="switched off"):
        fetch(Repository(repository.kind, repository.name, "f" * 40), None)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_link_that_leaves_the_repository_is_refused(cache: Path, tmp_path: Path, kind: Any) -> None:
    (tmp_path / "secret").write_text("secret")
    snapshot = a_repository(cache, kind, "some/thing", {"config.json": b"{}"})
    (snapshot / "deep").mkdir()
    (snapshot / "deep" / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="links out of its repository") as refusal:
        fetch(Repository(kind, "some/thing", COMMIT), None)
    assert refusal.value.got == str(tmp_path / "secret")


def test_a_cache_that_is_itself_a_link_is_as_good_as_another(cache: Path, tmp_path: Path) -> None:
    snapshot = a_repository(tmp_path / "disk", "model", "some/model", {"model.safetensors": b"weights"})
    cache.symlink_to(tmp_path / "disk")
    found = resolve_model(Model(name="some/model", revision=COMMIT, layers=1), Places())
    assert found.resolve() == snapshot


def online(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """A hub that can be asked; `answer` stands in for its client's function."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def test_the_hub_is_asked_for_the_commit_and_never_for_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = a_repository(cache, "dataset", "some/data", {"a.csv": b"a"})
    asked: dict[str, Any] = {}

    def answer(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(snapshot)

    online(monkeypatch, answer)
    assert fetch(DATA, ["*.csv"]) == snapshot
    assert asked == {
        "name": "some/data",
        "repo_type": "dataset",
        "revision": COMMIT,
        "allow_patterns": ["*.csv"],
        "ignore_patterns": list(CODE),
        "local_files_only": False,
    }


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ConnectionError("no route\nto host"), TransientError),
        (PermissionError(errno.EACCES, "denied"), ConfigurationError),
        (OSError(errno.EROFS, "read-only file system"), ConfigurationError),
    ],
)
def test_what_may_pass_is_tried_again_and_what_cannot_be_written_is_not(
    monkeypatch: pytest.MonkeyPatch, error: OSError, refusal: type[Exception]
) -> None:
    def answer(*_: object, **__: object) -> str:
        raise error

    online(monkeypatch, answer)
    with pytest.raises(refusal):
        fetch(DATA, None)
