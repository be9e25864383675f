"""A pretrained network with a classification head, ready for one run after another.

Law: `prepare` starts every run from the checkpoint's own values, bit by bit, whatever ran before. The head is always
drawn afresh from the classifier stream, also where the checkpoint has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from itertools import chain
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from jobs.cell import Cell, Model, Permute, Probe, Recipe, Reinit
from jobs.errors import DataError, SpecError
from reinit.engine import Moments
from reinit.forms import Form, PaddedClassifier
from reinit.optimiser import Group, parameter_groups
from reinit.packed import PackedClassifier, packs
from reinit.places import Places, check_files, resolve_model, weight_files
from reinit.probe import ProbeNetwork
from reinit.surgery import (
    Stack,
    draw_head,
    find_pooler,
    find_stack,
    freeze_for_probe,
    permute,
    reinitialise,
    reload_as_released,
    restore,
    truncate,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_COUNTS: Final = ("num_labels", "num_hidden_layers", "n_layers", "n_layer")
MOST_COUNTED: Final = 100_000
"""Of classes or layers that a configuration may name; a cell has at most 1,000 layers."""

_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spm.model")


class Network:
    """One pretrained network in memory; `prepare` makes it the network of a run.

    Attributes:
        module: what trains and is scored; called with `input_ids`, `attention_mask` and perhaps `token_type_ids`,
            each [B, T], it returns an object with `logits` [B, outputs].
        stack: the layers.
        moments: the optimiser's memory, which runs share one after another.
        groups: the optimiser's groups, empty before `prepare` and for a probe that is fitted to convergence.
        fresh: names of the parameters that no checkpoint has.
        pad_token: id that pads a batch.
    """

    module: nn.Module
    groups: list[Group]
    fresh: frozenset[str]

    def __init__(
        self, model: Model, network: PreTrainedModel, fresh: frozenset[str], outputs: int, dropout: float
    ) -> None:
        """Take over a loaded network; see `load`."""
        self.model = model
        self.stack = _checked_stack(model, network)
        self.pad_token: int = network.config.pad_token_id
        self._network = network
        self._fresh = fresh
        self._outputs = outputs
        self._dropout = dropout
        with torch.no_grad():
            for name in fresh:
                # Nothing random before a seed is known, so that two loads are equal.
                network.get_parameter(name).zero_()
        self.moments = Moments()
        self._packed = PackedClassifier(network, self.stack, dropout) if packs(network) else None
        self._pristine = {name: value.clone() for name, value in network.state_dict().items()}
        # With every layer, and the whole embedding: to look for them takes half as long as to copy them.
        self._parameters = dict(network.named_parameters())
        words = self._packed.rows.embedding.weight if self._packed else None
        self._words = next((name for name, parameter in self._parameters.items() if parameter is words), None)
        self._begin()

    @classmethod
    def load(cls, model: Model, outputs: int, recipe: Recipe, places: Places) -> Self:
        """Load the model's weights in float32 and put a classification head of `outputs` on them.

        Every dropout probability of the network is the recipe's, whatever the checkpoint's configuration says.

        Raises:
            ConfigurationError: the model is not on this machine.
            DataError: the weights are damaged, incomplete, or not the ones that the cell names.
            SpecError: the architecture has no sequence classification, no single layer stack, or another depth.
        """
        folder = resolve_model(model, places)
        with _quiet():
            config = _read_config(folder, outputs, recipe.dropout)
            _check_size(model, folder, config)
            network, missing = _read_network(folder, config)
        set_dropout(network, recipe.dropout)
        return cls(model, network, _fresh_parameters(folder, network, missing), outputs, recipe.dropout)

    @property
    def pristine(self) -> dict[str, Tensor]:
        """Every pretrained parameter by name, as the checkpoint has it. Not to be written to."""
        return {name: self._pristine[name] for name in self._parameters if name not in self._fresh}

    def prepare(self, cell: Cell, seed: int) -> None:
        """Make this the network of (cell, seed) before its first step.

        Raises:
            SpecError: the treatment cannot be applied to this architecture, or texts may be longer than it can read.
            ValueError: the cell's model, outputs or dropout are not those that were loaded.
        """
        asked = (cell.model, cell.task.outputs, cell.recipe.dropout)
        if asked != (self.model, self._outputs, self._dropout):
            raise ValueError(f"loaded for {(self.model, self._outputs, self._dropout)}, asked for {asked}")
        if self._packed is not None and cell.recipe.max_length > self._packed.longest:
            # Some tokenisers do not say so, and kernels look up whatever position they are given.
            raise SpecError(
                f"max_length is more than {self.model.name} has positions for",
                expected=f"at most {self._packed.longest} tokens",
                got=cell.recipe.max_length,
            )
        treatment = cell.treatment
        self.reset(self._redrawn(treatment) if isinstance(treatment, Reinit) else frozenset())
        if isinstance(treatment, Reinit):
            reinitialise(self.stack, treatment, seed)
        elif isinstance(treatment, Permute):
            permute(self.stack, treatment.order)
        else:
            truncate(self.stack, treatment.depth)
        if isinstance(treatment, Probe):
            self._probe(treatment)
        draw_head({name: self.module.get_parameter(name) for name in sorted(self.fresh)}, self.module, seed)
        self.groups = parameter_groups(self.module, self.stack, self.fresh, cell)
        self.module.train()

    @property
    def form(self) -> Form:
        """What the engine trains: `module`, called with whole batches, packed where its architecture allows that."""
        if self._packed is not None and self.module is self._network:
            return self._packed
        return PaddedClassifier(self.module, self.pad_token)

    def before_scoring(self, cell: Cell, seed: int) -> None:
        """What the treatment does to the trained network before it is scored: only the released probe does anything."""
        if isinstance(cell.treatment, Probe) and cell.treatment.scored == "released_reload":
            reload_as_released(self.stack, cell.treatment.depth, seed)

    @torch.no_grad()
    def reset(self, but: AbstractSet[str] = frozenset()) -> None:
        """Every layer, parameter and buffer as after loading, bit by bit; all trainable, no gradients.

        Those named in `but` may have any value: they are about to be overwritten.
        """
        restore(self.stack)
        for name, value in chain(self._parameters.items(), self._network.named_buffers()):
            if name not in self._pristine:
                continue  # a buffer that no run changes
            # Once on its device, since each run begins here.
            pristine = self._pristine[name] = self._pristine[name].to(value.device)
            if name == self._words and self._packed is not None:
                self._packed.rows.restore(pristine)
            elif name not in but:
                value.copy_(pristine)
        self._begin()

    def _redrawn(self, treatment: Reinit) -> frozenset[str]:
        """The matrices of the layers that are redrawn: every initialisation draws them, or the layer is refused."""
        return frozenset(
            f"{self.stack.name}.{index}.{name}"
            for index in treatment.layers
            for name, parameter in self.stack.whole[index].named_parameters()
            if parameter.ndim > 1
        )

    def _begin(self) -> None:
        """All trainable, no gradients, no treatment."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        self.module, self.fresh, self.groups = self._network, self._fresh, []

    def _probe(self, treatment: Probe) -> None:
        pooler = f"{self._network.base_model_prefix}.pooler."
        if treatment.feature == "pooler" and any(name.startswith(pooler) for name in self._fresh):
            raise SpecError(
                f"the checkpoint of {self.model.name} has no pooler, so its feature would be random",
                allowed="cls, mean",
            )
        freeze_for_probe(self._network)
        probe = ProbeNetwork(self._network, treatment, self._outputs, self._dropout)
        if treatment.fit == "converged":
            # Fitted in one go by `probe.fit_converged`; an optimiser would find nothing to train, and say so.
            probe.classifier.requires_grad_(False)
        self.module, self.fresh = probe, frozenset({"classifier.weight", "classifier.bias"})


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokeniser of a model folder; no code from the folder runs.

    Raises:
        DataError: the folder has none, or it cannot be read.
    """
    check_files(folder)
    try:
        with _quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # a stranger's file: the library in Rust raises nothing narrower
        raise DataError("the tokeniser cannot be read", where=str(folder), got=_first_line(error)) from error
    return tokenizer


def set_dropout(network: nn.Module, probability: float) -> None:
    """Set every dropout there is: modules of that kind, and rates that other modules keep as numbers."""
    for module in network.modules():
        own = {"p", "drop_prob"} if "dropout" in type(module).__name__.lower() else set()
        for name, value in list(vars(module).items()):
            if (name in own or "dropout" in name) and isinstance(value, float | int) and not isinstance(value, bool):
                setattr(module, name, probability)


def _checked_stack(model: Model, network: PreTrainedModel) -> Stack:
    stack = find_stack(network)
    if len(stack) != model.layers:
        raise SpecError(
            f"{model.name} has another depth than the study says",
            expected=f"layers: {len(stack)} ({stack.name})",
            got=f"layers: {model.layers}",
        )
    return stack


def vocabulary_of(folder: Path) -> int:
    """How many tokens the network of a model folder has embeddings for.

    Raises:
        DataError: the folder's configuration cannot be read.
    """
    with _quiet():
        return int(_configuration(folder).vocab_size)


def _configuration(folder: Path) -> Any:
    """The checkpoint's configuration as it is; no code that it names is run."""
    check_files(folder)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # The library makes a list of each before anything could be compared with the weights.
        if absurd := [name for name in _COUNTS if isinstance(said.get(name), int) and said[name] > MOST_COUNTED]:
            raise ValueError(f"{absurd[0]} is {said[absurd[0]]:.3g}")
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a stranger's file: values of any type, nested to any depth
        raise DataError(
            "the model's configuration cannot be read", where=str(folder), got=_first_line(error)
        ) from error
    return config


