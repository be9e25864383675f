"""What a pod says about how far it is: rarely, in plain words, with an estimate that holds."""

from __future__ import annotations

import pytest

from reinit.progress import Progress, in_words
from tests.make import a_cell

CELL = a_cell(6)
"""63 steps."""


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_step_is_told_at_most_every_so_many_seconds() -> None:
    clock = Clock()
    progress = Progress(10, [CELL], clock)
    progress.begin(CELL, 1)
    told = []
    for step in range(1, CELL.steps + 1):
        clock.seconds += 0.5
        if progress.step(step, 0.5):
            told.append(step)
    assert told == [20, 40, 60]


def test_a_step_tells_runs_steps_loss_pace_and_time_left() -> None:
    clock = Clock()
    progress = Progress(10, [CELL, CELL, CELL], clock)
    assert progress.begin(CELL, 1).message == f"0 of 3 runs done; {CELL.name} seed 1, 63 steps"
    clock.seconds += 63
    progress.end()
    progress.begin(CELL, 2)
    clock.seconds += 21
    said = progress.step(21, 0.43212)
    assert said is not None
    assert said.message == (
        f"1 of 3 runs done; {CELL.name} seed 2: step 21 of 63, loss 0.4321, 1.0 steps a second, about 2 min left"
    )
    assert said.fields == {
        "digest": CELL.digest,
        "seed": 2,
        "runs_done": 1,
        "runs": 3,
        "step": 21,
        "steps": 63,
        "loss": 0.43212,
        "steps_per_second": 1.0,
        "left_seconds": 105,
    }


def test_the_time_left_counts_what_earlier_runs_took_beside_their_steps() -> None:
    clock = Clock()
    progress = Progress(10, [CELL, CELL], clock)
    progress.begin(CELL, 1)
    clock.seconds += 63 + 63
    progress.end()
    progress.begin(CELL, 2)
    clock.seconds += 31.5
    said = progress.step(31, 0.5)
    assert said is not None
    assert said.fields["left_seconds"] == round((126 + 31.5) / (63 + 31) * 32)


def test_a_slow_step_is_told_as_seconds_a_step() -> None:
    clock = Clock()
    progress = Progress(10, [CELL], clock)
    progress.begin(CELL, 1)
    clock.seconds += 25
    said = progress.step(2, 0.5)
    assert said is not None
    assert "12.5 s a step" in said.message


def test_where_the_runs_are_not_known_before_only_the_present_one_is_told() -> None:
    clock = Clock()
    progress = Progress(0.5, clock=clock)
    for seed in (1, 2):
        begun = progress.begin(CELL, seed)
        assert begun.message == f"{CELL.name} seed {seed}, 63 steps"
        assert begun.fields == {"digest": CELL.digest, "seed": seed, "steps": 63}
        clock.seconds += 9
        said = progress.step(9, 0.5)
        assert said is not None
        assert said.fields["left_seconds"] == 54
        clock.seconds += 54
        progress.end()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3599, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (86_399, "1 d 0 h"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_are_told_in_their_two_largest_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
