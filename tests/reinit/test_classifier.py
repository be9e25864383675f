"""A probe's classifier: the written-out AdamW against the engine on the whole network, and its dropout by samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from jobs.cell import Cell, Epochs, Probe, Recipe, Steps
from reinit.batches import training_orders
from reinit.classifier import Classifier, train_classifier
from reinit.features import FeatureCache, Values
from reinit.network import Network, load_tokenizer
from reinit.places import resolve_model
from reinit.probe import ProbeNetwork
from reinit.ranks import join_ranks
from reinit.tokens import TaskTokens
from reinit.train import DivergedError, train
from tests.reinit.tiny import MINILM, places_of, tiny_cell, write_sentences

RANKS = join_ranks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokens(folder: Path) -> TaskTokens:
    places = places_of(folder)
    return TaskTokens.load(tiny_cell(folder).task, load_tokenizer(resolve_model(MINILM, places)), 16, places)


def load(cell: Cell, folder: Path) -> Network:
    return Network.load(cell.model, cell.task.outputs, cell.recipe, places_of(folder))


def by_engine(network: Network, tokens: TaskTokens, cell: Cell, seed: int) -> tuple[list[float], ProbeNetwork]:
    """Every step passes its texts through the frozen network; DeepSpeed trains the classifier."""
    network.prepare(cell, seed)
    losses: list[float] = []
    train(network, tokens.subset(cell.size, seed), cell, seed, RANKS, lambda _, loss: losses.append(loss))
    assert isinstance(network.module, ProbeNetwork)
    return losses, network.module


def by_features(network: Network, tokens: TaskTokens, cell: Cell, seed: int) -> tuple[list[float], Classifier]:
    losses: list[float] = []
    features = FeatureCache(RANKS).training(cell, seed, network, tokens, lambda: None)
    labels = np.array([example.label for example in tokens.subset(cell.size, seed)], np.float32)
    start = Classifier.fresh(2, 384, seed)
    trained, _ = train_classifier(start, features, labels, cell.recipe, seed, lambda _, loss: losses.append(loss))
    return losses, trained


@pytest.mark.parametrize(
    "recipe",
    [
        {"learning_rate": 0.01},
        {"learning_rate": 0.01, "weight_decay": 5.0, "warmup": 0.5, "batch_size": 3, "grad_clip": 0.05},
        {"learning_rate": 0.01, "schedule": "constant", "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3},
    ],
    ids=["as the paper", "decay, warm-up, clipping", "other constants"],
)
def test_without_dropout_losses_and_weights_are_the_engines_step_by_step(
    folder: Path, tokens: TaskTokens, recipe: dict[str, Any]
) -> None:
    cell = tiny_cell(folder, treatment=Probe(depth=2), recipe={"dropout": 0.0, "duration": Epochs(epochs=3), **recipe})
    network = load(cell, folder)
    expected, module = by_engine(network, tokens, cell, 1)
    weight, bias = module.classifier.weight.detach().clone(), module.classifier.bias.detach().clone()
    got, trained = by_features(network, tokens, cell, 1)
    assert len(got) == cell.steps
    assert got == pytest.approx(expected, rel=2e-5)
    assert torch.allclose(trained.weight, weight, atol=2e-6)
    assert torch.allclose(trained.bias, bias, atol=2e-6)
    assert max(got) - min(got) > 0.01


def test_in_bf16_losses_are_close_to_the_engines_step_by_step(folder: Path, tokens: TaskTokens) -> None:
    recipe = {"dropout": 0.0, "precision": "bf16", "learning_rate": 0.01, "duration": Epochs(epochs=2)}
    cell = tiny_cell(folder, treatment=Probe(depth=2), recipe=recipe)
    network = load(cell, folder)
    expected, _ = by_engine(network, tokens, cell, 1)
    got, _ = by_features(network, tokens, cell, 1)
    assert got == pytest.approx(expected, abs=0.01)


def test_a_fresh_classifier_is_the_head_that_the_network_would_get(folder: Path) -> None:
    cell = tiny_cell(folder, treatment=Probe(depth=2))
    network = load(cell, folder)
    for seed in (1, 2):
        network.prepare(cell, seed)
        fresh = Classifier.fresh(2, 384, seed)
        assert torch.equal(fresh.weight, network.module.get_parameter("classifier.weight"))
        assert torch.equal(fresh.bias, network.module.get_parameter("classifier.bias"))


# -------------------------------------------------------------------------------------------------- on made-up features


def made_up(rows: int = 40, hidden: int = 12) -> tuple[Values, Values]:
    random = np.random.RandomState(0)
    features = random.randn(rows, hidden).astype(np.float32)
    return features, (features[:, 0] + 0.5 * random.randn(rows) > 0).astype(np.float32)


RECIPE = Recipe(duration=Epochs(epochs=4), learning_rate=0.05, dropout=0.5, max_length=16)


def trained(recipe: Recipe, seed: int, outputs: int = 2) -> tuple[Classifier, float]:
    features, labels = made_up()
    start = Classifier.fresh(outputs, features.shape[1], seed)
    return train_classifier(start, lambda _: features, labels, recipe, seed, lambda *_: None)


def trained_by_autograd(recipe: Recipe, seed: int, outputs: int = 2) -> tuple[Classifier, float]:
    """The same in torch, written out: its dropout, its losses, its gradients, its clipping, its optimiser."""
    features, labels = (torch.from_numpy(values) for values in made_up())
    start, steps = Classifier.fresh(outputs, features.shape[1], seed), recipe.steps(len(labels))
    weight, bias = nn.Parameter(start.weight), nn.Parameter(start.bias)
    optimiser = torch.optim.AdamW([weight, bias], lr=recipe.learning_rate, eps=recipe.epsilon, weight_decay=0)
    torch.manual_seed(seed)
    losses: list[float] = []
    for order in training_orders(len(labels), recipe, seed):
        for rows in torch.split(torch.from_numpy(order), recipe.batch_size):
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * (steps - len(losses)) / steps
            logits = nn.functional.linear(nn.functional.dropout(features[rows], recipe.dropout), weight, bias)
            if outputs == 1:
                loss = nn.functional.mse_loss(logits[:, 0], labels[rows])
            else:
                loss = nn.functional.cross_entropy(logits, labels[rows].long())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([weight, bias], recipe.grad_clip)
            optimiser.step()
            losses.append(float(loss.detach()))
    last = -(-len(labels) // recipe.batch_size)
    return Classifier(weight.detach(), bias.detach()), math.fsum(losses[-last:]) / last


@pytest.mark.parametrize("outputs", [1, 2], ids=["regression", "classes"])
def test_gradients_are_those_of_autograd(outputs: int) -> None:
    recipe = RECIPE.model_copy(update={"dropout": 0.0})
    (got, loss), (expected, expected_loss) = trained(recipe, 1, outputs), trained_by_autograd(recipe, 1, outputs)
    assert torch.allclose(got.weight, expected.weight, atol=1e-5)
    assert torch.allclose(got.bias, expected.bias, atol=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5)


def test_dropout_has_the_distribution_of_torchs_over_seeds() -> None:
    """What dropout does to loss and weights; without it the two trainings of a seed are equal."""
    still = {seed: trained(RECIPE.model_copy(update={"dropout": 0.0}), seed) for seed in range(80)}

    def effects(train_by: Callable[..., tuple[Classifier, float]], dropout: float) -> NDArray[np.float64]:
        """[4, seeds]: changes of loss, of a weight, and of all weights."""
        rows = []
        for seed, (base, base_loss) in still.items():
            classifier, loss = train_by(RECIPE.model_copy(update={"dropout": dropout}), seed)
            change = classifier.weight - base.weight
            rows.append([loss - base_loss, float(change[0, 0]), float(change[0, 1]), float(change.norm())])
        return np.array(rows).T

    ours, theirs = effects(trained, 0.5), effects(trained_by_autograd, 0.5)
    assert all(stats.ks_2samp(one, other).pvalue > 0.01 for one, other in zip(ours, theirs, strict=True))
    # The samples are large enough to tell a dropout of .4 from one of .5.
    weaker = effects(trained, 0.4)
    assert min(stats.ks_2samp(one, other).pvalue for one, other in zip(weaker, theirs, strict=True)) < 0.01


@pytest.mark.slow
def test_dropout_in_the_encoder_has_the_distribution_of_a_pass_per_step_over_seeds(
    folder: Path, tokens: TaskTokens
) -> None:
    recipe = {"dropout": 0.3, "learning_rate": 0.01, "duration": Steps(steps=6)}
    treatment = Probe(depth=1, feature="mean", encoder_dropout=True)
    cell = tiny_cell(folder, treatment=treatment, recipe=recipe)
    network = load(cell, folder)
    ours = [by_features(network, tokens, cell, seed) for seed in range(24)]
    theirs = []
    for seed in range(24):
        losses, module = by_engine(network, tokens, cell, seed)
        theirs.append((losses, module.classifier.weight.detach().clone()))
    assert stats.ks_2samp([sum(losses) for losses, _ in ours], [sum(losses) for losses, _ in theirs]).pvalue > 0.01
    norms = [float(each.weight.norm()) for _, each in ours], [float(weight.norm()) for _, weight in theirs]
    assert stats.ks_2samp(*norms).pvalue > 0.01


def test_each_step_is_told_once_in_order_and_the_last_epoch_may_be_cut_short() -> None:
    features, labels = made_up(rows=21)
    told: list[int] = []
    recipe = RECIPE.model_copy(update={"duration": Steps(steps=8)})
    train_classifier(
        Classifier.fresh(2, 12, 1), lambda _: features, labels, recipe, 1, lambda step, _: told.append(step)
    )
    assert told == list(range(1, 9))


def test_a_run_may_be_stopped_between_steps() -> None:
    features, labels = made_up()

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_classifier(Classifier.fresh(2, 12, 1), lambda _: features, labels, RECIPE, 1, stop)


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step() -> None:
    features, labels = made_up()
    broken = features.copy()
    order = next(training_orders(len(labels), RECIPE, 1))
    broken[order[2 * RECIPE.batch_size]] = np.inf
    told: list[int] = []
    with pytest.raises(DivergedError) as diverged:
        train_classifier(
            Classifier.fresh(2, 12, 1), lambda _: broken, labels, RECIPE, 1, lambda step, _: told.append(step)
        )
    assert diverged.value.step == 2
    assert told == [1, 2]


def test_a_recipe_without_dropout_draws_nothing_and_a_seed_repeats_its_bits() -> None:
    one, again, other = trained(RECIPE, 1), trained(RECIPE, 1), trained(RECIPE, 2)
    assert torch.equal(one[0].weight, again[0].weight)
    assert one[1] == again[1]
    assert not torch.equal(one[0].weight, other[0].weight)
