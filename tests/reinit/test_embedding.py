"""The rows of an embedding that a run uses: the same training, and the rest as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from jobs.cell import Recipe
from reinit.data import Example
from reinit.embedding import UsedRows
from reinit.engine import ClippedAdamW
from reinit.optimiser import Group

ROWS, HIDDEN = 20, 4
TEXTS = [Example([3, 7, 7], None, 0.0), Example([0, 12], None, 1.0)]


def weight_of(own: nn.Embedding) -> nn.Parameter:
    weight = own.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def embedding() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, HIDDEN, padding_idx=0)


def group_of(parameter: nn.Parameter, decay: float = 0.0) -> Group:
    return Group("pretrained", 1e-2, decay, ("embedding",), (parameter,))


def trained(own: nn.Embedding, groups: Sequence[Group], ids: Sequence[np.ndarray]) -> None:
    """Steps on one text after another, so that a row moves at steps that lack it."""
    (group,) = groups
    optimiser = ClippedAdamW(groups, Recipe(), group.parameters)
    target = torch.linspace(-1, 1, HIDDEN)
    for row in list(ids) * 3:
        loss = (own(torch.from_numpy(row)) - target).square().sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def test_training_the_used_rows_is_training_the_embedding() -> None:
    whole, taken = embedding(), embedding()
    ids = [np.array(example.input_ids) for example in TEXTS]
    trained(whole, [group_of(weight_of(whole))], ids)
    rows = UsedRows(taken)
    groups = rows.take(TEXTS, [group_of(weight_of(taken))])
    assert len(taken.weight) == taken.num_embeddings == 4
    assert groups[0].parameters == (taken.weight,)
    trained(taken, groups, [rows.places(each) for each in ids])
    rows.put_back()
    torch.testing.assert_close(taken.weight, whole.weight, rtol=1e-6, atol=1e-7)
    start = embedding().weight
    used = [3, 7, 12]
    unused = [row for row in range(ROWS) if row not in used]
    assert torch.equal(taken.weight[unused], start[unused]), "the padding row is among them: it never trains"
    assert not torch.isclose(taken.weight[used], start[used]).any()


def test_what_was_taken_is_put_back_as_it_was() -> None:
    own = embedding()
    weight, start = weight_of(own), own.weight.detach().clone()
    rows = UsedRows(own)
    rows.take(TEXTS, [group_of(weight)])
    assert torch.equal(own(torch.from_numpy(rows.places(np.array([7, 12])))), start[[7, 12]])
    rows.put_back()
    rows.put_back()
    assert own.weight is weight
    assert torch.equal(own.weight, start)
    assert (own.num_embeddings, own.padding_idx) == (ROWS, 0)
    assert rows.places(np.array([7, 12])).tolist() == [7, 12]


def test_texts_without_the_padding_token_leave_it_out() -> None:
    own = embedding()
    UsedRows(own).take(TEXTS[:1], [group_of(weight_of(own))])
    assert own.padding_idx is None
    assert len(own.weight) == 2


@pytest.mark.parametrize(
    ("examples", "decay", "is_in_a_group"),
    [(TEXTS, 0.1, True), (TEXTS, 0.0, False), ([Example(list(range(ROWS)), None, 0.0)], 0.0, True)],
    ids=["weight decay moves every row", "the embedding does not train", "every row is used"],
)
def test_nothing_is_taken_where_it_would_be_wrong_or_useless(
    examples: list[Example], decay: float, *, is_in_a_group: bool
) -> None:
    own = embedding()
    weight = weight_of(own)
    parameter = weight if is_in_a_group else nn.Parameter(torch.zeros(1))
    groups = [group_of(parameter, decay)]
    assert UsedRows(own).take(examples, groups) == groups
    assert own.weight is weight


def test_two_runs_of_one_shape_share_one_tensor() -> None:
    own = embedding()
    rows = UsedRows(own)
    rows.take(TEXTS, [group_of(weight_of(own))])
    first = own.weight
    rows.put_back()
    others = [Example([1, 2, 5, 6], None, 0.0)]
    rows.take(others, [group_of(weight_of(own))])
    assert own.weight is first
    assert torch.equal(own.weight, embedding().weight[[1, 2, 5, 6]])


def a_run(own: nn.Embedding, rows: UsedRows, texts: Sequence[Example]) -> None:
    """Training moves every row that is taken, in the fused optimiser's way, which torch does not count."""
    groups = rows.take(texts, [group_of(weight_of(own))])
    for row in texts:
        own(torch.from_numpy(rows.places(np.array(row.input_ids)))).sum().backward()
    ClippedAdamW(groups, Recipe(), groups[0].parameters).step()
    rows.put_back()


def restored() -> tuple[nn.Embedding, torch.Tensor, UsedRows]:
    """An embedding as a run finds it, its values, and what takes its rows."""
    own = embedding()
    start, rows = own.weight.detach().clone(), UsedRows(own)
    rows.restore(start)
    return own, start, rows


def test_runs_one_after_another_each_start_from_the_start() -> None:
    own = embedding()
    start, rows = own.weight.detach().clone(), UsedRows(own)
    for texts in (TEXTS, [Example([1, 2, 5, 6, 8], None, 0.0)], TEXTS[1:]):
        rows.restore(start)
        assert torch.equal(own.weight, start)
        a_run(own, rows, texts)
        assert not torch.equal(own.weight, start)
    rows.restore(start)
    assert torch.equal(own.weight, start)


def test_only_trained_rows_are_restored() -> None:
    own, start, rows = restored()
    a_run(own, rows, TEXTS)
    sentinel = start.clone()
    sentinel[19] = 9.0
    rows.restore(sentinel)
    assert torch.equal(own.weight, start), "row 19 was not trained, so nobody looked"


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_whole_is_restored_where_anything_else_wrote_to_it(when: str) -> None:
    own, start, rows = restored()

    def write() -> None:
        with torch.no_grad():
            own.weight[19] = 7.0

    if when == "before":
        write()
    a_run(own, rows, TEXTS)
    if when == "after":
        write()
    rows.restore(start)
    assert torch.equal(own.weight, start)


def test_the_whole_is_restored_after_training_all_of_it() -> None:
    own, start, rows = restored()
    a_run(own, rows, TEXTS)
    rows.restore(start)
    every_row = [Example(list(range(ROWS)), None, 0.0)]
    a_run(own, rows, every_row)
    assert not torch.isclose(own.weight, start)[1:].any()
    rows.restore(start)
    assert torch.equal(own.weight, start)


def test_runs_of_fewer_rows_share_their_memory() -> None:
    own = embedding()
    rows, addresses = UsedRows(own), set()
    for texts in ([Example([1, 2, 5, 6], None, 0.0)], TEXTS[1:], TEXTS):
        rows.take(texts, [group_of(weight_of(own))])
        addresses.add(own.weight.data_ptr())
        rows.put_back()
    assert len(addresses) == 1
