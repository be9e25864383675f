"""What holds on a CPU holds on a GPU: bits repeat, in one process and in two; losses are those of the CPU; the card is
named; what it fails in is told apart."""

from __future__ import annotations

import base64
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, MPNetConfig

from jobs.cell import Cell, Epochs, Model, Probe, Recipe, Reinit
from jobs.errors import ConfigurationError, TransientError
from jobs.result import RunResult
from jobs.store import open_store
from reinit.packed import PackedClassifier
from reinit.places import Places, pin
from reinit.ranks import Ranks, gpu_faults
from reinit.run import Attempt, _about
from reinit.train import Step
from reinit.worker import Worker
from tests.make import a_cell, a_provenance
from tests.reinit.architectures import save
from tests.reinit.bench import Bench, measured
from tests.reinit.tiny import sentence_task

SIZES: Final[dict[str, Any]] = {
    "vocab_size": 200,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 64,
}
# BERT attends through torch's fused kernels, MPNet step by step and with positions that train.
# Its positions are counted from 2 on.
MPNET: Final = MPNetConfig(**{**SIZES, "max_position_embeddings": 66}, pad_token_id=0)
CONFIGS: Final = {"bert": BertConfig(**SIZES), "mpnet": MPNET}
# As wide as BERT-base: a row takes more threads.
WIDE: Final = {"wide": BertConfig(**{**SIZES, "hidden_size": 768, "num_attention_heads": 12})}
ROWS, SCORED = 96, 64

