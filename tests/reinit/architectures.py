"""Tiny networks of every supported architecture, saved as a user's model folder would be.

Law: every parameter is random (norms and biases too), so that "untouched" is never equal to "redrawn" by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
)

from jobs.cell import Cell, Model, Recipe, Treatment
from jobs.tasks import GLUE
from reinit.network import Network
from reinit.places import Places, pin

DEPTH: Final = 4
HIDDEN: Final = 64
VOCABULARY: Final = 64


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "intermediate_size": 2 * HIDDEN,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def _modernbert() -> ModernBertConfig:
    # A local window smaller than the tests' texts, and global attention in layers 0 and 3.
    return ModernBertConfig(**_sizes(cls_token_id=1, sep_token_id=2, local_attention=4, global_attn_every_n_layers=3))


CONFIGS: Final[dict[str, Callable[[], Any]]] = {
    "bert": lambda: BertConfig(**_sizes()),
    "roberta": lambda: RobertaConfig(**_sizes(pad_token_id=1)),
    "distilbert": lambda: DistilBertConfig(
        dim=HIDDEN, n_layers=DEPTH, n_heads=4, hidden_dim=2 * HIDDEN, vocab_size=VOCABULARY
    ),
    "electra": lambda: ElectraConfig(**_sizes(embedding_size=32)),
    "mpnet": lambda: MPNetConfig(**_sizes(pad_token_id=1)),
    "deberta-v2": lambda: DebertaV2Config(
        **_sizes(relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=16)
    ),
    "modernbert": _modernbert,
    "gpt2": lambda: GPT2Config(
        n_embd=HIDDEN, n_layer=DEPTH, n_head=4, vocab_size=VOCABULARY, bos_token_id=2, eos_token_id=2
    ),
    "llama": lambda: LlamaConfig(**_sizes(pad_token_id=None)),
}
"""The architectures that every treatment must work on (permutation: all but ModernBERT)."""

REFUSED: Final[dict[str, Callable[[], Any]]] = {
    "albert": lambda: AlbertConfig(**_sizes(embedding_size=32)),
    "t5": lambda: T5Config(
        d_model=HIDDEN, num_layers=DEPTH, num_heads=4, d_ff=2 * HIDDEN, d_kv=16, vocab_size=VOCABULARY
    ),
}


def save(config: Any, folder: Path) -> Path:
    """A base model of random parameters in `folder`, as a checkpoint without a head."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        network.save_pretrained(folder)
    return folder


def classifier(config: Any) -> Any:
    """An untrained network with a classification head."""
    with torch.random.fork_rng(devices=[]):
        return AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]


def model_of(folder: Path, layers: int = DEPTH) -> tuple[Model, Places]:
    """The folder as a cell names it, and the places in which it is found."""
    return Model(name="tiny", revision=pin(folder), layers=layers), Places({"tiny": folder})


def cell_of(model: Model, treatment: Treatment, **recipe: Any) -> Cell:
    """A cell of SST-2."""
    return Cell(model=model, task=GLUE["sst2"], size=500, treatment=treatment, recipe=Recipe(**recipe))


def load(folder: Path, **recipe: Any) -> Network:
    """The folder's network with two outputs."""
    model, places = model_of(folder)
    return Network.load(model, 2, Recipe(**recipe), places)


def logits(network: Network) -> torch.Tensor:
    """[3, 2], of three texts of different lengths, dropout off."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [9, 8, 7, 6, 5, 0, 0, 0], [20, 21, 0, 0, 0, 0, 0, 0]])
    mask = (torch.arange(8) < torch.tensor([[8], [5], [2]])).long()
    ids = torch.where(mask.bool(), ids, network.pad_token)
    network.module.eval()
    with torch.no_grad():
        values: torch.Tensor = network.module(input_ids=ids, attention_mask=mask).logits
    network.module.train()
    return values
