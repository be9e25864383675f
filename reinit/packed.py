"""Texts one after another in one row, without padding: the forward pass of encoders that normalise after each block.

Law: at dropout 0 the logits are those of the library's own network on padded texts, up to floating-point order; the
parameters are that network's own. A token attends to its own text alone. In the last layer only each text's first
token goes on behind the keys and values, since the head reads no other.

Shapes: N tokens of B texts, H hidden, h heads of size d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from jobs.errors import DataError
from reinit.attention import Apart, Relative, Together, attention_of
from reinit.data import Example
from reinit.dropout import drop
from reinit.embedding import UsedRows
from reinit.fused import Fused, suits
from reinit.graphs import Graphs
from reinit.joined import Weights, joined_weights
from reinit.kernels import Launch, kernels_for
from reinit.optimiser import Group
from reinit.rows import PackedBatch, pack
from reinit.surgery import Stack

# ------------------------------------------------------------------------------------------- what a family looks like


@dataclass(frozen=True)
class Layer:
    """One block of attention and feed-forward part: the modules that hold its parameters."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    output_norm: nn.LayerNorm
    drops_attention: bool = True
    """Whether dropout follows `out`."""


def _bert_layer(layer: Any) -> Layer:
    own, output = layer.attention.self, layer.attention.output
    return Layer(own.query, own.key, own.value, output.dense, output.LayerNorm, *_bert_feed_forward(layer))


def _mpnet_layer(layer: Any) -> Layer:
    own = layer.attention.attn
    return Layer(own.q, own.k, own.v, own.o, layer.attention.LayerNorm, *_bert_feed_forward(layer))


def _bert_feed_forward(layer: Any) -> tuple[nn.Linear, Callable[[Tensor], Tensor], nn.Linear, nn.LayerNorm]:
    middle, output = layer.intermediate, layer.output
    return middle.dense, middle.intermediate_act_fn, output.dense, output.LayerNorm


def _distilbert_layer(layer: Any) -> Layer:
    own, forward = layer.attention, layer.ffn
    return Layer(
        own.q_lin,
        own.k_lin,
        own.v_lin,
        own.out_lin,
        layer.sa_layer_norm,
        forward.lin1,
        forward.activation,
        forward.lin2,
        layer.output_layer_norm,
        drops_attention=False,
    )


def _pooled_head(network: Any, firsts: Tensor) -> Tensor:
    logits: Tensor = network.classifier(network.dropout(network.base_model.pooler(firsts)))
    return logits


def _head(network: Any, firsts: Tensor) -> Tensor:
    logits: Tensor = network.classifier(firsts)
    return logits


def _distilbert_head(network: Any, firsts: Tensor) -> Tensor:
    logits: Tensor = network.classifier(network.dropout(F.relu(network.pre_classifier(firsts[:, 0]))))
    return logits


@dataclass(frozen=True)
class Family:
    """How the library's network of one kind is laid out."""

    layer: Callable[[Any], Layer]
    head: Callable[[Any, Tensor], Tensor]
    """Logits [B, outputs] from each text's first state, [B, 1, H]."""
    has_types: bool = True
    has_offset: bool = False
    """Whether positions are counted from the padding token's id on."""


FAMILIES: Final[dict[str, Family]] = {
    "BertForSequenceClassification": Family(_bert_layer, _pooled_head),
    "RobertaForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "XLMRobertaForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "CamembertForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "ElectraForSequenceClassification": Family(_bert_layer, _head),
    "DistilBertForSequenceClassification": Family(_distilbert_layer, _distilbert_head, has_types=False),
    "MPNetForSequenceClassification": Family(_mpnet_layer, _head, has_types=False, has_offset=True),
}
"""By the class of the network. Each is held against the library's own forward pass in tests, XLM-R and CamemBERT as
RoBERTa, whose code theirs is a copy of."""


def packs(network: nn.Module) -> bool:
    """Whether there is a packed forward pass of this network."""
    return type(network).__name__ in FAMILIES and not getattr(network.config, "is_decoder", False)


# ------------------------------------------------------------------------------------------------------ forward pass


