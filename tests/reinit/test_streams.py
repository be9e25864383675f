"""Named streams: equal for equal arguments, unmoved by anything else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reinit.streams import stream, stream_seed

KEYS = st.lists(st.integers(0, 99) | st.text("ab.1", max_size=4), max_size=3)


def test_literal_seeds_stay_as_they_are_for_ever() -> None:
    assert stream_seed(1, "subset") == 4912519886182669086
    assert stream_seed(1, "redraw", 11, "attention.self.query.weight") == 8122472790463310726
    assert stream_seed(2, "order", 0) == 3209137313115684226


@given(st.integers(0, 2**32 - 1), st.sampled_from(["subset", "redraw", "order"]), KEYS, KEYS)
def test_two_keys_share_a_seed_only_if_they_are_equal(seed: int, name: str, one: list[int], other: list[int]) -> None:
    same = stream_seed(seed, name, *one) == stream_seed(seed, name, *other)  # type: ignore[arg-type]
    assert same == ([(type(key), key) for key in one] == [(type(key), key) for key in other])


@given(st.integers(0, 2**32 - 1), KEYS)
def test_a_seed_has_63_bits(seed: int, key: list[int]) -> None:
    assert 0 <= stream_seed(seed, "redraw", *key) < 2**63


def test_names_and_seeds_have_streams_of_their_own() -> None:
    seeds = [
        stream_seed(seed, name) for seed in (1, 2) for name in ("subset", "redraw", "classifier", "order", "dropout")
    ]
    assert len(set(seeds)) == 10


def test_drawing_more_from_one_stream_moves_no_other() -> None:
    before = torch.rand(4, generator=stream(1, "order", 0))
    other = stream(1, "redraw", 0, "weight")
    torch.rand(1000, generator=other)
    assert torch.equal(before, torch.rand(4, generator=stream(1, "order", 0)))


def test_a_stream_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = torch.rand(4, generator=stream(1, "classifier"))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(4, generator=stream(1, "classifier")))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown stream 'weights', allowed: subset, redraw"):
        stream_seed(1, "weights")  # type: ignore[arg-type]
