"""Training through DeepSpeed against plain torch, and what stops a run."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import deepspeed
import pytest
import torch
from torch import nn

import reinit.train
from jobs.cell import Cell, Recipe, Reinit, Steps
from jobs.errors import ConfigurationError
from jobs.tasks import GLUE
from reinit.alone import LoneEngine
from reinit.batches import collate
from reinit.data import Example
from reinit.engine import ClippedAdamW, Moments, build_engine, build_schedule, close_engine, engine_config
from reinit.network import Network, load_tokenizer
from reinit.optimiser import Group
from reinit.places import Places, resolve_model
from reinit.ranks import join_ranks
from reinit.streams import stream, stream_seed
from reinit.tokens import TaskTokens
from reinit.train import DivergedError, losses_of, train
from tests.reinit.tiny import MINILM, places_of, tiny_cell, write_sentences

RANKS = join_ranks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    cell = tiny_cell(folder)
    return Network.load(cell.model, cell.task.outputs, cell.recipe, places_of(folder))


@pytest.fixture(scope="module")
def tokens(folder: Path) -> TaskTokens:
    places = places_of(folder)
    return TaskTokens.load(tiny_cell(folder).task, load_tokenizer(resolve_model(MINILM, places)), 16, places)


def losses_by_engine(network: Network, examples: Sequence[Example], cell: Cell, seed: int) -> list[float]:
    network.prepare(cell, seed)
    losses: list[float] = []
    train(network, examples, cell, seed, RANKS, lambda _, loss: losses.append(loss))
    return losses


def losses_by_plain_torch(network: Network, examples: Sequence[Example], cell: Cell, seed: int) -> list[float]:
    """The same run written out: no engine, torch's own clipping, the schedule by its formula."""
    network.prepare(cell, seed)
    module, recipe, steps = network.module, cell.recipe, cell.steps
    redrawn = [
        parameter
        for index in cell.treatment.layers  # type: ignore[union-attr]
        for parameter in network.stack.layers[index].parameters()
    ]
    frozen = [
        parameter
        for index in cell.treatment.frozen_layers  # type: ignore[union-attr]
        for parameter in network.stack.layers[index].parameters()
    ]
    others = [p for p in module.parameters() if not any(p is each for each in [*redrawn, *frozen])]
    redrawn = [p for p in redrawn if not any(p is each for each in frozen)]
    scale = cell.treatment.lr_scale  # type: ignore[union-attr]
    groups = [{"params": others, "base": recipe.learning_rate}]
    groups += [{"params": redrawn, "base": recipe.learning_rate * scale}] if redrawn else []
    optimiser = torch.optim.AdamW(
        groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon, weight_decay=0.0, foreach=False
    )
    torch.manual_seed(stream_seed(seed, "dropout", 0))
    losses, step = [], 0
    while step < steps:
        order = torch.randperm(len(examples), generator=stream(seed, "order", step // -(-len(examples) // 4)))
        for start in range(0, len(examples), recipe.batch_size):
            rows = [examples[index] for index in order[start : start + recipe.batch_size].tolist()]
            if recipe.dropout:
                # Only the same forward pass draws the same masks.
                form = network.form
                logits = form(form.collate(rows, 1.0, torch.device("cpu")))
            else:
                logits = module(**collate(rows, network.pad_token).inputs).logits
            labels = torch.tensor([row.label for row in rows]).long()
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * (steps - step) / steps
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), recipe.grad_clip)
            optimiser.step()
            module.zero_grad()
            losses.append(float(loss.detach()))
            step += 1
    return losses


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "treatment",
    [Reinit(), Reinit(layers=(3, 4, 5), lr_scale=5.0), Reinit(layers=(4, 5), lr_scale=2.0, frozen_layers=(5,))],
    ids=["finetune", "redrawn", "frozen"],
)
def test_the_engine_gives_plain_torch_s_losses_step_by_step_in_fp32(
    folder: Path, tokens: TaskTokens, treatment: Reinit, dropout: float
) -> None:
    cell = tiny_cell(
        folder, treatment=treatment, recipe={"duration": Steps(steps=6), "dropout": dropout, "learning_rate": 3e-4}
    )
    own = Network.load(cell.model, 2, cell.recipe, Places())
    examples = tokens.subset(cell.size, 1)
    by_engine = losses_by_engine(own, examples, cell, 1)
    by_torch = losses_by_plain_torch(own, examples, cell, 1)
    assert by_engine == pytest.approx(by_torch, rel=2e-5)
    # The comparison means something only if training moved: a step without an update would agree too.
    assert max(by_torch) - min(by_torch) > 0.01


def test_runs_leave_nothing_on_the_network_that_outlives_them(
    network: Network, tokens: TaskTokens, folder: Path
) -> None:
    """Hooks of an engine that is gone would keep its optimiser alive and run in every later forward pass."""
    cell = tiny_cell(folder)

    def hooks() -> int:
        module = network.module
        return len(module._forward_pre_hooks) + len(module._forward_hooks) + len(module._backward_hooks)

    losses_by_engine(network, tokens.subset(10, 1), cell, 1)
    before = hooks()
    losses_by_engine(network, tokens.subset(10, 1), cell, 2)
    assert hooks() == before == 0


