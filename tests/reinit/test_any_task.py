"""Any model, any task: a few lines of a study, a tiny network of each kind, and whole runs from rows to scores."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jobs.cell import Cell
from jobs.plan import Plan
from jobs.result import RunResult
from jobs.study import study_of
from jobs.yamlfile import parse_yaml
from reinit.data import folder_revision
from reinit.places import Places, pin
from reinit.worker import Worker
from tests.reinit.architectures import VOCABULARY

WORDS = [f"w{index}" for index in range(VOCABULARY - 4)]
ENCODERS = {"bert": ["pooler"], "distilbert": [], "roberta": []}
DECODERS = ["gpt2", "llama"]


def write_tokenizer(folder: Path) -> None:
    """One token a word, special tokens as BERT places them."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=64,
    ).save_pretrained(folder)


def sentences(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 9))) for _ in range(count)]


def study(model: Path, task: str, families: str) -> Plan:
    """A study file as a user writes it."""
    text = f"""\
name: mine
title: A task of my own
note: For tests.
model: {{name: my/model, revision: "{pin(model)}", layers: 4}}
recipe:
  duration: {{kind: epochs, epochs: 2}}
  learning_rate: 1e-3
  max_length: 32
tasks:
{task}
families:
{families}
"""
    return study_of(parse_yaml(text, "mine.yaml")).plan()


