"""Tokens in the store: they save time; whether they are there, whole, damaged or forged moves no bit of a result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from jobs.cell import Cell
from jobs.errors import ConfigurationError, DataError, ReinitError, TransientError
from jobs.found import NotVerifiedError
from jobs.objects import FileObjects
from jobs.store import open_store
from reinit.batches import collate
from reinit.data import Rows, rows_from
from reinit.encoded import Encoded, decode, encode
from reinit.network import load_tokenizer
from reinit.places import Places
from reinit.run import Outcome
from reinit.tokencache import TokenCache, determined_by, tokeniser_files
from reinit.tokens import TaskTokens, Tokens, tokenised
from reinit.worker import Worker
from tests.reinit.bench import flipped, measured, rewrite
from tests.reinit.tiny import places_of, small_cell, write_sentences, write_small_model

NAME = "ab" * 32
ROWS = "cd" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def cell(folder: Path, model: Path) -> Cell:
    return small_cell(folder, model, 1)


@pytest.fixture(scope="module")
def places(folder: Path, model: Path) -> Places:
    return places_of(folder, model)


@pytest.fixture(scope="module")
def uncached(cell: Cell, places: Places) -> Outcome:
    return Worker(places).run(cell, 1, lambda *_: None)


class Started:
    """A worker with a cache in a store, as `Session` makes one, and what it said."""

    def __init__(self, places: Places, store: Path, *, writes: bool = True) -> None:
        self.said: list[tuple[str, str]] = []
        cache = TokenCache(open_store(store.as_uri()).tokens(), self._emit, writes=writes)
        self.worker = Worker(places, cache)

    def _emit(self, event: str, message: str, **_: object) -> None:
        self.said.append((event, message))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.said]

    def run(self, cell: Cell) -> Outcome:
        self.worker.check([cell])
        return self.worker.run(cell, 1, lambda *_: None)


def objects(store: Path) -> list[Path]:
    return sorted(store.glob("tokens/*/*"))


def forbid_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("rows are read")

    monkeypatch.setattr("reinit.tokens.read_task", read)
    monkeypatch.setattr("reinit.worker.load_tokenizer", read)


def same(one: Outcome, other: Outcome) -> bool:
    return measured(one) == measured(other) and one.result.provenance == other.result.provenance


def test_a_run_has_the_same_bits_and_provenance_without_tokens_in_the_store_and_with_them(
    tmp_path: Path, cell: Cell, places: Places, uncached: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Started(places, tmp_path)
    assert same(first.run(cell), uncached)
    assert len(objects(tmp_path)) == 1
    forbid_rows(monkeypatch)
    second = Started(places, tmp_path)
    assert same(second.run(cell), uncached)
    assert ["put into" in message for _, message in first.said + second.said] == [True, False]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"<html>busy</html>"],
    ids=["a flipped bit", "half", "nothing", "a page"],
)
def test_damaged_tokens_are_named_passed_over_and_mended(
    tmp_path: Path, cell: Cell, places: Places, uncached: Outcome, damage: Callable[[bytes], bytes]
) -> None:
    Started(places, tmp_path).run(cell)
    (path,) = objects(tmp_path)
    whole = path.read_bytes()
    rewrite(path, damage)
    started = Started(places, tmp_path)
    assert same(started.run(cell), uncached)
    assert started.events == ["ignored", "tokens"]
    assert path.name in started.said[0][1]
    assert path.read_bytes() == whole


def forged(cell: Cell, places: Places, model: Path, **changes: Any) -> tuple[str, bytes]:
    """Name and bytes of tokens as whoever can write to the store might make them: whole, hashed and wrong."""
    tokens = TaskTokens.load(cell.task, load_tokenizer(model), 16, places, 30522)
    name = determined_by(cell.task, rows_from(cell.task, places), tokeniser_files(model), 16)
    where = changes.pop("split", "train")
    splits = tokens.splits
    splits[where] = replace(splits["train"], **changes)
    return name, encode(splits, name, tokens.rows_sha256)


def a_longer_row(train: Encoded) -> dict[str, Any]:
    starts = train.starts.copy()
    starts[1:-1] = starts[-1]
    return {"starts": starts}


def an_empty_row(train: Encoded) -> dict[str, Any]:
    starts = train.starts.copy()
    starts[1] = 0
    assert np.diff(starts).max() <= 16
    return {"starts": starts}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda train: {"ids": np.full_like(train.ids, 30522)}, "the token 30522 of a vocabulary"),
        (lambda train: {"labels": np.full_like(train.labels, 2.0)}, "a label that the task has not"),
        (lambda train: {"labels": np.full_like(train.labels, np.nan)}, "a label that the task has not"),
        (lambda train: {"labels": train.labels[:-1], "starts": train.starts[:-1]}, "the rows"),
        (lambda train: {"ids": train.ids[:-1]}, "bytes, their header says|together"),
        (a_longer_row, "its rows have 0 to"),
        (an_empty_row, "its rows have 0 to"),
        (lambda _: {"split": "test.tsv"}, "the rows"),
    ],
)
def test_forged_tokens_are_named_and_passed_over(
    tmp_path: Path,
    cell: Cell,
    places: Places,
    model: Path,
    uncached: Outcome,
    change: Callable[[Encoded], dict[str, Any]],
    said: str,
) -> None:
    train = TaskTokens.load(cell.task, load_tokenizer(model), 16, places, 30522).splits["train"]
    name, data = forged(cell, places, model, **change(train))
    with pytest.raises(NotVerifiedError, match=said):
        decode(data, name, cell.task, 16, 30522)
    open_store(tmp_path.as_uri()).tokens().put(name, data)
    started = Started(places, tmp_path)
    assert same(started.run(cell), uncached)
    assert started.events[0] == "ignored"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"{" * 2**20,
        b'{"schema_version":2,"determined_by":"%s","rows_sha256":"%s","splits":[]}\n' % (NAME.encode(), ROWS.encode()),
        b"\x80\x05K\x01.",
    ],
)
def test_bytes_that_are_no_tokens_are_refused(cell: Cell, data: bytes) -> None:
    with pytest.raises(NotVerifiedError):
        decode(data, NAME, cell.task, 16, 30522)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(cell: Cell, places: Places, model: Path) -> None:
    name, data = forged(cell, places, model)
    header, _, body = data.partition(b"\n")
    tokens = b'"tokens":%d' % decode(data, name, cell.task, 16, 30522)[0]["train"].starts[-1]
    assert tokens in header
    with pytest.raises(NotVerifiedError, match="their header says"):
        decode(header.replace(tokens, b'"tokens":10000000000000', 1) + b"\n" + body, name, cell.task, 16, 30522)


def test_tokens_under_the_name_of_others_are_not_taken_for_them(cell: Cell, places: Places, model: Path) -> None:
    _, data = forged(cell, places, model)
    with pytest.raises(NotVerifiedError, match="other rows"):
        decode(data, NAME, cell.task, 16, 30522)


@pytest.mark.parametrize("error", [ConfigurationError("not allowed"), TransientError("no answer")])
@pytest.mark.parametrize("method", ["put", "keys", "get"])
def test_a_store_that_refuses_tokens_costs_only_time(
    tmp_path: Path,
    cell: Cell,
    places: Places,
    uncached: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    error: ReinitError,
    method: str,
) -> None:
    if method == "get":
        Started(places, tmp_path).run(cell)
    whole = getattr(FileObjects, method)

    def refusing(self: FileObjects, key: str, *more: Any) -> Any:
        if key.startswith("tokens/"):
            raise error
        return whole(self, key, *more)

    monkeypatch.setattr("jobs.patient.time.sleep", lambda _: None)
    monkeypatch.setattr(FileObjects, method, refusing)
    started = Started(places, tmp_path)
    assert same(started.run(cell), uncached)
    assert started.events[0] == ("unkept" if method == "put" else "unread")


def test_a_run_that_needs_few_rows_of_long_texts_tokenises_no_more_and_keeps_nothing(
    tmp_path: Path, cell: Cell, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reinit.worker.SHORT_CHARACTERS", 0)
    few, most = (cell.model_copy(update={"size": size}) for size in (6, 7))
    Started(places, tmp_path).run(few)
    assert not objects(tmp_path)
    Started(places, tmp_path).run(most)
    assert len(objects(tmp_path)) == 1
    started = Started(places, tmp_path)
    assert same(started.run(few), Worker(places).run(few, 1, lambda *_: None))
    assert started.events == ["tokens"]


def test_of_several_ranks_one_writes(tmp_path: Path, cell: Cell, places: Places) -> None:
    Started(places, tmp_path, writes=False).run(cell)
    assert not objects(tmp_path)


def test_rows_are_still_compared_with_the_revision_where_tokens_are_at_hand(
    tmp_path: Path, cell: Cell, model: Path
) -> None:
    folder = write_sentences(tmp_path / "rows")
    Started(places_of(folder, model), tmp_path / "store").run(cell)
    with (folder / "dev.tsv").open("a", encoding="utf-8") as rows:
        rows.write("another\t1\n")
    with pytest.raises(DataError, match="not the ones the study names"):
        Started(places_of(folder, model), tmp_path / "store").run(cell)


def test_the_name_of_tokens_moves_with_all_that_determines_them(
    cell: Cell, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tokeniser_files(model)
    names = [
        determined_by(cell.task, "revision", files, 16),
        determined_by(cell.task, "sha256:of other files", files, 16),
        determined_by(cell.task.model_copy(update={"labels": ("1", "0")}), "revision", files, 16),
        determined_by(cell.task, "revision", files | {"vocab.txt": "other"}, 16),
        determined_by(cell.task, "revision", files, 17),
    ]
    for library in ("tokenizers", "transformers", "datasets"):
        with monkeypatch.context() as patch:
            patch.setattr("reinit.tokencache.version", lambda name, which=library: "0" if name == which else "1")
            names.append(determined_by(cell.task, "revision", files, 16))
    assert len(set(names)) == len(names)
    assert determined_by(cell.task, "revision", dict(reversed(files.items())), 16) == names[0]


def test_every_file_that_a_tokeniser_may_read_is_among_its_files_and_no_weights_are(model: Path) -> None:
    files = tokeniser_files(model)
    assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= set(files)
    assert "model.safetensors" not in files
    assert files["config.json"] == hashlib.sha256((model / "config.json").read_bytes()).hexdigest()


tokens_of_a_row = st.lists(st.integers(0, 99), min_size=1, max_size=8)


@given(st.lists(tokens_of_a_row, min_size=1, max_size=9), st.booleans(), st.sampled_from([2, 4]))
def test_what_is_encoded_is_decoded_to_the_same_rows(
    cell: Cell, rows: list[list[int]], typed: bool, width: Any
) -> None:
    task = cell.task.model_copy(update={"train_rows": len(rows), "validation_rows": (len(rows),)})
    labels = [float(number % 2) for number in range(len(rows))]
    split = Encoded.of(((row, [0] * len(row) if typed else None) for row in rows), labels, width)
    splits, rows_sha256 = decode(encode({"train": split, "dev.tsv": split}, NAME, ROWS), NAME, task, 8, 100)
    assert rows_sha256 == ROWS
    for name in ("train", "dev.tsv"):
        for number, row in enumerate(rows):
            ids, types, label = splits[name].row(number)
            assert (list(ids), label) == (row, labels[number])
            assert (None if types is None else list(types)) == ([0] * len(row) if typed else None)


def test_stored_examples_make_the_same_batch_as_those_of_the_rows(cell: Cell, places: Places, model: Path) -> None:
    tokens = TaskTokens.load(cell.task, load_tokenizer(model), 16, places, 30522)
    few, whole = tokens.train.take([3, 1, 4]), TaskTokens.stored(cell.task, tokens.splits, ROWS).train
    one, other = collate(few, 0), collate(whole.take([3, 1, 4]), 0)
    assert all((one.inputs[name] == other.inputs[name]).all() for name in one.inputs)
    assert one.inputs.keys() == other.inputs.keys()
    assert (one.labels == other.labels).all()
    assert [list(each.input_ids) for each in whole.all()[1:3]] == [list(whole.all()[n].input_ids) for n in (1, 2)]


def test_the_bytes_of_tokens_are_of_this_format(cell: Cell, places: Places, model: Path) -> None:
    """Whoever changes how rows are read, tokenised or encoded raises `FORMAT`, and then pins the new hash here."""
    tokens = TaskTokens.load(cell.task, load_tokenizer(model), 16, places, 30522)
    assert hashlib.sha256(encode(tokens.splits, NAME, tokens.rows_sha256)).hexdigest()[:16] == "f6fb87577cf603b0"


# ------------------------------------------------------------------------------------------- what a tokeniser is asked


def byte_pairs() -> PreTrainedTokenizerFast:
    """A tokeniser of another kind: bytes, pairs, no types, an end of text."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], show_progress=False)
    own.train_from_iterator(["a joy", "warm and funny", "a bore, cold and flat"] * 9, trainer)
    own.post_processor = processors.TemplateProcessing("$A <end>", "$A <end> $B <end>", [("<end>", 0)])
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=own, model_input_names=names)  # type: ignore[no-untyped-call]


