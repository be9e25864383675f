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

from reinit.batches import PackedBatch, pack
from reinit.data import Example
from reinit.embedding import UsedRows
from reinit.graphs import Graphs
from reinit.optimiser import Group
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
    """Whether places are counted from the padding token's id on."""


FAMILIES: Final[dict[str, Family]] = {
    "BertForSequenceClassification": Family(_bert_layer, _pooled_head),
    "RobertaForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "XLMRobertaForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "CamembertForSequenceClassification": Family(_bert_layer, _head, has_offset=True),
    "ElectraForSequenceClassification": Family(_bert_layer, _head),
    "DistilBertForSequenceClassification": Family(_distilbert_layer, _distilbert_head, has_types=False),
    "MPNetForSequenceClassification": Family(_mpnet_layer, _head, has_types=False, has_offset=True),
}
"""By the class of the network; each is held against the library's own forward pass in tests."""


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
        self._rows = UsedRows(network.get_input_embeddings())
        self.graphs = Graphs()

    def fit_to(self, examples: Sequence[Example], groups: Sequence[Group]) -> list[Group]:
        """Leave out what a run on these texts has no use for, and return the optimiser's groups without it."""
        return self._rows.take(examples, groups)

    def release(self) -> None:
        """The whole network again."""
        self._rows.put_back()

    def collate(
        self,
        examples: Sequence[Example],
        weight: float,
        device: torch.device,
        room: Callable[[int], int] = lambda tokens: tokens,
        texts: int | None = None,
    ) -> PackedBatch:
        """These texts on `device`, each with `weight` in the loss; see `pack`."""
        return pack(examples, weight, self._rows.places, room, texts).to(device)

    def layout(self) -> object:
        """What a captured graph depends on: the tensors of the parameters, and the layers in their order."""
        parameters = tuple((parameter.data_ptr(), parameter.requires_grad) for parameter in self.parameters())
        return parameters, tuple(id(layer) for layer in self._stack[0].layers), self._dropout, self.training

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits, [B, outputs]."""
        ids, types, places, texts = batch.tokens
        base: Any = self.network.base_model
        offset = base.embeddings.padding_idx + 1 if self._family.has_offset else 0
        more = {"token_type_ids": types.unsqueeze(0)} if self._family.has_types else {}
        states = base.embeddings(input_ids=ids.unsqueeze(0), position_ids=(places + offset).unsqueeze(0), **more)
        if hasattr(base, "embeddings_project"):
            states = base.embeddings_project(states)
        states_NH = states.squeeze(0)
        bias = self._bias(places, texts, states_NH.dtype)
        layers = [self._family.layer(layer) for layer in self._stack[0].layers]
        for layer in layers[:-1]:
            states_NH = self._layer(layer, states_NH, states_NH, bias)
        firsts_BH = states_NH.index_select(0, batch.firsts)
        firsts_BH = self._layer(layers[-1], firsts_BH, states_NH, bias.index_select(-2, batch.firsts))
        return self._family.head(self.network, firsts_BH.unsqueeze(1))

    def _bias(self, places: Tensor, texts: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of attention, [N, N] or [h, N, N]: minus infinity between texts."""
        is_other = texts.unsqueeze(1) != texts.unsqueeze(0)
        relative = getattr(getattr(self.network.base_model, "encoder", None), "relative_attention_bias", None)
        if relative is None:
            return torch.zeros(is_other.shape, dtype=dtype, device=is_other.device).masked_fill_(is_other, -torch.inf)
        encoder: Any = self.network.base_model.encoder
        buckets = encoder.relative_position_bucket(places.unsqueeze(0) - places.unsqueeze(1))
        bias: Tensor = relative(buckets).permute(2, 0, 1).masked_fill(is_other, -torch.inf)
        return bias

    def _layer(self, layer: Layer, queries_BH: Tensor, states_NH: Tensor, bias: Tensor) -> Tensor:
        """The layer's output at `queries_BH`, which attend to `states_NH`."""
        attended_BH = self._attend(layer, queries_BH, states_NH, bias)
        mixed_BH = layer.out(attended_BH)
        if layer.drops_attention:
            mixed_BH = self._drop(mixed_BH)
        middle_BH = layer.attention_norm(mixed_BH + queries_BH)
        output_BH = self._drop(layer.down(layer.activation(layer.up(middle_BH))))
        output_BH = layer.output_norm(output_BH + middle_BH)
        return output_BH

    def _attend(self, layer: Layer, queries_BH: Tensor, states_NH: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            projected.view(len(projected), self._heads, -1).transpose(0, 1)
            for projected in (layer.query(queries_BH), layer.key(states_NH), layer.value(states_NH))
        )
        if query.is_cuda:
            attended = F.scaled_dot_product_attention(
                query.unsqueeze(0),
                key.unsqueeze(0),
                value.unsqueeze(0),
                attn_mask=bias.to(query.dtype).expand(1, self._heads, -1, -1),
                dropout_p=self._dropout if self.training else 0.0,
            ).squeeze(0)
        else:
            # Torch has no fused attention with dropout on a CPU, and its own way in steps is slower than these.
            bias = bias.to(query.dtype).expand(self._heads, -1, -1)
            scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
            attended = torch.bmm(self._drop(scores.softmax(-1)), value)
        return attended.transpose(0, 1).reshape(len(queries_BH), -1)

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self._dropout, self.training)
