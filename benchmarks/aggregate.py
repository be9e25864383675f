"""Time to read the results of many runs from an S3 server into a frame: this project beside plain boto3.

    python -m benchmarks.aggregate [--runs 10000] [--peer-runs 2000] [--repeats 3]

A real S3 server (SeaweedFS) on this machine holds a valid result a run, ten runs a cell. Three ways to the same frame:

- peer: boto3 lists the keys, GETs one object after another and parses each; of many runs a part is timed, and the time
  of all is that times their number.
- cold: `Store.survey`, which lists, reads and verifies each object.
- compacted: the same after `reinit compact`.

Prints wall and CPU seconds of this process (the server has its own), medians where repeated, and ratios. The floor of
`compacted` is what no reader can leave out: the server's pages of the listing, the bytes of the snapshots over the
loopback, unpacking them, and one hash of every result. Frames are compared and must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
import pandas as pd
from pyarrow.parquet import ParquetFile

from aggregate.frame import frame
from jobs.cell import Cell
from jobs.plan import Plan, PlannedCell
from jobs.snapshots import PREFIX
from jobs.store import Store, open_store
from tests.make import a_cell, a_provenance, a_result
from tests.s3 import Weed, connect

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

BUCKET: Final = "results"
SEEDS: Final = 10
WRITERS: Final = 4
COMPARED: Final = ("digest", "seed", "status", "score", "steps", "wall_seconds", "device", "finished_at")


@dataclass(frozen=True)
class Seconds:
    """Of one way."""

    wall: float
    cpu: float

    def times(self, factor: float) -> Seconds:
        """Of so many times the work."""
        return Seconds(self.wall * factor, self.cpu * factor)

    def plus(self, other: Seconds) -> Seconds:
        """Of both, one after the other."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


def timed(what: Callable[[], T], repeats: int = 1) -> tuple[Seconds, T]:
    """Medians, and what came of the last time."""
    wall, cpu = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        made = what()
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
    return Seconds(statistics.median(wall), statistics.median(cpu)), made


# ------------------------------------------------------------------------------------------------------- the results


def cells(runs: int) -> list[Cell]:
    """Different sizes of one task."""
    return [a_cell(size=100 + number) for number in range((runs + SEEDS - 1) // SEEDS)]


def fill(endpoint: str, numbers: Iterable[int]) -> None:
    """Put the results of these runs, in a process of its own."""
    client = connect(endpoint)
    for number in numbers:
        cell = a_cell(size=100 + number // SEEDS)
        drawn = random.Random(number)
        result = a_result(
            cell,
            number % SEEDS,
            score=drawn.random(),
            later=number * 1.25,
            wall_seconds=drawn.uniform(20, 30),
            train_loss=drawn.random(),
            predictions=drawn.randbytes(32).hex(),
            # A pod a cell.
            provenance=a_provenance(host=f"pod-{number // SEEDS}"),
        )
        client.put_object(Bucket=BUCKET, Key=result.key, Body=result.to_bytes())


# ---------------------------------------------------------------------------------------------------------- the peer


def list_keys(client: S3Client) -> list[str]:
    """All keys of results, a page after the other."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="runs/")
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def get_each(client: S3Client, keys: list[str]) -> pd.DataFrame:
    """One object after another, each parsed and taken at its word."""
    records: list[dict[str, Any]] = []
    for key in keys:
        result = json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        score = result["metrics"]["validation/accuracy"]
        named = {name: result[name] for name in ("digest", "seed", "status", "steps", "wall_seconds", "finished_at")}
        records.append(named | {"score": score, "device": result["provenance"]["device"]})
    return pd.DataFrame(records)


# --------------------------------------------------------------------------------------------------------------- ours


def read(store: Store, planned: Plan) -> pd.DataFrame:
    """From the listing to the frame."""
    return frame(planned, store.survey(each.cell for each in planned).found, study="benchmark")


def floor(client: S3Client) -> tuple[Seconds, int]:
    """What reading from snapshots cannot leave out, without a listing: their bytes, unpacked, and a hash a result."""
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX)
    keys = [entry["Key"] for entry in listed.get("Contents", ())]

    def once() -> int:
        size = 0
        for key in keys:
            data = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            size += len(data)
            for body in ParquetFile(io.BytesIO(data)).read(columns=["body"])["body"].to_pylist():
                hashlib.sha256(body)
        return size

    return timed(once)


def differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> int:
    """Rows of theirs that are not as in ours."""
    theirs = theirs.assign(finished_at=pd.to_datetime(theirs["finished_at"], format="ISO8601"))
    both = theirs.merge(ours, on=["digest", "seed"], how="left", suffixes=("", "_ours"), validate="one_to_one")
    equal = pd.Series(data=True, index=both.index)
    for name in COMPARED[2:]:
        equal &= (both[name] == both[f"{name}_ours"]).fillna(value=False).astype(bool)
    return int((~equal).sum())


def show(name: str, seconds: Seconds, peer: Seconds) -> None:
    """A line of the table."""
    wall, cpu = peer.wall / seconds.wall, peer.cpu / seconds.cpu
    print(f"{name:<28}{seconds.wall:>10.2f}{seconds.cpu:>10.2f}{wall:>10.1f}{cpu:>10.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--peer-runs", type=int, default=2_000, help="of which the time of the peer is taken")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    weed = Weed(Path(tempfile.mkdtemp(prefix="reinit-benchmark-")))
    try:
        weed.start()
        os.environ.update(weed.server.environment)
        weed.server.client.create_bucket(Bucket=BUCKET)
        measure(weed.server.endpoint, asked.runs, min(asked.peer_runs, asked.runs), asked.repeats)
    finally:
        weed.close()


def measure(endpoint: str, runs: int, peer_runs: int, repeats: int) -> None:
    """All ways, one after another."""
    writers = [
        multiprocessing.Process(target=fill, args=(endpoint, range(first, runs, WRITERS))) for first in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    planned = Plan(PlannedCell(cell, tuple(range(SEEDS)), ("benchmark",)) for cell in cells(runs))
    if len(frame(planned, {}, study="benchmark")) < runs:
        raise SystemExit("the plan has fewer runs than the store")
    client = boto3.client("s3")
    listing, keys = timed(lambda: list_keys(client))
    getting, theirs = timed(lambda: get_each(client, keys[:peer_runs]))
    peer = listing.plus(getting.times(runs / peer_runs))
    store = open_store(f"s3://{BUCKET}")
    cold, ours = timed(lambda: read(store, planned))
    compacting, compacted = timed(store.compact)
    again, packed = timed(lambda: read(store, planned), repeats)
    own_listing, _ = timed(lambda: store.survey([]), repeats)
    least, size = floor(client)
    print(f"{runs:,} results, {len(compacted.written)} snapshots of together {size / 1e6:.1f} MB")
    print(f"{'':<28}{'wall s':>10}{'CPU s':>10}{'x wall':>10}{'x CPU':>10}")
    part = "" if peer_runs == runs else f", by {peer_runs:,}"
    show(f"peer{part}", peer, peer)
    show("cold", cold, peer)
    show("compacted", again, peer)
    show("  of which listing", own_listing, peer)
    show("  floor: listing, bytes", own_listing.plus(least), peer)
    print(f"compaction itself: {compacting.wall:.1f} s, {compacting.cpu:.1f} s of CPU")
    pd.testing.assert_frame_equal(ours, packed)
    if wrong := differences(packed, theirs):
        raise SystemExit(f"{wrong} results are not as the peer read them")
    print(f"frames are equal: cold and compacted in all {len(ours):,} rows, the peer's in its {len(theirs):,}")


if __name__ == "__main__":
    main()
