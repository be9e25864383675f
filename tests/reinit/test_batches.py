"""Order, padding and the cut into batches."""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.cell import Epochs, Recipe, Steps
from reinit.batches import TOKENS_PER_EVALUATION_BATCH, collate, evaluation_batches, training_batches
from reinit.data import Example


def examples_of(lengths: list[int]) -> list[Example]:
    return [Example(list(range(1, length + 1)), [0] * length, float(index)) for index, length in enumerate(lengths)]


def test_padding_goes_to_the_longest_and_is_masked() -> None:
    batch = collate(examples_of([1, 3]), pad_token=9)
    assert batch.inputs["input_ids"].tolist() == [[1, 9, 9], [1, 2, 3]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert batch.labels.tolist() == [0.0, 1.0]


def test_token_types_are_left_out_where_the_tokeniser_has_none() -> None:
    assert "token_type_ids" not in collate([Example([1, 2], None, 0.0)], pad_token=0).inputs


@given(rows=st.integers(1, 40), size=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_each_epoch_visits_every_example_once_and_keeps_its_last_partial_batch(
    rows: int, size: int, epochs: int, seed: int
) -> None:
    recipe = Recipe(batch_size=size, duration=Epochs(epochs=epochs))
    batches = list(training_batches(examples_of([1] * rows), recipe, seed))
    assert len(batches) == recipe.steps(rows)
    labels = [example.label for example in chain.from_iterable(batches)]
    for epoch in range(epochs):
        assert sorted(labels[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(rows=st.integers(1, 20), size=st.integers(1, 8), steps=st.integers(1, 30))
def test_a_duration_in_steps_takes_exactly_so_many_batches_whatever_the_rows(rows: int, size: int, steps: int) -> None:
    recipe = Recipe(batch_size=size, duration=Steps(steps=steps))
    assert len(list(training_batches(examples_of([1] * rows), recipe, seed=1))) == steps


def test_epochs_and_seeds_have_orders_of_their_own_and_a_seed_always_the_same() -> None:
    recipe = Recipe(batch_size=50, duration=Epochs(epochs=2))
    rows = examples_of([1] * 50)

    def orders(seed: int) -> list[list[float]]:
        return [[example.label for example in batch] for batch in training_batches(rows, recipe, seed)]

    assert orders(1) == orders(1)
    first, second = orders(1)
    assert first != second
    assert orders(2)[0] != first


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=200))
def test_evaluation_takes_every_example_once_by_falling_length_within_its_token_budget(lengths: list[int]) -> None:
    batches = list(evaluation_batches(examples_of(lengths)))
    flat = list(chain.from_iterable(batches))
    assert sorted(flat) == list(range(len(lengths)))
    assert all(lengths[a] >= lengths[b] for a, b in pairwise(flat))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= TOKENS_PER_EVALUATION_BATCH


def test_collating_makes_integer_inputs_and_float_labels() -> None:
    batch = collate(examples_of([2]), pad_token=0)
    assert {tensor.dtype for tensor in batch.inputs.values()} == {torch.int64}
    assert batch.labels.dtype == torch.float32
