"""The store keeps what it says it keeps, and believes nothing that does not verify: in a folder and in a bucket."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from botocore.compat import get_current_datetime
from pydantic import ValidationError

import jobs.s3
from jobs.backends import open_objects
from jobs.cell import canonical
from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError, TransientError
from jobs.found import Damaged
from jobs.objects import FileObjects, Objects
from jobs.patient import PatientObjects
from jobs.store import Store, open_store
from tests.make import a_cell, a_diverged, a_failure, a_provenance, a_result, some_predictions
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server, free_ports

NO_PAUSES = (0.0, 0.0, 0.0)
CELL = a_cell()
DIGEST = CELL.digest


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    url = (tmp_path / "store").as_uri() if request.param == "file" else request.getfixturevalue("s3_url")
    return open_objects(url, attempts=2)


@pytest.fixture
def store(objects: Objects) -> Store:
    return Store(objects, pauses=NO_PAUSES)


class Faulty:
    """A backend that passes everything on, and what a test replaces it with."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.puts: list[str] = []
        self.gets: list[str] = []
        self.url = inner.url
        self._lock = threading.Lock()

    def describe(self) -> str:
        return self.inner.describe()

    def put(self, key: str, data: bytes) -> None:
        self.puts.append(key)
        self.inner.put(key, data)

    def get(self, key: str) -> bytes | None:
        with self._lock:
            self.gets.append(key)
        return self.inner.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        return self.inner.keys(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)


def key_of(data: bytes, seed: int = 1, science: str = "0" * 12, digest: str = DIGEST) -> str:
    return f"runs/{digest}/{seed}.{science}.{hashlib.sha256(data).hexdigest()[:12]}.json"


def put_raw(objects: Objects, result: Any, key: str | None = None) -> str:
    """A result as some other writer would have put it, without predictions."""
    key = key or result.key
    objects.put(key, result.to_bytes())
    return str(key)


# ------------------------------------------------------------------------------------------------------- writing


def test_a_result_that_was_put_is_found(store: Store) -> None:
    result = a_result(seed=3)
    key = store.put(result, some_predictions(3))
    found = store.results(DIGEST)
    assert key == result.key
    assert found.results == {3: result}
    assert found.done == {3}
    assert (found.damaged, found.duplicates, found.contradictions) == ((), (), ())
    assert store.predictions(result.predictions) == some_predictions(3)


def test_an_empty_store_has_nothing_and_is_no_error(store: Store) -> None:
    assert store.results(DIGEST).done == frozenset()
    assert store.all_results({DIGEST})[DIGEST].results == {}
    assert store.all_failures({DIGEST})[DIGEST].records == ()
    assert store.all_results([]) == {}


def test_every_result_of_every_cell_is_read_and_what_is_none_is_named(store: Store, objects: Objects) -> None:
    one, other = a_result(seed=3), a_result(a_cell(6), seed=1)
    for result in (one, other):
        put_raw(objects, result)
    objects.put(key_of(b"{}"), b"{}")
    objects.put("predictions/of-no-interest", b"here")
    read = store.every_result()
    assert [each.key for each in read] == sorted([one.key, other.key, key_of(b"{}")])
    assert {each.key for each in read if isinstance(each, Damaged)} == {key_of(b"{}")}


def test_a_store_holds_a_result_only_with_its_predictions(store: Store, objects: Objects) -> None:
    result, predictions = a_result(seed=3), some_predictions(3)
    assert not store.holds(result, predictions)
    put_raw(objects, result)
    assert not store.holds(result, predictions)
    store.put(result, predictions)
    assert store.holds(result, predictions)
    assert not store.holds(a_result(seed=4), some_predictions(4))
    diverged = a_diverged(seed=2)
    assert not store.holds(diverged, None)
    store.put(diverged)
    assert store.holds(diverged, None)


def test_a_checkpoints_object_is_removed_in_spite_of_a_passing_fault(objects: Objects) -> None:
    class Once(Faulty):
        failed = False

        def delete(self, key: str) -> None:
            if not self.failed:
                self.failed = True
                raise TransientError("no answer")
            super().delete(key)

    objects.put("checkpoints/x", b"some")
    PatientObjects(Once(objects), NO_PAUSES).delete("checkpoints/x")
    assert objects.get("checkpoints/x") is None


