"""Which parameters train, at which learning rate: the optimiser's groups.

Law: every trainable parameter is in exactly one group and no other parameter is in any. A frozen layer is in none, yet
has gradients, which count in the norm that is clipped. Biases and norm parameters never decay.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import nn

from jobs.cell import Cell, Reinit
from reinit.surgery import Stack


@dataclass(frozen=True)
class Group:
    """Parameters that train alike."""

    name: str
    """`pretrained`, `redrawn` or `head`; with `, no decay` for biases and norms."""
    learning_rate: float
    """At the top of the schedule."""
    weight_decay: float
    parameter_names: tuple[str, ...]
    """Names in the network, in the order of `parameters`."""
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(module: nn.Module, stack: Stack, fresh: AbstractSet[str], cell: Cell) -> list[Group]:
    """The groups of a prepared network, none of them empty.

    Args:
        module: the network that trains; a probe's encoder has `requires_grad` off.
        stack: its layers.
        fresh: names in `module` of the parameters that no checkpoint has, the classification head.
        cell: learning rate, decay, the factor of the redrawn layers, and the frozen ones.
    """
    recipe = cell.recipe
    treatment = cell.treatment if isinstance(cell.treatment, Reinit) else Reinit()
    in_redrawn, in_frozen = (_ids(stack, layers) for layers in (treatment.layers, treatment.frozen_layers))
    members: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in in_frozen:
            kind = "head" if name in fresh else "redrawn" if id(parameter) in in_redrawn else "pretrained"
            # A matrix has two dimensions or more; biases and norms have one.
            members.setdefault(kind if parameter.ndim > 1 else f"{kind}, no decay", {})[name] = parameter
    return [
        Group(
            name=name,
            learning_rate=recipe.learning_rate * (treatment.lr_scale if name.startswith("redrawn") else 1.0),
            weight_decay=0.0 if name.endswith("no decay") else recipe.weight_decay,
            parameter_names=tuple(parameters),
            parameters=tuple(parameters.values()),
        )
        for name, parameters in members.items()
    ]


def _ids(stack: Stack, layers: tuple[int, ...]) -> set[int]:
    return {id(parameter) for index in layers for parameter in stack.layers[index].parameters()}