def _read_config(folder: Path, outputs: int, dropout: float) -> PreTrainedConfig:
    """The checkpoint's configuration, with our head, our dropout, and a token that pads."""
    config = _configuration(folder)
    config.num_labels = outputs
    config.problem_type = "regression" if outputs == 1 else "single_label_classification"
    for name, value in config.to_dict().items():
        # None stands for "like the others"; a layer drop is not a dropout, and has another name.
        is_rate = "dropout" in name or name.endswith("pdrop")
        if is_rate and not isinstance(value, bool) and isinstance(value, float | int | None):
            setattr(config, name, dropout)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    config.pad_token_id = _pad_token(folder, config)
    return cast("PreTrainedConfig", config)


def _pad_token(folder: Path, config: Any) -> int:
    """The tokeniser's padding token, else the configuration's, else the end of text (decoders often have no other)."""
    ends = getattr(config, "eos_token_id", None)
    candidates = [getattr(config, "pad_token_id", None), ends[0] if isinstance(ends, list) and ends else ends]
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        candidates.insert(0, load_tokenizer(folder).pad_token_id)
    for candidate in candidates:
        if isinstance(candidate, int) and 0 <= candidate < config.vocab_size:
            return candidate
    raise DataError(
        "the model has no token to pad a batch with",
        where=str(folder),
        expected="pad_token or eos_token in its tokeniser, or pad_token_id or eos_token_id in its config.json",
    )


