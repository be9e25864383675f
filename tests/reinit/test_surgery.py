"""Surgery: exactly the intended layers change, by exactly the declared distribution, on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, GemmaConfig, ResNetConfig, ResNetModel, XLMConfig

from jobs.cell import Init, Permute, Probe, Reinit, Truncate
from jobs.errors import SpecError
from reinit.network import Network
from reinit.streams import Stream
from reinit.surgery import (
    SD,
    TOGETHER,
    _inverse,
    draw,
    draw_head,
    find_stack,
    first_difference,
    freeze_for_probe,
    permute,
    redraw,
)
from tests.reinit.architectures import CONFIGS, DEPTH, REFUSED, cell_of, classifier, logits

NetworkOf = Callable[[str], Network]
KINDS = pytest.mark.parametrize("kind", CONFIGS)
INITS = pytest.mark.parametrize("init", ["truncated_normal", "released", "normal", "architecture"])

# sd of N(0, .02) cut at 2 sd; of a nearly uniform draw within 8e-4.
DECLARED_SD = {"truncated_normal": 0.0176, "released": 4.62e-4, "normal": 0.02}


def prepared(network: Network, treatment: Any, seed: int = 1) -> dict[str, Tensor]:
    """Every parameter of a prepared run by name, as copies."""
    network.prepare(cell_of(network.model, treatment), seed)
    return {name: parameter.detach().clone() for name, parameter in network.module.named_parameters()}


def changed(network: Network, values: dict[str, Tensor]) -> set[str]:
    """Names of pretrained parameters that differ from the checkpoint in any bit."""
    return {name for name, value in network.pristine.items() if not torch.equal(values[name], value)}


def in_layers(network: Network, *layers: int) -> set[str]:
    prefixes = tuple(f"{network.stack.name}.{index}." for index in layers)
    return {name for name in network.pristine if name.startswith(prefixes)}


def is_norm(name: str) -> bool:
    return "norm" in name.lower() or "ln_" in name


# ------------------------------------------------------------------------------------------------ finding the layers


@KINDS
def test_the_stack_is_found_by_structure(network_of: NetworkOf, kind: str) -> None:
    stack = network_of(kind).stack
    assert len(stack) == DEPTH
    assert len({type(layer) for layer in stack.layers}) == 1
    assert all(stack.network.get_submodule(f"{stack.name}.{i}") is layer for i, layer in enumerate(stack.layers))


@pytest.mark.parametrize(("kind", "reason"), [("albert", "share parameters"), ("t5", "several layer stacks")])
def test_a_network_whose_layers_cannot_be_numbered_is_refused(kind: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        find_stack(classifier(REFUSED[kind]()))


def test_what_is_no_transformer_is_refused() -> None:
    lists_without_attention = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    convolutions = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    attention_apart_from_feed_forward = classifier(XLMConfig(emb_dim=16, n_layers=2, n_heads=2, vocab_size=9))
    for network in (nn.Linear(2, 2), lists_without_attention, convolutions, attention_apart_from_feed_forward):
        with pytest.raises(SpecError, match="has no layer stack"):
            find_stack(network)


def test_layers_that_share_a_parameter_are_refused() -> None:
    network = classifier(CONFIGS["bert"]())
    layers = network.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    with pytest.raises(SpecError, match="share parameters"):
        find_stack(network)


def test_a_stack_of_one_layer_is_a_stack() -> None:
    network = classifier(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    assert len(find_stack(network)) == 1


# ---------------------------------------------------------------------------------------------------- the draws


@pytest.mark.parametrize("init", ["truncated_normal", "released", "normal"])
def test_draws_have_the_declared_distribution(init: Init) -> None:
    values = draw(init, (400, 500), (1, "redraw", 0, "weight")).numpy().ravel()
    expected: dict[str, Any] = {
        "truncated_normal": scipy.stats.truncnorm(-2, 2, scale=0.02),
        # The authors' own call.
        "released": scipy.stats.truncnorm(-2 * 0.02, 2 * 0.02, scale=0.02),
        "normal": scipy.stats.norm(scale=0.02),
    }
    # A fixed seed: no test of 200,000 values fails by chance. 0.5% is five standard errors of an sd.
    assert scipy.stats.kstest(values, expected[init].cdf).pvalue > 0.01
    assert values.std() == pytest.approx(DECLARED_SD[init], rel=0.005)
    assert values.mean() == pytest.approx(0, abs=5 * DECLARED_SD[init] / np.sqrt(values.size))


@pytest.mark.parametrize(("init", "bound"), [("truncated_normal", 0.04), ("released", 8e-4)])
def test_truncated_draws_stay_within_their_bounds_and_reach_them(init: Init, bound: float) -> None:
    values = draw(init, (400, 500), (1, "redraw", 0, "weight"))
    assert 0.999 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)


def law_of(cut: float) -> Any:
    return scipy.stats.truncnorm(-cut, cut, scale=SD)


@pytest.mark.parametrize("cut", [2.0, 2.0 * SD])
def test_the_inverse_is_that_of_the_distribution_function_to_float32(cut: float) -> None:
    inside, terms = _inverse(cut)
    law = law_of(cut)
    assert inside == pytest.approx(scipy.stats.norm.cdf(cut) - scipy.stats.norm.cdf(-cut), rel=1e-12)
    uniform = np.linspace(-1, 1, 9_999) * inside
    values = uniform * np.polyval(terms[::-1], np.log1p(-(uniform**2)))
    expected = law.ppf((uniform / inside + 1) / 2)
    assert np.abs(values - expected).max() < 1e-7 * law.std()


@pytest.mark.parametrize(("init", "cut"), [("truncated_normal", 2.0), ("released", 2.0 * SD)])
def test_a_million_draws_have_the_law_s_moments_and_tails_and_a_slightly_different_law_is_told_apart(
    init: Init, cut: float
) -> None:
    """Of fixed seeds: no test of them fails by chance."""
    values = np.concatenate(
        [draw(init, (500, 500), (1, "redraw", layer, "weight")).numpy().ravel() for layer in range(4)]
    )
    law = law_of(cut)
    quantiles = law.ppf((np.arange(len(values)) + 0.5) / len(values))
    for power in (1, 2, 3, 4, 6):
        spread = np.std(quantiles**power) / np.sqrt(len(values))
        assert abs(np.mean(values.astype(float) ** power) - np.mean(quantiles**power)) < 4 * spread, power
    uniform = law.cdf(values.astype(float))
    tails = np.array([np.mean(uniform < 1e-4), np.mean(uniform > 1 - 1e-4)])
    assert np.abs(tails - 1e-4).max() < 4 * np.sqrt(1e-4 / len(values))
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert scipy.stats.chisquare(np.histogram(uniform, 1000, (0, 1))[0]).pvalue > 0.01
    # Half a per cent more spread, or another form within the same bounds.
    assert scipy.stats.kstest(values * 1.005, law.cdf).pvalue < 1e-3
    assert scipy.stats.kstest(values, law_of(cut + 0.1).cdf).pvalue < 1e-3


def test_draws_of_seeds_layers_parameters_and_neighbours_are_independent_and_a_shared_half_is_told_apart() -> None:
    def of(seed: int, layer: int, name: str) -> NDArray[np.float64]:
        return draw("truncated_normal", (500, 500), (seed, "redraw", layer, name)).numpy().ravel().astype(float)

    one = of(1, 0, "weight")
    limit = 4 / np.sqrt(len(one))
    for other in (of(2, 0, "weight"), of(1, 1, "weight"), of(1, 0, "other"), np.roll(one, 1), np.roll(one, 500)):
        for left, right in ((one, other), (one**2, other**2)):
            assert abs(np.corrcoef(left, right)[0, 1]) < limit
    half = np.concatenate([one[: len(one) // 2], of(2, 0, "weight")[len(one) // 2 :]])
    assert abs(np.corrcoef(one, half)[0, 1]) > limit


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (257, 511), (1, 2 * TOGETHER + 1)])
def test_a_draw_of_any_size_is_the_beginning_of_a_larger_one(shape: tuple[int, int]) -> None:
    source: Stream = (1, "redraw", 0, "weight")
    larger = draw("truncated_normal", (3, TOGETHER), source).flatten()
    into = torch.full(shape, 7.0)
    values = draw("truncated_normal", shape, source, into)
    assert values is into
    assert torch.equal(values.flatten(), larger[: values.numel()])


def test_a_matrix_that_is_not_in_one_piece_is_redrawn_too(network_of: NetworkOf) -> None:
    usual, turned = nn.Linear(6, 4), nn.Linear(6, 4)
    turned.weight = nn.Parameter(torch.zeros(6, 4).T)
    for module in (usual, turned):
        redraw(module, network_of("bert").stack.network, "truncated_normal", 1, 0)
    assert usual.weight.any()
    assert torch.equal(usual.weight, turned.weight)


@KINDS
@pytest.mark.parametrize("init", ["truncated_normal", "released", "normal"])
def test_redrawn_parameters_are_what_the_init_says(network_of: NetworkOf, kind: str, init: Init) -> None:
    network = network_of(kind)
    values = prepared(network, Reinit(layers=(1, 2), init=init))
    for name in in_layers(network, 1, 2):
        value = values[name]
        if value.ndim > 1:
            # 4,096 values or more: 6% is over five standard errors.
            assert float(value.std()) == pytest.approx(DECLARED_SD[init], rel=0.06), name
            assert abs(float(value.mean())) < 5 * DECLARED_SD[init] / value.numel() ** 0.5, name
        elif is_norm(name):
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
        elif init == "released":
            assert torch.equal(value, network.pristine[name]), name
        else:
            assert not value.any(), name


# ------------------------------------------------------------------------------------------------------ reinitialising


@KINDS
@INITS
def test_exactly_the_intended_layers_change(network_of: NetworkOf, kind: str, init: Init) -> None:
    network = network_of(kind)
    values = prepared(network, Reinit(layers=(0, 2), init=init))
    intended = in_layers(network, 0, 2)
    if init == "released":
        intended = {name for name in intended if name.endswith("weight") or is_norm(name)}
    assert changed(network, values) == intended
    assert torch.isfinite(logits(network)).all()


@KINDS
@INITS
def test_kept_layernorms_keep_every_bit(network_of: NetworkOf, kind: str, init: Init) -> None:
    network = network_of(kind)
    values = prepared(network, Reinit(layers=(1, 3), init=init, keep_layernorm=True))
    moved = changed(network, values)
    assert moved
    assert not any(is_norm(name) for name in moved)
    assert {name for name in in_layers(network, 1, 3) if values[name].ndim > 1} <= moved


@KINDS
def test_plain_finetuning_changes_nothing_but_the_head(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    assert changed(network, prepared(network, Reinit())) == set()


@KINDS
@INITS
def test_common_layers_of_two_treatments_share_their_redrawn_weights(
    network_of: NetworkOf, kind: str, init: Init
) -> None:
    network = network_of(kind)
    one, other = (prepared(network, Reinit(layers=layers, init=init)) for layers in ((2, 3), (1, 2, 3)))
    assert all(torch.equal(one[name], other[name]) for name in in_layers(network, 2, 3))


@INITS
def test_seeds_layers_and_parameters_are_drawn_apart(network_of: NetworkOf, init: Init) -> None:
    network = network_of("bert")
    draws = [prepared(network, Reinit(layers=(0, 1), init=init), seed) for seed in (1, 2)]
    drawn = [values[name] for values in draws for name in in_layers(network, 0, 1) if name.endswith(".dense.weight")]
    drawn += [values[name] for values in draws for name in in_layers(network, 0, 1) if name.endswith("y.weight")]
    assert len({tuple(value.flatten()[:8].tolist()) for value in drawn}) == len(drawn)


@INITS
def test_a_seed_repeats_itself_bit_by_bit(network_of: NetworkOf, init: Init) -> None:
    one, other = (prepared(network_of("gpt2"), Reinit(layers=(0, 3), init=init), 7) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_architectures_own_init_knows_gpt2s_smaller_residual_projections(network_of: NetworkOf) -> None:
    network = network_of("gpt2")
    values = prepared(network, Reinit(layers=(1,), init="architecture"))
    assert float(values["transformer.h.1.mlp.c_fc.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(values["transformer.h.1.mlp.c_proj.weight"].std()) == pytest.approx(
        0.02 / (2 * DEPTH) ** 0.5, rel=0.05
    )


@INITS
def test_the_pooler_is_redrawn_only_when_asked(network_of: NetworkOf, init: Init) -> None:
    network = network_of("bert")
    values = prepared(network, Reinit(layers=(3,), init=init, pooler="redraw"))
    pooled = {"bert.pooler.dense.weight"} | ({"bert.pooler.dense.bias"} if init != "released" else set())
    assert changed(network, values) - in_layers(network, 3) == pooled
    assert not torch.equal(
        values["bert.pooler.dense.weight"], prepared(network, Reinit(layers=(3,)))["bert.pooler.dense.weight"]
    )


def test_a_pooler_that_is_not_there_cannot_be_redrawn(network_of: NetworkOf) -> None:
    with pytest.raises(SpecError, match="no pooler to redraw"):
        prepared(network_of("gpt2"), Reinit(layers=(1,), pooler="redraw"))


class LearnedScale(nn.Module):
    """A block with a parameter that is neither matrix, bias nor norm."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


