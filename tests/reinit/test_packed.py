"""Packed texts against the library's own forward pass on padded ones: logits, training step by step, dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from jobs.cell import Cell, Permute, Recipe, Reinit, Steps, Treatment, Truncate
from jobs.errors import DataError, SpecError
from reinit.batches import collate
from reinit.data import Example
from reinit.forms import Form, PaddedClassifier
from reinit.joined import joined_weights
from reinit.network import Network
from reinit.packed import FAMILIES, PackedClassifier, packs
from reinit.ranks import join_ranks
from reinit.rows import MOST_TOGETHER, pack, room_for
from reinit.train import train
from tests.reinit.architectures import CONFIGS, VOCABULARY, cell_of, load, model_of, save

RANKS = join_ranks()
CPU: Final = torch.device("cpu")
PACKED: Final = ("bert", "roberta", "distilbert", "electra", "mpnet")
PADDED: Final = tuple(kind for kind in CONFIGS if kind not in PACKED)


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Random texts; tokens from 3 on pad in no architecture here."""
    random = np.random.default_rng(seed)
    return [
        Example(random.integers(3, VOCABULARY, length).tolist(), [0] * length, float(number % 2))
        for number, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save(CONFIGS[kind](), tmp_path_factory.mktemp(kind)) for kind in CONFIGS}


def prepared(folder: Path, treatment: Treatment | None = None, **recipe: Any) -> tuple[Network, Cell]:
    """A network with everything drawn, and the cell that it is of."""
    network = load(folder, **recipe)
    cell = cell_of(model_of(folder)[0], treatment or Reinit(), **recipe)
    network.prepare(cell, 1)
    return network, cell


