"""From a study file to a plan: ordered cells, each once, each with its seeds.

Law: exclusion comes before any check of rows; a cell that families share runs once, with the union of their
seeds; and a baseline takes every seed that a finetune beside it takes, so that each paired difference has both
its sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from jobs.cell import Cell, Model, Probe, Recipe, Size, Treatment
from jobs.errors import SpecError
from jobs.families import AnyFamily, Family
from jobs.plan import Plan, PlannedCell
from jobs.spec import Mistake, nearest, refusal, translated, validated
from jobs.tasks import BUILT_IN, Frozen, Name, Task
from jobs.yamlfile import Document, Loc, parse_yaml, read_yaml

MOST_CELLS: Final = 200_000
"""Cells that the families may list together: beyond this a number in the study is a slip."""

_WHICH: Final = {"name", "tasks", "sizes", "seeds", "recipe"} | {
    "preserved", "starts", "layers", "depths", "orders", "released", "which",
}  # fmt: skip
"""Fields of families that say which cells and how often; all others say how a cell is treated."""


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

    def matches(self, place: Place) -> bool:
        """Whether the cells at this place are meant."""
        return (
            self.task in (None, place.task.name)
            and self.size in (None, place.size)
            and self.family in (None, place.family.label)
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a family has its treatments: one task at one size."""

    index: int
    """Of the family in the study."""
    family: Family
    task: Task
    size: Size


