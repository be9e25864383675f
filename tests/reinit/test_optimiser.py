"""Optimiser groups: every trainable parameter in exactly one, at the declared learning rate and decay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from jobs.cell import Permute, Probe, Reinit, Truncate
from reinit.network import Network
from reinit.optimiser import Group
from tests.reinit.architectures import CONFIGS, cell_of

NetworkOf = Callable[[str], Network]
KINDS = pytest.mark.parametrize("kind", CONFIGS)
RECIPE = {"learning_rate": 2e-5, "weight_decay": 0.01}


def groups(network: Network, treatment: Any) -> list[Group]:
    network.prepare(cell_of(network.model, treatment, **RECIPE), 1)
    return network.groups


def of(found: list[Group]) -> dict[str, Group]:
    """The group of each parameter by its name."""
    return {name: group for group in found for name in group.parameter_names}


TREATMENTS: dict[str, Any] = {
    "plain": Reinit(),
    "reinit": Reinit(layers=(2, 3), lr_scale=5, frozen_layers=(3,)),
    "permute": Permute(order=(1, 0, 3, 2)),
    "truncate": Truncate(depth=2),
    "probe": Probe(depth=2, feature="mean"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    # The layers of ModernBERT differ, so they are not permuted.
    [(kind, name) for kind in CONFIGS for name in TREATMENTS if (kind, name) != ("modernbert", "permute")],
)
def test_every_trainable_parameter_is_in_exactly_one_group(network_of: NetworkOf, kind: str, name: str) -> None:
    network = network_of(kind)
    found = groups(network, TREATMENTS[name])
    held = Counter(id(parameter) for group in found for parameter in group.parameters)
    treatment = TREATMENTS[name]
    frozen = treatment.frozen_layers if isinstance(treatment, Reinit) else ()
    still = {id(p) for index in frozen for p in network.stack.layers[index].parameters()}
    trainable = {id(p) for p in network.module.parameters() if p.requires_grad} - still
    assert set(held) == trainable
    assert set(held.values()) == {1}
    named = dict(network.module.named_parameters())
    assert all(
        named[member] is parameter
        for group in found
        for member, parameter in zip(group.parameter_names, group.parameters, strict=True)
    )


def test_redrawn_layers_learn_faster_by_the_factor_and_nothing_else_does(network_of: NetworkOf) -> None:
    found = of(groups(network_of("bert"), Reinit(layers=(2, 3), lr_scale=5)))
    for name, group in found.items():
        redrawn = name.startswith(("bert.encoder.layer.2.", "bert.encoder.layer.3."))
        assert group.learning_rate == pytest.approx(1e-4 if redrawn else 2e-5), name
        assert group.name.startswith("redrawn") is redrawn


@KINDS
def test_biases_and_norms_never_decay_and_matrices_do(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    found = of(groups(network, Reinit(layers=(1,))))
    for name, parameter in network.module.named_parameters():
        spared = name.endswith("bias") or "norm" in name.lower() or ".ln_" in name
        # DeBERTa's relative embeddings pass through a norm called LayerNorm and are a matrix themselves.
        assert found[name].weight_decay == (0.0 if spared else 0.01), name
        assert found[name].name.endswith("no decay") is spared
        assert spared is (parameter.ndim == 1)


def test_the_head_has_a_group_of_its_own_at_the_base_rate(network_of: NetworkOf) -> None:
    network = network_of("roberta")
    found = groups(network, Reinit(layers=(0, 1, 2, 3), lr_scale=5))
    head = {name for group in found if group.name.startswith("head") for name in group.parameter_names}
    assert head == network.fresh
    assert {group.learning_rate for group in found if group.name.startswith("head")} == {2e-5}


@KINDS
@pytest.mark.parametrize("redrawn", [(), (3,), (2, 3)])
def test_frozen_layers_are_in_no_group(network_of: NetworkOf, kind: str, redrawn: tuple[int, ...]) -> None:
    network = network_of(kind)
    found = of(groups(network, Reinit(layers=redrawn, frozen_layers=(3,))))
    left_out = {name for name, _ in network.module.named_parameters()} - found.keys()
    assert left_out == {name for name in network.pristine if name.startswith(f"{network.stack.name}.3.")}


def test_a_redrawn_pooler_learns_at_the_base_rate_since_it_is_no_layer(network_of: NetworkOf) -> None:
    found = of(groups(network_of("bert"), Reinit(layers=(3,), lr_scale=5, pooler="redraw")))
    assert found["bert.pooler.dense.weight"].learning_rate == 2e-5


def test_no_group_is_empty(network_of: NetworkOf) -> None:
    assert all(group.parameters for group in groups(network_of("gpt2"), Truncate(depth=1)))