def test_digests_are_those_of_cells_that_have_an_object(store: Store) -> None:
    other = a_result(a_cell(6), seed=1)
    for seed in (1, 2):
        store.put(a_result(seed=seed), some_predictions(seed))
    store.put(other, some_predictions(1))
    store.put_failure(a_failure())
    assert store.digests("") == sorted({DIGEST, other.digest})
    assert store.digests(DIGEST[:12]) == [DIGEST]
    assert store.digests("not a digest") == []


def test_a_store_that_failed_a_moment_ago_is_asked_once(objects: Objects) -> None:
    class Silent(Faulty):
        def put(self, key: str, data: bytes) -> None:
            self.puts.append(key)
            raise TransientError("no answer")

    silent = Silent(objects)
    with pytest.raises(TransientError):
        Store(silent, pauses=NO_PAUSES).impatient().put_failure(a_failure())
    assert len(silent.puts) == 1


def test_a_store_knows_the_checkpoints_below_it(store: Store, objects: Objects) -> None:
    objects.put(f"checkpoints/{DIGEST}/7/0.json", b"{}")
    assert store.checkpoints().seeds(DIGEST) == {7}


def test_text_that_is_no_utf_8_is_kept_and_shown_as_far_as_it_goes(store: Store, objects: Objects) -> None:
    store.put_log(DIGEST, "one", "half a pair: \ud800.")
    objects.put(f"logs/{DIGEST}/two.txt", b"a byte: \xff.")
    assert [log.text for log in store.logs(DIGEST)] == ["half a pair: ?.", "a byte: \ufffd."]


def test_a_diverged_run_is_done_and_has_no_predictions(store: Store) -> None:
    store.put(a_diverged(seed=2))
    found = store.results(DIGEST)
    assert found.done == {2}
    assert found.state(2) == "diverged"


def test_predictions_other_than_those_named_are_refused_before_anything_is_written(objects: Objects) -> None:
    faulty = Faulty(objects)
    store = Store(faulty, pauses=NO_PAUSES)
    for result, predictions in ((a_result(), b"other"), (a_result(), None), (a_diverged(), b"some")):
        with pytest.raises(DataError, match="not those that the result names"):
            store.put(result, predictions)
    assert faulty.puts == []


def test_putting_the_same_result_twice_is_one_object(objects: Objects, store: Store) -> None:
    for _ in range(2):
        store.put(a_result(), some_predictions())
    assert len(list(objects.keys("runs/"))) == 1


def test_predictions_come_first_so_a_crash_between_leaves_no_result(objects: Objects) -> None:
    class Crashes(Faulty):
        def put(self, key: str, data: bytes) -> None:
            if key.startswith("runs/"):
                raise KeyboardInterrupt
            super().put(key, data)

    result = a_result()
    with pytest.raises(KeyboardInterrupt):
        Store(Crashes(objects), pauses=NO_PAUSES).put(result, some_predictions())
    store = Store(objects, pauses=NO_PAUSES)
    assert store.predictions(result.predictions) == some_predictions()
    assert store.results(DIGEST).state(1) == "missing"


