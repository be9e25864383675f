"""`Keeper`: checkpoints of one run: when one is due, how it is kept, and from which a run goes on.

Law: a resumed run has the bits of one that was never interrupted. What moves them is in a checkpoint: DeepSpeed's
state (weights, optimiser, schedule, step count), the losses so far, and each rank's torch generators, from which
dropout is drawn; the order of the examples is a function of the seed. Python's and NumPy's global generators are not in
it, since nothing draws from them (`reinit.streams`). No checkpoint ever fails a run: one that cannot be kept is told
and tried again later, one that cannot be read is told and passed over. What is read is verified first
(`jobs.checkpoints`) and never executed (`reinit.restricted`).

On this machine there is at most one at a time, in a private folder below TMPDIR: three times the weights, 1.3 GB for
BERT-base, 4 GB for BERT-large. The store keeps two.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from jobs.checkpoints import Binding, Checkpoints, Kept
from jobs.errors import ConfigurationError, ReinitError, TransientError
from jobs.found import NotVerifiedError
from reinit import restricted
from reinit.ranks import Ranks
from reinit.stop import Stop, StoppedError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

TAG: Final = "checkpoint"
"""DeepSpeed's name of the folder; always said, since without one it looks for a file that may be missing."""
WEIGHTS: Final = "mp_rank_00_model_states.pt"
"""DeepSpeed's file, the same for all ranks."""

MOST_SHARE: Final = 20
"""A checkpoint comes no sooner than after so many times what the last one took: they cost a run 5% at most."""
PREFIX: Final = "reinit-checkpoint-"
"""Of folders below TMPDIR; the process follows."""
KEEP_SECONDS: Final = 300.0
"""What keeping one may take: less than ranks wait for each other."""


class Emit(Protocol):
    """`reinit.log.Log.emit`."""

    def __call__(self, event: str, message: str, **fields: object) -> None:
        """Say one event."""


class UnusableError(Exception):
    """A checkpoint could not be loaded; the network may be half overwritten. The next try does without it."""


