"""The frame by what its cells are: for each task under one model and recipe, the scores of any treatment by seed.

Law: cells are found by their treatment's own fields, and no name is read. Only planned runs with a score are here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import pandas as pd

from aggregate.contrasts import Scores, difference
from aggregate.frame import rows

INITS: Final = ("truncated_normal", "released", "normal", "architecture")
"""The main curve's initialisation is the first of these that the frame has."""


@dataclass(frozen=True)
class Measured:
    """A cell and its scores; the fields are the frame's columns of those names."""

    model: str
    task: str
    recipe: str
    context: str
    size: str
    rows: int
    depth: int
    treatment_kind: str
    scores: Scores
    redrawn: tuple[int, ...] | None
    frozen: tuple[int, ...] | None
    init: str | None
    keep_layernorm: bool | None
    lr_scale: float | None
    pooler: str | None
    order: tuple[int, ...] | None
    kept_depth: int | None
    feature: str | None
    fit: str | None
    scored: str | None
    encoder_dropout: bool | None

    @property
    def changes_layers(self) -> bool:
        """Whether this is a redraw of at least one layer."""
        return self.treatment_kind == "reinit" and bool(self.redrawn)

    @property
    def kept(self) -> tuple[int, ...]:
        """Layers that are not redrawn."""
        return tuple(layer for layer in range(self.depth) if layer not in set(self.redrawn or ()))


@dataclass(frozen=True)
class Variant:
    """How layers are redrawn, whichever they are."""

    init: str
    keep_layernorm: bool = False
    lr_scale: float = 1.0

    def made(self, cell: Measured) -> bool:
        """Whether a redraw is of this kind; a redrawn pooler or frozen layers are of no kind here."""
        same = (cell.init, cell.keep_layernorm, cell.lr_scale) == (self.init, self.keep_layernorm, self.lr_scale)
        return cell.changes_layers and same and cell.pooler == "keep" and not cell.frozen


@dataclass(frozen=True)
class Subject:
    """One task under one model and recipe: what claims are judged on."""

    title: str
    """The task, and what else it takes to tell it from the frame's others."""
    task: str
    recipe: str
    depth: int
    """Layers of the model."""
    cells: tuple[Measured, ...]
    """Its finetunes."""
    probes: tuple[Measured, ...]
    """Probes of the same model and task: of the same recipe where there are any, else of any other."""
    main: Variant

    @property
    def sizes(self) -> tuple[str, ...]:
        """Smallest first."""
        return sizes_of(self.cells)

    def under(self, init: str) -> "Subject":
        """The same with that initialisation as the main curve's."""
        return replace(self, main=Variant(init))

    def scaled(self, k: int) -> int:
        """The paper's k of 12 layers, at this depth; at least 1."""
        return max(1, int(k * self.depth / 12 + 0.5))

    @cached_property
    def _curves(self) -> dict[tuple[str, Variant], dict[int, Scores]]:
        return {}

    def curve(self, size: str, variant: Variant | None = None) -> dict[int, Scores]:
        """Scores by k of the progressive curve, k ascending; plain finetuning is k = depth of every variant."""
        variant = variant or self.main
        if (size, variant) not in self._curves:
            found = {}
            for cell in self.at(size):
                k = len(cell.kept)
                progressive = cell.treatment_kind == "reinit" and cell.kept == tuple(range(k))
                if progressive and (k == self.depth or variant.made(cell)):
                    found[k] = cell.scores
            self._curves[size, variant] = dict(sorted(found.items()))
        return self._curves[size, variant]

    def at(self, size: str) -> Iterator[Measured]:
        """Finetunes at that size."""
        return (cell for cell in self.cells if cell.size == size)

    def gain(self, size: str) -> Scores:
        """Plain finetuning minus every layer redrawn, at each seed that both have."""
        curve = self.curve(size)
        return difference(curve.get(self.depth, {}), curve.get(0, {}))

    def having(self, *ks: int) -> tuple[str, ...]:
        """Sizes at which the main curve has these k, smallest first."""
        return tuple(size for size in self.sizes if set(ks) <= set(self.curve(size)))

    def place(self, size: str) -> str:
        """`sst2, 500 examples`."""
        return f"{self.title}, {examples(self.cells, size)}"


