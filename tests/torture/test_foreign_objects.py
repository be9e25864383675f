"""A store full of what does not belong there: all of it is named, with the reason, and none of it is in a table."""

import csv
import html
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.backends import open_objects
from jobs.finding import printable
from jobs.found import NotVerifiedError, verify
from jobs.store import Store, open_store
from jobs.study import load_study
from tests.figures import full, record
from tests.make import a_provenance, a_result, some_predictions
from tests.s3 import S3Server
from tests.torture.foreign import (
    SEED,
    Foreign,
    body12,
    diverged_and_not,
    foreign_objects,
    instead_of_a_run,
    things_of_a_folder,
)

TARGET = "at least 30 kinds: each named, none in a table"
STUDY = """
name: foreign
title: Three depths
note: For tests.
model: {name: google-bert/bert-base-uncased, revision: "0000000000000000000000000000000000000000", layers: 12}
recipe: {duration: {kind: epochs, epochs: 1}}
tasks:
  - task: sst2
families:
  - {family: progressive, preserved: [12, 6, 3, 0], sizes: [500], seeds: [1, 2, 3, 9]}
"""


class World:
    """A study whose cells have sound results of seeds 1 to 3, and none of seed 9."""

    def __init__(self, folder: Path, url: str) -> None:
        self.study = folder / "foreign.yaml"
        self.study.write_text(STUDY, encoding="utf-8")
        self.url = url
        self.store, self.objects = open_store(url), open_objects(url)
        self.cells = [each.cell for each in load_study(str(self.study)).plan()]
        self.sound = {
            (cell.name, seed): 0.5 + 0.05 * number + 0.01 * seed
            for number, cell in enumerate(self.cells)
            for seed in (1, 2, 3)
        }
        for cell in self.cells:
            for seed in (1, 2, 3):
                score = self.sound[cell.name, seed]
                self.store.put(a_result(cell, seed, score=score), some_predictions(seed))

    def aggregate(self, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["aggregate", str(self.study), "--store", self.url, "-o", str(out), *more]
        return subprocess.run(
            [sys.executable, "-c", "from jobs.cli import main; main()", *command],
            env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip


def scores(out: Path) -> dict[tuple[str, int], float]:
    """Every score that the tables are made of."""
    with (out / "runs.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["cell"], int(row["seed"])): float(row["score"])
            for row in csv.DictReader(file)
            if row["score"] and row["planned"] == "true"
        }


def means(out: Path) -> list[tuple[str, str, str]]:
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        return [(row["cell"], row["n"], row["mean"]) for row in csv.DictReader(file)]


def unnamed(planted: list[Foreign], said: str, page: str) -> list[str]:
    """Kinds that the command or the report passes over."""
    page = html.unescape(page)
    lines = said.splitlines()
    return [
        each.kind
        for each in planted
        if not any(f"{printable(each.key)}: " in line and each.reason in line for line in lines)
        # The report's paragraphs keep no line breaks.
        or printable(" ".join(each.key.split())) not in page
    ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, (tmp_path / "store").as_uri())


def plant(world: World, planted: list[Foreign], root: Path) -> None:
    for each in planted:
        path = root / each.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.data)


def test_every_kind_in_a_folder_is_named_by_command_and_report_and_no_number_moves(
    tmp_path: Path, world: World
) -> None:
    before = world.aggregate(tmp_path / "before", "--allow-partial")
    assert before.returncode == 0, before.stderr
    assert scores(tmp_path / "before") == world.sound

    root = tmp_path / "store"
    planted = foreign_objects(world.cells[0], world.cells[1])
    plant(world, planted, root)
    planted += things_of_a_folder(root, world.cells[0])
    after = world.aggregate(tmp_path / "after", "--allow-partial")
    assert after.returncode == 0, after.stderr
    assert unnamed(planted, after.stderr, (tmp_path / "after" / "report.html").read_text()) == []
    assert scores(tmp_path / "after") == world.sound
    assert means(tmp_path / "after") == means(tmp_path / "before")

    refused = world.aggregate(tmp_path / "refused")
    assert refused.returncode == 65
    assert not (tmp_path / "refused" / "table.md").exists()
    assert unnamed(planted, refused.stderr, (tmp_path / "after" / "report.html").read_text()) == []
    assert len(planted) >= 30
    record("test_foreign_objects", f"{len(planted)} kinds in a folder, each named, none in a table", TARGET)


def test_every_kind_that_a_bucket_can_hold_is_named_likewise(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str
) -> None:
    world = World(tmp_path, f"s3://{s3_bucket}")
    # What XML cannot carry, a bucket cannot list.
    planted = [each for each in foreign_objects(world.cells[0], world.cells[1]) if "an escape code" not in each.kind]
    for each in planted:
        s3_server.client.put_object(Bucket=s3_bucket, Key=each.key, Body=each.data)
    done = world.aggregate(tmp_path / "out", "--allow-partial")
    assert done.returncode == 0, done.stderr
    assert unnamed(planted, done.stderr, (tmp_path / "out" / "report.html").read_text()) == []
    assert scores(tmp_path / "out") == world.sound
    record("test_foreign_objects", f"{len(planted)} kinds in a bucket, likewise", TARGET)


def test_each_kind_alone_is_damage_and_changes_nothing_else(tmp_path: Path, world: World) -> None:
    digests = [cell.digest for cell in world.cells]
    before = world.store.all_results(digests)
    store = Store(world.objects, pauses=(0.0,))
    for each in foreign_objects(world.cells[0], world.cells[1]):
        path = tmp_path / "store" / each.key
        is_new = not path.parent.exists()
        plant(world, [each], tmp_path / "store")
        found = store.all_results(digests)
        named = [*(one for cell in found.values() for one in cell.damaged), *store.survey([]).strays]
        assert [one.key for one in named] == [each.key], each.kind
        assert each.reason in named[0].reason, each.kind
        assert {digest: one.results for digest, one in found.items()} == {
            digest: one.results for digest, one in before.items()
        }, each.kind
        path.unlink()
        if is_new:
            path.parent.rmdir()


def test_what_contradicts_or_lacks_its_predictions_is_named_and_in_no_table(tmp_path: Path, world: World) -> None:
    root, (first, second, third, fourth) = tmp_path / "store", world.cells
    contradictory = [*instead_of_a_run(first), *diverged_and_not(second)]
    for one in contradictory:
        (root / one.key).write_bytes(one.to_bytes())
    bare, altered = a_result(third, 3, score=0.9), a_result(fourth, 3, score=0.9)
    for cell, new in ((third, bare), (fourth, altered)):
        for path in (root / "runs" / cell.digest).glob("3.*"):
            path.unlink()
        lonely = new.model_copy(update={"predictions": f"{new.digest[:60]}{'abcd'}"})
        (root / lonely.key).write_bytes(lonely.to_bytes())
        if new is altered:
            (root / "predictions" / lonely.predictions).write_bytes(b"other logits")
        contradictory.append(lonely)
    elsewhere = a_result(first, 2, score=0.99, later=60, provenance=a_provenance(device="another"))
    (root / elsewhere.key).write_bytes(elsewhere.to_bytes())
    world.store.put(a_result(first, 77, score=0.99), some_predictions(77))

    done = world.aggregate(tmp_path / "out", "--allow-partial", "--verify-predictions")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    for one in contradictory:
        assert one.key in done.stderr, one.key
        assert one.key in page, one.key
    assert "two results of one run disagree" in done.stderr
    assert "it is not there" in done.stderr
    assert "content hashes to" in done.stderr
    gone = {(first.name, 1), (second.name, 2), (third.name, 3), (fourth.name, 3)}
    assert scores(tmp_path / "out") == {run: score for run, score in world.sound.items() if run not in gone}
    assert "2 results, largest difference of a metric" in page
    assert "Results of seeds outside the plan, listed in runs.csv and in no mean: 1." in page
    refused = world.aggregate(tmp_path / "refused", "--verify-predictions")
    assert refused.returncode == 65
    record("test_foreign_objects", "contradictions and absent predictions named, 4 runs left out of every mean", TARGET)


def test_whatever_is_changed_in_a_result_it_is_refused_or_is_another_result_whole() -> None:
    """Bytes of a sound result changed at random, under a key whose hash is right."""
    draw = random.Random(7)
    sound = a_result(seed=SEED)
    data = sound.to_bytes()
    tries, believed = full(40_000, 4_000), 0
    for _ in range(tries):
        mutated = _mutated(data, draw)
        if mutated == data:
            continue
        for key in (sound.key, sound.key.replace(sound.key.split(".")[2], body12(mutated))):
            try:
                verified = verify(key, mutated)
            except NotVerifiedError:
                continue
            assert key != sound.key
            assert verified.result.to_bytes() == mutated
            assert (verified.result.key, verified.result.science12) == (key, sound.science12)
            believed += 1
    # Seconds, dates and hosts are whatever a result says; scores are bound by the key.
    assert believed < tries / 4
    record("test_foreign_objects", f"{tries:,} results changed at random, no score believed", TARGET)


def _mutated(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[at + 1 :]
    if kind == 2:
        return data[:at] + bytes([draw.randrange(256)]) + data[at:]
    if kind == 3:
        return data[:at] + draw.choice([b"1", b"true", b"null", b"[", b'"', b"e9", b"-", b"0"]) + data[at + 1 :]
    end = min(len(data), at + draw.randrange(40))
    return data[:at] + data[end:]
