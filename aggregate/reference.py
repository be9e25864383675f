"""The authors' values: read from plots of the paper's released code, beside a study's own.

Law: a value is matched by model, task, size and treatment, field by field. Where all fields agree the two measure the
same thing; where some differ the value is an orientation, and whoever shows it says which fields those are.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import pandas as pd

from aggregate.curves import Curve, curves, size_words
from aggregate.frame import recipe_name
from aggregate.stats import Interval
from aggregate.summary import CellSummary
from aggregate.tables import NONE, Sheet, bounds, number
from aggregate.text import prose
from jobs.cell import Probe, Recipe, Reinit
from jobs.errors import DataError

MODELS: Final = ("google-bert/bert-base-uncased", "bert-base-uncased")
LAYERS: Final = 12
TASKS: Final = {"SST-2": ("sst2", "accuracy"), "QNLI": ("qnli", "accuracy"), "CoLA": ("cola", "matthews")}
"""Name and headline metric of each task in a study, by the authors' name."""

READING_ERROR: Final = 0.0004
"""Of a value read from a plot."""

SOURCE: Final = "Tamkin et al. 2020, read from plots of their released code (reading error 0.0004)"


@dataclass(frozen=True)
class Condition:
    """What the authors ran, as a treatment and the name of its recipe."""

    words: str
    treatment: Reinit | Probe
    recipe: str
    caveat: str = ""
    """Why it is an orientation even where all fields agree."""

    def differs(self, curve: Curve, cell: CellSummary) -> tuple[str, ...]:
        """Names of the fields in which a cell departs from what the authors ran; empty where none does."""
        words = ["recipe"] if curve.setting.recipe != self.recipe else []
        # Plain finetuning redraws nothing: how it would redraw does not matter, what it never trains does.
        fields = {"frozen_layers"} if cell.is_plain else _NAMES.keys()
        for field in fields:
            if hasattr(self.treatment, field):
                ours = () if cell.is_plain else curve.fields[_COLUMNS.get(field, field)]
                words += [_NAMES[field]] * (ours != getattr(self.treatment, field))
        return (*words, *([self.caveat] if self.caveat else []))


_NAMES: Final = {
    "init": "initialisation",
    "keep_layernorm": "LayerNorm",
    "lr_scale": "learning rate of the redrawn layers",
    "pooler": "pooler",
    "frozen_layers": "layers never trained",
    "feature": "feature",
    "fit": "fit",
    "scored": "scoring",
    "encoder_dropout": "dropout in the encoder",
}
_COLUMNS: Final = {"frozen_layers": "frozen"}

_KEPT = Reinit(init="released", keep_layernorm=True)
_FASTER = Reinit(init="released", lr_scale=2, frozen_layers=(11,))
_PROBE = Probe(depth=1, scored="released_reload", encoder_dropout=True)
_PAPERS = recipe_name(Recipe())

CONDITIONS: Final[Mapping[str, Condition]] = {
    "LN kept": Condition("LayerNorm kept", _KEPT, _PAPERS),
    "LN kept, first code version": Condition("LayerNorm kept", _KEPT, _PAPERS, "first version of their code"),
    "lr-5x": Condition("learning rate ×5", _FASTER, recipe_name(Recipe(learning_rate=5e-5))),
    "probing (early run, 3 epochs per test_run_probing.sh)": Condition("probing, early run", _PROBE, _PAPERS),
}
"""By the name in the file; what is not here (LayerNorm reset in every layer) is comparable to nothing that is run."""

_SIZES: Final = {"full": "full", "100%": "full"}


@dataclass(frozen=True)
class Beside:
    """The authors' values for one curve."""

    condition: Condition
    runs: int
    size: str
    points: tuple[tuple[int, float], ...]

    @property
    def label(self) -> str:
        """For a legend, which adds the number of runs."""
        return f"authors' code, {size_words(self.size)}, {self.condition.words}"


