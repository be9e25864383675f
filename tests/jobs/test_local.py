"""Which worker takes which run: probes that share a pass stay together, and nothing else changes its order."""

from __future__ import annotations

from typing import Any

from jobs.cell import Probe
from jobs.local import Machine, Run, _Waiting
from tests.make import a_cell


def probes(seed: int = 1, *, depths: int = 3, size: Any = 500, noisy: bool = False) -> list[Run]:
    treatments = [Probe(depth=depth, encoder_dropout=noisy) for depth in range(1, depths + 1)]
    return [Run(a_cell(treatment=treatment, size=size), seed) for treatment in treatments]


def test_one_worker_does_probes_that_share_a_pass_one_after_another() -> None:
    one, two = probes(1), probes(2)
    by_depth = [run for pair in zip(one, two, strict=True) for run in pair]
    waiting = _Waiting(by_depth)
    assert [waiting.take(0) for _ in range(7)] == [*one, *two, None]


def test_two_workers_do_not_begin_the_same_pass() -> None:
    one, two, finetune = probes(1), probes(2), Run(a_cell(), 1)
    waiting = _Waiting([*one, *two, finetune])
    assert waiting.take(0) == one[0]
    assert waiting.take(1) == two[0]
    assert waiting.take(2) == finetune
    assert waiting.take(1) == two[1]
    assert waiting.take(0) == one[1]


def test_a_worker_that_finds_nothing_else_helps_with_anothers_probes() -> None:
    one = probes(1)
    waiting = _Waiting(one)
    assert [waiting.take(0), waiting.take(1), waiting.take(0), waiting.take(1)] == [*one, None]


def test_finetunes_keep_the_plans_order_whoever_takes_them() -> None:
    runs = [Run(a_cell(layer), seed) for layer in range(3) for seed in (1, 2)]
    waiting = _Waiting(runs)
    assert [waiting.take(worker) for worker in (0, 1, 1, 0, 2, 0)] == runs


def test_a_pass_is_shared_by_seeds_only_at_full_size_without_dropout_in_the_encoder() -> None:
    def passes(**options: Any) -> int:
        return len({run.shared_pass for seed in (1, 2) for run in probes(seed, **options)})

    assert (passes(size="full"), passes(size="full", noisy=True), passes(size=500)) == (1, 2, 2)
    assert Run(a_cell(), 1).shared_pass is None


def test_workers_are_dealt_to_gpus_in_turn_and_told_how_many_share_theirs() -> None:
    machine = Machine(5, 1, ("0", "3"))
    told = [machine.environment(number, "file:///s", {}) for number in range(5)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["0", "3", "0", "3", "0"]
    assert [each["REINIT_GPU_SHARERS"] for each in told] == ["3", "2", "3", "2", "3"]
