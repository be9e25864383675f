"""Which parameters train, at which learning rate: the optimiser's groups.

Law: every trainable parameter is in exactly one group and no other parameter is in any. Biases and norm parameters
never decay.
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
        module: the network that trains; what must not train has `requires_grad` off.
        stack: its layers.
        fresh: names in `module` of the parameters that no checkpoint has, the classification head.
        cell: learning rate, decay and the factor of the redrawn layers.
    """
    treatment, recipe = cell.treatment, cell.recipe
    redrawn, lr_scale = (treatment.layers, treatment.lr_scale) if isinstance(treatment, Reinit) else ((), 1.0)
    in_redrawn = {id(parameter) for index in redrawn for parameter in stack.layers[index].parameters()}
    members: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind = "head" if name in fresh else "redrawn" if id(parameter) in in_redrawn else "pretrained"
            # A matrix has two dimensions or more; biases and norms have one.
            members.setdefault(kind if parameter.ndim > 1 else f"{kind}, no decay", {})[name] = parameter
    return [
        Group(
            name=name,
            learning_rate=recipe.learning_rate * (lr_scale if name.startswith("redrawn") else 1.0),
            weight_decay=0.0 if name.endswith("no decay") else recipe.weight_decay,
            parameter_names=tuple(parameters),
            parameters=tuple(parameters.values()),
        )
        for name, parameters in members.items()
    ]
