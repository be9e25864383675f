"""Checkpoints damaged in every way that a disk, a network or a hand can: named, never executed, the older one used."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import reinit.checkpoint
from jobs.cell import Steps
from reinit import restricted
from reinit.worker import Worker
from tests.figures import full, record
from tests.reinit.bench import Bench, Bomb, measured, plant
from tests.reinit.tiny import places_of, small_cell, write_sentences, write_small_model

STEPS = 8
Damage = Callable[[random.Random, Path], object]


def _cut(draw: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def _flip(draw: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


DAMAGES: dict[str, Damage] = {
    "half": lambda _, path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "minus a byte": lambda _, path: path.write_bytes(path.read_bytes()[:-1]),
    "plus a byte": lambda _, path: path.write_bytes(path.read_bytes() + b"\0"),
    "cut anywhere": _cut,
    "empty": lambda _, path: path.write_bytes(b""),
    "missing": lambda _, path: path.unlink(),
    "one bit flipped": _flip,
    "a server's error page": lambda _, path: path.write_bytes(b"<Error><Code>SlowDown</Code></Error>"),
}

PLANTED = {
    "a bare pickle": lambda bomb, path: path.write_bytes(pickle.dumps(Bomb(bomb), protocol=2)),
    "in torch's old format": lambda bomb, path: torch.save(Bomb(bomb), path, _use_new_zipfile_serialization=False),
    "in torch's format": lambda bomb, path: torch.save(Bomb(bomb), path),
    "among good values": lambda bomb, path: torch.save({**restricted.read(str(path)), "more": Bomb(bomb)}, path),
}


def objects_of_the_newest(one: Bench) -> list[Path]:
    """Its manifest, and the parts that it does not share with the one before."""
    newest, before = (json.loads(one.manifests[index].read_bytes())["manifest"]["files"] for index in (-1, -2))
    shared = {part for file in before for part in file["parts"]}
    parts = {part for file in newest for part in file["parts"]} - shared
    return [one.manifests[-1], *(one.manifests[-1].with_name(part) for part in sorted(parts))]


def test_damage_is_named_nothing_is_executed_and_the_older_one_is_used(tmp_path: Path) -> None:
    data, model = write_sentences(tmp_path / "data"), write_small_model(tmp_path / "model")
    worker = Worker(places_of(data, model))
    cell = small_cell(data, model, recipe={"duration": Steps(steps=STEPS)})
    good = Bench(worker, cell, tmp_path / "good")
    whole = measured(worker.run(cell, 1, lambda *_: None))
    good.attempt(keep=(3, 5), until=6)
    # Two stay, of steps 5 and 6. DeepSpeed's file `latest` is in none, and none is missed.
    assert [path.name[:9] for path in good.manifests] == ["000000005", "000000006"]
    names = {file["name"] for file in json.loads(good.manifests[-1].read_bytes())["manifest"]["files"]}
    assert names == {reinit.checkpoint.WEIGHTS, "random_0.pt"}

    draw, counted = random.Random(1126), Counter[str]()
    for number in range(full(12, 1)):
        for kind, damage in DAMAGES.items():
            one = _copy(good, tmp_path / f"{number}-{kind}")
            targets = objects_of_the_newest(one)
            # The manifest is one of a few objects: it is hit every other time.
            target = targets[0] if draw.random() < 0.5 else draw.choice(targets[1:])
            newest = one.manifests[-1].name
            damage(draw, target)
            assert measured(one.attempt()) == whole, kind
            assert one.events("resumed") == [f"goes on after step 5 of {STEPS}"], (kind, target)
            # A manifest that is missing has no name to tell.
            gone = kind == "missing" and target == targets[0]
            assert gone or newest in one.events("ignored")[0], (kind, target)
            counted[kind] += 1
            shutil.rmtree(one.store)
        for kind, explode in PLANTED.items():
            for file in sorted(names):
                one = _copy(good, tmp_path / f"{number}-{kind}-{file}")
                bomb = one.store.parent / f"executed-{number}-{kind}-{file}"
                planted = plant(one, _planting(explode, bomb, file), one.store / "planted")
                assert measured(one.attempt()) == whole, kind
                assert not bomb.exists(), kind
                assert planted.name in one.events("ignored")[0]
                assert one.events("resumed") == [f"goes on after step 6 of {STEPS}"]
                counted["planted pickle"] += 1
                shutil.rmtree(one.store)
    told = ", ".join(f"{kind} {count}" for kind, count in counted.items())
    record(
        "test_damaged_checkpoints",
        f"{counted.total()} damaged ({told}): each passed over and named, none executed, all resumed to the same bits",
        "each detected, none executed, the older one used, the same bits",
    )


def _planting(explode: Callable[[Path, Path], Any], bomb: Path, file: str) -> Callable[[Path], object]:
    return lambda folder: explode(bomb, folder / file)


def _copy(good: Bench, store: Path) -> Bench:
    shutil.copytree(good.store, store)
    return Bench(good.worker, good.cell, store)
