"""Objects of tokens: named by what is in them, signed where the site has a key, and never believed otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ConfigurationError, TransientError
from jobs.found import Damaged
from jobs.objects import MOST_BYTES, FileObjects
from jobs.patient import PatientObjects
from jobs.store import open_store
from jobs.tokens import MOST_LOOKED_AT, TokenObjects

NAME = "ab" * 32
KEY = b"a secret of the site"


def at(folder: Path, secret: bytes | None = None) -> TokenObjects:
    return TokenObjects(PatientObjects(FileObjects(folder), (0.0,)), secret)


def test_what_was_put_is_found_under_its_own_name_and_under_no_other(tmp_path: Path) -> None:
    key = at(tmp_path).put(NAME, b"tokens")
    assert list(at(tmp_path).find(NAME)) == [(key, b"tokens")]
    assert list(at(tmp_path).find("cd" * 32)) == []


def test_whoever_makes_the_same_tokens_again_leaves_one_object(tmp_path: Path) -> None:
    assert at(tmp_path).put(NAME, b"tokens") == at(tmp_path).put(NAME, b"tokens")
    assert len(list(at(tmp_path).find(NAME))) == 1


@pytest.mark.parametrize("content", [b"", b"toke", b"tokenS", b"<Error/>"])
def test_an_object_that_is_not_what_its_name_says_is_damaged_until_it_is_put_again(
    tmp_path: Path, content: bytes
) -> None:
    key = at(tmp_path).put(NAME, b"tokens")
    (tmp_path / key).write_bytes(content)
    (found,) = at(tmp_path).find(NAME)
    assert isinstance(found, Damaged)
    assert found.key == key
    at(tmp_path).put(NAME, b"tokens")
    assert list(at(tmp_path).find(NAME)) == [(key, b"tokens")]


def test_a_site_with_a_key_believes_what_was_signed_with_it_for_these_rows_alone(tmp_path: Path) -> None:
    signed = at(tmp_path, KEY).put(NAME, b"tokens")
    assert list(at(tmp_path, KEY).find(NAME)) == [(signed, b"tokens")]
    assert list(at(tmp_path).find(NAME)) == [(signed, b"tokens")]
    at(tmp_path).put(NAME, b"planted")
    at(tmp_path, b"another secret here").put(NAME, b"foreign")
    other = tmp_path / f"tokens/{'cd' * 32}"
    other.mkdir()
    (other / Path(signed).name).write_bytes(b"tokens")
    verified = [each for each in at(tmp_path, KEY).find(NAME) if not isinstance(each, Damaged)]
    assert verified == [(signed, b"tokens")]
    (elsewhere,) = at(tmp_path, KEY).find("cd" * 32)
    assert isinstance(elsewhere, Damaged)
    assert "not signed" in elsewhere.reason


def test_a_folder_full_of_strange_objects_costs_a_few_reads(tmp_path: Path) -> None:
    for number in range(3 * MOST_LOOKED_AT):
        at(tmp_path).put(NAME, b"%d" % number)
    assert len(list(at(tmp_path).find(NAME))) == MOST_LOOKED_AT


def test_an_object_that_nobody_would_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_BYTES, "tokens", 5)
    with pytest.raises(ConfigurationError, match="too large"):
        at(tmp_path).put(NAME, b"tokens")
    assert not list(tmp_path.iterdir())


def test_a_store_knows_the_tokens_below_it_and_signs_them_with_the_key_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    monkeypatch.setenv("REINIT_CHECKPOINT_KEY_FILE", str(tmp_path / "key"))
    key = open_store((tmp_path / "store").as_uri()).tokens().put(NAME, b"tokens")
    assert list(at(tmp_path / "store", KEY).find(NAME)) == [(key, b"tokens")]


def test_a_store_that_does_not_answer_is_not_taken_for_one_without_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: FileObjects, prefix: str) -> list[str]:
        raise TransientError("no answer", where=prefix)

    monkeypatch.setattr(FileObjects, "keys", fail)
    with pytest.raises(TransientError):
        list(at(tmp_path).find(NAME))
