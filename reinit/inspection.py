"""What surgery does to each parameter of one run, seen on the prepared network itself.

Law: a state is what a comparison of bits found, not what the treatment meant to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jobs.cell import Cell, Permute
from reinit.network import Network
from reinit.places import Places

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ParameterReport:
    """One parameter before the first step."""

    name: str
    shape: tuple[int, ...]
    mean: float
    sd: float
    """Over the parameter's values, with n in the denominator."""
    min: float
    max: float
    state: str
    """`pretrained` (every bit as in the checkpoint), `redrawn`, `moved from layer j`, `fresh head`, or `removed`."""
    group: str | None
    """The optimiser's group, None for a parameter that does not train."""
    learning_rate: float | None
    """At the top of the schedule; None for a parameter that does not train."""


def inspect(cell: Cell, seed: int, places: Places) -> list[ParameterReport]:
    """Every parameter of (cell, seed) before its first step, then those that the treatment removed.

    Raises:
        ReinitError: see `Network.load` and `Network.prepare`.
    """
    network = Network.load(cell.model, cell.task.outputs, cell.recipe, places)
    network.prepare(cell, seed)
    return report(network, cell)


def report(network: Network, cell: Cell) -> list[ParameterReport]:
    """The parameters of a network prepared for `cell`."""
    pristine = network.pristine
    trained = {name: (group.name, group.learning_rate) for group in network.groups for name in group.parameter_names}
    present = dict(network.module.named_parameters())
    reports = [
        _report(name, parameter, _state(network, cell, pristine, name, parameter), *trained.get(name, (None, None)))
        for name, parameter in present.items()
    ]
    removed = [_report(name, value, "removed", None, None) for name, value in pristine.items() if name not in present]
    return reports + removed


def render(reports: Iterable[ParameterReport]) -> Table:
    """The reports as a table for people."""
    from rich.table import Table

    table = Table("parameter", "shape", "state", "group", header_style="bold")
    for column in ("mean", "sd", "min", "max", "learning rate"):
        table.add_column(column, justify="right")
    for item in reports:
        numbers = (f"{value:.2e}" for value in (item.mean, item.sd, item.min, item.max))
        rate = "frozen" if item.learning_rate is None else f"{item.learning_rate:.2e}"
        table.add_row(
            item.name,
            " × ".join(map(str, item.shape)),
            item.state,
            item.group or "none",
            *numbers,
            "" if item.state == "removed" else rate,
        )
    return table


def _report(name: str, values: Tensor, state: str, group: str | None, learning_rate: float | None) -> ParameterReport:
    flat = values.detach().double().flatten()
    return ParameterReport(
        name=name,
        shape=tuple(values.shape),
        mean=float(flat.mean()),
        sd=float(flat.std(correction=0)),
        min=float(flat.min()),
        max=float(flat.max()),
        state=state,
        group=group,
        learning_rate=learning_rate,
    )


def _state(network: Network, cell: Cell, pristine: dict[str, Tensor], name: str, parameter: Tensor) -> str:
    if name in network.fresh:
        return "fresh head"
    if _equal(parameter, pristine[name]):
        return "pretrained"
    prefix = f"{network.stack.name}."
    if isinstance(cell.treatment, Permute) and name.startswith(prefix):
        index, _, within = name.removeprefix(prefix).partition(".")
        source = cell.treatment.order[int(index)]
        if _equal(parameter, pristine[f"{prefix}{source}.{within}"]):
            return f"moved from layer {source}"
    return "redrawn"


def _equal(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.detach().cpu(), right.cpu())