@dataclass(frozen=True)
class Authors:
    """All values, by the study's name of the task, size and condition."""

    sets: Mapping[tuple[str, str, str], Beside]

    def beside(self, curve: Curve) -> Beside | None:
        """The values of the condition that differs least from the curve; of equals the first in `CONDITIONS`."""
        setting = curve.setting
        known = setting.model in MODELS and setting.depth == LAYERS
        metric = setting.metric.rpartition("/")[2]
        if not known or (setting.task, metric) not in TASKS.values() or curve.kind not in _KIND_OF:
            return None
        cell = next(cell for cell in curve.cells if not cell.is_plain)
        fitting = [
            (len(condition.differs(curve, cell)), found)
            for name, condition in CONDITIONS.items()
            if condition.treatment.kind == _KIND_OF[curve.kind] and _faster(condition) == _faster(curve)
            and (found := self.sets.get((setting.task, setting.size, name))) is not None
        ]  # fmt: skip
        return min(fitting, key=lambda pair: pair[0], default=(0, None))[1]

    def nearest(self, drawn: Iterable[Curve]) -> dict[int, Beside]:
        """For each set of values the curve that it belongs beside, by the curve's identity."""
        best: dict[int, tuple[int, Curve, Beside]] = {}
        for curve in drawn:
            if (beside := self.beside(curve)) is not None:
                cell = next(cell for cell in curve.cells if not cell.is_plain)
                distance = len(beside.condition.differs(curve, cell))
                if id(beside) not in best or distance < best[id(beside)][0]:
                    best[id(beside)] = distance, curve, beside
        return {id(curve): beside for _, curve, beside in best.values()}

    def notes(self, drawn: Sequence[Curve]) -> list[str]:
        """What a caption says of the values beside these curves."""
        chosen = self.nearest(drawn)
        if not chosen:
            return []
        differing = {}
        for curve in drawn:
            if (beside := chosen.get(id(curve))) is not None:
                cell = next(cell for cell in curve.cells if not cell.is_plain)
                differing[beside.condition.words] = beside.condition.differs(curve, cell)
        notes = [f"Authors' code: {SOURCE}."]
        for words, fields in differing.items():
            if fields:
                what = f"Their runs ({words}) are no repetition of ours but an orientation"
                notes.append(f"{what}: they differ in {', '.join(fields)}.")
        return notes


_KIND_OF: Final = {"progressive": "reinit", "probe": "probe"}


def _faster(of: Condition | Curve) -> bool:
    """Whether the redrawn layers learn faster than the others: never set beside what does not."""
    scale = getattr(of.treatment, "lr_scale", 1) if isinstance(of, Condition) else of.fields["lr_scale"]
    return (scale or 1) != 1


def load_authors() -> Authors:
    """The values that come with the package."""
    text = (files("aggregate") / "data" / "author_plot_values.csv").read_text(encoding="utf-8")
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["condition"] in CONDITIONS:
            size = _SIZES.get(row["train_size"], row["train_size"])
            groups.setdefault((TASKS[row["task"]][0], size, row["condition"]), []).append(row)
    return Authors({key: _beside(key, values) for key, values in groups.items()})


def _beside(key: tuple[str, str, str], values: Sequence[Mapping[str, str]]) -> Beside:
    points = sorted((int(row["n_preserved"]), float(row["value"])) for row in values)
    return Beside(CONDITIONS[key[2]], int(values[0]["seeds"]), key[1], tuple(points))


# --------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Comparison:
    """One of the authors' values beside our mean."""

    curve: Curve
    beside: Beside
    layers: int
    theirs: float
    cell: CellSummary

    @property
    def differs(self) -> tuple[str, ...]:
        """Fields in which the two were not run alike."""
        return self.beside.condition.differs(self.curve, self.cell)

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.cell.score.mean is None else self.cell.score.mean - self.theirs

    @property
    def inside(self) -> bool | None:
        """Whether their value lies in our interval, give or take the reading error; None where that says nothing."""
        score = self.cell.score
        if self.differs or score.low is None or score.high is None:
            return None
        return score.low - READING_ERROR <= self.theirs <= score.high + READING_ERROR


