"""SIGTERM at every named stage of real pods, one after another on the same Job, until it is done.

Law: each ends within the grace with the code that its progress earns, and what they finish together has the bits of a
pod that nobody stopped.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cell import Steps
from reinit.stop import GRACE_SECONDS
from tests.figures import full, record
from tests.reinit.pod import Pod, assert_same_bits
from tests.reinit.tiny import small_cell, write_sentences, write_small_model

EVERY_STEP = """
import reinit.session
reinit.session.POD_SECONDS = 0.0
"""
STEPS = 240
OFTEN = {"REINIT_CHECKPOINT_SECONDS": "0.05"}
TARGET = "143 with progress, else 75, within 120 s; resumed to the same bits"

STAGES = {
    # Event, the code that is earned, and whether the instant is drawn from the time that the stage takes.
    "importing": ("loading", 75),
    "loading": ("loading", 75),
    "training": ("step", 143),
    "checkpointing": ("checkpointing", 143),
    "evaluating": ("evaluating", 143),
    "uploading": ("uploading", 143),
}
"""Event at which the signal is sent, and the code that is earned. While libraries, rows and weights are read there is
no event: "importing" is the first instant of that time, "loading" one drawn from the later part of it."""


@dataclass
class Stopped:
    """A pod that got a signal."""

    pod: Pod
    code: int = -1
    seconds: float = 0.0
    """From the signal to its end."""
    events: list[dict[str, object]] = field(default_factory=list)


def stopped(pod: Pod, event: str, times: int, delay: float) -> Stopped:
    """The pod, ended by a SIGTERM that comes `delay` seconds after this event has come so many times."""
    one = Stopped(pod)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        process.send_signal(signal.SIGTERM)

    with pod.start() as process:
        assert process.stdout is not None
        # Its standard error goes nowhere that fills up.
        threading.Thread(target=lambda: process.stderr and process.stderr.read(), daemon=True).start()
        for line in process.stdout:
            pod.out += line
            times -= json.loads(line)["event"] == event
            if not times and not sent:
                time.sleep(delay)
                send()
        one.code = process.wait(GRACE_SECONDS)
    one.seconds = time.monotonic() - sent[0]
    return one


def test_a_signal_at_any_stage_costs_no_bit(tmp_path: Path) -> None:
    data, model = write_sentences(tmp_path / "data"), write_small_model(tmp_path / "model")
    cell = small_cell(data, model, 1, recipe={"duration": Steps(steps=STEPS)})
    rounds = full(6, 1)
    # A stop in evaluating or uploading finishes a run, and so does one in loading that came late, so that a round takes
    # three; one more is left for the last pod.
    seeds = tuple(range(1, 3 * rounds + 2))
    whole = Pod(tmp_path / "whole", f"file://{tmp_path}/whole-store", [cell], seeds, data, model)
    assert whole.run() == 0, whole.out + whole.errors
    times = {event["event"]: event["time"] for event in reversed(whole.events)}
    loading = _seconds(times["started"]) - _seconds(times["loading"])

    draw, ended = random.Random(20261126), []
    store = f"file://{tmp_path}/store"
    for number in range(rounds):
        for stage, (event, code) in STAGES.items():
            nth = draw.randint(2, 40) if stage == "training" else 1
            for again in range(5):
                pod = Pod(tmp_path / f"{number}-{stage}-{again}", store, [cell], seeds, data, model, EVERY_STEP, OFTEN)
                one = stopped(pod, event, nth, draw.uniform(0.5, 0.9) * loading if stage == "loading" else 0.0)
                if stage != "loading" or "started" not in pod.said:
                    break
                # A machine that has got faster had loaded by then: it was stopped in training.
                assert one.code == 143, pod.out[-3000:]
                loading /= 2
            assert one.code == code, f"{stage}: {one.code}\n{pod.out[-3000:]}"
            assert pod.said[-1] == "stopped", f"{stage}: {pod.out[-3000:]}"
            assert pod.last_word == "stopped by a signal"
            ended.append(one)
    last = Pod(tmp_path / "last", store, [cell], seeds, data, model)
    assert last.run() == 0, last.out + last.errors
    assert_same_bits(whole, last, cell, seeds)
    assert not list((tmp_path / "store" / "checkpoints").rglob("*.json"))
    slowest = max(one.seconds for one in ended)
    resumed = sum("resumed" in one.pod.said for one in ended) + ("resumed" in last.said)
    assert resumed
    record(
        "test_stages",
        f"{len(ended)} SIGTERMs at {len(STAGES)} stages, the slowest end after {slowest:.1f} s, {resumed} resumed; "
        f"{len(seeds)} of {len(seeds)} runs with the same bits",
        TARGET,
    )


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