@pytest.fixture(scope="module")
def model_of(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny network of that kind and a tokeniser."""

    def with_tokenizer(kind: str) -> Path:
        folder = Path(shutil.copytree(folder_of(kind), tmp_path_factory.mktemp("models") / kind))
        write_tokenizer(folder)
        return folder

    return cache(with_tokenizer)


PROGRESSIVE = "  - {family: progressive, preserved: [4, 2], sizes: [20], seeds: 1}"


def run_all(plan: Plan, places: dict[str, Path]) -> dict[str, RunResult]:
    """Every cell at its first seed, by the cell's treatment."""
    worker = Worker(Places(places))
    worker.check([each.cell for each in plan])
    results = {}
    for each in plan:
        outcome = worker.run(each.cell, each.seeds[0], lambda *_: None)
        assert isinstance(outcome.result, RunResult)
        assert outcome.result.steps == each.cell.steps
        results[kind_of(each.cell)] = outcome.result
    return results


def kind_of(cell: Cell) -> str:
    return cell.name.removeprefix(f"{cell.task.name}-{cell.size}-").rsplit("-", 1)[0]


# --------------------------------------------------------------------------------------------------------- regression


def similarity(folder: Path) -> str:
    """STS-B's shape: pairs with a score from 0 to 5, the share of the first text's words that are in the second."""
    folder.mkdir()
    generator = random.Random(0)
    for name, count in (("train.tsv", 40), ("dev.tsv", 16)):
        lines = ["sentence1\tsentence2\tscore"]
        for first in sentences(count, len(name)):
            words = first.split()
            kept = generator.randint(0, len(words))
            second = words[:kept] + sentences(1, generator.randint(0, 999))[0].split()
            lines.append(f"{first}\t{' '.join(second)}\t{5 * kept / len(words):.3f}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    revision = folder_revision(folder, ["train.tsv", "dev.tsv"])
    return f"""\
  - name: similarity
    source: {{kind: folder, name: my/similarity, revision: "{revision}"}}
    text: [sentence1, sentence2]
    label: score
    labels: null
    metrics: [pearson, spearman]
    train_rows: 40
    validation_rows: [16]"""


def test_a_regression_task_from_a_folder_is_trained_on_squared_errors_and_scored_by_correlations(
    tmp_path: Path, model_of: Callable[[str], Path]
) -> None:
    task = similarity(tmp_path / "data")
    families = PROGRESSIVE + "\n  - {family: probe, depths: [4], fit: converged, sizes: [full], seeds: 1}"
    plan = study(model_of("bert"), task, families)
    places = {"my/model": model_of("bert"), "my/similarity": tmp_path / "data"}
    results = run_all(plan, places)
    assert results.keys() == {"finetune", "reinit-2to3", "probe-4-converged"}
    for result in results.values():
        assert result.metrics.keys() == {"dev.tsv/pearson", "dev.tsv/spearman"}
        assert all(-1 <= value <= 1 for value in result.metrics.values())
    # Squared errors of scores between 0 and 5 at the start of training are far above any cross-entropy of two classes.
    assert 1 < results["finetune"].train_loss < 25


def test_predictions_of_a_regression_task_are_scored_as_they_are_and_never_clipped() -> None:
    from jobs.tasks import GLUE
    from reinit.evaluate import score

    truth = [0.0, 1.0, 4.0, 5.0]
    beyond = np.array([[-3.0], [0.5], [4.0], [11.0]], dtype=np.float32)
    scores = score(GLUE["stsb"], beyond, truth)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(truth, beyond[:, 0]).statistic)
    clipped = stats.pearsonr(truth, beyond[:, 0].clip(0, 5)).statistic
    assert abs(scores["pearson"] - clipped) > 0.01


# ---------------------------------------------------------------------------- three classes, pairs, two scored splits


def inference(folder: Path) -> str:
    """MNLI's shape, in a dataset repository as the hub lays it out."""
    folder.mkdir()
    lines = []
    for split, count in (("train", 30), ("matched", 9), ("mismatched", 12)):
        labels = ["yes", "maybe", "no"] * (count // 3)
        columns = {"premise": sentences(count, count), "hypothesis": sentences(count, count + 1), "gold": labels}
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
        lines.append(f"  - {{split: {split}, path: {split}-*}}")
    header = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "\n".join(lines) + "\n---\n"
    (folder / "README.md").write_text(header, encoding="utf-8")
    return f"""\
  - name: inference
    source: {{kind: hub, name: some/inference, revision: "{"0" * 40}", validation: [matched, mismatched]}}
    text: [premise, hypothesis]
    label: gold
    labels: ["yes", "maybe", "no"]
    metrics: [accuracy, f1_macro]
    train_rows: 30
    validation_rows: [9, 12]"""


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_a_task_of_pairs_and_three_classes_runs_on_every_kind_of_network_and_is_scored_on_both_splits(
    tmp_path: Path, model_of: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = inference(tmp_path / "data")
    feature = "pooler" if "pooler" in ENCODERS.get(kind, []) else "mean"
    families = f"{PROGRESSIVE}\n  - {{family: probe, depths: [2], feature: {feature}, sizes: [20], seeds: 1}}"
    plan = study(model_of(kind), task, families)
    results = run_all(plan, {"my/model": model_of(kind), "some/inference": tmp_path / "data"})
    assert {name.split("-")[0] for name in results} == {"finetune", "reinit", "probe"}
    for result in results.values():
        assert result.metrics.keys() == {
            f"{split}/{metric}" for split in ("matched", "mismatched") for metric in ("accuracy", "f1_macro")
        }
        assert result.validation_rows == {"matched": 9, "mismatched": 12}
        # The first of the splits and of the metrics is the headline.
        assert result.score == result.metrics["matched/accuracy"]
        assert result.metrics["matched/accuracy"] * 9 == pytest.approx(round(result.metrics["matched/accuracy"] * 9))
    # At the start a classifier of three classes guesses: its loss is near log 3.
    assert results["finetune"].train_loss < 2.5


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_treatments_besides_redrawing_run_on_networks_without_a_pooler(
    tmp_path: Path, model_of: Callable[[str], Path], kind: str
) -> None:
    task = similarity(tmp_path / "data")
    families = "\n".join(
        f"  - {{family: {family}, sizes: [20], seeds: 1}}"
        for family in (
            "permutation, orders: [[3, 2, 1, 0]]",
            "truncate, depths: [2]",
            "single, layers: [1], lr_scale: 5",
        )
    )
    plan = study(model_of(kind), task, families)
    results = run_all(plan, {"my/model": model_of(kind), "my/similarity": tmp_path / "data"})
    assert results.keys() == {"permute-3_2_1_0", "truncate-2", "reinit-1-lr5"}


def test_a_label_that_the_study_does_not_name_is_refused_before_anything_trains(
    tmp_path: Path, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.errors import DataError

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = inference(tmp_path / "data").replace('"maybe"', '"perhaps"')
    plan = study(model_of("bert"), task, PROGRESSIVE)
    worker: Any = Worker(Places({"my/model": model_of("bert"), "some/inference": tmp_path / "data"}))
    with pytest.raises(DataError, match="unknown label") as refusal:
        worker.check([each.cell for each in plan])
    assert refusal.value.got == "'maybe'"