def half(objects: Objects, key: str, data: bytes) -> None:
    objects.put(key, data[: len(data) // 2])


def none(objects: Objects, key: str, data: bytes) -> None:
    return


def applied_but_lost(objects: Objects, key: str, data: bytes) -> None:
    objects.put(key, data)
    raise TransientError("the answer was lost")


@pytest.mark.parametrize("lie", [half, none, applied_but_lost])
@pytest.mark.parametrize("lies", [0, 1, 3])
def test_a_write_that_was_not_kept_is_repeated_until_it_reads_back(
    objects: Objects, lie: Callable[[Objects, str, bytes], None], lies: int
) -> None:
    class Lies(Faulty):
        left = lies

        def put(self, key: str, data: bytes) -> None:
            if key.startswith("runs/") and self.left:
                self.left -= 1
                lie(self.inner, key, data)
            else:
                super().put(key, data)

    Store(Lies(objects), pauses=NO_PAUSES).put(a_result(), some_predictions())
    assert Store(objects, pauses=NO_PAUSES).results(DIGEST).results == {1: a_result()}


@pytest.mark.parametrize("prefix", ["runs/", "predictions/"])
def test_a_store_that_never_keeps_what_it_accepts_is_an_error_and_not_a_silent_loss(
    objects: Objects, prefix: str
) -> None:
    class Lies(Faulty):
        def put(self, key: str, data: bytes) -> None:
            if not key.startswith(prefix):
                super().put(key, data)

    with pytest.raises(TransientError, match="written 4 times") as caught:
        Store(Lies(objects), pauses=NO_PAUSES).put(a_result(), some_predictions())
    assert caught.value.exit_code == 75
    assert Store(objects, pauses=NO_PAUSES).results(DIGEST).done == frozenset()


def test_a_failure_and_a_log_are_kept_under_the_attempt(objects: Objects, store: Store) -> None:
    failure = a_failure(seed=4)
    store.put_failure(failure)
    assert store.put_log(DIGEST, "pod-1", "the end\n") == f"logs/{DIGEST}/pod-1.txt"
    assert store.all_failures({DIGEST})[DIGEST].records == (failure,)
    assert objects.get(f"logs/{DIGEST}/pod-1.txt") == b"the end\n"


def test_an_attempt_never_writes_over_another_of_its_name(objects: Objects, store: Store) -> None:
    store.put_log(DIGEST, "pod-1", "first")
    store.put_log(DIGEST, "pod-1", "first")
    with pytest.raises(ConfigurationError, match="another attempt has the same name"):
        store.put_log(DIGEST, "pod-1", "second")
    assert objects.get(f"logs/{DIGEST}/pod-1.txt") == b"first"


@pytest.mark.parametrize(
    "attempt", ["../../etc/passwd", "..", "a/../../b", "/etc/passwd", "", ".hidden", "a\0b", "a b", "a/b"]
)
def test_an_attempt_whose_name_is_not_a_key_is_refused(store: Store, attempt: str) -> None:
    with pytest.raises(SpecError, match="not a key"):
        store.put_log(DIGEST, attempt, "text")
    with pytest.raises(ValidationError, match="attempt"):
        a_failure(attempt=attempt)


@pytest.mark.parametrize("key", ["../outside", "runs/../../outside", "/etc/hostname", "runs//x", "", "a/./b", "a\n"])
def test_a_key_that_could_leave_the_root_reaches_no_backend(objects: Objects, key: str) -> None:
    for refused in (lambda: objects.get(key), lambda: objects.put(key, b""), lambda: list(objects.keys(key + "/"))):
        with pytest.raises(SpecError, match="not a key"):
            refused()


@pytest.mark.parametrize("digest", ["", "..", DIGEST[:-1], DIGEST.upper() + "g"])
def test_what_is_not_a_digest_is_refused(store: Store, digest: str) -> None:
    for refused in (store.results, store.predictions, lambda one: store.all_results([one])):
        with pytest.raises(SpecError, match="not a sha256"):
            refused(digest)


def test_several_writers_of_one_run_at_once_leave_one_whole_object(objects: Objects) -> None:
    def write(_: int) -> str:
        return Store(objects, pauses=NO_PAUSES).put(a_result(), some_predictions())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(write, range(24)))) == 1
    found = Store(objects, pauses=NO_PAUSES).results(DIGEST)
    assert (found.results, found.damaged) == ({1: a_result()}, ())


# ------------------------------------------------------------------------------------------------------- reading


def cut(data: bytes) -> bytes:
    return data[:-10]