class PackedClassifier(nn.Module):
    """A network with a classification head, called with a `PackedBatch`."""

    def __init__(self, network: PreTrainedModel, stack: Stack, dropout: float) -> None:
        """Share the parameters of `network`, whose layers are `stack`'s; every dropout is `dropout`."""
        super().__init__()
        self.network = network
        self._stack = [stack]  # a list: no module of ours
        self._dropout = dropout
        self._family = FAMILIES[type(network).__name__]
        self._heads: int = network.config.num_attention_heads
        embeddings: Any = network.base_model.embeddings
        self._padding: int | None = embeddings.padding_idx if self._family.has_offset else None
        self.rows = UsedRows(embeddings.word_embeddings)
        self.graphs = Graphs()
        self._all_layers = [self._family.layer(layer) for layer in stack.layers]
        self._fused: dict[torch.dtype, Fused] = {}
        # All of the embedding's: later runs can use more of its rows than the first.
        self._parameter_count = sum(parameter.numel() for parameter in network.parameters())

    def fit_to(self, examples: Sequence[Example], groups: Sequence[Group]) -> list[Group]:
        """Leave out what a run on these texts has no use for, and return the optimiser's groups without it.

        Raises:
            DataError: the network has no embedding of a token's type; kernels look up what they are given.
        """
        if self._family.has_types:
            embeddings: Any = self.network.base_model.embeddings
            known = embeddings.token_type_embeddings.num_embeddings
            largest = max(max(example.token_type_ids or (0,)) for example in examples)
            if largest >= known:
                raise DataError(
                    "the tokeniser tells more kinds of tokens apart than the network",
                    expected=f"token types below {known}",
                    got=largest,
                    remedy="use the tokeniser that the model was trained with",
                )
        return self.rows.take(examples, groups)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the network has positions for."""
        embeddings: Any = self.network.base_model.embeddings
        positions: int = embeddings.position_embeddings.num_embeddings
        return positions if self._padding is None else positions - self._padding - 1

    def release(self) -> None:
        """The whole network again."""
        self.rows.put_back()

    def collate(
        self,
        examples: Sequence[Example],
        weight: float,
        device: torch.device,
        fill_to: int | None = None,
    ) -> PackedBatch:
        """These texts on `device`, each with `weight` in the loss; see `pack`."""
        return pack(examples, weight, self.rows.places, fill_to, self._padding).to(device)

    def layout(self) -> object:
        """What a captured graph depends on: the tensors of the parameters, and the layers in their order.

        Also the embedding's row that never trains: of runs that share the rows' memory, each has it elsewhere.
        """
        parameters = tuple((parameter.data_ptr(), parameter.requires_grad) for parameter in self.parameters())
        layers, padding = tuple(id(layer) for layer in self._stack[0].layers), self.rows.embedding.padding_idx
        return parameters, layers, padding, self._dropout, self.training

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits, [B, outputs]."""
        base: Any = self.network.base_model
        more = {"token_type_ids": batch.types.unsqueeze(0)} if self._family.has_types else {}
        states = base.embeddings(input_ids=batch.ids.unsqueeze(0), position_ids=batch.positions.unsqueeze(0), **more)
        if hasattr(base, "embeddings_project"):
            states = base.embeddings_project(states)
        states_NH = states.squeeze(0)
        attend = attention_of(batch, self._heads, self._relative)
        layers = [self._family.layer(layer) for layer in self._stack[0].layers]
        weights = self._weights(layers, states_NH.device)
        for layer in layers[:-1]:
            states_NH = self._layer(layer, weights, attend, states_NH, None)
        states_BH = self._layer(layers[-1], weights, attend, states_NH, batch.firsts)
        return self._family.head(self.network, states_BH.unsqueeze(1))

    def fused(self, precision: str) -> Fused | None:
        """The kernels for training in this precision, where they are made for this network and device."""
        weight = self._all_layers[0].out.weight
        is_frozen = not all(parameter.requires_grad for parameter in self.parameters())
        is_suited = suits(self._all_layers, self._heads, self.rows.embedding.embedding_dim)
        if weight.device.type != "cuda" or torch.version.hip or is_frozen or not is_suited:
            return None
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        if low not in self._fused:
            width = len(weight)
            launch = kernels_for(low, width // self._heads, width, weight.device.index or 0)
            self._fused[low] = self.fused_by(launch, low)
        return self._fused[low]

    def fused_by(self, launch: Launch, low: torch.dtype) -> Fused:
        """The same where `launch` starts them."""
        return Fused(launch, self._all_layers, self._heads, low, self._dropout, self._parameter_count)

    def by(self, fused: Fused, batch: PackedBatch) -> Tensor:
        """Logits of a training step, [B, outputs], by kernels of few launches."""
        base: Any = self.network.base_model
        fused.begin(batch)
        states = fused.embed(base.embeddings, batch, has_types=self._family.has_types)
        if hasattr(base, "embeddings_project"):
            projected = base.embeddings_project(states[0]).float()
            states = projected, projected.to(fused.low)
        # Distances have a gradient of their own, which torch knows.
        relative = self._relative
        attend = None if relative is None else attention_of(batch, self._heads, relative)
        layers = [self._family.layer(layer) for layer in self._stack[0].layers]
        for layer in layers:
            states = fused.layer(layer, batch, attend, states, is_last=layer is layers[-1])
        # So few rows that nothing is saved by casts.
        with torch.autocast(states[0].device.type, enabled=False):
            return self._family.head(self.network, states[0].unsqueeze(1))

    def _weights(self, layers: Sequence[Layer], device: torch.device) -> Weights:
        """Weight and bias of linear maps of the layers, by module; one for query, key and value, by the query's.

        On a GPU each kernel has its price at the sizes of this project, so that one product is better than three, and
        one copy of all weights in bf16 better than autocast's copy of each.
        """
        if device.type != "cuda":
            return {}
        groups: list[tuple[nn.Linear, ...]] = [(layer.query, layer.key, layer.value) for layer in layers]
        if not torch.is_autocast_enabled("cuda"):
            return joined_weights(groups, torch.float32)
        groups += [(each,) for layer in layers for each in (layer.out, layer.up, layer.down)]
        return joined_weights(groups, torch.get_autocast_dtype("cuda"))

    @property
    def _relative(self) -> Relative | None:
        """What the network adds to the scores of attention by distance."""
        encoder: Any = getattr(self.network.base_model, "encoder", None)
        if not hasattr(encoder, "relative_attention_bias"):
            return None

        def relative(distances: Tensor) -> Tensor:
            bias: Tensor = encoder.relative_attention_bias(encoder.relative_position_bucket(distances))
            return bias.permute(2, 0, 1)

        return relative

    def _layer(
        self, layer: Layer, weights: Weights, attend: Together | Apart, states_NH: Tensor, firsts: Tensor | None
    ) -> Tensor:
        """The layer's output, at `firsts` alone if they are given."""
        inputs_BH = states_NH if firsts is None else states_NH.index_select(0, firsts)
        query, key, value = _project(layer, weights, states_NH, inputs_BH)
        attended_BH = attend(query, key, value, self._drop, is_last=firsts is not None)
        mixed_BH = _linear(layer.out, weights, attended_BH)
        if layer.drops_attention:
            mixed_BH = self._drop(mixed_BH)
        middle_BH = layer.attention_norm(mixed_BH + inputs_BH)
        wide = layer.activation(_linear(layer.up, weights, middle_BH))
        output_BH: Tensor = layer.output_norm(self._drop(_linear(layer.down, weights, wide)) + middle_BH)
        return output_BH

    def _drop(self, values: Tensor) -> Tensor:
        return drop(values, self._dropout) if self.training else values


def _project(layer: Layer, weights: Weights, states_NH: Tensor, inputs_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query of the inputs, key and value of the states."""
    if layer.query not in weights:
        return layer.query(inputs_BH), layer.key(states_NH), layer.value(states_NH)
    weight, bias = weights[layer.query]
    if inputs_BH is states_NH:
        query, key, value = F.linear(states_NH, weight, bias).chunk(3, dim=1)
    else:
        size = len(weight) // 3
        query = F.linear(inputs_BH, weight[:size], bias[:size])
        key, value = F.linear(states_NH, weight[size:], bias[size:]).chunk(2, dim=1)
    return query, key, value


def _linear(module: nn.Linear, weights: Weights, values: Tensor) -> Tensor:
    result: Tensor = F.linear(values, *weights[module]) if module in weights else module(values)
    return result