def _kind_of(folder: Path, config: PreTrainedConfig) -> Any:
    """The class of the network: one of the library's own, whatever `auto_map` says."""
    kinds: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in kinds:
        raise SpecError(
            f"the library has no sequence classification for the architecture {config.model_type}",
            where=str(folder),
        )
    return kinds[type(config)]


def _check_size(model: Model, folder: Path, config: PreTrainedConfig) -> None:
    """Refuse a configuration that declares more than the checkpoint holds, before memory is taken for it.

    Every parameter takes a byte or more in the files; a head or a pooler that they lack is small against the slack that
    their two or four bytes a parameter leave.
    """
    kind = _kind_of(folder, config)
    declared = getattr(config, "num_hidden_layers", model.layers)
    if declared != model.layers:
        raise SpecError(
            f"{model.name} has another depth than the study says",
            expected=f"layers: {declared}",
            got=f"layers: {model.layers}",
        )
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in kind(config).parameters())
    except Exception as error:  # a stranger's numbers
        raise DataError(
            "the model's configuration describes no network", where=str(folder), got=_first_line(error)
        ) from error
    stored = sum(file.stat().st_size for file in weight_files(folder))
    if parameters > stored:
        raise DataError(
            "the model's configuration declares more parameters than its weights can hold",
            where=str(folder),
            expected=f"at most {stored:,}, the bytes of its weights",
            got=f"{parameters:,} parameters",
        )


def _read_network(folder: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """The network in float32, and the names that the checkpoint lacks."""
    kind = _kind_of(folder, config)
    try:
        # Loading draws what the checkpoint lacks from the global generator; it is drawn again in `prepare`.
        with torch.random.fork_rng(devices=[]):
            network, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation="sdpa" if kind._supports_sdpa else "eager",  # noqa: SLF001
                use_safetensors=True,
                local_files_only=True,
                # A head of another width may be there; it is not used.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # a stranger's files: the library asserts, divides and looks up by what they say
        raise DataError("the model cannot be loaded", where=str(folder), got=_first_line(error)) from error
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    return network, set(report["missing_keys"]) | mismatched


def _fresh_parameters(folder: Path, network: PreTrainedModel, missing: set[str]) -> frozenset[str]:
    """The head: whatever is outside the base model, and the pooler where the checkpoint has none.

    Raises:
        DataError: the checkpoint lacks anything else.
        SpecError: base model and head are not apart.
    """
    base, pooler = network.base_model, find_pooler(network)
    if base is network:
        raise SpecError(f"{type(network).__name__} has no base model apart from its head")
    pretrained = {id(parameter) for parameter in base.parameters()}
    pooled = set() if pooler is None else {id(parameter) for parameter in pooler.parameters()}
    fresh, lost = set(), []
    for name, parameter in network.named_parameters():
        if id(parameter) not in pretrained:
            fresh.add(name)
        elif name in missing:
            # Half a pooler is no pooler, but half an encoder is a damaged checkpoint.
            fresh.add(name) if id(parameter) in pooled else lost.append(name)
    if lost:
        raise DataError(
            "the checkpoint lacks parameters of the pretrained network, or has them in another shape",
            where=str(folder),
            got=", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
        )
    return frozenset(fresh)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library reports as warnings and bars what is expected here, a missing head above all."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
