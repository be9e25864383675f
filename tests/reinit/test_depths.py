"""Every depth of one pass against the network truncated to it, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.cell import Feature, Probe
from reinit.depths import Depths, Wanted
from reinit.network import Network
from reinit.probe import ProbeNetwork
from tests.reinit.architectures import CONFIGS, DEPTH, cell_of, load

NetworkOf = Callable[[str], Network]
FEATURES: dict[str, tuple[Feature, ...]] = {
    "bert": ("pooler", "cls", "mean"),
    "gpt2": ("mean",),
    "llama": ("mean",),
}
KINDS = pytest.mark.parametrize("kind", CONFIGS)


def wanted_of(kind: str) -> list[Wanted]:
    return [(depth, feature) for depth in range(1, DEPTH + 1) for feature in FEATURES.get(kind, ("cls", "mean"))]


def inputs_of(network: Network) -> dict[str, Tensor]:
    """Texts of several lengths, one of them as long as ModernBERT's local window and longer."""
    lengths = torch.tensor([[12], [7], [3], [12], [2]])
    mask = (torch.arange(12) < lengths).long()
    ids = torch.randint(4, 60, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.where(mask.bool(), ids, network.pad_token), "attention_mask": mask}


def of_truncated_networks(network: Network, wanted: list[Wanted], **options: Any) -> list[Tensor]:
    """Each feature from the probe's own network, prepared and run for this depth alone."""
    features = []
    for depth, feature in wanted:
        treatment = Probe(depth=depth, feature=feature, **options)
        network.prepare(cell_of(network.model, treatment), 1)
        assert isinstance(network.module, ProbeNetwork)
        assert len(network.stack) == depth
        torch.manual_seed(7)
        features.append(network.module.features(**inputs_of(network)))
    return features


def of_one_object(network: Network, wanted: list[Wanted], *, noisy: bool = False) -> tuple[list[Tensor], Depths]:
    # Prepared for one depth, as for the run that makes the pass.
    network.prepare(cell_of(network.model, Probe(depth=1, feature=wanted[0][1], encoder_dropout=noisy)), 1)
    depths = Depths(network.stack, wanted, dropout=noisy)
    torch.manual_seed(7)
    return depths.read(inputs_of(network)), depths


@KINDS
@pytest.mark.parametrize("noisy", [False, True], ids=["still", "noisy"])
def test_one_pass_gives_the_bits_of_the_truncated_network_at_every_depth_dropout_draws_included(
    network_of: NetworkOf, kind: str, noisy: bool
) -> None:
    network, wanted = network_of(kind), wanted_of(kind)
    expected = of_truncated_networks(network, wanted, encoder_dropout=noisy)
    got, depths = of_one_object(network, wanted, noisy=noisy)
    assert depths.in_one_pass
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    # Depths differ, or the equality above says little.
    assert not torch.allclose(got[0], got[-1])


def test_one_pass_gives_the_bits_of_the_truncated_network_in_bf16(network_of: NetworkOf) -> None:
    network, wanted = network_of("bert"), wanted_of("bert")
    with torch.autocast("cpu", torch.bfloat16):
        expected = of_truncated_networks(network, wanted)
        got, depths = of_one_object(network, wanted)
    assert depths.in_one_pass
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_a_depth_read_alone_has_the_bits_that_it_has_among_others(network_of: NetworkOf) -> None:
    network, wanted = network_of("bert"), wanted_of("bert")
    together, _ = of_one_object(network, wanted, noisy=True)
    for one, value in zip(wanted, together, strict=True):
        alone, _ = of_one_object(network, [one], noisy=True)
        assert torch.equal(alone[0], value)


@KINDS
def test_one_pass_runs_each_layer_once_and_leaves_the_network_as_it_was(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    _, depths = of_one_object(network, wanted_of(kind))
    calls = [0] * DEPTH

    def count(index: int) -> None:
        calls[index] += 1

    classes = {type(layer) for layer in network.stack.whole}
    (original,) = {each.forward for each in classes}
    with pytest.MonkeyPatch.context() as patch:

        def forward(layer: Any, *inputs: Any, **named: Any) -> Any:
            count(network.stack.whole.index(layer))
            return original(layer, *inputs, **named)

        patch.setattr(classes.pop(), "forward", forward)
        depths.read(inputs_of(network))
    assert calls == [1] * DEPTH
    assert len(network.stack) == DEPTH
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in network.stack.whole)


@pytest.mark.parametrize("noisy", [False, True], ids=["still", "noisy"])
def test_a_network_whose_layers_know_how_many_there_are_gets_a_pass_per_depth(
    folder_of: Callable[[str], Any], noisy: bool
) -> None:
    network, wanted = load(folder_of("bert")), wanted_of("bert")
    config = network.stack.network.config
    network.stack.whole[0].register_forward_pre_hook(
        lambda _layer, inputs: (inputs[0] / config.num_hidden_layers, *inputs[1:])
    )
    expected = of_truncated_networks(network, wanted, encoder_dropout=noisy)
    got, depths = of_one_object(network, wanted, noisy=noisy)
    assert not depths.in_one_pass
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_a_network_that_asks_its_layers_for_more_than_they_answer_gets_a_pass_per_depth(
    folder_of: Callable[[str], Any],
) -> None:
    network, wanted = load(folder_of("bert")), wanted_of("bert")
    base = network.stack.network.base_model
    seen: list[int] = []
    network.stack.whole[0].get_submodule("attention").register_forward_hook(lambda *_: seen.append(1))

    def needs_attention(*_: Any) -> None:
        if not seen:
            raise RuntimeError("the first layer's attention has not run")
        seen.clear()

    base.register_forward_hook(needs_attention)
    got, depths = of_one_object(network, wanted)
    assert not depths.in_one_pass
    assert len(got) == len(wanted)