LOSSES = """
import json, sys
from jobs.cell import Cell
from reinit.places import Places
from reinit.worker import Worker
losses = []
Worker(Places.from_environment()).run(Cell.model_validate_json(sys.argv[1]), 1, lambda _, loss: losses.append(loss))
print(json.dumps(losses))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Random networks with a tokeniser of whole words, and sentences whose label is in them."""
    words = [f"w{number}" for number in range(190)]
    folders = {kind: save(config, tmp_path_factory.mktemp(kind)) for kind, config in {**CONFIGS, **WIDE}.items()}
    for folder in folders.values():
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
        vocabulary = {word: number for number, word in enumerate([*special, *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        ends = [("[CLS]", 1), ("[SEP]", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        tokenizer.save(str(folder / "tokenizer.json"))
        names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 64}
        (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    data, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, rows in (("train.tsv", ROWS), ("dev.tsv", SCORED)):
        lines = ["sentence\tlabel"]
        for row in range(rows):
            # The first half of the words says 0, the second 1.
            chosen = random.integers(95 * (row % 2), 95 * (row % 2) + 95, random.integers(3, 50))
            lines.append(" ".join(words[number] for number in chosen) + f"\t{row % 2}")
        (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Places({**folders, "words": data})


@pytest.fixture(scope="module")
def worker(places: Places) -> Worker:
    return Worker(places)


def cell_of(places: Places, kind: str, treatment: Reinit | Probe = Reinit(layers=(2, 3)), **recipe: Any) -> Cell:  # noqa: B008
    return Cell(
        model=Model(name=kind, revision=pin(places.folder(kind)), layers=4),
        task=sentence_task("words", places.folder("words"), ROWS, SCORED),
        size="full",
        treatment=treatment,
        recipe=Recipe(duration=Epochs(epochs=2), learning_rate=2e-4, max_length=64, **recipe),
    )


def environment(places: Places, **more: str) -> dict[str, str]:
    folders = {name: str(path) for name, path in places.folders.items()}
    return {**os.environ, "REINIT_PLACES": json.dumps(folders), "REINIT_DEVICE": "cuda", **more}


def pod(places: Places, store: str, cell: Cell, before: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m reinit` in a process of its own, after the code in `before`."""
    own = {
        "REINIT_CELLS": json.dumps([cell.model_dump(mode="json")]),
        "REINIT_SEEDS": "[1]",
        "REINIT_STORE": store,
    }
    code = f"{before}\nimport runpy; runpy.run_module('reinit', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(places, **own, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def logits_of(predictions: bytes | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert predictions is not None
    split = json.loads(predictions)["splits"]["dev.tsv"]
    return np.frombuffer(base64.b64decode(split["logits"]), "<f4").reshape(split["shape"])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_run_repeats_its_bits_in_one_process_and_in_another(
    worker: Worker, places: Places, tmp_path: Path, kind: str, precision: str
) -> None:
    cell, store = cell_of(places, kind, precision=precision), f"file://{tmp_path}/store"
    first = worker.run(cell, 1, lambda *_: None)
    other = worker.run(cell_of(places, kind, Reinit(), precision=precision), 2, lambda *_: None)
    again = worker.run(cell, 1, lambda *_: None)
    assert first.predictions == again.predictions
    assert first.predictions != other.predictions
    assert first.result.science12 == again.result.science12
    done = pod(places, store, cell)
    assert done.returncode == 0, done.stdout + done.stderr
    fresh = open_store(store).results(cell.digest).results[1]
    assert fresh.science12 == first.result.science12
    assert fresh.provenance.numerics == first.result.provenance.numerics


@pytest.mark.gpu
def test_probes_repeat_their_bits_too(worker: Worker, places: Places) -> None:
    cell = cell_of(places, "mpnet", Probe(depth=3, feature="mean"))
    first = worker.run(cell, 1, lambda *_: None)
    worker.run(cell_of(places, "bert"), 1, lambda *_: None)
    assert worker.run(cell, 1, lambda *_: None).predictions == first.predictions


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [*CONFIGS, *WIDE])
def test_without_dropout_the_losses_are_the_cpus_step_by_step(worker: Worker, places: Places, kind: str) -> None:
    cell = cell_of(places, kind, dropout=0.0)
    losses: list[float] = []
    worker.run(cell, 1, lambda _, loss: losses.append(loss))
    on_cpu = subprocess.run(
        [sys.executable, "-c", LOSSES, cell.model_dump_json()],
        env=environment(places, REINIT_DEVICE="cpu", DS_ACCELERATOR="cpu"),
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    expected = json.loads(on_cpu.stdout.splitlines()[-1])
    assert len(losses) == cell.steps
    # Both in float32; what is left is the order of sums, which each step carries on.
    assert losses == pytest.approx(expected, rel=1e-3)
    assert losses[0] == pytest.approx(expected[0], rel=1e-5)
    assert max(expected) - min(expected) > 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_captured_steps_are_those_made_kernel_by_kernel(
    worker: Worker, places: Places, kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches below and above the number of tokens that attend together, and a last one that is not full."""
    cell = cell_of(places, kind, dropout=0.0, precision=precision)
    captured, kernels = list[float](), list[float]()
    worker.run(cell, 1, lambda _, loss: captured.append(loss))
    made = Step.__init__

    def make(step: Step, *arguments: Any) -> None:
        made(step, *arguments)
        assert step._captured is not None
        step._captured = None

    monkeypatch.setattr(Step, "__init__", make)
    worker.run(cell, 1, lambda _, loss: kernels.append(loss))
    # Products of another width are summed in another order.
    assert captured == pytest.approx(kernels, rel=1e-4 if precision == "fp32" else 3e-2)
    assert max(kernels) - min(kernels) > 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_run_that_is_stopped_and_resumed_has_the_bits_of_one_that_is_not(
    worker: Worker, places: Places, tmp_path: Path, kind: str, precision: str
) -> None:
    cell = cell_of(places, kind, precision=precision)
    whole = Bench(worker, cell, tmp_path / "whole").attempt()
    bench = Bench(worker, cell, tmp_path / "stopped")
    assert bench.attempt(until=16) is None
    # Other graphs, and another place in the stream of dropout, between the two.
    worker.run(cell_of(places, kind, Reinit(), precision=precision), 2, lambda *_: None)
    resumed = bench.attempt()
    assert bench.events("resumed") == ["goes on after step 16 of 24"]
    assert measured(resumed) == measured(whole)


@pytest.mark.gpu
def test_no_garbage_is_collected_during_a_capture(
    worker: Worker, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is forgotten waits for that, with its graphs; to free one of them would end a capture."""
    seen = set()
    made = PackedClassifier.by

    def by(form: PackedClassifier, *arguments: Any) -> torch.Tensor:
        seen.add((torch.cuda.is_current_stream_capturing(), gc.isenabled()))
        return made(form, *arguments)

    monkeypatch.setattr(PackedClassifier, "by", by)
    # A dropout of its own, so that nothing is captured yet.
    worker.run(cell_of(places, "bert", dropout=0.2), 1, lambda *_: None)
    assert seen == {(False, True), (True, False)}
    assert gc.isenabled()


@pytest.mark.gpu
def test_bf16_moves_logits_by_its_own_rounding_and_no_more(worker: Worker, places: Places) -> None:
    exact, rounded = (
        logits_of(worker.run(cell_of(places, "bert", dropout=0.0, precision=precision), 1, lambda *_: None).predictions)
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.linalg.norm(exact - rounded) < 0.1 * np.linalg.norm(exact)


@pytest.mark.gpu
def test_a_result_names_the_card_and_counts_its_seconds(worker: Worker, places: Places) -> None:
    result = worker.run(cell_of(places, "bert"), 1, lambda *_: None).result
    assert isinstance(result, RunResult)
    assert result.provenance.device == torch.cuda.get_device_name()
    assert result.provenance.world_size == 1
    assert result.gpu_seconds == result.wall_seconds > 0


@pytest.mark.gpu
def test_a_run_that_the_card_has_no_room_for_is_not_tried_again(places: Places, tmp_path: Path) -> None:
    limit = "import torch; torch.cuda.set_per_process_memory_fraction(2e-4)"
    done = pod(places, f"file://{tmp_path}/store", cell_of(places, "bert"), limit)
    assert done.returncode == ConfigurationError.exit_code, done.stdout + done.stderr
    assert "more memory than the GPU has" in done.stdout


@pytest.fixture
def full_card() -> Iterator[None]:
    free, _ = torch.cuda.mem_get_info()
    # What a context takes is left, and little more.
    block = torch.empty(free - 900 * 2**20, dtype=torch.uint8, device="cuda")
    yield
    del block
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.usefixtures("full_card")
def test_a_card_full_of_another_process_is_worth_another_try(places: Places, tmp_path: Path) -> None:
    limit = "import torch; hog = torch.empty(torch.cuda.mem_get_info()[0] - 2**22, dtype=torch.uint8, device='cuda')"
    done = pod(places, f"file://{tmp_path}/store", cell_of(places, "bert"), limit)
    assert done.returncode == TransientError.exit_code, done.stdout + done.stderr
    assert "taken by other processes" in done.stdout or "the GPU failed" in done.stdout


@pytest.mark.parametrize(("device", "part"), [("cuda", 0.25), ("cpu", 0.0)])
def test_a_run_is_charged_its_part_of_a_gpu_that_it_shares(device: str, part: float) -> None:
    ranks = Ranks(0, 1, torch.device(device), sharers=4)
    about = _about(a_cell(), 1, ranks, Attempt(a_provenance(), lambda *_: None))
    assert about["wall_seconds"] > 0
    assert about["gpu_seconds"] == part * about["wall_seconds"]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: unspecified launch failure",
        "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error, NCCL version 2.27.5",
    ],
)
def test_a_fault_of_the_gpu_is_worth_another_try(message: str) -> None:
    with pytest.raises(TransientError, match="the GPU failed") as caught, gpu_faults():
        raise RuntimeError(message)
    assert message.splitlines()[0] in caught.value.problem


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "uncorrectable: mat1 and mat2 shapes cannot be multiplied",
    ],
)
def test_a_fault_of_the_program_is_not_taken_for_the_gpus(message: str) -> None:
    with pytest.raises(RuntimeError, match=message), gpu_faults():
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("others", "kind"), [(40e9, TransientError), (0.6e9, ConfigurationError)], ids=["shared", "alone"]
)
def test_memory_that_runs_out_is_put_down_to_who_holds_it(
    monkeypatch: pytest.MonkeyPatch, others: float, kind: type[Exception]
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 79e9 - others)
    with pytest.raises(kind), gpu_faults():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