class Shouting(PreTrainedTokenizerFast):
    """Has a call of its own."""

    def _encode_plus(self, text: Any, *args: Any, **more: Any) -> Any:
        return super()._encode_plus([each.upper() for each in text], *args, **more)


TEXTS = st.lists(
    st.text(max_size=30) | st.sampled_from(["a joy [SEP] of", "", "Ünïcode 漢字 \u0301"]), min_size=1, max_size=5
)


@pytest.fixture(scope="module", params=["word pieces", "byte pairs"])
def tokenizer(request: pytest.FixtureRequest, model: Path) -> Any:
    return load_tokenizer(model) if request.param == "word pieces" else byte_pairs()


@given(texts=TEXTS, is_pair=st.booleans(), max_length=st.integers(4, 12))
def test_tokens_are_those_of_the_library_s_own_call(
    tokenizer: Any, texts: list[str], max_length: int, *, is_pair: bool
) -> None:
    columns = [texts, texts[::-1]] if is_pair else [texts]
    expected = tokenizer(*columns, truncation="longest_first", max_length=max_length)
    rows = tokenised(tokenizer, columns, max_length)
    assert [ids for ids, _ in rows] == expected["input_ids"]
    assert [types for _, types in rows] == expected.get("token_type_ids", [None] * len(texts))


def test_a_row_without_a_token_is_refused_by_its_number() -> None:
    """Of a tokeniser that begins and ends no text; packed, such a row would be scored as the one after it."""
    bare = byte_pairs()
    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    rows = Rows([("a",), ("a joy",), ("",), ("b",), ("",)], [0.0] * 5)
    assert len(Tokens(rows, bare, 8).take([1, 0])) == 2
    with pytest.raises(DataError, match="no token") as refused:
        Tokens(rows, bare, 8).take([1, 4])
    assert refused.value.where == "row 5 of its split"
    with pytest.raises(DataError, match="no token") as refused:
        Tokens(rows, bare, 8).all()
    assert refused.value.where == "row 3 of its split"


def test_a_tokeniser_with_a_call_of_its_own_is_asked_by_that() -> None:
    plain = byte_pairs()
    names = plain.model_input_names
    shouting = Shouting(tokenizer_object=plain.backend_tokenizer, model_input_names=names)  # type: ignore[no-untyped-call]
    assert (
        tokenised(shouting, [["a", "b"]], 8) == tokenised(plain, [["A", "B"]], 8) != tokenised(plain, [["a", "b"]], 8)
    )