def test_a_parameter_that_no_rule_covers_is_refused_by_name(network_of: NetworkOf) -> None:
    network = network_of("bert").stack.network
    with pytest.raises(SpecError, match="no matrix, bias or norm") as refusal:
        redraw(LearnedScale(), network, "truncated_normal", 1, 0)
    assert refusal.value.got == "scale"
    assert "init: architecture" in str(refusal.value)


def test_a_heads_parameter_that_no_rule_covers_is_refused_by_name() -> None:
    head = nn.Linear(4, 2)
    head.register_parameter("temperature", nn.Parameter(torch.ones(1)))
    with pytest.raises(SpecError, match="no matrix, bias or norm") as refusal:
        draw_head(dict(head.named_parameters()), head, seed=1)
    assert refusal.value.got == "temperature"


def test_a_parameter_that_the_architecture_leaves_alone_is_refused(network_of: NetworkOf) -> None:
    with pytest.raises(SpecError, match="leaves parameters of LearnedScale alone") as refusal:
        redraw(LearnedScale(), network_of("bert").stack.network, "architecture", 1, 0)
    assert refusal.value.got == "scale"


def test_a_norm_whose_identity_is_not_weight_one_is_left_to_the_architecture() -> None:
    config = GemmaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
                         num_key_value_heads=2, vocab_size=16)  # fmt: skip
    stack = find_stack(classifier(config))
    with pytest.raises(SpecError, match="no matrix, bias or norm") as refusal:
        redraw(stack.layers[0], stack.network, "normal", 1, 0)
    assert refusal.value.got == "input_layernorm.weight, post_attention_layernorm.weight"
    redraw(stack.layers[0], stack.network, "architecture", 1, 0)
    assert not stack.layers[0].get_parameter("input_layernorm.weight").any()


