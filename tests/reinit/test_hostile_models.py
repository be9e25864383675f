"""Model folders from a stranger: nothing in them runs, none takes the machine's memory, each is refused in words."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cell import Model
from jobs.errors import DataError, ReinitError, SpecError
from reinit.data import Rows
from reinit.network import load_tokenizer, vocabulary_of
from reinit.places import MOST_TEXT_BYTES, Places, resolve_model
from reinit.tokens import Tokens
from tests.reinit.architectures import CONFIGS, DEPTH, VOCABULARY, load, save
from tests.reinit.tiny import MINILM

PLANTED = "planted.txt"
CODE = f"""
from pathlib import Path
Path(__file__).with_name({PLANTED!r}).write_text("run")
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
class EvilConfig(BertConfig): pass
class EvilModel(BertForSequenceClassification): pass
class EvilTokenizer(BertTokenizer): pass
"""
AUTO_MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForSequenceClassification": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", None],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(CONFIGS["bert"](), tmp_path)


@pytest.fixture
def tokenised(folder: Path) -> Path:
    """With the tokeniser of the packaged model."""
    source = resolve_model(MINILM, Places())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return folder


def named(folder: Path) -> tuple[Model, Places]:
    """The folder as a cell names it by a commit, so that nothing is read of it yet."""
    return Model(name="tiny", revision="0" * 40, layers=DEPTH), Places({"tiny": folder})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


# --------------------------------------------------------------------------------------------------- code that is there


def test_code_beside_a_known_architecture_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text(CODE, encoding="utf-8")
    configure(folder, auto_map=AUTO_MAP, architectures=["EvilModel"])
    assert type(load(folder).stack.network).__module__.startswith("transformers.")
    assert not (folder / PLANTED).exists()


def test_an_architecture_that_only_code_knows_is_refused(folder: Path) -> None:
    (folder / "evil.py").write_text(CODE, encoding="utf-8")
    configure(folder, auto_map=AUTO_MAP, model_type="evil")
    with pytest.raises(DataError):
        load(folder)
    assert not (folder / PLANTED).exists()


def test_a_tokenisers_code_is_never_run(tokenised: Path) -> None:
    (tokenised / "evil.py").write_text(CODE, encoding="utf-8")
    said = {"auto_map": AUTO_MAP, "tokenizer_class": "EvilTokenizer"}
    (tokenised / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    assert type(load_tokenizer(tokenised)).__module__.startswith("transformers.")
    assert not (tokenised / PLANTED).exists()


def test_a_pickle_beside_the_weights_is_never_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(
        b"cpathlib\nPath\n(S'%s'\ntRp0\n." % str(folder / PLANTED).encode() + b"\x80 no pickle at all"
    )
    assert load(folder).stack.name == "bert.encoder.layer"


def test_pickled_weights_alone_are_refused_with_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="no safetensors") as refused:
        resolve_model(*named(folder))
    assert "pytorch_model.bin" in str(refused.value)
    assert "save_pretrained" in str(refused.value)


# --------------------------------------------------------------------------------------------------- sizes and shapes


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**12},
        {"hidden_size": 10**7, "num_attention_heads": 1},
        {"intermediate_size": 10**11},
        {"max_position_embeddings": 10**13},
        {"vocab_size": 10**30},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "many"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"hidden_size": -32},
        {"hidden_size": "32"},
        {"hidden_size": None},
        {"hidden_size": [32]},
        {"hidden_act": "os.system"},
        {"hidden_act": {"a": 1}},
        {"vocab_size": 0},
        {"type_vocab_size": -1},
        {"layer_norm_eps": "tiny"},
        {"pad_token_id": 10**9},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"quantization_config": {"quant_method": "no such thing"}},
        {"dtype": "os.system"},
        {"model_type": ["bert"]},
        {"model_type": "../bert"},
        {"id2label": {"0": "x" * 10_000}},
        {"num_labels": 10**12},
        {"hidden_dropout_prob": "high"},
        {"attn_implementation": "https://example.com/kernel"},
        {"_attn_implementation": "kernels-community/evil"},
    ],
    ids=lambda changes: " ".join(f"{key}={str(value)[:30]}" for key, value in changes.items()),
)
def test_an_absurd_configuration_is_refused_or_changes_nothing(folder: Path, changes: dict[str, Any]) -> None:
    configure(folder, **changes)
    try:
        network = load(folder)
    except ReinitError as error:
        assert len(str(error)) < 5000  # noqa: PT017
    else:
        assert len(network.stack) == DEPTH


@pytest.mark.parametrize(
    "text", [deep(), f'{{"model_type": "bert", "x": {deep()}}}', '{"model_type": 9' + "9" * 9999 + "}"]
)
def test_a_configuration_nested_too_deeply_or_of_endless_digits_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        load(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"w": {"dtype": "object", "shape": [1], "data_offsets": [0, 4]}},
        {"__metadata__": {"format": "pickle"}},
    ],
)
def test_a_header_of_weights_that_lies_is_refused(folder: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\0\0")
    with pytest.raises(DataError):
        load(folder)


def test_a_header_longer_than_its_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(DataError):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "vocab.txt", "model.safetensors.index.json"])
def test_a_text_of_absurd_size_is_refused_before_it_is_read(tokenised: Path, name: str) -> None:
    with (tokenised / name).open("wb") as file:
        file.truncate(MOST_TEXT_BYTES + 1)  # a hole: takes no room on the disk
    with pytest.raises(DataError, match="too large"):
        load(tokenised)


# ---------------------------------------------------------------------------------------------------------- tokenisers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        deep(),
        '{"version": "1.0", "model": {"type": "WordPiece"}}',
        '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": ["a"]}}',
        '{"version": "1.0", "added_tokens": ' + deep(500) + "}",
        '{"version": "9.9", "model": {"type": "pickle"}}',
    ],
    ids=lambda text: text[:40],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_damaged_tokeniser_is_refused_or_does_not_matter(tokenised: Path, name: str, text: str) -> None:
    (tokenised / name).write_text(text, encoding="utf-8")
    try:
        load_tokenizer(tokenised)
    except DataError as error:
        assert str(tokenised) in str(error)  # noqa: PT017


def test_a_token_that_the_network_has_no_embedding_for_is_refused(tokenised: Path) -> None:
    """On a GPU an index beyond the embeddings ends the process with an assertion of the device."""
    rows = Rows([("a warm and funny film",)], [1.0])
    assert vocabulary_of(tokenised) == VOCABULARY
    with pytest.raises(DataError, match="does not know"):
        Tokens(rows, load_tokenizer(tokenised), 16, VOCABULARY).all()
    assert Tokens(rows, load_tokenizer(tokenised), 16, 30_522).all()


# --------------------------------------------------------------------------------------------------------------- index


def _index(names: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")

    return write


@pytest.mark.parametrize(
    "names",
    [
        {"w": "../outside.safetensors"},
        {"w": "/etc/outside.safetensors"},
        {"w": "sub/outside.safetensors"},
        {"w": ".safetensors"},
        {"w": "a\0b.safetensors"},
        {"w": "a" * 5000 + ".safetensors"},
        {"w": "pytorch_model.bin"},
        {"w": 1},
        {"w": ["a.safetensors"]},
        [],
        {},
        None,
    ],
    ids=str,
)
def test_an_index_that_names_anything_but_weights_beside_it_is_refused(folder: Path, names: object) -> None:
    (folder.parent / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    _index(names)(folder)
    with pytest.raises(DataError, match="index of weights"):
        resolve_model(*named(folder))


def test_an_index_nested_too_deeply_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {deep()}}}', encoding="utf-8")
    with pytest.raises(DataError, match="index of weights"):
        resolve_model(*named(folder))


def test_a_depth_that_only_the_study_has_is_a_mistake_of_the_study(folder: Path) -> None:
    configure(folder, num_hidden_layers=99)
    with pytest.raises(SpecError, match="another depth"):
        load(folder)