@pytest.mark.parametrize("where", ["reinit.train.build_engine", "reinit.train.Step"])
def test_whatever_ends_a_run_the_whole_embedding_is_back(
    network: Network, tokens: TaskTokens, folder: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(folder)
    network.prepare(cell, 1)
    shapes = {name: value.shape for name, value in network.module.state_dict().items()}
    taken: list[int] = []

    def fails(*_: object) -> None:
        taken.append(len(network.module.get_input_embeddings().weight))  # type: ignore[operator]
        raise RuntimeError("no room")

    monkeypatch.setattr(where, fails)
    with pytest.raises(RuntimeError, match="no room"):
        train(network, tokens.subset(10, 1), cell, 1, RANKS, lambda *_: None)
    assert {name: value.shape for name, value in network.module.state_dict().items()} == shapes
    assert taken[0] < max(shape[0] for shape in shapes.values() if shape)


def test_an_engine_and_its_optimiser_die_with_their_run(network: Network, tokens: TaskTokens, folder: Path) -> None:
    for seed in (1, 2, 3):
        losses_by_engine(network, tokens.subset(10, 1), tiny_cell(folder), seed)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is ClippedAdamW]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    network: Network, tokens: TaskTokens, folder: Path
) -> None:
    cell = tiny_cell(folder, 4, 5)
    first, again, other = (losses_by_engine(network, tokens.subset(cell.size, seed), cell, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_bf16_trains_close_to_fp32_with_weights_kept_in_fp32(
    network: Network, tokens: TaskTokens, folder: Path
) -> None:
    recipe = {"precision": "bf16", "duration": Steps(steps=4)}
    half, full = tiny_cell(folder, recipe=recipe), tiny_cell(folder, recipe=recipe | {"precision": "fp32"})
    examples = tokens.subset(10, 1)
    by_half, by_full = (losses_by_engine(network, examples, cell, 1) for cell in (half, full))
    assert by_half == pytest.approx(by_full, abs=0.05)
    assert by_half != by_full
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run_before_the_optimiser_steps(
    network: Network, tokens: TaskTokens, folder: Path
) -> None:
    cell = tiny_cell(folder)
    network.prepare(cell, 1)
    with torch.no_grad():
        # A weight that one example's token reaches: the loss is not a number from the first batch with it on.
        network.module.get_parameter("classifier.bias").fill_(math.inf)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    with pytest.raises(DivergedError) as diverged:
        train(network, tokens.subset(10, 1), cell, 1, RANKS, lambda *_: None)
    assert diverged.value.step == 0
    assert not math.isfinite(diverged.value.loss)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_losses_read_some_steps_at_a_time_are_those_read_one_by_one(
    network: Network, tokens: TaskTokens, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(folder, recipe={"duration": Steps(steps=7)})
    examples = tokens.subset(cell.size, 1)
    one_by_one = losses_by_engine(network, examples, cell, 1)
    monkeypatch.setattr(reinit.train, "steps_together", lambda _: 3)
    assert losses_by_engine(network, examples, cell, 1) == one_by_one
    assert len(one_by_one) == 7


def test_a_loss_that_is_not_finite_is_told_of_its_own_step_among_those_read_together(
    network: Network, tokens: TaskTokens, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reinit.train, "steps_together", lambda _: 5)
    cell = tiny_cell(folder, recipe={"duration": Steps(steps=8), "learning_rate": 1e30})
    network.prepare(cell, 1)
    heard: list[int] = []
    with pytest.raises(DivergedError) as diverged:
        train(network, tokens.subset(10, 1), cell, 1, RANKS, lambda step, _: heard.append(step))
    assert 1 <= diverged.value.step < 5
    assert not heard


def test_the_optimiser_is_torch_s_adamw_after_torch_s_clipping() -> None:
    """Some gradients above the norm that is clipped, some below, one parameter outside of the optimiser."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 3), (3,), (4,))]
    ours, peers = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    recipe = Recipe(weight_decay=0.1, learning_rate=1e-2)
    groups = [
        Group("a", 1e-2, 0.1, ("a",), (ours[0],)),
        Group("b", 1e-2, 0.0, ("b",), (ours[1],)),
    ]
    optimiser = ClippedAdamW(groups, recipe, ours)
    peer = torch.optim.AdamW(
        [{"params": peers[:1], "weight_decay": 0.1}, {"params": peers[1:2], "weight_decay": 0.0}],
        lr=1e-2,
        eps=recipe.epsilon,
        foreach=False,
    )
    for scale in (10.0, 0.01, 1.0):
        for mine, other in zip(ours, peers, strict=True):
            mine.grad = scale * torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        nn.utils.clip_grad_norm_(peers, recipe.grad_clip)
        peer.step()
        optimiser.step()
    for mine, other, before in zip(ours[:2], peers[:2], start[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
        assert not torch.equal(mine, before)
    assert torch.equal(ours[2], start[2])


def test_a_step_that_is_to_be_skipped_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimiser = ClippedAdamW([Group("head", 1.0, 0.5, ("weight",), (weight,))], Recipe(), [weight])
    weight.grad = torch.full((3,), math.nan)
    optimiser.skip = torch.tensor(1.0)
    optimiser.step()
    assert torch.equal(weight, torch.ones(3))
    weight.grad, optimiser.skip = torch.ones(3), torch.tensor(0.0)
    optimiser.step()
    assert weight.lt(1).all()


def test_moments_are_zero_for_each_run_and_in_the_memory_of_the_run_before() -> None:
    moments, memory = Moments(), torch.zeros(4, 3)
    addresses = set()
    for rows in (3, 2, 3):
        # Another parameter each time, at the same address.
        parameter = nn.Parameter(memory[:rows])
        both = moments.zeros(parameter)
        for each in both:
            assert each.shape == parameter.shape
            assert not each.any()
            each.fill_(5.0)
        assert not torch.equal(both[0], both[1].fill_(6.0))
        addresses.add(both[0].data_ptr())
        again = moments.zeros(parameter)
        assert again[0] is both[0]
        assert not again[0].any()
        both[0].fill_(math.nan)
    assert len(addresses) == 1
    assert moments.zeros(nn.Parameter(memory))[1].shape == (4, 3)


def test_moments_lie_in_memory_as_their_parameter_does_and_those_of_parameters_that_are_gone_go() -> None:
    moments = Moments()
    gone = nn.Parameter(torch.zeros(5))
    memory = weakref.ref(moments.zeros(gone)[0].untyped_storage())
    address = gone.data_ptr()
    turned = nn.Parameter(torch.zeros(3, 2).T)
    assert moments.zeros(turned)[1].stride() == turned.stride()
    assert address in moments._at
    del gone
    other = nn.Parameter(torch.zeros(7))
    moments.zeros(other)
    assert set(moments._at) == {turned.data_ptr(), other.data_ptr()}
    assert memory() is None


def test_an_engine_without_peers_broadcasts_nothing_and_one_with_peers_is_deepspeed_s_own(
    network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(folder)
    heard: list[object] = []
    monkeypatch.setattr("deepspeed.comm.broadcast", lambda *_, **__: heard.append("broadcast"))
    network.prepare(cell, 1)
    engine = build_engine(network.form, network.groups, cell.recipe, 3, RANKS)
    close_engine(engine)
    assert isinstance(engine, deepspeed.DeepSpeedEngine)
    assert not heard
    usual = deepspeed.DeepSpeedEngine

    def fails(**_: object) -> None:
        heard.append(deepspeed.DeepSpeedEngine)
        raise RuntimeError("no room")

    monkeypatch.setattr("deepspeed.initialize", fails)
    for ranks in (RANKS, replace(RANKS, world_size=2)):
        with pytest.raises(RuntimeError, match="no room"):
            build_engine(network.form, network.groups, cell.recipe, 3, ranks)
        assert deepspeed.DeepSpeedEngine is usual
    assert heard == [LoneEngine, usual]


def test_the_schedule_rises_over_the_warm_up_and_falls_to_zero_at_the_end() -> None:
    weight = nn.Parameter(torch.zeros(1))
    group = Group("head", 1.0, 0.0, ("weight",), (weight,))

    def rates(recipe: Recipe, steps: int) -> list[float]:
        optimiser = ClippedAdamW([group], recipe, [weight])
        schedule = build_schedule(optimiser, recipe, steps)
        seen = []
        for _ in range(steps + 1):
            seen.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return seen

    assert rates(Recipe(), 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert rates(Recipe(warmup=0.5), 4) == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert rates(Recipe(schedule="constant", warmup=0.25), 4) == pytest.approx([0, 1, 1, 1, 1])


def test_epsilon_is_added_after_the_bias_correction_unlike_in_the_libraries_of_2020() -> None:
    """transformers 2.8.0 adds it before, which makes a first step of a gradient this small 16 times smaller."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = ClippedAdamW([Group("head", 1.0, 0.0, ("weight",), (weight,))], Recipe(), [weight])
    weight.grad = torch.full((1,), Recipe().epsilon)
    optimiser.step()
    assert float(weight.detach()) == pytest.approx(-0.5, rel=1e-4)


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused() -> None:
    assert engine_config(Recipe(batch_size=8), 4)["train_micro_batch_size_per_gpu"] == 2
    with pytest.raises(ConfigurationError, match="divide"):
        engine_config(Recipe(batch_size=8), 3)


def test_the_loss_of_a_regression_task_is_the_squared_error() -> None:
    logits, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 1.0])
    assert losses_of(logits, labels, regression=True).tolist() == [0.25, 4.0]
    assert GLUE["stsb"].outputs == 1