@KINDS
def test_no_treatment_reads_or_moves_the_global_generator(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    treatments: list[Any] = [Reinit(layers=(1,), init=init) for init in ("released", "architecture")]
    treatments += [Truncate(depth=1), Probe(depth=2, feature="mean", scored="released_reload")]
    for treatment in treatments:
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        one = prepared(network, treatment)
        network.before_scoring(cell_of(network.model, treatment), 1)
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(4)
        other = prepared(network, treatment)
        assert all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------- permuting and truncating


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "modernbert"])
def test_a_permutation_moves_every_bit_of_every_layer(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    order = (2, 0, 3, 1)
    values = prepared(network, Permute(order=order))
    prefix = network.stack.name
    for depth, source in enumerate(order):
        for name in in_layers(network, depth):
            within = name.removeprefix(f"{prefix}.{depth}.")
            assert torch.equal(values[name], network.pristine[f"{prefix}.{source}.{within}"])
    assert changed(network, values) == in_layers(network, 0, 1, 2, 3)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "modernbert"])
def test_permuting_there_and_back_preserves_outputs(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    prepared(network, Reinit())
    before = logits(network)
    permute(network.stack, (0, 1, 2, 3))
    assert torch.equal(logits(network), before)
    permute(network.stack, (1, 2, 3, 0))
    assert not torch.equal(logits(network), before)
    permute(network.stack, (3, 0, 1, 2))
    assert torch.equal(logits(network), before)


def test_layers_that_differ_are_not_permuted_and_the_first_difference_is_named(network_of: NetworkOf) -> None:
    with pytest.raises(SpecError, match="cannot be permuted") as refusal:
        prepared(network_of("modernbert"), Permute(order=(1, 0, 2, 3)))
    assert refusal.value.got == "attention_type is full_attention in layer 0 and sliding_attention in layer 1"


def test_differences_in_class_shape_and_attribute_are_seen_and_a_layers_own_index_is_none() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    same, odd_class, odd_shape, odd_rate = (copy.deepcopy(block) for _ in range(4))
    odd_class[1] = nn.Identity()
    odd_shape[0] = nn.Linear(2, 3)
    odd_rate[1] = nn.Dropout(0.5)
    vars(block)["index"], vars(same)["index"] = 0, 1
    assert first_difference([block, same]) is None
    del vars(block)["index"]
    assert first_difference([block, odd_class]) == "1 is Dropout in layer 0 and Identity in layer 1"
    assert first_difference([block, odd_shape]) == "0.out_features is 2 in layer 0 and 3 in layer 1"
    assert first_difference([block, odd_rate]) == "1.p is 0.1 in layer 0 and 0.5 in layer 1"


@pytest.mark.parametrize(
    ("first", "second"), [((4, 8), (4, 9)), (None, 4), ([True, None], [True, 0.5])], ids=["pair", "none", "list"]
)
def test_layers_that_differ_in_a_plain_attribute_are_told_apart(first: object, second: object) -> None:
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    one[0].window, other[0].window = first, second  # type: ignore[assignment]
    assert first_difference([one, other]) == f"0.window is {first} in layer 0 and {second} in layer 1"
    # What is no plain value, a tensor say, says nothing of how a layer is built.
    one[0].window, other[0].window = (torch.ones(1),), (torch.zeros(1),)  # type: ignore[assignment]
    assert first_difference([one, other]) is None


def test_nothing_of_the_base_model_is_trained_by_a_probe_and_its_classifier_is(network_of: NetworkOf) -> None:
    network = network_of("bert").stack.network
    freeze_for_probe(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}


@KINDS
@pytest.mark.parametrize("depth", [1, 3, DEPTH])
def test_a_truncated_network_is_the_pretrained_one_without_its_upper_layers(
    network_of: NetworkOf, kind: str, depth: int
) -> None:
    network = network_of(kind)
    values = prepared(network, Truncate(depth=depth))
    kept = set(network.pristine) - in_layers(network, *range(depth, DEPTH))
    assert set(values) == kept | network.fresh
    assert all(torch.equal(values[name], network.pristine[name]) for name in kept)
    assert torch.isfinite(logits(network)).all()


# ----------------------------------------------------------------------------------------------------------- probing


@KINDS
def test_the_released_probe_is_scored_on_random_upper_layers(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    probe = Probe(depth=2, feature="mean", scored="released_reload")
    cell = cell_of(network.model, probe)
    below = prepared(network, probe)
    in_memory = logits(network)
    network.before_scoring(cell, 1)
    above = dict(network.module.named_parameters())
    assert all(torch.equal(above[name], value) for name, value in below.items())
    redrawn = in_layers(network, 2, 3)
    assert set(above) - set(below) == redrawn
    assert not any(torch.equal(above[name], network.pristine[name]) for name in redrawn)
    assert not torch.equal(in_memory, logits(network))