def flip_a_bit(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


def xml_error(data: bytes) -> bytes:
    return b'<?xml version="1.0"?><Error><Code>InternalError</Code></Error>'


def nothing(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "cut short or altered"),
        (flip_a_bit, "cut short or altered"),
        (xml_error, "XML"),
        (nothing, "it is empty"),
    ],
)
def test_an_object_whose_bytes_are_not_those_of_its_key_is_damaged_and_not_done(
    objects: Objects, store: Store, damage: Callable[[bytes], bytes], reason: str
) -> None:
    objects.put(a_result().key, damage(a_result().to_bytes()))
    store.put(a_result(seed=2), some_predictions(2))
    found = store.results(DIGEST)
    assert found.done == {2}
    assert [each.key for each in found.damaged] == [a_result().key]
    assert reason in found.damaged[0].reason


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(a_result().to_bytes()) | changes).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a note that somebody left", "not JSON"),
        (b"[1, 2]", "schema_version is None"),
        (b"{}", "schema_version is None"),
        (changed(schema_version=2), "schema_version is 2, this program reads 1"),
        (changed(metrics={"validation/accuracy": float("nan")}), "finite"),
        (changed(train_loss=float("inf")), "finite"),
        (changed(digest="0" * 64), "is not the cell's"),
        (changed(surprise=1), "surprise: Extra inputs are not permitted"),
        (changed(status="maybe"), "maybe"),
        (changed(cell=None), "cell"),
        (changed(seed=9), "seed in the object is 9, the key says 1"),
        (changed(metrics={"validation/accuracy": 0.99}), "science hash in the object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"metrics": {}, ' + changed()[1:], "twice"),
        (b'{"schema_version": 1' + b"0" * 5000 + b"}", "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_object_that_says_something_impossible_is_damaged_though_its_hash_is_right(
    objects: Objects, store: Store, data: bytes, reason: str
) -> None:
    key = key_of(data, science=a_result().science12)
    objects.put(key, data)
    found = store.results(DIGEST)
    assert found.done == frozenset()
    assert found.damaged[0].key == key
    assert reason in found.damaged[0].reason


def test_a_result_under_another_cells_digest_is_damaged(objects: Objects, store: Store) -> None:
    other = a_result(a_cell(11))
    key = put_raw(objects, other, other.key.replace(other.digest, DIGEST))
    found = store.results(DIGEST)
    assert found.done == frozenset()
    assert found.damaged == (Damaged(key, f"digest in the object is {other.digest[:12]}, the key says {DIGEST[:12]}"),)


@pytest.mark.parametrize("name", ["README.md", "1.json", "01.{science}.{body}.json", "deeper/1.{science}.{body}.json"])
def test_a_foreign_name_among_the_results_is_damaged(objects: Objects, store: Store, name: str) -> None:
    _, science, body, _ = a_result().key.split(".")
    key = put_raw(objects, a_result(), f"runs/{DIGEST}/{name.format(science=science, body=body)}")
    found = store.results(DIGEST)
    assert found.done == frozenset()
    assert [each.key for each in found.damaged] == [key]


def test_a_name_that_no_store_would_write_is_listed_and_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / DIGEST
    folder.mkdir(parents=True)
    (folder / "a copy of 1.json").touch()
    (folder / ".DS_Store").touch()
    found = open_store(tmp_path.as_uri()).results(DIGEST)
    assert found.damaged == (Damaged(f"runs/{DIGEST}/a copy of 1.json", "not a key of a store"),)


def test_a_folder_made_in_a_buckets_console_is_no_object(s3_server: S3Server, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    store.put(a_result(), some_predictions())
    for key in ("runs/", f"runs/{DIGEST}/"):
        s3_server.client.put_object(Bucket=s3_bucket, Key=key, Body=b"")
    assert store.all_results([DIGEST])[DIGEST] == store.results(DIGEST)
    assert store.results(DIGEST).damaged == ()


@pytest.mark.parametrize("other", ["a pipe", "a link out", "a link to a folder", "a link to itself"])
def test_what_is_no_file_among_the_results_is_damaged_and_stops_nothing(tmp_path: Path, other: str) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.put(a_result(seed=2), some_predictions(2))
    path = tmp_path / "store" / a_result().key
    (tmp_path / "outside.json").write_bytes(a_result().to_bytes())
    if other == "a pipe":
        os.mkfifo(path)
    else:
        targets = {"a link out": tmp_path / "outside.json", "a link to a folder": path.parent, "a link to itself": path}
        path.symlink_to(targets[other])
    found = store.all_results([DIGEST])[DIGEST]
    assert found.done == {2}
    assert [each.key for each in found.damaged] == [a_result().key]


def test_an_object_larger_than_any_result_is_damaged_and_not_read(objects: Objects, store: Store) -> None:
    key = key_of(b"", science=a_result().science12)
    objects.put(key, bytes(2**20 + 1))
    (damaged,) = store.results(DIGEST).damaged
    assert (damaged.key, damaged.reason) == (key, "it is too large: 1,048,577 bytes")
    large = bytes(2**21)
    objects.put("predictions/x", large)
    assert objects.get("predictions/x") == large


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed":1,', b'"seed":1,"seed":1,'),
        (b'"seed":1,', b'"seed": 1,'),
        (b'"seed":1,', b'"seed":true,'),
        (b"", b" "),
    ],
)
def test_a_result_that_is_not_in_its_one_form_is_damaged(
    objects: Objects, store: Store, old: bytes, new: bytes
) -> None:
    data = a_result().to_bytes()
    twisted = data.replace(old, new) if old else data + new
    objects.put(key_of(twisted, science=a_result().science12), twisted)
    found = store.results(DIGEST)
    assert found.done == frozenset()
    assert len(found.damaged) == 1