def examples(cells: Iterable[Measured], size: str) -> str:
    """`500 examples`, `all 67,349 examples`."""
    count = next(cell.rows for cell in cells if cell.size == size)
    return f"all {count:,} examples" if size == "full" else f"{count:,} examples"


def sizes_of(cells: Iterable[Measured]) -> tuple[str, ...]:
    """Sizes of the cells, smallest first."""
    found = {cell.size: cell.rows for cell in cells}
    return tuple(sorted(found, key=lambda size: found[size]))


def measured(frame: pd.DataFrame) -> list[Measured]:
    """The frame's cells in its order, each with the scores of its planned runs that are done."""
    cells: dict[str, dict[str, object]] = {}
    scores: dict[str, dict[int, float]] = {}
    for run in rows(frame):
        cells.setdefault(run["digest"], run)
        of_cell = scores.setdefault(run["digest"], {})
        if run["planned"] and run["status"] == "done":
            of_cell[run["seed"]] = float(run["score"])
    fields = [name for name in Measured.__dataclass_fields__ if name != "scores"]
    return [
        Measured(**{name: run[name] for name in fields}, scores=scores[digest])  # type: ignore[arg-type]
        for digest, run in cells.items()
    ]


def groups(frame: pd.DataFrame) -> dict[tuple[str, str], list[Subject]]:
    """Subjects by model and recipe, in the frame's order.

    A recipe counts where some of its finetunes change a layer stack; one of probes alone lends them to the others. A
    model of which there is nothing but probes, or plain finetuning, has its first recipe.
    """
    cells = measured(frame)
    found: dict[tuple[str, str], list[Subject]] = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        of_model = [cell for cell in cells if cell.model == model]
        recipes = dict.fromkeys(cell.recipe for cell in of_model if _compares(cell)) or {of_model[0].recipe: None}
        for recipe in recipes:
            found[model, recipe] = _subjects(recipe, of_model)
    return found


def _compares(cell: Measured) -> bool:
    return cell.treatment_kind in ("permute", "truncate") or (cell.changes_layers and not cell.frozen)


def _subjects(recipe: str, of_model: Sequence[Measured]) -> list[Subject]:
    finetunes = [cell for cell in of_model if cell.recipe == recipe and cell.treatment_kind != "probe"]
    inits = {cell.init for cell in finetunes if cell.changes_layers}
    main = Variant(next((init for init in INITS if init in inits), INITS[0]))
    subjects = []
    for task in dict.fromkeys(cell.task for cell in of_model):
        contexts = dict.fromkeys(cell.context for cell in finetunes if cell.task == task)
        for context in contexts or ("",):
            own = tuple(cell for cell in finetunes if cell.context == context)
            of_task = probes_of(task, context, of_model)
            if own or of_task:
                title = task if len(contexts) < 2 else f"{task} ({context[:6]})"
                subjects.append(Subject(title, task, recipe, (own or of_task)[0].depth, own, of_task, main))
    return subjects


def probes_of(task: str, context: str, of_model: Sequence[Measured]) -> tuple[Measured, ...]:
    """The task's probes of that context, or else of any: a study may train its probes by a recipe of their own."""
    probes = [cell for cell in of_model if cell.treatment_kind == "probe" and cell.task == task]
    own = [cell for cell in probes if cell.context == context]
    return tuple(own or probes)


def first(cells: Iterable[Measured], *wanted: Callable[[Measured], bool]) -> list[Measured]:
    """Those that meet the first of the conditions that any meets."""
    listed = list(cells)
    for condition in wanted:
        if found := [cell for cell in listed if condition(cell)]:
            return found
    return []
