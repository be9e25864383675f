"""The benchmarks measure what they say: peers that train, the same rows for all, a table that does its arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import scripts
from benchmarks.measure import Spent, ask, epoch_steps, fetch
from benchmarks.peers import released
from benchmarks.peers.job import Answer, Job
from benchmarks.rows import DATA, FILES, MINILM, SST2_LENGTHS, job_of, task_of, write_lengths
from benchmarks.step import ACCELERATE
from benchmarks.table import LINES, Line, render
from jobs.cell import Cell, Epochs, Model, Recipe, Reinit
from reinit.batches import training_batches
from reinit.data import read_task
from reinit.network import load_tokenizer
from reinit.places import Places, pin, resolve_model
from reinit.worker import Worker
from tests.reinit.tiny import write_sentences, write_small_model

SMALL = "small"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Twelve sentences, and a network of two layers with random weights."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return Places({DATA: write_sentences(folder / "rows"), SMALL: write_small_model(folder / "model")})


def cell_of(places: Places, epochs: int, *redrawn: int) -> Cell:
    """Ten of the twelve sentences."""
    model = Model(name=SMALL, revision=pin(places.folder(SMALL)), layers=2)
    recipe = Recipe(duration=Epochs(epochs=epochs), batch_size=4, learning_rate=5e-3, max_length=16)
    task = task_of(places.folder(DATA))
    return Cell(model=model, task=task, size=10, treatment=Reinit(layers=redrawn), recipe=recipe)


def test_the_released_peer_learns_its_rows_and_scores_what_it_saved(places: Places) -> None:
    answer = Answer()
    released.run(job_of(cell_of(places, 30, 1), 1, places), answer)
    assert len(answer.losses) == 90
    assert sum(answer.losses[-3:]) < 0.5 * sum(answer.losses[:3])
    assert answer.score is not None
    assert answer.score > 0.8


def test_the_peer_of_the_library_learns_its_rows(places: Places) -> None:
    fetch(ACCELERATE)
    answer, took = ask("benchmarks.peers.trainer", vars(job_of(cell_of(places, 30), 1, places)), 1)
    assert len(answer["readings"]) == 91
    assert answer["score"] > 0.8
    assert took.cpu >= answer["readings"][-1][0]


def test_a_peer_that_is_only_timed_stops_after_its_steps_and_scores_nothing(places: Places) -> None:
    answer = Answer()
    released.run(replace(job_of(cell_of(places, 12), 1, places), most_steps=2), answer)
    assert len(answer.readings) == 3
    assert answer.score is None


def test_a_redrawn_layer_is_as_bert_was_before_training_and_the_others_stay(places: Places) -> None:
    from transformers import AutoModelForSequenceClassification

    load = AutoModelForSequenceClassification.from_pretrained
    before, after = load(places.folder(SMALL)), load(places.folder(SMALL))
    released.redraw(after, [1])
    kept, drawn = after.bert.encoder.layer
    assert all(map(_equal, kept.parameters(), before.bert.encoder.layer[0].parameters()))
    weight = drawn.intermediate.dense.weight
    assert not _equal(weight, before.bert.encoder.layer[1].intermediate.dense.weight)
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(drawn.intermediate.dense.bias.detach().abs().max()) == 0


def _equal(one: Any, other: Any) -> bool:
    return bool((one == other).all())


def test_the_released_peer_and_this_project_train_on_the_same_rows_in_the_same_order(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(places, 2)
    ours: list[list[list[int]]] = []

    def recorded(*given: Any) -> Any:
        for batch in training_batches(*given):
            ours.append([list(example.input_ids) for example in batch])
            yield batch

    monkeypatch.setattr("reinit.train.training_batches", recorded)
    worker = Worker(places)
    worker.run(cell, 3, lambda *_: None)

    theirs: list[list[list[int]]] = []
    from transformers import AutoModelForSequenceClassification

    load = AutoModelForSequenceClassification.from_pretrained

    def listening(*given: Any, **named: Any) -> Any:
        network = load(*given, **named)

        def listen(module: Any, _: Any, inputs: dict[str, Any]) -> None:
            if module.training:
                rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True)
                theirs.append([ids[:length] for ids, length in rows])

        network.register_forward_pre_hook(listen, with_kwargs=True)
        return network

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", listening)
    released.run(job_of(cell, 3, places), Answer())
    assert len(ours) == 6
    assert theirs == ours


def test_a_job_has_the_number_of_updates_of_the_cell(places: Places) -> None:
    job: Job = job_of(cell_of(places, 5), 1, places)
    assert job.steps == cell_of(places, 5).steps == 15


def test_cut_reviews_are_as_long_as_the_rows_that_they_stand_in_for(tmp_path: Path) -> None:
    folder = write_lengths(tmp_path, None, 400)
    rows = read_task(task_of(folder), Places({DATA: folder})).train
    tokenizer: Any = load_tokenizer(resolve_model(MINILM, Places()))
    lengths = [len(ids) for ids in tokenizer([text for (text,) in rows.texts])["input_ids"]]
    middles = [(low + high) / 2 for low, high in pairwise(SST2_LENGTHS)]
    assert sum(lengths) / len(lengths) == pytest.approx(sum(middles) / len(middles), rel=0.05)
    assert max(lengths) <= SST2_LENGTHS[-1] + 2
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_a_step_is_the_median_of_whole_epochs_and_the_first_is_left_out() -> None:
    at = [0, 50, 100, 101, 103, 104, 110, 111, 112]  # epochs of two steps: 100, 3, 7, 2
    readings = [Spent(each, 2 * each) for each in at]
    assert epoch_steps(readings, 2) == Spent(1.5, 3.0)
    with pytest.raises(ValueError, match="1 whole epochs"):
        epoch_steps(readings[:3], 2)


def test_the_table_gives_ratios_distance_to_the_floor_and_what_misses_its_target() -> None:
    lines = [
        Line("a study", Spent(80, 100), Spent(8, 20), 8.0, floor=2.0, notes=("scores agree",)),
        Line("an overhead", Spent(0.1, 0.1), Spent(0.12, 0.12), 1.1, unit="ms", at_most=True),
        Line("a rate", Spent(100, 100), Spent(80, 80), 0.75, unit="GFLOP/s"),
        Line("a comparison", Spent(3, 3), Spent(2, 2), None),
    ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in render(lines).splitlines() if "|" in row]
    study, overhead, rate, comparison = rows[2:]
    assert study[1:] == ["80 s", "100 s", "8 s", "20 s", "10", "5", "2 s", "4.0", "≥ 8"]
    assert overhead[1:] == ["100 ms", "100 ms", "120 ms", "120 ms", "1.2", "1.2", "", "", "≤ 1.1, missed"]
    assert rate[5:] == ["0.8", "0.8", "", "", "≥ 0.75"]
    assert comparison[5:] == ["1.5", "1.5", "", "", ""]
    assert render(lines).endswith("- a study: scores agree")


def test_lines_survive_the_way_from_a_script_to_the_runner() -> None:
    line = Line("a rate", Spent(1, 2), Spent(3, 4), 0.75, unit="GFLOP/s", at_most=True, floor=0.5, notes=("a", "b"))
    assert LINES.validate_json(LINES.dump_json([line])) == [line]


def test_the_runner_finds_every_script_that_says_how_to_run_it() -> None:
    found = scripts()
    assert list(found)[:8] == ["study", "step", "matmul", "fixed", "probe", "engine", "render", "lint"]
    assert all(found[name][1] for name in list(found)[:8])
    assert found["gpu"][1] is False
    assert "rows" not in found
    assert "ours" not in found