def test_what_is_under_no_cells_digest_is_a_stray(objects: Objects, store: Store) -> None:
    store.put(a_result(), some_predictions())
    strays = [f"runs/{DIGEST.upper()}/1.json", "runs/README.md"]
    for key in strays:
        objects.put(key, b"")
    assert [each.key for each in store.survey([]).strays] == strays
    assert store.results(DIGEST).damaged == ()


def test_a_store_that_was_compacted_says_what_it_said_before(objects: Objects, store: Store) -> None:
    for result in (a_result(seed=1), a_result(a_cell(6), seed=2), a_diverged(a_cell(6), seed=3)):
        put_raw(objects, result)
    cells = [a_cell(6), a_cell(7), CELL]
    before = store.survey(cells)
    assert list(before.found) == [cell.digest for cell in cells]
    assert [found.done for found in before.found.values()] == [{2, 3}, set(), {1}]
    compacted = store.compact()
    assert (compacted.results, compacted.packed) == (3, 3)
    assert store.survey(cells) == before
    assert store.all_results([CELL.digest]) == {CELL.digest: before.found[CELL.digest]}
    with pytest.raises(SpecError):
        store.all_results(["none"])


def test_results_without_their_predictions_are_damaged_where_that_is_asked_for(objects: Objects, store: Store) -> None:
    store.put(a_result(seed=1), some_predictions(1))
    store.put(a_diverged(seed=2))
    for seed in (3, 4):
        put_raw(objects, a_result(seed=seed))
    objects.put(f"predictions/{a_result(seed=4).predictions}", b"other logits")
    found = store.all_results([DIGEST])
    assert found[DIGEST].done == {1, 2, 3, 4}
    verified = store.with_predictions(found)[DIGEST]
    assert verified.done == {1, 2}
    absent, altered = verified.damaged
    assert (absent.key, altered.key) == (a_result(seed=3).key, a_result(seed=4).key)
    assert absent.reason.endswith("it is not there")
    assert "content hashes to" in altered.reason


def test_objects_of_other_cells_are_listed_but_not_read(objects: Objects, store: Store) -> None:
    wanted, absent, others = a_cell(1), a_cell(2), [a_cell(3), a_cell(4)]
    for cell in (wanted, *others):
        store.put(a_result(cell), some_predictions())
    faulty = Faulty(objects)
    found = Store(faulty, pauses=NO_PAUSES).all_results([absent.digest, wanted.digest])
    assert list(found) == [absent.digest, wanted.digest]
    assert found[wanted.digest].done == {1}
    assert found[absent.digest].done == frozenset()
    assert faulty.gets == [a_result(wanted).key]


def test_a_listing_of_several_pages_is_whole(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.s3, "PAGE_KEYS", 3)
    keys = [f"logs/{number}/x" for number in range(8)]
    for key in keys:
        objects.put(key, b"")
    assert sorted(objects.keys("logs/")) == keys


@pytest.mark.parametrize("what", ["get", "keys"])
def test_a_failed_read_is_repeated_and_never_means_absent(objects: Objects, what: str) -> None:
    class Fails(Faulty):
        left = 0

        def get(self, key: str) -> bytes | None:
            self.fail("get")
            return super().get(key)

        def keys(self, prefix: str) -> Iterator[str]:
            yield from list(self.inner.keys(prefix))[:1]
            self.fail("keys")
            yield from self.inner.keys(prefix)

        def fail(self, which: str) -> None:
            if which == what and self.left:
                self.left -= 1
                raise TransientError("reset by peer")

    for seed in (1, 2):
        Store(objects).put(a_result(seed=seed), some_predictions(seed))
    fails = Fails(objects)
    fails.left = 3
    assert Store(fails, pauses=NO_PAUSES).results(DIGEST).done == {1, 2}
    fails.left = 1000
    with pytest.raises(TransientError, match="reset by peer"):
        Store(fails, pauses=NO_PAUSES).results(DIGEST)


