"""Results altered in every way that came to mind, for readers that must not be taken in.

Law: drawn from the generator that is given, so that a seed repeats them. What comes out may be a sound result, of
another run or with other numbers: which of them is, is for `jobs.found.verify` to say.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from jobs.cell import Cell, canonical
from jobs.result import DivergedRun, RunResult
from jobs.tasks import GLUE
from tests.make import a_cell, a_diverged, a_provenance, a_result

CELLS: Final[tuple[Cell, ...]] = (
    a_cell(),
    a_cell(11),
    a_cell(10, 11),
    a_cell(task=GLUE["mnli"]),
    a_cell(11, task=GLUE["mrpc"], size=100),
    a_cell(task=GLUE["stsb"], size=7),
)
"""Scored on one split, on two, by two metrics, and by two others."""

PROVENANCES: Final = tuple(
    a_provenance(host=host, device=device, threads=threads)
    for host in ("pod-1", "pod-2", 'a "pod"', "pod-\u00fc", "")
    for device, threads in (("a processor", 1), ('one named ,"host":"x"', 2))
)

_NUMBER: Final = re.compile(rb"(?<=[:,\[])-?[0-9][0-9.e+-]*(?=[,}\]])")
_TEXT: Final = re.compile(rb'(?<=")[A-Za-z0-9_./:-]+(?=")')
_FIELD: Final = re.compile(rb'"[a-z_0-9/]+":(?:"[^"\\]*"|[0-9.e+-]+),')

Row = tuple[str, bytes]
Alter = Callable[[random.Random, bytes, bytes], bytes]
"""Of a generator, a result's bytes and those of another."""


def a_run(draw: random.Random, cell: Cell, seed: int) -> RunResult | DivergedRun:
    """A result with numbers of all kinds, sometimes diverged, sometimes with a metric that nobody asked for."""
    provenance = draw.choice(PROVENANCES)
    if draw.random() < 0.05:
        return a_diverged(cell, seed, later=draw.randrange(9), provenance=provenance)
    names = [f"{split}/{metric}" for split in cell.task.splits for metric in cell.task.metrics]
    metrics = {name: draw.choice([draw.random(), draw.uniform(-1, 1), 0.0, 1.0, -1.0, 1e-05, 5e-324]) for name in names}
    if draw.random() < 0.05:
        metrics["validation/another"] = draw.choice([2.5, 1e300, -0.5])
    return a_result(
        cell,
        seed,
        later=draw.choice([0, 0.5, draw.randrange(10**6)]),
        metrics=metrics,
        wall_seconds=draw.choice([20.0, draw.random() * 1e4, 1e9, 5e-324]),
        gpu_seconds=draw.choice([0.0, draw.random()]),
        train_loss=draw.choice([draw.random(), -1.5, 1e-07, 0.0]),
        provenance=provenance,
    )


# ------------------------------------------------------------------------------------------------------------ bodies


