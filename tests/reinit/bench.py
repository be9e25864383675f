"""One run's attempts on a bench: stopped and resumed in this process, and what is done to its checkpoints meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reinit.checkpoint
from jobs.cell import Cell
from jobs.checkpoints import Binding, Checkpoints
from jobs.objects import FileObjects
from jobs.patient import PatientObjects
from jobs.result import RunResult
from reinit.checkpoint import Keeper
from reinit.run import Outcome
from reinit.stop import Stop, StoppedError
from reinit.worker import Worker


@dataclass
class Bench:
    """One run's attempts against one store, with what they said."""

    worker: Worker
    cell: Cell
    store: Path
    seed: int = 1
    key: bytes | None = None
    said: list[tuple[str, str]] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(PatientObjects(FileObjects(self.store), (0.0,) * 3), self.key)

    def keeper(self) -> Keeper:
        # On_step below says when one is due: the clock has no part in it.
        return Keeper(
            self.checkpoints, self.stop, lambda event, message, **_: self.said.append((event, message)), 300.0
        )

    def attempt(self, *, keep: tuple[int, ...] = (), until: int | None = None) -> Outcome | None:
        """One attempt that keeps checkpoints after these steps, and is stopped after `until`; None if it was."""
        keeper = self.keeper()

        def on_step(step: int, _: float) -> bool:
            keeper.stepped(step)
            if step == until:
                raise StoppedError
            return step in keep

        try:
            return self.worker.run(self.cell, self.seed, on_step, keeper)
        except StoppedError:
            return None

    def events(self, kind: str) -> list[str]:
        return [message for event, message in self.said if event == kind]

    @property
    def manifests(self) -> list[Path]:
        return sorted(self.store.glob("checkpoints/*/*/*.json"))

    @property
    def numerics(self) -> str:
        """Of this process, as its manifests say."""
        found: str = json.loads(self.manifests[0].read_bytes())["manifest"]["binding"]["numerics"]
        return found


def measured(outcome: Outcome | None) -> tuple[Any, ...]:
    """All that must be equal, to the bit."""
    assert outcome is not None
    assert isinstance(outcome.result, RunResult)
    return outcome.predictions, outcome.result.science12, outcome.result.train_loss, outcome.result.steps


def largest(one: Bench) -> Path:
    """A part of the newest checkpoint's weights."""
    manifest = json.loads(one.manifests[-1].read_bytes())["manifest"]
    (file,) = (file for file in manifest["files"] if file["name"] == reinit.checkpoint.WEIGHTS)
    return one.manifests[-1].with_name(file["parts"][0])


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[Bench], None]] = {
    "half a part": lambda one: rewrite(largest(one), lambda data: data[: len(data) // 2]),
    "a part without its last byte": lambda one: rewrite(largest(one), lambda data: data[:-1]),
    "an empty part": lambda one: rewrite(largest(one), lambda _: b""),
    "a missing part": lambda one: largest(one).unlink(),
    "a flipped bit": lambda one: rewrite(largest(one), flipped),
    "half a manifest": lambda one: rewrite(one.manifests[-1], lambda data: data[: len(data) // 2]),
    "an empty manifest": lambda one: rewrite(one.manifests[-1], lambda _: b""),
    "a manifest with a flipped bit": lambda one: rewrite(one.manifests[-1], flipped),
}


def plant(one: Bench, change: Callable[[Path], object], folder: Path) -> Path:
    """A checkpoint of step 7 whose manifest fits its bytes, made of the newest one's files by whoever can write."""
    binding = Binding.model_validate(json.loads(one.manifests[-1].read_bytes())["manifest"]["binding"])
    good, _ = one.checkpoints.find(binding)
    folder.mkdir()
    one.checkpoints.fetch(good[0], folder)
    change(folder)
    keyless = Checkpoints(PatientObjects(FileObjects(one.store), (0.0,)), None)
    return one.store / keyless.put(binding, 7, 1.0, folder).key


class Bomb:
    """Unpickling one makes the folder that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)