class Study(Frozen):
    """What to run: one model, its tasks, one recipe, and families of treatments."""

    name: Name
    title: Annotated[str, StringConstraints(pattern=r"^[^\n]+$", max_length=100)]
    """One line, for lists of studies."""
    note: Annotated[str, Field(min_length=1)]
    """What the study is and what it is not; stands beside its tables."""
    model: Model
    recipe: Recipe = Recipe()
    """Every number of the training; what is left out is the paper's."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    """A built-in task by name, one with changes (`task: NAME` and what differs), or a whole definition."""
    families: Annotated[tuple[AnyFamily, ...], Field(min_length=1)]
    """The cells, by the ways to list them."""
    include: tuple[Selector, ...] = ()
    """Keep only what one of these matches; empty keeps everything."""
    exclude: tuple[Selector, ...] = ()
    """Then drop what one of these matches."""

    def plan(self) -> Plan:
        """The cells by family, task, size and treatment, each where it first comes.

        Raises:
            SpecError: the study does not fit its model, its tasks or itself.
        """
        if self.mistakes:
            raise refusal(self.mistakes)
        return self._planned

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """What does not fit together where each part is right; empty in a good study."""
        return [*_misnamed(self), *_misfits(self), *_misselected(self)] or [*_missized(self)]

    @cached_property
    def _planned(self) -> Plan:
        cells: dict[str, Cell] = {}
        seeds: dict[str, set[int]] = {}
        labels: dict[str, dict[str, None]] = {}
        treatments = [tuple(family.treatments(self.model.layers)) for family in self.families]
        for place in _places(self):
            at_place = place.family.seeds_at(place.size)
            for cell in _cells(self, place, treatments[place.index]):
                cells.setdefault(cell.digest, cell)
                seeds.setdefault(cell.digest, set()).update(at_place)
                labels.setdefault(cell.digest, {})[place.family.label] = None
        added = _missing_pairs(cells, seeds)
        return Plan(
            PlannedCell(
                cell,
                tuple(sorted(seeds[digest] | added.get(digest, set()))),
                tuple(labels[digest]),
                tuple(sorted(added.get(digest, ()))),
            )
            for digest, cell in cells.items()
        )


def _listed(study: Study) -> Iterator[Place]:
    """Every place that the families list, before include and exclude."""
    for index, family in enumerate(study.families):
        for task in study.tasks:
            if family.tasks == "all" or task.name in family.tasks:
                for size in family.sizes:
                    yield Place(index, family, task, size)


def _places(study: Study) -> Iterator[Place]:
    """The places that include and exclude leave."""
    for place in _listed(study):
        kept = not study.include or any(selector.matches(place) for selector in study.include)
        if kept and not any(selector.matches(place) for selector in study.exclude):
            yield place


def _cells(study: Study, place: Place, treatments: tuple[Treatment, ...]) -> Iterator[Cell]:
    recipe = place.family.recipe_on(study.recipe)
    for treatment in treatments:
        yield Cell(model=study.model, task=place.task, size=place.size, treatment=treatment, recipe=recipe)


def _missing_pairs(cells: Mapping[str, Cell], seeds: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """The seeds that each baseline lacks of those of all finetunes at its task, size and recipe, by digest.

    Not those of probes: a probe's score is not compared run by run with a finetune's.
    """
    beside: dict[tuple[str, Size, Recipe], set[int]] = {}
    for digest, cell in cells.items():
        if not isinstance(cell.treatment, Probe):
            beside.setdefault((cell.task.name, cell.size, cell.recipe), set()).update(seeds[digest])
    return {
        digest: beside[cell.task.name, cell.size, cell.recipe] - seeds[digest]
        for digest, cell in cells.items()
        if cell.is_baseline
    }


def _misnamed(study: Study) -> Iterator[Mistake]:
    """Names that stand for two things, or for none."""
    names = [task.name for task in study.tasks]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Mistake(("tasks", index), f"two tasks are called `{name}`", remedy="give one another `name`")
    firsts: dict[str, Family] = {}
    for index, family in enumerate(study.families):
        for number, task in enumerate(() if family.tasks == "all" else family.tasks):
            if task not in names:
                loc = ("families", index, "tasks", number)
                remedy = nearest(task, names)
                yield Mistake(loc, f"no task `{task}` in this study", allowed=", ".join(names), remedy=remedy)
        first = firsts.setdefault(family.label, family)
        if _treated(first, study.recipe) != _treated(family, study.recipe):
            problem = f"two families are called `{family.label}` and treat their cells differently"
            yield Mistake(("families", index), problem, remedy="give one a `name` of its own")


def _treated(family: Family, recipe: Recipe) -> object:
    """What families of one name share, so that one curve can be drawn of both."""
    return family.model_dump(exclude=_WHICH), family.recipe_on(recipe)


def _misfits(study: Study) -> Iterator[Mistake]:
    """What does not fit the model."""
    for index, family in enumerate(study.families):
        found = list(family.misfits(study.model.layers))
        try:
            _ = found or list(family.treatments(study.model.layers))
        except ValidationError as error:  # options that a treatment does not allow together
            found = translated(type(family), {}, error)
        for mistake in found:
            yield mistake.below("families", index)


def _misselected(study: Study) -> Iterator[Mistake]:
    """Selectors that match nothing."""
    for field in ("include", "exclude"):
        for index, selector in enumerate(getattr(study, field)):
            if not any(selector.matches(place) for place in _listed(study)):
                yield Mistake(
                    (field, index),
                    "the selector matches no cell",
                    got=selector.model_dump(exclude_unset=True),
                    allowed=_selectable(study),
                )


def _selectable(study: Study) -> str:
    tasks = dict.fromkeys(place.task.name for place in _listed(study))
    sizes = dict.fromkeys(str(place.size) for place in _listed(study))
    labels = dict.fromkeys(family.label for family in study.families)
    return "; ".join(
        f"{noun} {', '.join(words)}" for noun, words in (("task", tasks), ("size", sizes), ("family", labels))
    )


def _missized(study: Study) -> Iterator[Mistake]:
    """Sizes that a task's rows do not allow, and plans of nothing or of far too much."""
    counts = [sum(1 for _ in family.treatments(study.model.layers)) for family in study.families]
    cells = 0
    for place in _places(study):
        cells += counts[place.index]
        rows, name = place.task.train_rows, place.task.name
        if place.size != "full" and place.size >= rows:
            yield Mistake(
                ("families", place.index, "sizes", place.family.sizes.index(place.size)),
                f"{place.size} is not below the {rows} training rows of {name}",
                expected=f"a number below {rows}, or full",
                remedy=f"say full, or exclude {{task: {name}, size: {place.size}}}",
            )
    if cells == 0:
        yield Mistake(("exclude",), "include and exclude leave no cell")
    if cells > MOST_CELLS:
        yield Mistake(("families",), f"{cells:,} cells", expected=f"at most {MOST_CELLS:,}")


