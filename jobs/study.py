"""From a study file to a plan: ordered cells, each once, each with its seeds.

Law: a study lists and a plan decides. Exclusion comes before any check of rows; a cell that families share runs
once, with the union of their seeds; and baselines take every seed that a finetune beside them takes, so that each
paired difference has both its sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from jobs.cell import Cell, Model, Probe, Recipe, Size
from jobs.errors import SpecError
from jobs.families import AnyFamily, Family
from jobs.spec import Mistake, mistakes, nearest, refusal, validated
from jobs.tasks import GLUE, Frozen, Name, Task
from jobs.yamlfile import Document, Loc, parse_yaml, read_yaml

MOST_CELLS: Final = 1_000_000
"""Cells a study may list before shared ones are merged: beyond this a number in it is a slip."""
MOST_CANDIDATES: Final = 10


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell with the seeds it runs with and the families that list it."""

    cell: Cell
    seeds: tuple[int, ...]
    """Ascending."""
    families: tuple[str, ...]
    """Labels, in the order of the study."""

    @property
    def is_finetune(self) -> bool:
        """Whether the whole network is trained; a probe trains a classifier alone."""
        return not isinstance(self.cell.treatment, Probe)


class Plan(tuple[PlannedCell, ...]):
    """All cells of a study, each once, in the order of the study."""

    __slots__ = ()

    @property
    def runs(self) -> int:
        """Cells times their seeds."""
        return sum(len(planned.seeds) for planned in self)

    @property
    def finetunes(self) -> int:
        """Runs that train a whole network."""
        return sum(len(planned.seeds) for planned in self if planned.is_finetune)

    @property
    def finetune_steps(self) -> int:
        """Optimiser steps of all finetunes."""
        return sum(len(planned.seeds) * planned.cell.steps for planned in self if planned.is_finetune)

    def find(self, prefix: str) -> PlannedCell:
        """The one cell whose name or digest begins so.

        Raises:
            SpecError: no such cell, or several; names candidates.
        """
        found = [p for p in self if p.cell.name.startswith(prefix) or p.cell.digest.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        names = [planned.cell.name for planned in found or self]
        shown = "\n            ".join(names[:MOST_CANDIDATES])
        rest = len(names) - MOST_CANDIDATES
        raise SpecError(
            f"{len(found)} cells begin with {prefix!r}" if found else f"no cell begins with {prefix!r}",
            expected="a prefix of exactly one cell's name or digest",
            allowed=shown if rest <= 0 else f"{shown}\n            ... and {rest} more",
            remedy=None if found else nearest(prefix, names),
        )


class Selector(Frozen):
    """Cells by task, size and family; what is left out matches everything."""

    task: str | None = None
    size: Size | None = None
    family: str | None = None
    """Name of the family, or its kind where it has none."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a selector needs at least one of task, size, family")
        return self

    def matches(self, place: _Place) -> bool:
        """Whether the cells at this place are meant."""
        return (
            self.task in (None, place.task.name)
            and self.size in (None, place.size)
            and self.family in (None, place.family.label)
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a family lists its treatments: one task at one size."""

    loc: Loc
    family: Family
    task: Task
    size: Size


class Study(Frozen):
    """What to run: one model, its tasks, one recipe, and families of treatments."""

    name: Name
    title: Annotated[str, StringConstraints(pattern=r"^[^\n]+$", max_length=100)]
    """One line for lists of studies."""
    note: Annotated[str, Field(min_length=1)]
    """What the study is and what it is not; printed with its tables."""
    model: Model
    recipe: Recipe = Recipe()
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    """Names of built-in GLUE tasks, `{task: NAME, ...}` for one with changes, or whole definitions."""
    families: Annotated[tuple[AnyFamily, ...], Field(min_length=1)]
    include: tuple[Selector, ...] = ()
    """Keep only what one of these matches; empty keeps everything."""
    exclude: tuple[Selector, ...] = ()
    """Then drop what one of these matches."""

    def plan(self) -> Plan:
        """The cells in the order of families, tasks, sizes and treatments, each once.

        Raises:
            SpecError: something in the study does not fit its model, its tasks or itself.
        """
        if found := self.mistakes:
            raise refusal(found)
        return self._planned

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """What does not fit together, though each part is right; empty for a good study."""
        return [*_misnamed(self), *_misfits(self), *_mismatched(self)] or list(_oversized(self))

    @cached_property
    def _planned(self) -> Plan:
        cells: dict[str, Cell] = {}
        seeds: dict[str, set[int]] = {}
        families: dict[str, dict[str, None]] = {}
        for place in _places(self):
            for cell in _cells(self, place):
                digest = cell.digest
                cells.setdefault(digest, cell)
                seeds.setdefault(digest, set()).update(place.family.seeds_at(place.size))
                families.setdefault(digest, {})[place.family.label] = None
        _pair_baselines(cells, seeds)
        return Plan(
            PlannedCell(cell, tuple(sorted(seeds[digest])), tuple(families[digest]))
            for digest, cell in cells.items()
        )


def _pair_baselines(cells: Mapping[str, Cell], seeds: Mapping[str, set[int]]) -> None:
    """Give each baseline the seeds of all finetunes at its task, size and recipe."""
    finetuned: dict[tuple[str, Size, Recipe], set[int]] = {}
    for digest, cell in cells.items():
        if not isinstance(cell.treatment, Probe):
            finetuned.setdefault((cell.task.name, cell.size, cell.recipe), set()).update(seeds[digest])
    for digest, cell in cells.items():
        if cell.is_baseline:
            seeds[digest].update(finetuned[cell.task.name, cell.size, cell.recipe])


def _listed(study: Study) -> Iterator[_Place]:
    """Every place that the families list, before include and exclude."""
    for index, family in enumerate(study.families):
        for task in study.tasks:
            if family.tasks == "all" or task.name in family.tasks:
                for number, size in enumerate(family.sizes):
                    yield _Place(("families", index, "sizes", number), family, task, size)


def _places(study: Study) -> Iterator[_Place]:
    """The places that include and exclude leave."""
    for place in _listed(study):
        kept = not study.include or any(selector.matches(place) for selector in study.include)
        if kept and not any(selector.matches(place) for selector in study.exclude):
            yield place


def _cells(study: Study, place: _Place) -> Iterator[Cell]:
    recipe = place.family.recipe_on(study.recipe)
    for treatment in place.family.treatments(study.model.layers):
        yield Cell(model=study.model, task=place.task, size=place.size, treatment=treatment, recipe=recipe)


def _misnamed(study: Study) -> Iterator[Mistake]:
    """Names that are used twice or name nothing."""
    names = [task.name for task in study.tasks]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Mistake(("tasks", index), f"two tasks are called `{name}`", remedy="give one another `name`")
    labels: dict[str, Family] = {}
    for index, family in enumerate(study.families):
        for number, task in enumerate(() if family.tasks == "all" else family.tasks):
            if task not in names:
                yield _unknown(("families", index, "tasks", number), "task", task, names)
        first = labels.setdefault(family.label, family)
        if _drawn_as(first) != _drawn_as(family):
            problem = f"two families of different treatments or recipe are called `{family.label}`"
            yield Mistake(("families", index), problem, remedy="give one a `name` of its own")


def _drawn_as(family: Family) -> dict[str, Any]:
    """What two families of one name must share, so that one curve can be drawn of both: all but where and how often."""
    return family.model_dump(exclude={"tasks", "sizes", "seeds", "name"}, exclude_unset=True)


def _unknown(loc: Loc, noun: str, got: str, allowed: list[str]) -> Mistake:
    return Mistake(loc, f"no {noun} `{got}` in this study", allowed=", ".join(allowed), remedy=nearest(got, allowed))


def _misfits(study: Study) -> Iterator[Mistake]:
    """Layers that the model does not have, and seeds for sizes that the family does not have."""
    for index, family in enumerate(study.families):
        for mistake in family.misfits(study.model.layers):
            loc = ("families", index, *mistake.loc)
            yield Mistake(loc, mistake.problem, expected=mistake.expected, got=mistake.got)
        if not isinstance(family.seeds, dict):
            continue
        sizes = [str(size) for size in family.sizes]
        for key in family.seeds:
            if key not in (*sizes, "default"):
                loc = ("families", index, "seeds", key)
                yield Mistake(loc, f"seeds for {key}, not a size here", allowed=", ".join([*sizes, "default"]))
        if lacking := [size for size in sizes if size not in family.seeds and "default" not in family.seeds]:
            problem = f"no seeds for size {', '.join(lacking)}"
            yield Mistake(("families", index, "seeds"), problem, expected="every size, or `default`")


def _mismatched(study: Study) -> Iterator[Mistake]:
    """Selectors that select nothing, sizes beyond a task's rows, and plans of nothing or of too much."""
    for field, selectors in (("include", study.include), ("exclude", study.exclude)):
        for index, selector in enumerate(selectors):
            if not any(selector.matches(place) for place in _listed(study)):
                given = selector.model_dump(exclude_unset=True)
                yield Mistake((field, index), "this selector matches nothing", got=given)