def test_a_wrong_answer_that_passes_is_not_damage(objects: Objects) -> None:
    class Garbles(Faulty):
        def get(self, key: str) -> bytes | None:
            data = super().get(key)
            return b"<Error>busy</Error>" if len(self.gets) == 1 else data

    Store(objects).put(a_result(), some_predictions())
    found = Store(Garbles(objects), pauses=NO_PAUSES).results(DIGEST)
    assert found.done == {1}
    assert found.damaged == ()


def test_answers_that_are_wrong_in_ever_new_ways_are_inconclusive(objects: Objects) -> None:
    class Garbles(Faulty):
        def get(self, key: str) -> bytes | None:
            super().get(key)
            return f"<Error><RequestId>{len(self.gets)}</RequestId></Error>".encode()

    put_raw(objects, a_result())
    with pytest.raises(TransientError, match="reads differently each time"):
        Store(Garbles(objects), pauses=NO_PAUSES).results(DIGEST)


def test_an_object_that_is_listed_but_gone_is_damaged(objects: Objects) -> None:
    class Forgets(Faulty):
        def get(self, key: str) -> bytes | None:
            return None

    put_raw(objects, a_result())
    found = Store(Forgets(objects), pauses=NO_PAUSES).results(DIGEST)
    assert found.damaged == (Damaged(a_result().key, "it is not there"),)


def test_predictions_are_verified_when_read(objects: Objects, store: Store) -> None:
    sha256 = hashlib.sha256(b"logits").hexdigest()
    with pytest.raises(DataError, match="it is not there"):
        store.predictions(sha256)
    objects.put(f"predictions/{sha256}", b"l0gits")
    with pytest.raises(DataError, match="the key says"):
        store.predictions(sha256)


def test_damaged_predictions_are_mended_by_the_next_run_that_makes_them(objects: Objects, store: Store) -> None:
    objects.put(f"predictions/{a_result().predictions}", b"cut sh")
    store.put(a_result(), some_predictions())
    assert store.predictions(a_result().predictions) == some_predictions()


def test_failures_are_listed_oldest_first_and_unreadable_ones_as_damaged(objects: Objects, store: Store) -> None:
    late = a_failure(attempt="a", failed_at=a_failure().failed_at + timedelta(hours=1))
    early = a_failure(attempt="b", seed=None)
    for failure in (late, early, a_failure(a_cell(1))):
        store.put_failure(failure)
    objects.put(f"failures/{DIGEST}/c.json", b"{")
    objects.put(f"failures/{DIGEST}/d.json", early.model_dump_json().encode())
    found = store.all_failures([DIGEST])[DIGEST]
    assert found.records == (early, late)
    assert [each.reason for each in found.damaged] == [
        "not JSON: 1 bytes, cut short or altered",
        f"the record belongs under {early.key}",
    ]


def test_the_states_of_runs_come_from_results_and_failures(store: Store) -> None:
    store.put(a_result(seed=1), some_predictions(1))
    store.put(a_diverged(seed=2))
    store.put_failure(a_failure(seed=3))
    found, failures = store.results(DIGEST), store.all_failures([DIGEST])[DIGEST].records
    assert [found.state(seed, failures) for seed in (1, 2, 3, 4)] == ["done", "diverged", "failed", "missing"]
    assert found.state(4, [a_failure(seed=None)]) == "failed"


def test_the_earliest_result_counts_and_the_later_one_is_a_duplicate(objects: Objects, store: Store) -> None:
    early = a_result(score=0.5)
    late = a_result(score=0.9, later=60, provenance=a_provenance(device="another"))
    for result in (late, early):
        put_raw(objects, result)
    found = store.results(DIGEST)
    assert found.results == {1: early}
    assert found.duplicates[0].keys == (early.key, late.key)
    assert found.duplicates[0].largest_difference == pytest.approx(0.4)


def test_a_contradiction_is_done_but_has_no_accepted_result(objects: Objects, store: Store) -> None:
    one, other = a_result(score=0.5), a_result(score=0.6, later=1)
    for result in (other, one):
        put_raw(objects, result)
    found = store.results(DIGEST)
    assert found.results == {}
    assert found.done == {1}
    assert found.state(1) == "contradictory"
    assert [(each.seed, each.keys) for each in found.contradictions] == [(1, (one.key, other.key))]