def load_study(ref: str) -> Study:
    """The study of that name among the shipped ones, or in that YAML file.

    Args:
        ref: a shipped name, or a path that ends in .yaml or .yml or holds a slash.

    Raises:
        SpecError: no such study, or something is wrong in it: file, line, expected, got, allowed.
    """
    shipped = _shipped()
    if ref in shipped:
        return study_of(parse_yaml(shipped[ref].read_bytes(), f"{ref}.yaml"))
    if "/" in ref or Path(ref).suffix in (".yaml", ".yml"):
        return study_of(read_yaml(Path(ref)))
    raise SpecError(
        f"no study {ref[:80]!r}",
        expected="a shipped study, or the path of a .yaml file",
        allowed=", ".join(shipped),
        remedy=nearest(ref, shipped),
    )


def study_of(document: Document) -> Study:
    """The study that the document describes, checked to its last cell.

    Raises:
        SpecError: naming each mistake's file, line and field.
    """
    study = validated(Study, document, _with_tasks(document))
    if study.mistakes:
        raise refusal(study.mistakes, document.where, document.source)
    return study


def _with_tasks(document: Document) -> dict[str, Any]:
    """The document's data with built-in tasks in full."""
    tasks = document.data.get("tasks")
    if not isinstance(tasks, list):
        return document.data
    whole, unknown = [], []
    for index, entry in enumerate(tasks):
        changes = entry if isinstance(entry, dict) else {"task": entry}
        name = changes.get("task")
        if "task" not in changes:
            whole.append(entry)
        elif isinstance(name, str) and name in BUILT_IN:
            changed = {key: value for key, value in changes.items() if key != "task"}
            whole.append({**BUILT_IN[name].model_dump(mode="json"), **changed})
        else:
            loc: Loc = ("tasks", index, "task") if entry is changes else ("tasks", index)
            expected = "a built-in task, or a mapping that defines one"
            remedy = nearest(str(name), BUILT_IN)
            problem = "no such built-in task"
            unknown.append(Mistake(loc, problem, expected, name, allowed=", ".join(BUILT_IN), remedy=remedy))
    if unknown:
        raise refusal(unknown, document.where, document.source)
    return {**document.data, "tasks": whole}


def shipped_studies() -> dict[str, str]:
    """Name and title of each study that comes with the package, by name."""
    return {name: parse_yaml(file.read_bytes(), name).data["title"] for name, file in _shipped().items()}


def _shipped() -> dict[str, Traversable]:
    folder = (files("jobs") / "studies").iterdir()
    found = {file.name.removesuffix(".yaml"): file for file in folder if file.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def study_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the study file, for editors."""
    schema = Study.model_json_schema()
    definitions = schema["$defs"]
    # In a file, tasks may also be names, or names with changes; reading puts the whole task in their place.
    changed = definitions["Task"]["properties"]
    builtin = {"enum": list(BUILT_IN), "description": "A built-in task, of GLUE or SuperGLUE."}
    definitions["ChangedTask"] = {
        "type": "object",
        "description": "A built-in task with what differs.",
        "properties": {"task": builtin, **changed},
        "required": ["task"],
        "additionalProperties": False,
    }
    whole = {"$ref": "#/$defs/Task"}
    schema["properties"]["tasks"]["items"] = {"anyOf": [builtin, {"$ref": "#/$defs/ChangedTask"}, whole]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
