"""Any sequence of runs in one worker gives each run the bits that it has alone.

Law: whatever ran before, and however that ended, losses step by step, predictions and scores of a run are those of a
worker that has run nothing. Runs here are of every architecture, treatment, task, size and kind of recipe; some are
broken off, stopped and resumed, blow up or are refused on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jobs.cell import Cell, Model, Permute, Probe, Recipe, Reinit, Steps, Treatment, Truncate
from jobs.errors import SpecError
from jobs.result import DivergedRun
from jobs.tasks import FolderSource, Task
from reinit.data import folder_revision
from reinit.places import Places, pin
from reinit.run import Outcome
from reinit.worker import Worker
from tests.reinit.architectures import CONFIGS, DEPTH, VOCABULARY, save
from tests.reinit.bench import Bench, measured

TRAIN_ROWS: Final = 14
SPECIAL: Final = {"bert": ("[PAD]", "[CLS]", "[SEP]"), "roberta": ("[CLS]", "[PAD]", "[SEP]")}
KINDS: Final = tuple(CONFIGS)


# -------------------------------------------------------------------------------------------------- models and tasks


def write_tokenizer(folder: Path, pads_with: int) -> None:
    """A word for each id of the tiny networks; a padding token may be spelled out in a text."""
    special = SPECIAL["roberta" if pads_with == 1 else "bert"]
    names = [*special, *(f"w{number}" for number in range(len(special), VOCABULARY))]
    own = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[-1]))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first, last = (names.index(name) for name in ("[CLS]", "[SEP]"))
    own.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", first), ("[SEP]", last)]
    )
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=own, pad_token="[PAD]", model_max_length=64, unk_token=names[-1]
    )
    fast.save_pretrained(folder)


def texts(rows: int, seed: int) -> list[str]:
    """Some have few words and some many, some have words that no other has, and one in eight the padding token."""
    random = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        words = [f"w{number}" for number in random.integers(3, 3 + 4 * (row + 1), random.integers(1, 12))]
        made.append(" ".join([*words, "[PAD]"] if row % 8 == 7 else words))
    return made


def write_rows(folder: Path) -> Path:
    """GLUE files of which one has every word."""
    folder.mkdir()
    for name, rows, seed in (("train.tsv", TRAIN_ROWS, 1), ("dev.tsv", 7, 2), ("more.tsv", 7, 3)):
        one, other = texts(rows, seed), texts(rows, seed + 10)
        if name == "dev.tsv":
            one += [" ".join(f"w{number}" for number in range(first, first + 20)) for first in (3, 23, 43)]
            other += ["w3"] * 3
        lines = [
            f"{a}\t{b}\t{row % 3}\t{row % 2}\t{row / 4}" for row, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        (folder / name).write_text("\n".join(["one\tother\tof3\tof2\tvalue", *lines]) + "\n", encoding="utf-8")
    return folder


def tasks(folder: Path) -> dict[str, Task]:
    scored = ("dev.tsv", "more.tsv")
    common: dict[str, Any] = {
        "source": FolderSource(
            name="rows", revision=folder_revision(folder, ["train.tsv", *scored]), validation=scored
        ),
        "train_rows": TRAIN_ROWS,
        "validation_rows": (10, 7),
    }
    two: dict[str, Any] = {"labels": ("0", "1"), "metrics": ("accuracy",)}
    return {
        "sentences": Task(name="sentences", text=("one",), label="of2", **two, **common),
        "pairs": Task(name="pairs", text=("one", "other"), label="of2", **two, **common),
        "three": Task(
            name="three", text=("one",), label="of3", labels=("0", "1", "2"), metrics=("accuracy",), **common
        ),
        "values": Task(name="values", text=("one",), label="value", labels=None, metrics=("pearson",), **common),
    }


@dataclass(repr=False)
class Place:
    """Where models and rows are, and what each run gives in a worker that has run nothing."""

    places: Places
    models: dict[str, Model]
    tasks: dict[str, Task]
    folder: Path
    alone: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)
    stores: count[int] = field(default_factory=count)

    def expected(self, cell: Cell, seed: int) -> tuple[Any, ...]:
        """What a run gives alone."""
        key = (cell.digest, seed)
        if key not in self.alone:
            self.alone[key] = told(Worker(self.places), cell, seed)
        return self.alone[key]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sequences")
    rows, named, folders = write_rows(folder / "rows"), {}, {}
    for kind in KINDS:
        config = CONFIGS[kind]()
        folders[kind] = save(config, folder / kind)
        write_tokenizer(folders[kind], 1 if config.pad_token_id == 1 else 0)
        named[kind] = Model(name=kind, revision=pin(folders[kind]), layers=DEPTH)
    return Place(Places({"rows": rows, **folders}), named, tasks(rows), folder)


def told(worker: Worker, cell: Cell, seed: int) -> tuple[Any, ...]:
    """All that a run says: the loss of each step, its result, its predictions; or why it is refused."""
    losses: list[tuple[int, float]] = []
    try:
        outcome = worker.run(cell, seed, lambda step, loss: losses.append((step, loss)) if step else None)
    except SpecError as error:
        return ("refused", str(error))
    return losses, *ended(outcome)


def ended(outcome: Outcome) -> tuple[Any, ...]:
    """Of a run that may have diverged."""
    result = outcome.result
    if isinstance(result, DivergedRun):
        return "diverged", result.diverged_step, result.loss
    return result.metrics, *measured(outcome)


# -------------------------------------------------------------------------------------------------------------- runs


LAYERS = st.sets(st.integers(0, DEPTH - 1)).map(lambda layers: tuple(sorted(layers)))
TREATMENTS: st.SearchStrategy[Treatment] = (
    st.builds(
        Reinit,
        layers=LAYERS,
        init=st.sampled_from(["truncated_normal", "released", "normal", "architecture"]),
        keep_layernorm=st.booleans(),
        lr_scale=st.sampled_from([1.0, 5.0]),
        pooler=st.sampled_from(["keep", "keep", "redraw"]),
        frozen_layers=LAYERS,
    )
    | st.builds(Permute, order=st.permutations(range(DEPTH)).map(tuple))
    | st.builds(Truncate, depth=st.integers(1, DEPTH))
    | st.builds(
        Probe,
        depth=st.integers(1, DEPTH),
        feature=st.sampled_from(["pooler", "cls", "mean"]),
        scored=st.sampled_from(["in_memory", "released_reload"]),
        encoder_dropout=st.booleans(),
    )
    | st.builds(Probe, depth=st.integers(1, DEPTH), feature=st.just("mean"), fit=st.just("converged"))
)
RECIPES = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([1, 4]),
        "duration": st.sampled_from([Steps(steps=3), Steps(steps=5)]),
        "learning_rate": st.sampled_from([1e-3, 1e-3, 1e-3, 1e30]),
        "precision": st.sampled_from(["fp32", "fp32", "bf16"]),
        "weight_decay": st.sampled_from([0.0, 0.0, 0.1]),
        "dropout": st.sampled_from([0.1, 0.1, 0.0]),
        "max_length": st.sampled_from([32, 8]),
        "warmup": st.sampled_from([0.0, 0.5]),
    }
)
Ends = Literal["done", "broken off", "resumed"]


@dataclass(frozen=True)
class Act:
    """One thing that a worker is asked for."""

    treatment: Treatment
    recipe: dict[str, Any]
    task: str
    size: int | Literal["full"]
    seed: int
    ends: Ends
    after: int
    """Words of its progress, where it is broken off."""
    other_model: bool

    def cell(self, place: Place, kind: str) -> Cell:
        """On the sequence's model, or for once on another."""
        kind = KINDS[KINDS.index(kind) - 1] if self.other_model else kind
        return Cell(
            model=place.models[kind],
            task=place.tasks[self.task],
            size=self.size,
            treatment=self.treatment,
            recipe=Recipe(**self.recipe),
        )