# -------------------------------------------------------------------------------------------- opening and checking


@pytest.mark.parametrize(
    "url",
    [
        *("", "store", "./store", "/tmp/store", "file://store", "file://host/store", "file:///", "file:///a/../b"),
        *("s3://", "s3:///prefix", "s3://b", "s3://bucket/a/../b", "s3://bucket/a b", "s3://bucket/a//b"),
        "gs://bucket/prefix",
    ],
)
def test_what_is_no_url_of_a_store_is_refused_with_the_forms_that_are(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "s3://bucket/prefix, file:///absolute/path" in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_plain_path_is_answered_with_its_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"is {(tmp_path / 'out').as_uri()}"):
        open_store("out")


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("s3://key:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)


def test_a_url_survives_opening(s3_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "with a blank"
    for url in (s3_url, folder.as_uri(), "s3://bucket"):
        assert open_store(url).url == url
    open_store(f"file://{folder}").check()
    assert folder.is_dir()


def test_opening_a_store_loads_no_s3_library_and_a_folder_never_does(tmp_path: Path) -> None:
    program = f"""
import sys
from jobs.store import open_store
open_store("s3://bucket/prefix")
open_store({tmp_path.as_uri()!r}).check()
assert "boto3" not in sys.modules and "botocore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_a_store_that_works_says_where_and_as_whom(objects: Objects, store: Store) -> None:
    said = store.check()
    assert objects.url in said
    assert SECRET_KEY not in said
    if objects.url.startswith("s3"):
        assert f"as access key ending in {ACCESS_KEY[-4:]} from env" in said
        assert ACCESS_KEY not in said


def test_checks_leave_one_object_however_many(objects: Objects, store: Store) -> None:
    for _ in range(3):
        store.check()
    assert len(list(objects.keys("checks/"))) == 1


@pytest.mark.parametrize("lie", ["forgets", "garbles", "does not list"])
def test_a_store_that_does_not_give_back_what_it_took_fails_the_check(objects: Objects, lie: str) -> None:
    class Lies(Faulty):
        def get(self, key: str) -> bytes | None:
            return {"forgets": None, "garbles": b"x"}.get(lie, super().get(key))

        def keys(self, prefix: str) -> Iterator[str]:
            return iter(()) if lie == "does not list" else super().keys(prefix)

    with pytest.raises(TransientError):
        Store(Lies(objects), pauses=NO_PAUSES).check()


def file_in_the_way(tmp_path: Path) -> Path:
    (tmp_path / "store").write_text("a file")
    return tmp_path / "store"


def below_a_file(tmp_path: Path) -> Path:
    return file_in_the_way(tmp_path) / "deeper"


def not_writable(tmp_path: Path) -> Path:
    # Root may write nearly everywhere, but not here.
    return Path("/proc/reinit-store")


def loop_of_links(tmp_path: Path) -> Path:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize("place", [file_in_the_way, below_a_file, not_writable, loop_of_links])
def test_a_folder_that_cannot_be_written_is_a_refusal_that_no_retry_follows(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    folder = place(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        open_store(folder.as_uri()).check()
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_full_disk_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TransientError, match="No space left on device"):
        open_store(tmp_path.as_uri()).check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_write_that_breaks_off_leaves_nothing_half_written(tmp_path: Path) -> None:
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from pathlib import Path; from jobs.objects import FileObjects;"
        "FileObjects(Path(sys.argv[1])).put('runs/x', bytes(2000))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limited, tmp_path], cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert b"ConfigurationError" in ended.stderr
    assert b"cannot be written" in ended.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_killed_write_leaves_nothing_that_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = FileObjects(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        objects.put("runs/x", b"data")
    (tmp_path / "runs" / ".123.left-by-a-kill").touch()
    assert list(objects.keys("runs/")) == []


def test_a_link_that_leads_out_of_the_store_is_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("secret")
    (root / "runs").symlink_to(outside)
    objects = FileObjects(root)
    refused: list[Callable[[], object]] = [
        lambda: objects.get("runs/secret"),
        lambda: objects.put("runs/deep/new", b""),
        lambda: list(objects.keys("runs/")),
    ]
    for each in refused:
        with pytest.raises(ConfigurationError, match="leads out of the store"):
            each()
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_store((tmp_path / "link").as_uri()).check()
    assert (tmp_path / "real" / "checks").is_dir()


def refusal_of_check(url: str) -> ReinitError:
    with pytest.raises(ReinitError) as caught:
        open_store(url, attempts=1).check()
    assert SECRET_KEY not in str(caught.value)
    return caught.value


def test_a_bucket_that_does_not_exist_is_named(s3_bucket: str) -> None:
    error = refusal_of_check("s3://no-such-bucket/prefix")
    assert isinstance(error, ConfigurationError)
    assert "NoSuchBucket" in error.problem
    assert "s3://no-such-bucket/prefix" in str(error)


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-nobody", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "REINITNOBODYSKEYWXYZ", "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials_are_refused_with_whose_they_were(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: str
) -> None:
    monkeypatch.setenv(variable, value)
    error = refusal_of_check(s3_url)
    assert isinstance(error, ConfigurationError)
    assert code in error.problem
    assert f"as access key ending in {os.environ['AWS_ACCESS_KEY_ID'][-4:]} from env" in str(error)
    assert value not in str(error)


def test_no_credentials_at_all_are_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    error = refusal_of_check(s3_url)
    assert isinstance(error, ConfigurationError)
    assert "without credentials" in str(error)


def test_a_wrong_clock_is_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def two_hours_late(*arguments: Any, **options: Any) -> Any:
        return get_current_datetime(*arguments, **options) - timedelta(hours=2)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", two_hours_late)
    error = refusal_of_check(s3_url)
    assert isinstance(error, ConfigurationError)
    assert "RequestTimeTooSkewed" in error.problem
    assert "clock" in str(error)


def test_a_server_that_is_away_may_come_back(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_ports(1)[0]}")
    error = refusal_of_check(s3_url)
    assert isinstance(error, TransientError)
    assert os.environ["AWS_ENDPOINT_URL_S3"] in str(error)
    assert f"as access key ending in {ACCESS_KEY[-4:]} from env" in str(error)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://"])
def test_a_malformed_endpoint_is_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    assert isinstance(refusal_of_check(s3_url), ConfigurationError)


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_both_checksum_settings_work(s3_url: str, monkeypatch: pytest.MonkeyPatch, checksums: str) -> None:
    monkeypatch.setenv("REINIT_S3_CHECKSUMS", checksums)
    open_store(s3_url).check()


def test_an_unknown_checksum_setting_is_refused_with_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINIT_S3_CHECKSUMS", "never")
    with pytest.raises(ConfigurationError, match="when_supported, when_required"):
        open_store("s3://bucket/prefix")


def test_two_stores_in_one_bucket_do_not_see_each_other(s3_bucket: str) -> None:
    one, other = open_store(f"s3://{s3_bucket}/a"), open_store(f"s3://{s3_bucket}/ab")
    one.put(a_result(), some_predictions())
    assert other.results(DIGEST).done == frozenset()
    assert one.results(DIGEST).done == {1}


def test_the_helpers_bytes_are_canonical() -> None:
    assert a_result().to_bytes() == canonical(json.loads(a_result().to_bytes()))


def test_logs_of_pods_read_back_in_the_order_in_which_they_began(store: Store) -> None:
    for pod, minute in (("pod-zz", 1), ("pod-aa", 3), ("pod-mm", 2)):
        event = json.dumps({"time": f"2026-01-02T03:0{minute}:00.000+00:00", "event": "loading", "message": "\u00e9"})
        store.put_log(DIGEST, pod, f"a library's line\n{event}\n")
    assert [log.attempt for log in store.logs(DIGEST)] == ["pod-zz", "pod-mm", "pod-aa"]


def test_logs_without_a_time_read_back_in_the_order_of_attempts(store: Store) -> None:
    store.put_log(DIGEST, "pod-2", "second\n")
    store.put_log(DIGEST, "pod-1", "first: naïve\n")
    store.put_log(a_cell(6).digest, "pod-1", "another cell's\n")
    assert [(log.attempt, log.text) for log in store.logs(DIGEST)] == [
        ("pod-1", "first: naïve\n"),
        ("pod-2", "second\n"),
    ]
    assert store.logs(a_cell(7).digest) == ()
    with pytest.raises(SpecError):
        store.logs("../..")