class Keeper:
    """Of one run.

    Args:
        checkpoints: where they are kept.
        stop: asked between two steps.
        emit: says what is kept, and what is passed over.
        every_seconds: training between two; 0 for none at all.
        clock: seconds.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        stop: Stop,
        emit: Emit,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoints, self._stop, self._emit = checkpoints, stop, emit
        self._every_seconds, self._clock = every_seconds, clock
        self._binding: Binding
        self._ranks: Ranks
        self._began = self._tried_at = self._clock()
        self._cost = 0.0
        self._scoring_since = self._began
        self._first_step = self._step = self._kept_step = 0
        self._unusable: set[str] = set()
        self.earlier_seconds = 0.0
        """What earlier attempts spent on the way to where this one began."""

    def begin(self, binding: Binding, ranks: Ranks) -> None:
        """The run starts, from a pristine network."""
        self._binding, self._ranks = binding, ranks
        if ranks.is_first:
            remove_left_over()
        self._began = self._tried_at = self._clock()

    def is_due(self) -> bool:
        """Whether a checkpoint is worth its time now. The first rank's answer counts."""
        now = self._clock()
        if not self._every_seconds or now - self._tried_at < max(self._every_seconds, MOST_SHARE * self._cost):
            return False
        done = self._step - self._first_step
        left = (now - self._began) / done * (self._binding.steps - self._step) if done else math.inf
        return left >= self._every_seconds / 2

    def stepped(self, step: int) -> None:
        """So many optimiser steps of the run are done."""
        self._step = step

    def scores(self) -> None:
        """Training is over."""
        self._emit("evaluating", "scoring")

    def scored(self, share: float) -> None:
        """This share of a split is scored; every rank says so at the same time.

        After a signal, what is nearly done is finished.

        Raises:
            StoppedError: a signal came, and the rest takes longer than there is time.
        """
        if not share:
            self._scoring_since = self._clock()
        left = (self._clock() - self._scoring_since) / share * (1 - share) if share else 0.0
        if self._ranks.any(self._stop.requested and left > self._stop.seconds_left):
            raise StoppedError

    # ------------------------------------------------------------------------------------------------- going on

    def resume(self, engine: DeepSpeedEngine) -> list[float]:
        """Put the latest usable checkpoint into a fresh engine.

        Returns:
            The losses of the steps that are done; none where the run starts at its beginning.

        Raises:
            UnusableError: it could not be loaded. Prepare the network, build another engine and ask again.
            TransientError: it is not known whether there is a checkpoint.
        """
        if not self._every_seconds:
            return []
        fetched = self._ranks.agree(self._fetch() if self._ranks.is_first else None)
        if fetched is None:
            return []
        folder, kept = fetched
        reason, losses = "", []
        try:
            losses = self._load(engine, folder, kept.manifest.step)
        except Exception as error:  # noqa: BLE001  whatever somebody's bytes can break in torch or in DeepSpeed
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        failed = self._ranks.any(bool(reason))
        if self._ranks.is_first:
            _remove(folder)
        if failed:
            self._unusable.add(kept.key)
            self._ignored(kept.key, reason or "another rank cannot load it")
            raise UnusableError(kept.key)
        self.earlier_seconds = kept.manifest.seconds
        self._first_step = self._step = self._kept_step = kept.manifest.step
        self._began = self._tried_at = self._clock()
        self._emit("resumed", f"goes on after step {self._step:,} of {self._binding.steps:,}", step=self._step)
        return losses

    def _fetch(self) -> tuple[Path, Kept] | None:
        """The latest verified checkpoint of this run in a folder of its own."""
        try:
            good, others = self._checkpoints.find(self._binding)
        except ConfigurationError as error:
            # A site may allow results alone.
            self._emit("unkept", f"no checkpoints here: {error}")
            return None
        for each in others:
            self._ignored(each.key, each.reason)
        for kept in good:
            if kept.key in self._unusable:
                continue
            names = {file.name for file in kept.manifest.files}
            if names != self._names:
                self._ignored(kept.key, f"it holds {', '.join(sorted(names))}")
                continue
            try:
                return self._fetched(kept), kept
            except (NotVerifiedError, OSError) as error:
                self._ignored(kept.key, str(error))
        return None

    def _fetched(self, kept: Kept) -> Path:
        """The folder that it is in now."""
        folder = _new_folder()
        try:
            self._checkpoints.fetch(kept, folder / TAG)
        except BaseException:
            _remove(folder)
            raise
        return folder

    def _ignored(self, key: str, reason: str) -> None:
        self._emit("ignored", f"checkpoint {key} is not used: {reason}", key=key)

    @property
    def _names(self) -> set[str]:
        return {WEIGHTS, *(_random_name(rank) for rank in range(self._ranks.world_size))}

    def _load(self, engine: DeepSpeedEngine, folder: Path, step: int) -> list[float]:
        # First what no rank waits for another in.
        random = restricted.read(str(folder / TAG / _random_name(self._ranks.rank)))
        path, more = engine.load_checkpoint(str(folder), tag=TAG)
        losses: list[float] = more["losses"].tolist() if path else []
        if not len(losses) == engine.global_steps == step:
            raise ValueError(f"{len(losses)} losses, {engine.global_steps} steps; the manifest says {step}")
        set_random_state(self._ranks.device, random)
        return losses

    # -------------------------------------------------------------------------------------------------- keeping

    def save(self, engine: DeepSpeedEngine, losses: Sequence[float]) -> None:
        """Keep where the run is; every rank takes part. Nothing that goes wrong here is raised."""
        first, began = self._ranks.is_first, self._clock()
        folder = self._ranks.agree(self._new_folder() if first else None)
        self._tried_at = self._clock()
        if folder is None:
            return
        step = len(losses)
        self._emit("checkpointing", f"keeping step {step:,} of {self._binding.steps:,}", step=step)
        engine.save_checkpoint(
            str(folder), tag=TAG, save_latest=False, client_state={"losses": torch.tensor(losses, dtype=torch.float64)}
        )
        error = restricted.write(random_state(self._ranks.device), str(folder / TAG / _random_name(self._ranks.rank)))
        error = engine.checkpoint_engine.error or error
        is_written = not self._ranks.any(error is not None)
        kept = self._keep(folder / TAG, step) if first and is_written else None
        if first:
            _remove(folder)
        if error is not None:
            self._unkept(error)
        if self._ranks.agree(kept is not None):
            self._kept_step, self._stop.has_progress = step, True
            self._cost = self._clock() - began
        if kept is not None:
            size = sum(file.size for file in kept.manifest.files)
            self._emit(
                "checkpointed",
                f"step {step:,} of {self._binding.steps:,} is kept: {size / 1e6:,.0f} MB in {self._cost:.1f} s",
                step=step,
                key=kept.key,
            )
        self._tried_at = self._clock()

    def _new_folder(self) -> Path | None:
        """An empty folder, None where there is nothing to keep, no room or no time."""
        is_new = self._step > self._kept_step
        if not (self._every_seconds and is_new and self._cost <= self._stop.seconds_left):
            return None
        try:
            return _new_folder()
        except OSError as error:
            self._unkept(error)
            return None

    def _keep(self, folder: Path, step: int) -> Kept | None:
        """Send it to the store and read it back, within `KEEP_SECONDS`."""
        seconds = self.earlier_seconds + self._clock() - self._began
        until = self._clock() + KEEP_SECONDS
        kept: list[Kept] = []

        def is_late() -> bool:
            return self._clock() > until or self._stop.seconds_left <= 0

        def act() -> None:
            try:
                kept.append(self._checkpoints.put(self._binding, step, seconds, folder, is_late))
            except (ReinitError, OSError) as error:
                self._unkept(error)
                return
            try:
                self._checkpoints.prune(kept[0])
            except ReinitError as error:
                self._emit("unkept", f"an older checkpoint could not be deleted: {error}")

        # The other ranks wait, and a server may hang for longer than they do.
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        while thread.is_alive() and not is_late():
            thread.join(0.1)
        if thread.is_alive() and not kept:
            self._unkept(TransientError("the store took too long"))
        return kept[0] if kept else None

    def _unkept(self, error: Exception) -> None:
        self._emit("unkept", f"no checkpoint was kept: {error}")

    def clear(self) -> None:
        """The run is in the store: its checkpoints have no use any more."""
        try:
            self._checkpoints.clear(self._binding.digest, self._binding.seed)
        except ReinitError as error:
            self._emit("unkept", f"the run's checkpoints could not be deleted: {error}")


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators that dropout is drawn from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(device: torch.device, state: dict[str, Any]) -> None:
    """As `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _random_name(rank: int) -> str:
    return f"random_{rank}.pt"


def _new_folder() -> Path:
    """An empty folder of this process, with the one in it that DeepSpeed calls by its tag."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    (folder / TAG).mkdir()
    return folder


def remove_left_over() -> None:
    """Remove what processes of this user left that were killed while they kept a checkpoint."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            if process.isdigit() and folder.stat().st_uid == os.geteuid():
                os.kill(int(process), 0)
        except ProcessLookupError:
            _remove(folder)
        except OSError:
            # Of another user, or gone meanwhile.
            continue


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