ACTS = st.builds(
    Act,
    treatment=TREATMENTS,
    recipe=RECIPES,
    # Mostly one task, for which the network stays.
    task=st.sampled_from(["sentences"] * 6 + ["pairs"] * 2 + ["three", "values"]),
    size=st.sampled_from([3, 5, 9, "full"]),
    seed=st.integers(1, 3),
    ends=st.sampled_from(["done", "done", "broken off", "resumed"]),
    after=st.integers(1, 8),
    other_model=st.sampled_from([False] * 9 + [True]),
)


class BrokenOffError(Exception):
    """What a run is broken off with."""


def perform(act: Act, cell: Cell, worker: Worker, place: Place) -> tuple[Any, ...] | None:
    """What the run told; None where it was broken off."""
    if act.ends == "done" or (act.ends == "resumed" and isinstance(act.treatment, Probe)):
        return told(worker, cell, act.seed)
    if act.ends == "broken off":
        heard = count(1)

        def breaks_off(*_: float) -> None:
            if next(heard) == act.after:
                raise BrokenOffError

        with suppress(BrokenOffError, SpecError):
            worker.run(cell, act.seed, breaks_off)
        return None
    bench = Bench(worker, cell, place.folder / f"store{next(place.stores)}", act.seed)
    try:
        outcome = bench.attempt(until=2) or bench.attempt()
    except SpecError as error:
        return ("refused", str(error))
    assert outcome is not None
    return ended(outcome)


def check_sequence(acts: Sequence[Act], kind: str, place: Place) -> None:
    worker = Worker(place.places)
    for number, act in enumerate(acts):
        cell = act.cell(place, kind)
        found, expected = perform(act, cell, worker, place), place.expected(cell, act.seed)
        if found is not None:
            # What was resumed was not heard from its first step on.
            assert found == expected[-len(found) :], (number, act)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(acts=st.lists(ACTS, min_size=3, max_size=7))
def test_any_sequence_of_runs_gives_each_the_bits_that_it_has_alone(place: Place, kind: str, acts: list[Act]) -> None:
    check_sequence(acts, kind, place)


def act_of(treatment: Treatment, ends: Ends = "done", after: int = 1) -> Act:
    recipe = {"batch_size": 4, "duration": Steps(steps=3), "max_length": 32}
    return Act(treatment, recipe, "sentences", 5, 1, ends, after, other_model=False)


def test_a_probe_that_is_refused_leaves_no_wish_to_those_after_it(place: Place) -> None:
    acts = [act_of(Probe(depth=2, feature="pooler")), act_of(Probe(depth=1, feature="mean"))]
    assert place.expected(acts[0].cell(place, "distilbert"), 1)[0] == "refused"
    check_sequence(acts, "distilbert", place)


@pytest.mark.parametrize("after", range(1, 7))
def test_a_probe_broken_off_anywhere_leaves_no_half_of_what_is_scored(place: Place, after: int) -> None:
    """One pass over what it trains on, three steps, a pass over each of two splits."""
    probe, other = Probe(depth=2, feature="mean"), Probe(depth=1, feature="mean")
    acts = [act_of(other), act_of(probe, "broken off", after), act_of(probe), act_of(other)]
    check_sequence(acts, "bert", place)
    assert len(place.expected(acts[0].cell(place, "bert"), 1)[1]) == 2