def compare(frame: pd.DataFrame, authors: Authors) -> list[Comparison]:
    """Every value of the authors that a curve of the study has a counterpart of, in the frame's order.

    Raises:
        DataError: there is none.
    """
    found = [
        Comparison(curve, beside, layers, theirs, cell)
        for curve in curves(frame)
        if (beside := authors.beside(curve)) is not None
        for layers, theirs in beside.points
        for at, cell in curve.points
        if at == layers
    ]
    if not found:
        pairs = sorted(set(zip(frame["model"], frame["depth"], strict=True)))
        models = [f"{prose(model)} ({depth} layers)" for model, depth in pairs]
        tasks = sorted(set(frame["task"]))
        raise DataError(
            "there is nothing to compare with the authors' values",
            expected=f"progressive or probing cells of {' or '.join(MODELS)} on {_listed()}",
            got=f"{', '.join(models)} on {', '.join(map(prose, tasks))}",
            remedy="leave out --reference",
        )
    return found


def _listed() -> str:
    return ", ".join(name for name, _ in TASKS.values())


HEADER: Final = (
    "task", "size", "ours", "authors' run", "kept", "theirs", "their runs", "our mean", "95% interval", "n",
    "difference", "theirs inside", "differs in",
)  # fmt: skip


def reference_sheet(comparisons: Sequence[Comparison]) -> Sheet:
    """The comparisons as a table."""
    return Sheet(
        title="Authors' values",
        header=HEADER,
        rows=tuple(_row(each) for each in comparisons),
        numeric=frozenset(range(4, 11)),
        loud=frozenset(index for index, each in enumerate(comparisons) if each.inside is False or each.cell.holes),
        notes=(
            f"Theirs: {SOURCE}; means over their runs, whose spread is not known.",
            "Kept: preserved layers, or the depth of a probe. Difference: our mean less their value.",
            "Inside: their value lies in the 95% Student t interval of our mean, give or take the reading error.",
            "Their mean has an error of its own, so that one outside is no contradiction yet.",
            "Where something differs, the two were not run alike: an orientation, and no verdict.",
        ),
        wide=frozenset({2, 3, 12}),
    )


def _row(each: Comparison) -> tuple[str, ...]:
    score = each.cell.score
    inside = {True: "yes", False: "no", None: NONE}[each.inside]
    which = (each.curve.setting.task, each.curve.setting.size, _ours(each.curve), each.beside.condition.words)
    n = str(score.n) if not each.cell.holes else f"{score.n} of {each.cell.planned}"
    values = (str(each.layers), number(each.theirs), str(each.beside.runs), number(score.mean), bounds(score), n)
    return (*which, *values, number(each.difference, sign=True), inside, ", ".join(each.differs) or "nothing")


def _ours(curve: Curve) -> str:
    return f"probe {curve.variant}" if curve.kind == "probe" else curve.variant or "progressive"


def reference_records(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """The comparisons for a CSV, in full precision."""
    return [
        {
            "model": each.curve.setting.model,
            "task": each.curve.setting.task,
            "size": each.curve.setting.size,
            "recipe": each.curve.setting.recipe,
            "ours": _ours(each.curve),
            "authors_condition": each.beside.condition.words,
            "kept_layers": each.layers,
            "theirs": each.theirs,
            "their_runs": each.beside.runs,
            "cell": each.cell.cell,
            "digest": each.cell.digest,
            **_interval(each.cell.score),
            "planned": each.cell.planned,
            "difference": each.difference,
            "theirs_inside": each.inside,
            "differs_in": ", ".join(each.differs),
        }
        for each in comparisons
    ]


def _interval(score: Interval) -> dict[str, object]:
    return {"mean": score.mean, "low": score.low, "high": score.high, "n": score.n}