def _bit(draw: random.Random, data: bytes, _: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def _cut(draw: random.Random, data: bytes, _: bytes) -> bytes:
    begin = draw.randrange(len(data))
    return draw.choice([data[:begin], data[begin:], data[:begin] + data[begin + draw.randrange(1, 40) :]])


def _inserted(draw: random.Random, data: bytes, _: bytes) -> bytes:
    pieces = [b"\n", b"\t", b"\r\n", b" ", b"\x00", b"0", b"-", b",", b'"', b"}", b"\xef\xbb\xbf", b"\xff", b"e5"]
    at = draw.choice([0, len(data), draw.randrange(len(data))])
    return data[:at] + draw.choice(pieces) + data[at:]


def _blank(draw: random.Random, data: bytes, _: bytes) -> bytes:
    """After a colon or a comma that may well stand in a text."""
    at = draw.choice([place for place, byte in enumerate(data) if byte in b",:{}"]) + 1
    return data[:at] + draw.choice([b" ", b"\t", b"\n", b"\r\n"]) + data[at:]


def _printed_anew(draw: random.Random, data: bytes, _: bytes) -> bytes:
    fields = json.loads(data)
    shuffled = dict(draw.sample(list(fields.items()), len(fields)))
    shuffled["provenance"] = dict(draw.sample(list(fields["provenance"].items()), len(fields["provenance"])))
    return draw.choice(
        [
            json.dumps(fields, sort_keys=True).encode(),
            json.dumps(fields, indent=1).encode(),
            json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode(),
            json.dumps(shuffled, separators=(",", ":"), ensure_ascii=False).encode(),
            data.replace(b",", b",\r\n"),
        ]
    )


def _number(draw: random.Random, data: bytes, other: bytes) -> bytes:
    found = draw.choice(list(_NUMBER.finditer(data)))
    old, value = found[0], float(found[0])
    spelt: list[bytes] = [
        old + b"0",
        b"0" + old,
        b"+" + old,
        b"-" + old,
        old + b"e0",
        old + b".0",
        old + b".",
        b'"%s"' % old,
    ]
    spelt += [f"{value:.17f}".encode(), f"{value:e}".encode(), f"{value:.17g}".encode(), repr(value).encode()]
    spelt += [b"1e0", b"1.0", b"1", b"-0.0", b"-0", b"0.0", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"true"]
    spelt += [
        b"null",
        b"1" + b"0" * 400,
        b"1_0",
        b"0x1",
        b"1.5",
        b"-1.5",
        b"4294967296",
        b"1.0000000001",
        b"1000000000.1",
    ]
    spelt += [draw.choice(_NUMBER.findall(other))]
    return data[: found.start()] + draw.choice(spelt) + data[found.end() :]


def _escaped(draw: random.Random, data: bytes, _: bytes) -> bytes:
    """A letter of a text or of a key, written as its code."""
    found = draw.choice(list(_TEXT.finditer(data)))
    at = draw.randrange(found.start(), found.end())
    return data[:at] + b"\\u%04x" % data[at] + data[at + 1 :]


def _text(draw: random.Random, data: bytes, other: bytes) -> bytes:
    found = draw.choice(list(_TEXT.finditer(data)))
    new: bytes = draw.choice(
        [b"", b"x", b"done", b"diverged", found[0].upper(), "\u00e9".encode(), draw.choice(_TEXT.findall(other))]
    )
    return data[: found.start()] + new + data[found.end() :]


def _time(draw: random.Random, data: bytes, _: bytes) -> bytes:
    """Another time, another way to write it, or none."""
    begin = data.index(b'"finished_at":"') + len(b'"finished_at":"')
    end = data.index(b'"', begin)
    old = data[begin:end]
    at = draw.randrange(len(old))
    times = [b"0001-01-01T00:00:00Z", b"9999-12-31T23:59:59.999999Z", b"0000-01-01T00:00:00Z", b"2026-02-30T00:00:00Z"]
    times += [b"2026-01-02T24:00:00Z", b"2026-01-02T03:04:60Z", b"2026-01-02T03:04:05.100Z", b"2026-01-02T03:04:05z"]
    times += [
        b"2026-01-02T03:04:05.000001Z",
        b"2026-01-02T03:04:05.000000Z",
        b"2026-01-02T03:04:05+00:00",
        b"0001-01-01T00:00:00+05:00",
    ]
    times += [b"2026-01-02T03:04:05+02:00", b"2026-01-02 03:04:05Z", b"20260102T030405Z", b"2026-W01-5T03:04:05Z"]
    times += [old[:at] + draw.choice([b"0", b"1", b"9", b":", b"-", b".", b"Z", b"T", b""]) + old[at + 1 :]] * 5
    return data[:begin] + draw.choice(times) + data[end:]


def _twice(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """A field again, as it was or with the other's value, before or after it."""
    found = draw.choice(list(_FIELD.finditer(data)))
    name = found[0].partition(b":")[0] + b":"
    others = [each for each in _FIELD.findall(other) if each.startswith(name)] or [found[0]]
    again: bytes = draw.choice([found[0], draw.choice(others)])
    at = draw.choice([found.start(), found.end()])
    return data[:at] + again + data[at:]


def _field(draw: random.Random, data: bytes, _: bytes) -> bytes:
    """One more field, in its place of the order, or one less."""
    fields: dict[str, Any] = json.loads(data)
    inside: dict[str, Any] = draw.choice([fields, fields["provenance"], fields["cell"], fields["cell"]["task"]])
    if draw.random() < 0.5:
        inside[draw.choice(["watts", "aaa", "zzz", "schema", "provenance2"])] = draw.choice([1, 1.5, "x", None, []])
    else:
        del inside[draw.choice(list(inside))]
    return canonical(fields)


def _whole(name: str) -> Alter:
    """A field of the other one, in canonical form."""

    def swapped(_: random.Random, data: bytes, other: bytes) -> bytes:
        fields, theirs = json.loads(data), json.loads(other)
        for each in name.split():
            if each in theirs:
                fields[each] = theirs[each]
        return canonical(fields)

    return swapped


def _scores(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """The scores in another order, another's among them, or one that is none."""
    fields, theirs = json.loads(data), json.loads(other)
    metrics, given = fields.get("metrics", {}), list(theirs.get("metrics", {"": 0.5}).values())
    values = draw.sample([*metrics.values(), *given], len(metrics))
    if values and draw.random() < 0.5:
        values[0] = draw.choice([-1.5, 1.5, -1.00000001, 1.00000001, 1.0000000001, 90.25, -0.0, 1])
    fields["metrics"] = dict(zip(draw.sample(list(metrics), len(metrics)), values, strict=True))
    return canonical(fields)


def _seconds(draw: random.Random, data: bytes, _: bytes) -> bytes:
    fields = json.loads(data)
    name = draw.choice(["wall_seconds", "gpu_seconds", "train_loss"])
    fields[name] = draw.choice([1e9, 1000000000.1, 1e300, -1.0, 0.0, 5e-324, -5e-324, 1e-05, 0.0001, 1e16, 1, 2**70])
    return canonical(fields)


def _counts(draw: random.Random, data: bytes, _: bytes) -> bytes:
    """Another whole number, or the same in another spelling."""
    fields = json.loads(data)
    name = draw.choice([each for each in ("steps", "train_rows", "seed", "diverged_step") if each in fields])
    value = fields[name]
    if draw.random() < 0.5:
        form = draw.choice(["0%d", "%d.0", "-%d", "%de0", "+%d", " %d", '"%d"', "%d "])
        return data.replace(f'"{name}":{value},'.encode(), f'"{name}":{form % value},'.encode(), 1)
    fields[name] = draw.choice([value + 1, value - 1, 0, 2**32 - 1, 2**32, 10**9, 10**30, 1.0, True])
    return canonical(fields)


def _spliced(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Halves of two, or both, in which a reader of lines may see two lines or one."""
    end, begin = draw.randrange(len(data)), draw.randrange(len(other))
    seam = draw.choice([b"", b"\n", b"\t"])
    marks = [mark for mark in (b',"provenance":', b',"schema_version":1,', b',"finished_at"') if mark in data]
    if (mark := draw.choice(marks)) in other and draw.random() < 0.7:
        end, begin = data.index(mark), other.index(mark)
    return draw.choice([data[:end] + seam + other[begin:], data + seam + other, data[:end] + seam + data[end:]])


def _provenance_twice(draw: random.Random, data: bytes, other: bytes) -> bytes:
    begin, end = data.index(b',"provenance":'), data.index(b',"schema_version":1,')
    theirs = other[other.index(b',"provenance":') : other.index(b',"schema_version":1,')]
    mine = data[begin:end]
    new = draw.choice([mine + mine, mine + theirs, theirs + mine, b"", b',"provenance":{}', b',"provenance":null'])
    return data[:begin] + new + data[end:]


BODIES: Final[dict[str, Alter]] = {
    "a bit": _bit,
    "cut": _cut,
    "inserted": _inserted,
    "a blank": _blank,
    "printed anew": _printed_anew,
    "a number": _number,
    "escaped": _escaped,
    "a text": _text,
    "a time": _time,
    "a field twice": _twice,
    "a field more or less": _field,
    "another's cell": _whole("cell"),
    "another's digest": _whole("digest"),
    "another's cell and digest": _whole("cell digest"),
    "another's cell and numbers": _whole("cell digest train_rows steps validation_rows"),
    "another's provenance": _whole("provenance"),
    "another's seed": _whole("seed"),
    "another's metrics": _whole("metrics"),
    "another's predictions": _whole("predictions"),
    "other scores": _scores,
    "other seconds": _seconds,
    "other counts": _counts,
    "spliced": _spliced,
    "a provenance twice": _provenance_twice,
    "as it was": lambda _, data, __: data,
}


# -------------------------------------------------------------------------------------------------------------- keys


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _fields(data: bytes) -> dict[str, Any]:
    """What these bytes say, as far as they are JSON."""
    try:
        fields = json.loads(data)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _science(data: bytes, before: str) -> str:
    """What the science hash of these bytes would be; as before where they are no JSON."""
    if not (fields := _fields(data)):
        return before
    measured = ("status", "metrics", "predictions", "diverged_step", "loss")
    try:
        return _hash(canonical({name: fields[name] for name in measured if name in fields}))
    except ValueError:
        return before


def keyed(draw: random.Random, key: str, data: bytes, other: str) -> str:
    """A key for altered bytes: mostly one that all hashes of it are right for."""
    folder, digest, name = key.split("/")
    seed, science, *_ = name.split(".")
    theirs = other.split("/")[2].split(".")
    body, new = _hash(data), _science(data, science)
    if draw.random() < 0.5:
        # What the bytes say of themselves.
        fields = _fields(data)
        return f"{folder}/{fields.get('digest', digest)}/{fields.get('seed', seed)}.{new}.{body}.json"
    return draw.choice(
        [
            key,
            other,
            f"{folder}/{digest}/{seed}.{science}.{body}.json",
            f"{folder}/{digest}/{theirs[0]}.{new}.{body}.json",
            f"{folder}/{other.split('/')[1]}/{seed}.{new}.{body}.json",
            f"{folder}/{digest}/0{seed}.{new}.{body}.json",
            f"{folder}/{digest}/{seed}.{theirs[1]}.{body}.json",
            f"{folder}/{digest}/{seed}.{new}.{body.upper()}.json",
        ]
    )


def altered(draw: random.Random, result: RunResult | DivergedRun, others: Sequence[RunResult | DivergedRun]) -> Row:
    """A result in which something is not as it was, under its own key or one that fits better."""
    other = draw.choice(others)
    data = BODIES[draw.choice(list(BODIES))](draw, result.to_bytes(), other.to_bytes())
    return keyed(draw, result.key, data, other.key), data
