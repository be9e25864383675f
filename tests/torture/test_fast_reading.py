"""Quick readers, by column and from snapshots, say what reading each object by itself says, whatever is there."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.byheart
import jobs.compaction
import jobs.recall
import jobs.snapshots
from aggregate.frame import frame
from jobs.columns import Batch
from jobs.errors import SpecError
from jobs.found import Damaged, Found, NotVerifiedError, Verified, settle, verify
from jobs.objects import check_key
from jobs.plan import Plan, PlannedCell
from jobs.recall import Recall
from jobs.result import DivergedRun, RunResult
from jobs.snapshots import KEY, PREFIX
from tests.figures import full, record
from tests.memory import Memory, snapshot, store_of
from tests.torture.altered import CELLS, Row, a_run, altered

TARGET: Final = "altered results and snapshots: read quickly, what is believed and named is as read plainly"
SEED: Final = int(os.environ.get("REINIT_TORTURE_SEED", "") or time.time_ns() % 10**6)
Run = RunResult | DivergedRun
KNOWN: Final = {cell.digest: cell for cell in CELLS}


def plainly(key: str, data: bytes) -> Verified | str:
    """The slow way: a result, or why it is none."""
    try:
        return verify(key, data)
    except NotVerifiedError as error:
        return str(error)


def quickly(recall: Recall, key: str, data: bytes) -> Verified | str:
    try:
        return recall.verify(key, data)
    except NotVerifiedError as error:
        return str(error)


def counted(several: Iterable[Batch | Verified]) -> tuple[Counter[Row], int]:
    """Key and bytes of each result, however it came; and how many came by column."""
    rows: Counter[Row] = Counter()
    by_column = 0
    for some in several:
        by_column += len(some.keys) if isinstance(some, Batch) else 0
        rows.update((one.key, one.result.to_bytes()) for one in (some.each() if isinstance(some, Batch) else [some]))
    return rows, by_column


def some_rows(draw: random.Random) -> list[Row]:
    """Sound and altered results, in an order and with repetitions that no listing would have."""
    runs = [a_run(draw, cell, seed) for cell in CELLS for seed in draw.sample(range(50), 8)]
    rows = [(run.key, run.to_bytes()) for run in runs]
    rows += [altered(draw, draw.choice(runs), runs) for _ in range(100)]
    rows += draw.sample(rows, 5)
    return sorted(rows) if draw.random() < 0.7 else draw.sample(rows, len(rows))


def test_of_altered_results_those_are_believed_that_verify_believes(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(SEED)
    monkeypatch.setattr(jobs.recall, "MOST_KNOWN", 5)
    rounds, believed, refused, quick = full(1_000, 75), 0, 0, 0
    learned = Recall()
    for number in range(rounds):
        rows = some_rows(draw)
        verdicts = [plainly(key, data) for key, data in rows]
        expected = Counter((one.key, one.result.to_bytes()) for one in verdicts if isinstance(one, Verified))
        for recall in (Recall(KNOWN), learned, Recall()):
            found, by_column = counted(recall.those_verified(rows))
            assert found == expected, f"seed {SEED}, round {number}"
            quick += by_column
        for (key, data), verdict in zip(rows, verdicts, strict=True):
            one = quickly(learned, key, data)
            assert one == verdict, f"seed {SEED}, round {number}: {key} {data!r}"
            assert isinstance(one, str) or one.result.to_bytes() == data
        believed += expected.total()
        refused += len(rows) - expected.total()
    # Else it is not the quick ways that were tried.
    assert quick > believed
    assert refused > rounds * 50
    record(
        "test_fast_reading",
        f"{believed + refused:,} results, {refused:,} of them refused: many at a time as one by one",
        TARGET,
    )


# ------------------------------------------------------------------------------------------------------------ stores

PLAN: Final = Plan(PlannedCell(cell, tuple(range(12)), ("family",)) for cell in CELLS)


def rows_of(key: str, data: bytes) -> list[Row]:
    """What a snapshot holds, read as anybody would; nothing of what is none."""
    name = KEY.fullmatch(key)
    if name is None or hashlib.sha256(data).hexdigest() != name["sha256"]:
        return []
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return []
    if table.column_names != ["key", "body"] or table.num_rows != int(name["rows"]):
        return []
    return list(zip(table["key"].to_pylist(), table["body"].to_pylist(), strict=True))


def kept_in(held: dict[str, bytes]) -> dict[str, bytes]:
    """What snapshots hold that is what its key says."""
    rows = [row for key in held if key.startswith(PREFIX) for row in rows_of(key, held[key])]
    return {key: data for key, data in rows if isinstance(plainly(key, data), Verified)}


def is_key(key: str) -> bool:
    try:
        check_key(key)
    except SpecError:
        return False
    return True


def one_by_one(held: dict[str, bytes]) -> dict[str, Found]:
    """Each object by itself, or the bytes that a snapshot has and its key names."""
    kept = kept_in(held)
    verified: dict[str, list[Verified]] = {digest: [] for digest in KNOWN}
    damaged: dict[str, list[Damaged]] = {digest: [] for digest in KNOWN}
    for key, data in held.items():
        digest = key[5:69]
        if not key.startswith("runs/") or digest not in KNOWN:
            continue
        one = plainly(key, kept.get(key, data)) if is_key(key) else "not a key of a store"
        if isinstance(one, Verified):
            verified[digest].append(one)
        else:
            damaged[digest].append(Damaged(key, one))
    return {digest: settle(digest, verified[digest], damaged[digest]) for digest in KNOWN}


def assert_plain(held: dict[str, bytes], hint: str) -> None:
    """A survey, and the frame of it, are those of the objects one by one."""
    expected = one_by_one(held)
    survey = store_of(Memory(dict(held))).survey(CELLS)
    assert survey.found == expected, hint
    bare = {key: data for key, data in held.items() if not key.startswith(PREFIX)}
    assert survey.strays == store_of(Memory(bare)).survey(CELLS).strays, hint
    assert {each.key for each in survey.passed_over} <= {
        key for key in held if key.startswith(PREFIX) and not rows_of(key, held[key])
    }, hint
    quick, plain = (frame(PLAN, each, study="s") for each in (survey.found, expected))
    pd.testing.assert_frame_equal(quick, plain, check_exact=True, obj=hint)


def harm_objects(draw: random.Random, held: dict[str, bytes], results: list[str], sound: list[Run]) -> None:
    """Something that befalls results; `sound` are those that are what their keys say."""
    kind = draw.randrange(4)
    if kind == 0:
        runs = [a_run(draw, draw.choice(CELLS), draw.randrange(14)) for _ in range(3)]
        held.update((run.key, run.to_bytes()) for run in runs)
    elif kind == 1:
        for key in draw.sample(results, min(5, len(results))):
            del held[key]
    elif kind == 2 and sound:
        held.update(altered(draw, draw.choice(sound), sound) for _ in range(5))
    elif sound:
        # Under a key that it has already.
        one = draw.choice(sound)
        held[one.key] = altered(draw, one, sound)[1]


def harm_snapshots(draw: random.Random, held: dict[str, bytes], key: str, sound: list[Run]) -> None:
    """Something that befalls one of them."""
    kind, data = draw.randrange(4), held[key]
    if kind == 0:
        at = draw.randrange(len(data))
        held[key] = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    elif kind == 1:
        del held[key]
    elif kind == 2 and sound:
        # Under a name that is right, with rows that are altered, some twice, and in any order.
        rows = rows_of(key, data)
        rows += draw.sample(rows, min(5, len(rows)))
        rows += [altered(draw, draw.choice(sound), sound) for _ in range(10)]
        rows += [(one.key, altered(draw, one, sound)[1]) for one in draw.choices(sound, k=10)]
        held.update([snapshot(draw.sample(rows, len(rows)))])
    elif sound:
        rows = [(draw.choice(sound).key, one.to_bytes()) for one in draw.choices(sound, k=5)]
        held.update([snapshot(rows)])


def harm(draw: random.Random, held: dict[str, bytes]) -> None:
    """Something that befalls a store."""
    results, snapshots = [[key for key in sorted(held) if key.startswith(kind)] for kind in ("runs/", PREFIX)]
    verdicts = [plainly(key, held[key]) for key in results]
    sound = [one.result for one in verdicts if isinstance(one, Verified)]
    if draw.random() < 0.1:
        store_of(Memory(held)).compact()
    elif snapshots and draw.random() < 0.5:
        harm_snapshots(draw, held, draw.choice(snapshots), sound)
    else:
        harm_objects(draw, held, results, sound)


@pytest.mark.parametrize("ahead", [False, True], ids=["listed first", "ahead of the listing"])
def test_whatever_befalls_a_store_a_survey_is_that_of_its_objects(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(f"{SEED} {ahead}")
    if ahead:
        monkeypatch.setattr(jobs.snapshots, "AHEAD", 1)
    monkeypatch.setattr(jobs.snapshots, "GROUP_ROWS", 16)
    worlds, surveys = full(120, 10), 0
    for number in range(worlds):
        monkeypatch.setattr(jobs.compaction, "ROWS", draw.choice([10, 60, 50_000]))
        runs = [a_run(draw, cell, seed) for cell in CELLS for seed in range(12)]
        held = {run.key: run.to_bytes() for run in draw.sample(runs, draw.choice([5, 30, 70]))}
        for step in range(draw.randrange(4, 12)):
            hint = f"seed {SEED}, world {number}, step {step}"
            harm(draw, held)
            assert_plain(held, hint)
            surveys += 1
            if step % 3 == 2:
                before = one_by_one(held)
                compacted = store_of(Memory(held)).compact()
                assert one_by_one(held) == before, hint
                assert compacted.results == len(kept_in(held).keys() & held.keys()), hint
                assert_plain(held, hint)
                surveys += 1
    order = "read ahead of the listing" if ahead else "read after it"
    record("test_fast_reading", f"{surveys:,} surveys of {worlds} stores, snapshots {order}: each result once", TARGET)
