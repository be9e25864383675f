"""Kinds of objects that do not belong into a store: where each goes, what it holds, and why it is refused.

Law: the sound result that a kind is made of is never in the store, so that nothing here may count.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cell import Cell
from jobs.result import RunResult
from tests.make import a_cell, a_diverged, a_result

SEED = 9
"""A planned seed that has no sound result, so that whatever is believed of it would show."""


@dataclass(frozen=True)
class Foreign:
    """One object under a key; `reason` is part of what must be said of it."""

    kind: str
    key: str
    data: bytes
    reason: str


def body12(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def foreign_objects(cell: Cell, other: Cell) -> list[Foreign]:
    """Objects among the results of `cell`; `other` is a cell of the same study."""
    kinds = Kinds(cell)
    for group in (kinds.damaged, kinds.no_results, kinds.versions, kinds.no_numbers, kinds.not_as_asked, kinds.keys):
        group()
    kinds.of_others(other)
    return kinds.found


class Kinds:
    """Foreign objects, made of the sound result of a run that has none."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.sound = a_result(cell, SEED)
        self.data = self.sound.to_bytes()
        self.fields: dict[str, Any] = json.loads(self.data)
        self.found: list[Foreign] = []

    def add(self, kind: str, key: str, content: bytes, reason: str) -> None:
        assert kind not in {each.kind for each in self.found}
        self.found.append(Foreign(kind, key, content, reason))

    def hashed(self, kind: str, content: bytes, reason: str, science: str = "") -> None:
        """The key's hash is right, so that only what the object says can give it away."""
        name = f"{SEED}.{science or self.sound.science12}.{body12(content)}.json"
        self.add(kind, f"runs/{self.cell.digest}/{name}", content, reason)

    def changed(self, kind: str, reason: str, **changes: Any) -> None:
        self.hashed(kind, compact({**self.fields, **changes}), reason)

    def without(self, kind: str, name: str, reason: str) -> None:
        self.hashed(kind, compact({key: value for key, value in self.fields.items() if key != name}), reason)

    def twisted(self, kind: str, old: str, new: str, reason: str) -> None:
        text = self.data.decode()
        assert text.count(old) == 1, (kind, text)
        self.hashed(kind, text.replace(old, new).encode(), reason)

    def damaged(self) -> None:
        """Bytes that are no longer those that the key names; a key each, since a store has one object a key."""
        page = b"<html><body>502 Bad Gateway</body></html>"
        xml = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code></Error>'
        kinds: list[tuple[str, Callable[[bytes], bytes], str]] = [
            ("half of it", lambda data: data[: len(data) // 2], "cut short or altered"),
            ("a byte less", lambda data: data[:-1], "cut short or altered"),
            ("a byte more", lambda data: data + b" ", "cut short or altered"),
            ("one bit flipped", lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "cut short or altered"),
            ("empty", lambda _: b"", "it is empty"),
            ("a server's XML", lambda _: xml, "XML or HTML answer"),
            ("a proxy's page", lambda _: page, "XML or HTML answer"),
        ]
        for number, (kind, damage, reason) in enumerate(kinds):
            one = a_result(self.cell, SEED, later=number)
            self.add(kind, one.key, damage(one.to_bytes()), reason)

    def no_results(self) -> None:
        """Not results at all, though their names say so."""
        for kind, content, reason in (
            ("a note", b"results of Tuesday, please keep", "not JSON"),
            ("random bytes", random.Random(1).randbytes(3000), "not JSON"),
            ("zeros", bytes(4096), "not JSON"),
            ("an image", b"\x89PNG\r\n\x1a\n" + bytes(64), "not JSON"),
            ("nothing but a brace", b"{", "not JSON"),
            ("a JSON list", b"[1,2]", "schema_version is None"),
            ("a JSON text", b'"done"', "schema_version is None"),
            ("a JSON null", b"null", "schema_version is None"),
            ("deep JSON", b"[" * 100_000, "not JSON"),
            ("deep JSON inside", compact(self.fields)[:-1] + b',"deep":' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
            ("an endless number", compact(self.fields)[:-1] + b',"n":' + b"9" * 10_000 + b"}", "not JSON"),
            ("invalid UTF-8", self.data.replace(b"a processor", b"a \xff\xfe"), "not JSON"),
            ("a lone surrogate", self.data.replace(b"a processor", b"a \\ud800"), ""),
            ("UTF-16", self.data.decode().encode("utf-16"), ""),
            ("a huge object", compact({**self.fields, "surprise": "x" * 2**20}), "it is too large"),
        ):
            self.hashed(kind, content, reason)
        self.hashed("a byte order mark", b"\xef\xbb\xbf" + self.data, "")
        self.hashed("a last newline", self.data + b"\n", "in the one form")
        self.hashed("printed for people", json.dumps(self.fields, indent=1).encode(), "in the one form")
        self.hashed("two results in one object", self.data + self.data, "not JSON")

    def versions(self) -> None:
        """Of another version of this program, older or newer."""
        for kind, version in (("older", 0), ("newer", 2), ("newer by far", 10**6), ("in words", "1"), ("true", True)):
            self.changed(f"schema version: {kind}", f"schema_version is {version!r}", schema_version=version)
        self.twisted("schema version: a float", '"schema_version":1', '"schema_version":1.0', "schema_version is 1.0")
        self.without("schema version: none", "schema_version", "schema_version is None")
        self.changed("a field of a newer version", "surprise: Extra inputs", surprise=1)
        self.changed(
            "a field of a newer version in the cell", "Extra inputs", cell={**self.fields["cell"], "surprise": 1}
        )
        self.changed("a status of a newer version", "stopped", status="stopped")

    def no_numbers(self) -> None:
        """Numbers that are none."""
        scores = self.fields["metrics"]
        (headline,) = scores
        for kind, value in (("NaN", float("nan")), ("infinite", float("inf")), ("minus infinity", float("-inf"))):
            self.changed(f"a score: {kind}", "finite", metrics={headline: value})
        self.changed("a score: null", "valid number", metrics={headline: None})
        self.changed("a score: text", "valid number", metrics={headline: "0.9"})
        self.changed("a score: true", "valid number", metrics={headline: True})
        self.changed("a score: per cent", "beyond 1", metrics={headline: 90.25})
        self.changed("a score: none at all", "at least 1", metrics={})
        self.changed("a score: of another metric", "metrics lack", metrics={"validation/f1": 0.9})
        many = {headline: 0.9, **{f"validation/{number}": 0.5 for number in range(33)}}
        self.changed("a score: and many more", "33 metrics more than the task's", metrics=many)
        self.changed("a loss: NaN", "finite", train_loss=float("nan"))
        self.changed("seconds: below zero", "greater than or equal to 0", wall_seconds=-1.0)
        self.changed("seconds: infinite", "finite", gpu_seconds=float("inf"))
        self.changed("seconds: of ages", "wall_seconds: Input should be less", wall_seconds=1e308)
        self.changed("seconds of a GPU: of ages", "gpu_seconds: Input should be less", gpu_seconds=1e308)
        self.twisted("a number twice", f'"seed":{SEED}', f'"seed":{SEED},"seed":{SEED}', "stands twice")
        self.twisted(
            "steps: a float", f'"steps":{self.sound.steps}', f'"steps":{self.sound.steps}.0', "steps: Input should be"
        )
        self.twisted("seed: a float", f'"seed":{SEED}', f'"seed":{SEED}.0', "seed: Input should be")
        self.twisted("seed: text", f'"seed":{SEED}', f'"seed":"{SEED}"', "seed: Input should be")
        self.twisted("seed: true", f'"seed":{SEED}', '"seed":true', "seed: Input should be")
        self.twisted("seed: below zero", f'"seed":{SEED}', '"seed":-1', "seed: Input should be")
        self.twisted("seed: too large", f'"seed":{SEED}', '"seed":4294967296', "seed: Input should be")
        self.changed("seed: another than the key's", "seed in the object is 2, the key says", seed=2)

    def not_as_asked(self) -> None:
        """Not what their own cell asks for."""
        self.changed("fewer rows scored", "validation_rows is", validation_rows={"validation": 10})
        self.changed("other rows trained on", "train_rows is 499", train_rows=499)
        self.changed("fewer steps", "steps is 1,", steps=1)
        self.changed("a time without a zone", "timezone", finished_at="2026-01-02T03:04:05")
        self.changed("a time before all times", "a time that has none in UTC", finished_at="0001-01-01T00:00:00+05:00")
        self.changed("a time as a number", "finished_at: Input should be", finished_at=1767323045)
        self.changed("predictions that are no hash", "predictions: String should match", predictions="../../etc/passwd")
        self.changed("no cell", "cell: Input should be", cell=None)
        self.without("no provenance", "provenance", "provenance: Field required")
        self.changed("diverged, with scores", "Extra inputs", status="diverged", diverged_step=1, loss="nan")
        diverged = {**json.loads(a_diverged(self.cell, SEED).to_bytes()), "diverged_step": 10**30}
        self.hashed("diverged after more steps than it has", compact(diverged), "diverged_step is 1000000")

    def of_others(self, other: Cell) -> None:
        """Of another cell, study or science."""
        self.changed("another digest", "is not the cell's", digest="0" * 64)
        self.changed("another cell under this digest", "is not the cell's", cell=other.model_dump(mode="json"))
        elsewhere = a_result(other, SEED)
        self.hashed(
            "another cell's result", elsewhere.to_bytes(), "digest in the object is", science=elsewhere.science12
        )
        study = a_result(a_cell(3), SEED)
        self.hashed("another study's result", study.to_bytes(), "digest in the object is", science=study.science12)
        science = a_result(Cell(**{**self.cell.model_dump(exclude={"science"}), "science": 2}), SEED)
        self.hashed("another science version", science.to_bytes(), "digest in the object is", science=science.science12)

    def keys(self) -> None:
        """Keys that are none."""
        self.add(
            "no science hash that fits",
            f"runs/{self.cell.digest}/{SEED}.{'0' * 12}.{body12(self.data)}.json",
            self.data,
            "science hash",
        )
        self.add("a name without hashes", f"runs/{self.cell.digest}/{SEED}.json", self.data, "the key is not runs/")
        self.add(
            "a seed with a zero before",
            f"runs/{self.cell.digest}/0{SEED}{self.sound.key[67:]}",
            self.data,
            "the key is not runs/",
        )
        self.add(
            "a folder deeper",
            f"runs/{self.cell.digest}/old/{self.sound.key.rpartition('/')[2]}",
            self.data,
            "the key is not runs/",
        )
        self.add("a copy", self.sound.key.replace(".json", ".json.bak"), self.data, "the key is not runs/")
        self.add("a readme", f"runs/{self.cell.digest}/README.md", b"# Results", "the key is not runs/")
        for kind, name in (
            ("a blank", "a copy of 1.json"),
            ("a quote", 'it\'s "1".json'),
            ("markup", "[bold]<b>1&amp;</b>.json"),
            ("an escape code", "\x1b[2J\x1b[31m1.json"),
            ("a line break", "1\n2.json"),
            ("letters of Greek", "αβγ.json"),
            ("right to left", "\u202e1.json"),
        ):
            self.add(f"a key with {kind}", f"runs/{self.cell.digest}/{name}", self.data, "not a key of a store")
        self.add("a file beside the cells", "runs/README.md", b"# Results", "no cell's digest")
        self.add(
            "a digest in capitals",
            self.sound.key.replace(self.cell.digest, self.cell.digest.upper()),
            self.data,
            "no cell's digest",
        )
        self.add(
            "half a digest",
            self.sound.key.replace(self.cell.digest, self.cell.digest[:32]),
            self.data,
            "no cell's digest",
        )


def compact(value: object) -> bytes:
    """As this program writes, but also what it never would."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def things_of_a_folder(root: Path, cell: Cell) -> list[Foreign]:
    """What only a folder can hold under a key; made below `root`."""
    folder = root / "runs" / cell.digest
    outside = root.parent / "outside"
    outside.mkdir()
    results = [a_result(cell, SEED, later=100 + number) for number in range(6)]
    (outside / "result.json").write_bytes(results[0].to_bytes())
    paths = [folder / result.key.rpartition("/")[2] for result in results]
    paths[0].symlink_to(outside / "result.json")
    paths[1].symlink_to(outside)
    paths[2].symlink_to(root / "nowhere")
    paths[3].symlink_to(paths[3].name)
    os.mkfifo(paths[4])
    paths[5].symlink_to(folder)
    said = [
        "leads out of the store",
        "leads out of the store",
        "it is not there",
        "cannot be read",
        "no file",
        "no file",
    ]
    kinds = ["a link out of the store", "a link to a folder outside", "a link to nothing", "a link to itself", "a pipe"]
    kinds.append("a link to a folder")
    return [Foreign(kind, result.key, b"", reason) for kind, result, reason in zip(kinds, results, said, strict=True)]


def instead_of_a_run(cell: Cell) -> list[RunResult]:
    """Two results of one numerics version that measured different things."""
    return [a_result(cell, 1, score=0.5), a_result(cell, 1, score=0.6, later=1)]


def diverged_and_not(cell: Cell) -> list[Any]:
    return [a_result(cell, 2, score=0.5), a_diverged(cell, 2, later=1)]
