"""Dropout of our own: how often, how much, drawn from torch's generator; its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from reinit.dropout import drop


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_values_are_dropped_as_often_as_torch_drops_them(probability: float) -> None:
    torch.manual_seed(0)
    dropped = (drop(torch.ones(400, 1000), probability) == 0).numpy()
    assert stats.binomtest(int(dropped.sum()), dropped.size, probability).pvalue > 1e-3
    # By row, so that what neighbours share would show.
    counts = dropped.sum(axis=1)
    assert np.var(counts) / (1000 * probability) == pytest.approx(1 - probability, rel=0.3)
    together = (dropped[:, :-1] & dropped[:, 1:]).mean()
    assert together == pytest.approx(probability**2, rel=0.05)


def test_what_stays_is_divided_by_the_chance_to_stay() -> None:
    torch.manual_seed(0)
    values = torch.linspace(1, 2, 1000)
    dropped = drop(values, 0.2)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], values[kept] / 0.8)
    assert 0 < kept.sum() < 1000


def test_a_value_s_gradient_is_dropped_with_it() -> None:
    torch.manual_seed(0)
    values = torch.ones(1000, requires_grad=True)
    dropped = drop(values, 0.3)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    torch.testing.assert_close(values.grad, dropped.detach())


def test_masks_are_drawn_from_torch_s_generator() -> None:
    def draw() -> torch.Tensor:
        return drop(torch.ones(100), 0.5)

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)
    assert not torch.equal(first, second)


def test_half_precision_stays_half_and_is_dropped_by_as_fine_a_number() -> None:
    """Uniform numbers of bf16 itself would have 8 bits, and drop 1 value in 9.8 instead of 10."""
    torch.manual_seed(0)
    dropped = drop(torch.ones(1_000_000, dtype=torch.bfloat16), 0.1)
    assert dropped.dtype == torch.bfloat16
    assert stats.binomtest(int((dropped == 0).sum()), 1_000_000, 0.1).pvalue > 1e-3


def test_without_a_probability_nothing_is_drawn() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(drop(torch.ones(10), 0.0), torch.ones(10))
    assert torch.equal(torch.get_rng_state(), before)
