"""Runs killed in mid-training at random instants and resumed: one and two ranks, fp32 and bf16, through DeepSpeed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from jobs.cell import Steps
from tests.figures import full, record
from tests.reinit.pod import Pod, assert_same_bits
from tests.reinit.tiny import small_cell, write_sentences, write_small_model

STEPS = 150
OFTEN = {"REINIT_CHECKPOINT_SECONDS": "0.1"}


def killed(pod: Pod, delay: float) -> bool:
    """Kill every process of the pod so long after it kept a checkpoint; false where it ended before."""
    with pod.start() as process:
        assert process.stdout is not None
        threading.Thread(target=lambda: process.stderr and process.stderr.read(), daemon=True).start()
        for line in process.stdout:
            pod.out += line
            if json.loads(line)["event"] == "checkpointed":
                time.sleep(delay)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                # The launcher first, which would tell the ranks to end in order.
                process.kill()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
                break
        # What it said before the kill may still be in the pipe, the last line in half.
        process.stdout.read()
        process.wait()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("ranks", [1, 2])
def test_runs_killed_at_random_instants_end_with_the_bits_of_runs_that_were_not(tmp_path: Path, ranks: int) -> None:
    data, model = write_sentences(tmp_path / "data"), write_small_model(tmp_path / "model")
    cells = [
        small_cell(data, model, 1, recipe={"duration": Steps(steps=STEPS), "precision": precision})
        for precision in ("fp32", "bf16")
    ]
    seeds = tuple(range(1, full(4, 1) + 1))
    more = {"REINIT_GPUS": str(ranks)}
    whole = Pod(tmp_path / "whole", f"file://{tmp_path}/whole-store", cells, seeds, data, model, environment=more)
    assert whole.run() == 0, whole.out + whole.errors

    draw, kills, resumed, store = random.Random(ranks), 0, 0, f"file://{tmp_path}/store"
    for number in range(full(24, 3)):
        pod = Pod(tmp_path / f"pod-{number}", store, cells, seeds, data, model, environment=more | OFTEN)
        was_killed = killed(pod, draw.uniform(0.0, 1.0))
        kills, resumed = kills + was_killed, resumed + ("resumed" in pod.said)
        if not was_killed:
            break
    last = Pod(tmp_path / "last", store, cells, seeds, data, model, environment=more)
    assert last.run() == 0, last.out + last.errors
    resumed += last.said.count("resumed")
    assert kills
    assert resumed
    for cell in cells:
        assert_same_bits(whole, last, cell, seeds)
        worlds = {run.provenance.world_size for run in last.store.results(cell.digest).results.values()}
        assert worlds == {ranks}
    runs = len(cells) * len(seeds)
    record(
        "test_resume",
        f"{ranks} {'rank' if ranks == 1 else 'ranks'}, fp32 and bf16: {kills} kills, {resumed} times resumed; "
        f"{runs} of {runs} runs with the same bits",
        "bit-equal metrics and predictions",
    )