def logits_of(form: Form, examples: Sequence[Example], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = form(form.collate(examples, 1.0, CPU, **more))
    return logits


def packed_form(network: Network) -> PackedClassifier:
    assert isinstance(network.form, PackedClassifier)
    return network.form


LENGTHS: Final = {"attending together": [8, 3, 1, 13, 5], "attending apart": [8, 3, 1, 40, 27] * 4}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("treatment", [Reinit(), Truncate(depth=2), Permute(order=(2, 0, 3, 1)), Truncate(depth=1)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_logits_are_those_of_the_library_on_padded_texts(
    folders: dict[str, Path], kind: str, treatment: Treatment, lengths: list[int]
) -> None:
    network, _ = prepared(folders[kind], treatment, dropout=0.0)
    examples = texts_of(lengths)
    expected = logits_of(PaddedClassifier(network.module, network.pad_token), examples)
    torch.testing.assert_close(logits_of(network.form, examples), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3, "all alike would agree whatever the forward pass"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_filling_up_changes_neither_a_logit_nor_a_gradient(
    folders: dict[str, Path], kind: str, lengths: list[int]
) -> None:
    """What a captured graph is given: more tokens and texts than there are."""
    network, _ = prepared(folders[kind], dropout=0.0)
    examples = texts_of(lengths)
    exact, filled = (gradients_of(network.form, examples, fill_to=fill_to) for fill_to in (None, len(lengths) + 3))
    for name, value in exact.items():
        torch.testing.assert_close(filled[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert sum(value.abs().sum() for value in exact.values()) > 1


def gradients_of(form: Form, examples: Sequence[Example], **more: Any) -> dict[str, torch.Tensor]:
    """Of the squared logits, weighted; with the logits themselves."""
    form.zero_grad()
    batch = form.collate(examples, 1.0, CPU, **more)
    logits = form(batch)
    (logits.square().sum(1) * batch.weights).sum().backward()
    gradients = {name: value.grad.clone() for name, value in form.named_parameters() if value.grad is not None}
    return gradients | {"logits": logits.detach()[: len(examples)]}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12) | st.just(90), min_size=1, max_size=6), seed=st.integers(0, 99), data=st.data()
)
def test_a_text_s_logits_do_not_depend_on_its_neighbours(
    folders: dict[str, Path], lengths: list[int], seed: int, data: st.DataObject
) -> None:
    network, _ = prepared(folders["bert"], dropout=0.0)
    examples = texts_of(lengths, seed)
    alone = data.draw(st.integers(0, len(lengths) - 1))
    together = logits_of(network.form, examples)[alone]
    torch.testing.assert_close(logits_of(network.form, [examples[alone]])[0], together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "positions"), [("bert", 16), ("roberta", 18), ("mpnet", 18), ("distilbert", 16)])
def test_texts_longer_than_there_are_positions_for_are_refused_before_a_kernel_looks_one_up(
    tmp_path: Path, kind: str, positions: int
) -> None:
    config = CONFIGS[kind]()
    config.max_position_embeddings = positions
    folder = save(config, tmp_path)
    network, cell = prepared(folder, max_length=16)
    logits_of(network.form, texts_of([16]))
    with pytest.raises(SpecError, match="positions") as refused:
        network.prepare(cell.model_copy(update={"recipe": Recipe(max_length=17)}), 1)
    assert refused.value.expected == "at most 16 tokens"


def test_a_type_that_the_network_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    config = CONFIGS["bert"]()
    config.type_vocab_size = 1
    network, _ = prepared(save(config, tmp_path))
    form = packed_form(network)
    with pytest.raises(DataError, match="kinds of tokens"):
        form.fit_to([Example([5, 6], [0, 1], 0.0)], network.groups)
    form.fit_to([Example([5, 6], [0, 0], 0.0), Example([5], None, 0.0)], network.groups)
    form.release()


def test_a_graph_is_no_other_run_s_where_the_padding_token_has_another_row(folders: dict[str, Path]) -> None:
    """Which row never trains is in the captured kernels; runs share the rows' memory."""
    network, _ = prepared(folders["bert"])
    form = packed_form(network)
    layouts = []
    for first in (0, 7, 0):
        form.fit_to([Example([first, 8, 9], [0, 0, 0], 1.0)], network.groups)
        layouts.append(form.layout())
        form.release()
    assert layouts[0] == layouts[2] != layouts[1]


def test_each_packed_architecture_is_tested_and_any_other_is_padded(folders: dict[str, Path]) -> None:
    of_one_kind = {"XLMRobertaForSequenceClassification", "CamembertForSequenceClassification"}
    tested = {type(load(folders[kind]).module).__name__ for kind in PACKED}
    assert tested | of_one_kind == set(FAMILIES)
    for kind in PADDED:
        network = load(folders[kind])
        assert not packs(network.module)
        assert isinstance(network.form, PaddedClassifier)


def trained(
    network: Network, cell: Cell, seed: int, examples: list[Example], form: Callable[[Network], Form]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of each step and the weights after the last one, trained in this form."""
    network.prepare(cell, seed)
    losses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "form", property(form))
        train(network, examples, cell, seed, RANKS, lambda _, loss: losses.append(loss))
    return losses, {name: value.clone() for name, value in network.module.state_dict().items()}


def as_padded(network: Network) -> Form:
    return PaddedClassifier(network.module, network.pad_token)


def as_packed(network: Network) -> Form:
    assert network._packed is not None
    return network._packed


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("length", [9, 90], ids=LENGTHS)
def test_training_packed_goes_step_by_step_as_training_padded(folders: dict[str, Path], kind: str, length: int) -> None:
    """With used rows alone in the embedding, redrawn layers, and a last batch that is not full."""
    network, cell = prepared(
        folders[kind], Reinit(layers=(2, 3)), dropout=0.0, learning_rate=1e-3, duration=Steps(steps=8)
    )
    # A part of the vocabulary, so that rows are left out, with padding tokens that a text spells out.
    texts = texts_of([length, 4, 7] * 4)
    examples = [Example([token % 40 for token in each.input_ids], *_rest(each)) for each in texts]
    assert any(network.pad_token in each.input_ids for each in examples)
    packed, packed_weights = trained(network, cell, 1, examples, as_packed)
    padded, padded_weights = trained(network, cell, 1, examples, as_padded)
    assert packed == pytest.approx(padded, rel=1e-4)
    assert max(padded) - min(padded) > 0.01
    for name, value in padded_weights.items():
        # AdamW's first updates are nearly the sign of a gradient, also of one that is zero but for rounding.
        torch.testing.assert_close(packed_weights[name], value, rtol=1e-3, atol=5e-4, msg=name)


def _rest(example: Example) -> tuple[Sequence[int] | None, float]:
    return example.token_type_ids, example.label


# -------------------------------------------------------------------------------------------------------- dropout


def draws_of(form: Form, examples: Sequence[Example], times: int, seed: int) -> NDArray[np.float32]:
    """A logit of the first text under `times` draws of dropout."""
    form.train()
    torch.manual_seed(seed)
    values = [float(logits_of(form, examples)[0, 1]) for _ in range(times)]
    form.eval()
    return np.array(values, np.float32)


@pytest.mark.parametrize("kind", PACKED)
def test_dropout_has_the_library_s_distribution_and_the_test_sees_another_rate(
    folders: dict[str, Path], kind: str
) -> None:
    network, _ = prepared(folders[kind], dropout=0.2)
    examples = texts_of([6, 9])
    ours = draws_of(network.form, examples, 600, 1)
    library = draws_of(PaddedClassifier(network.module, network.pad_token), examples, 600, 2)
    assert stats.ks_2samp(ours, library).pvalue > 1e-3
    assert stats.levene(ours, library).pvalue > 1e-3
    other, _ = prepared(folders[kind], dropout=0.35)
    assert stats.levene(ours, draws_of(other.form, examples, 600, 3)).pvalue < 1e-3


def test_over_seeds_packed_and_padded_runs_are_two_samples_of_one_distribution(folders: dict[str, Path]) -> None:
    """24 seeds each of whole small trainings with dropout; a recipe that differs is told apart."""
    recipe: dict[str, Any] = {"dropout": 0.1, "learning_rate": 1e-3, "duration": Steps(steps=10)}
    network, cell = prepared(folders["bert"], **recipe)
    examples = texts_of([9, 4, 7, 5] * 4)

    def last_losses(cell: Cell, form: Callable[[Network], Form], first: int) -> list[float]:
        runs = (trained(network, cell, seed, examples, form) for seed in range(first, first + 24))
        return [float(np.mean(losses[-3:])) for losses, _ in runs]

    packed, padded = last_losses(cell, as_packed, 1), last_losses(cell, as_padded, 101)
    assert stats.ttest_ind(packed, padded, equal_var=False).pvalue > 1e-3
    assert stats.ks_2samp(packed, padded).pvalue > 1e-3
    slower = cell.model_copy(update={"recipe": Recipe(**(recipe | {"learning_rate": 1e-4}))})
    assert stats.ttest_ind(packed, last_losses(slower, as_packed, 201), equal_var=False).pvalue < 1e-3


# ------------------------------------------------------------------------------------------------------- batches


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), is_filled=st.booleans(), more=st.integers(0, 3))
def test_a_packed_batch_holds_every_token_in_its_place(lengths: list[int], more: int, *, is_filled: bool) -> None:
    examples = texts_of(lengths)
    texts = len(lengths) + more * is_filled
    batch = pack(examples, 0.25, fill_to=texts if is_filled else None)
    used = sum(lengths)
    assert batch.tokens == (room_for(used) if is_filled else used)
    assert batch.ids[:used].tolist() == [token for example in examples for token in example.input_ids]
    assert batch.types[:used].tolist() == [kind for example in examples for kind in example.token_type_ids or []]
    assert batch.positions[:used].tolist() == [place for length in lengths for place in range(length)]
    assert batch.numbers[:used].tolist() == [number for number, length in enumerate(lengths) for _ in range(length)]
    # The rest is one more text, which no real token attends to.
    assert set(batch.numbers[used:].tolist()) <= {texts}
    assert batch.positions[batch.firsts[: len(lengths)]].tolist() == [0] * len(lengths)
    assert batch.labels.tolist() == [example.label for example in examples] + [0.0] * (texts - len(lengths))
    assert batch.weights.tolist() == [0.25] * len(lengths) + [0.0] * (texts - len(lengths))
    assert bool(batch.longest) == (batch.tokens > MOST_TOGETHER)
    if batch.longest:
        assert batch.sources.flatten()[batch.padded[:used]].tolist() == list(range(used))
        assert (batch.sources >= 0).sum() == used
        assert set(batch.sources.flatten()[batch.padded[used:]].tolist()) <= {-1}


@given(tokens=st.integers(1, 5000))
def test_filling_up_costs_little_and_leaves_few_shapes(tokens: int) -> None:
    room = room_for(tokens)
    assert tokens <= room <= max(tokens + 31, tokens * 1.125)
    assert room % 32 == 0


def test_labels_and_weights_come_through_in_full_precision() -> None:
    examples = [Example([5], None, 2.8), Example([6], None, -1.5)]
    batch = pack(examples, 1 / 3)
    assert batch.labels.tolist() == [np.float32(2.8), -1.5]
    assert batch.weights.tolist() == [np.float32(1 / 3)] * 2
    padded = collate(examples, 0)
    assert torch.equal(batch.labels, padded.labels)


def test_joined_weights_give_the_gradients_of_each_by_itself() -> None:
    torch.manual_seed(0)
    one, two, three = (nn.Linear(4, 4) for _ in range(3))
    values = torch.randn(5, 4)
    expected = torch.cat([one(values), two(values)], dim=1)
    three(expected[:, 2:6]).square().sum().backward()
    gradients = [
        parameter.grad.clone()
        for layer in (one, two, three)
        for parameter in layer.parameters()
        if parameter.grad is not None
    ]
    for layer in (one, two, three):
        layer.zero_grad()
    weights = joined_weights([[one, two], [three]], torch.float32)
    joined = nn.functional.linear(values, *weights[one])
    torch.testing.assert_close(joined, expected)
    nn.functional.linear(joined[:, 2:6], *weights[three]).square().sum().backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip(
        (each for layer in (one, two, three) for each in layer.parameters()), gradients, strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient)
    half = joined_weights([[one, two]], torch.bfloat16)[one][0]
    assert torch.equal(half, torch.cat([one.weight, two.weight]).bfloat16())
