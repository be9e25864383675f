"""`Plan`: what a study comes to, every cell once with its seeds.

Law: a plan is a value in the study's order. It knows nothing of what is done already: that is the store's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from jobs.cell import Cell, Probe
from jobs.errors import SpecError
from jobs.spec import nearest

MOST_CANDIDATES: Final = 10


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell with the seeds it runs with and the families that list it."""

    cell: Cell
    seeds: tuple[int, ...]
    """Ascending."""
    families: tuple[str, ...]
    """Labels, in the order of the study."""
    added: tuple[int, ...] = ()
    """Of the seeds, those that no family asks for: a baseline has them so that finetunes beside it are paired."""

    @property
    def is_finetune(self) -> bool:
        """Whether a whole network is trained; a probe trains a classifier alone."""
        return not isinstance(self.cell.treatment, Probe)


class Plan(tuple[PlannedCell, ...]):
    """The cells of a study in its order, each once."""

    __slots__ = ()

    @property
    def runs(self) -> int:
        """Number of runs: each cell as often as it has seeds."""
        return sum(len(planned.seeds) for planned in self)

    @property
    def added_runs(self) -> int:
        """Runs of baselines at seeds that only finetunes beside them ask for."""
        return sum(len(planned.added) for planned in self)

    @property
    def shared_cells(self) -> int:
        """Cells that several families list and that run once."""
        return sum(len(planned.families) > 1 for planned in self)

    @property
    def finetunes(self) -> int:
        """Number of runs that train a whole network."""
        return sum(len(planned.seeds) for planned in self if planned.is_finetune)

    @property
    def finetune_steps(self) -> int:
        """Optimiser steps of all finetunes together."""
        return sum(len(planned.seeds) * planned.cell.steps for planned in self if planned.is_finetune)

    def find(self, prefix: str) -> PlannedCell:
        """The one cell whose name or digest begins with `prefix`.

        Raises:
            SpecError: no cell does, or several do; names the candidates.
        """
        found = [each for each in self if _begins(each.cell, prefix)]
        if len(found) == 1:
            return found[0]
        names = [each.cell.name for each in found or self]
        shown = names[:MOST_CANDIDATES]
        if rest := len(names) - len(shown):
            shown.append(f"... and {rest} more")
        raise SpecError(
            f"{len(found) or 'no'} cells begin with {prefix!r}",
            expected="the beginning of one cell's name or digest",
            allowed="\n            ".join(shown),
            remedy=None if found else nearest(prefix, names),
        )


def merged(plans: Iterable[Plan]) -> Plan:
    """Several plans as one: each cell where it first comes, with the seeds and families of all that have it."""
    found: dict[str, PlannedCell] = {}
    for each in chain.from_iterable(plans):
        before = found.get(each.cell.digest, each)
        seeds = tuple(sorted({*before.seeds, *each.seeds}))
        found[each.cell.digest] = PlannedCell(each.cell, seeds, tuple(dict.fromkeys(before.families + each.families)))
    return Plan(found.values())


def _begins(cell: Cell, prefix: str) -> bool:
    return cell.name.startswith(prefix) or cell.digest.startswith(prefix)
