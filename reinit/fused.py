"""The packed forward pass and its gradients in few kernels: what a captured step on a GPU is made of.

Law: the loss and gradients are those of `PackedClassifier.forward`, up to floating-point order and dropout's draws:
each value is dropped with the recipe's probability to 1 in 4 billion, by a key that is drawn from torch's generator at
every step. The layers' matrix products take bfloat16 where the recipe says bf16; everything between them, sums of
attention, the head and all gradients of parameters are float32.

Kernels of matrix products are torch's. Gradients of parameters have nothing after them but the optimiser, so that they
are computed beside the way back, on a stream of their own.

Shapes: N tokens of B texts, H hidden, h heads of size d, M the feed-forward part's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from reinit.attention import Apart, Together
from reinit.kernels import SEVERAL, DropoutArgument, GradientsArgument, Launch
from reinit.operations import SQUARED, Attention, Embed, Gelu, Linear, Loss, ResidualNorm, Take
from reinit.rows import PackedBatch

if TYPE_CHECKING:
    from reinit.packed import Layer

WIDEST: Final = 4096
LARGEST_HEAD: Final = 64


def suits(layers: Sequence[Layer], heads: int, embedding: int) -> bool:
    """Whether the kernels are made for layers of this kind, and for an embedding of this width.

    A block has room for a row of the layers' width; some of ELECTRA's generators have wider embeddings.
    """
    width = layers[0].out.weight.shape[0]
    return (
        width % 4 == 0
        and width <= WIDEST
        and embedding % 4 == 0
        and embedding <= width
        and layers[0].up.weight.shape[0] % 4 == 0
        and width // heads <= LARGEST_HEAD
        and width // heads % 4 == 0
        and all(_is_gelu(layer.activation) for layer in layers)
    )


def _is_gelu(activation: object) -> bool:
    """Whether it is the one by the error function."""
    return (isinstance(activation, nn.GELU) and activation.approximate == "none") or (
        isinstance(activation, GELUActivation) and activation.act is nn.functional.gelu
    )


# ----------------------------------------------------------------------------------------------- copies of parameters


@dataclass(frozen=True)
class Maps:
    """Weights of a layer's linear maps as products take them."""

    projection: Tensor
    """[3H, H]: of query, key and value."""
    projection_bias: Tensor
    """[3H]"""
    out: Tensor
    up: Tensor
    down: Tensor
    gradients: dict[str, Tensor]
    """Where the gradients of the weights go, float32, by the name that the weight has here."""


class Copies:
    """The parameters of linear maps, joined or in another precision, kept in step with them by the optimiser.

    Attributes:
        of: the place of each copied parameter.
    """

    def __init__(self, layers: Sequence[Layer], low: torch.dtype) -> None:
        """Of these layers, stored as `low`."""
        self.of: dict[Tensor, Tensor] = {}
        self.maps: dict[nn.Module, Maps] = {}
        for layer in layers:
            parts = (layer.query, layer.key, layer.value)
            weights = {
                "projection": self._joined([part.weight for part in parts], low),
                **{name: self._single(getattr(layer, name).weight, low) for name in ("out", "up", "down")},
            }
            gradients = {name: torch.empty_like(weight, dtype=torch.float32) for name, weight in weights.items()}
            bias = self._joined([part.bias for part in parts], low)
            self.maps[layer.query] = Maps(**weights, projection_bias=bias, gradients=gradients)

    @torch.no_grad()
    def refresh(self) -> None:
        """As the parameters are now."""
        torch._foreach_copy_(list(self.of.values()), list(self.of))

    def _joined(self, parts: Sequence[Tensor], low: torch.dtype) -> Tensor:
        sizes = [len(part) for part in parts]
        whole = parts[0].new_empty((sum(sizes), *parts[0].shape[1:]), dtype=low, requires_grad=False)
        self.of.update(zip(parts, torch.split(whole, sizes), strict=True))
        return whole

    def _single(self, weight: Tensor, low: torch.dtype) -> Tensor:
        return weight.detach() if weight.dtype == low else self._joined([weight], low)


# ------------------------------------------------------------------------------------------------------ forward pass


class Side:
    """Gradients of parameters, on a stream that the way back does not wait for; on a CPU each is made at once."""

    def __init__(self, device: torch.device) -> None:
        """Of `device`."""
        is_gpu = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if is_gpu else None  # type: ignore[no-untyped-call]
        self._used: list[object] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, parameters: Sequence[Tensor], used: Sequence[Tensor], work: Callable[[], Sequence[Tensor]]
    ) -> None:
        """Have `work` make the gradient of each of these, of what it reads in `used`."""
        if self._stream is None:
            made = work()
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                made = work()
            # The allocator hands memory on in the order of the stream that asked for it, and waits for no other.
            self._used.append(used)
        self._made += zip(parameters, made, strict=True)

    def join(self) -> None:
        """Wait for all of it, on the device, and give each parameter its gradient."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        for parameter, gradient in self._made:
            assert parameter.grad is None  # noqa: S101  each is used once
            parameter.grad = gradient
        self._used.clear()
        self._made.clear()


class Fused:
    """The kernels of one network's layers in one precision."""

    def __init__(
        self, launch: Launch, layers: Sequence[Layer], heads: int, low: torch.dtype, dropout: float, weights: int
    ) -> None:
        """Of all layers that the network can be asked for, and `weights` parameters in all."""
        device = layers[0].out.weight.device
        self.launch, self.low, self.heads = launch, low, heads
        self.copies, self.side = Copies(layers, low), Side(device)
        self._threshold = min(round(dropout * 2**32), 2**32 - 1)
        self._scale = 1 / (1 - dropout)
        self._sites = 0
        self._key = torch.zeros(1, dtype=torch.int64, device=device)
        self._ranges: tuple[Tensor, ...] = ()
        # Gradients of vectors lie side by side, and the squares of all gradients.
        layer = layers[0]
        vectors = 9 * len(layer.out.weight) + len(layer.up.weight)
        self._vectors = torch.empty((1 + len(layers)) * vectors, device=device)
        self._squares = torch.empty(weights // SQUARED + 32 * (1 + len(layers)), device=device)
        self._vector_count = self._square_count = 0
        self._waiting: list[Tensor] = []

    def begin(self, batch: PackedBatch) -> None:
        """Before each forward pass: a new key for dropout, and where the batch's texts are."""
        device = self._key.device
        self._key = torch.randint(2**63 - 1, (1,), device=device)
        self._sites = self._vector_count = self._square_count = 0
        self._waiting.clear()
        ranges = torch.empty(batch.tokens + batch.texts, 2, dtype=torch.int32, device=device)
        self._ranges = torch.split(ranges, [batch.tokens, batch.texts])
        self.launch("text_ranges", (batch.texts + 1,), (128,), batch.numbers, batch.tokens, batch.texts, *self._ranges)

    def loss(self, logits: Tensor, batch: PackedBatch, *, regression: bool) -> Tensor:
        """The weighted sum of the texts' losses, float32 []; as `reinit.train.losses_of` has each."""
        result: Tensor = Loss.apply(self, logits.float(), batch, regression)  # type: ignore[no-untyped-call]
        return result

    def finish(self, parameters: Sequence[Tensor], loss: Tensor) -> tuple[Tensor, Tensor]:
        """After the way back from `loss`: every gradient in its parameter.

        Returns:
            The norm of the gradients of `parameters`, and 1 where the loss is not finite, else 0; each float32 [].
        """
        by_torch = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.side.join()
        for gradient in [*by_torch, self._vectors[: self._vector_count]]:
            self.squares(gradient)
        self._add_squares()
        norm, is_bad = self._squares.new_empty(2).unbind()
        self.launch("root_of_sum", (1,), (1024,), self._squares, self._square_count, loss, norm, is_bad)
        return norm, is_bad

    def vector(self, size: int) -> Tensor:
        """Room for a vector's gradient, float32 [size], whose squares are added up in the end."""
        self._vector_count += size
        return self._vectors[self._vector_count - size : self._vector_count]

    def squares(self, gradient: Tensor) -> None:
        """Add this gradient's squares up for the norm; it stays as it is until that is done.

        As many as a layer has matrices go together: each alone is so little work that its launch would take most of it.
        """
        self._waiting.append(gradient.contiguous())
        if len(self._waiting) == SEVERAL:
            self._add_squares()

    def _add_squares(self) -> None:
        if not self._waiting:
            return
        counts = [-(-gradient.numel() // SQUARED) for gradient in self._waiting]
        argument = GradientsArgument.of(self._waiting, [sum(counts[:index]) for index in range(len(counts))])
        totals = self._squares[self._square_count :]
        self._square_count += sum(counts)
        assert self._square_count <= len(self._squares)  # noqa: S101
        self.launch("squares", (sum(counts),), (512,), argument, len(counts), totals)
        self._waiting.clear()

    def ranges(self, *, of_texts: bool) -> Tensor:
        """Where the texts of tokens are, or texts: from and to, int32 [N or B, 2]."""
        return self._ranges[of_texts]

    def dropout(self, *, is_on: bool = True) -> DropoutArgument:
        """The next site's, with bits of its own."""
        self._sites += 1
        if not is_on:
            return DropoutArgument(self._key.data_ptr(), 0, 0, 1.0)
        return DropoutArgument(self._key.data_ptr(), self._sites, self._threshold, self._scale)

    def embed(self, embeddings: Any, batch: PackedBatch, *, has_types: bool) -> tuple[Tensor, Tensor]:
        """Embeddings of the tokens, float32 and low [N, H]."""
        tables = [embeddings.word_embeddings, embeddings.position_embeddings]
        rows = [batch.ids, batch.positions]
        if has_types:
            tables.append(embeddings.token_type_embeddings)
            rows.append(batch.types)
        result: tuple[Tensor, Tensor] = Embed.apply(  # type: ignore[no-untyped-call]
            self, self.dropout(), tables, rows, embeddings.LayerNorm, tables[0].weight
        )
        return result

    def layer(
        self,
        layer: Layer,
        batch: PackedBatch,
        attend: Together | Apart | None,
        states: tuple[Tensor, Tensor],
        *,
        is_last: bool,
    ) -> tuple[Tensor, Tensor]:
        """The layer's output, float32 and low: [N, H], or [B, H] of each text's first token in the last layer.

        Args:
            layer: its parameters.
            batch: whose texts.
            attend: the way to attend, where it is not the plain one of the kernels.
            states: what goes in, float32 and low [N, H].
            is_last: nothing but each text's first token is read after this.
        """
        maps = self.copies.maps[layer.query]
        inputs, inputs_low = self._firsts(states, batch) if is_last else states
        attended = self._attend(layer, maps, batch, attend, inputs_low, states[1], is_last=is_last)
        mixed = self._linear(attended, maps.out, None, maps.gradients["out"], layer.out.weight)
        drop = self.dropout(is_on=layer.drops_attention)
        middle, middle_low = self._norm(drop, inputs, mixed, layer.out, layer.attention_norm)
        wide = self._linear(middle_low, maps.up, None, maps.gradients["up"], layer.up.weight)
        wide = Gelu.apply(self, wide, layer.up.bias)  # type: ignore[no-untyped-call]
        result = self._linear(wide, maps.down, None, maps.gradients["down"], layer.down.weight)
        return self._norm(self.dropout(), middle, result, layer.down, layer.output_norm)

    def _attend(
        self,
        layer: Layer,
        maps: Maps,
        batch: PackedBatch,
        attend: Together | Apart | None,
        inputs: Tensor,
        states: Tensor,
        *,
        is_last: bool,
    ) -> Tensor:
        parts = (layer.query, layer.key, layer.value)
        weight, bias, gradient = maps.projection, maps.projection_bias, maps.gradients["projection"]
        # Queries of each text's first token in the last layer, keys and values of all.
        asking = len(layer.query.weight) if is_last else len(weight)
        these, rest = (parts[:1], parts[1:]) if is_last else (parts, ())
        query = self._linear(inputs, weight[:asking], bias[:asking], gradient[:asking], *_parameters(these))
        others = None
        if rest:
            others = self._linear(states, weight[asking:], bias[asking:], gradient[asking:], *_parameters(rest))
        if attend is None:
            attended: Tensor = Attention.apply(self, self.dropout(), batch, query, others)  # type: ignore[no-untyped-call]
            return attended
        query, key, value = query.chunk(3, dim=1) if others is None else (query, *others.chunk(2, dim=1))
        probability = self._threshold / 2**32
        return attend(query, key, value, lambda each: nn.functional.dropout(each, probability), is_last=is_last)

    def _linear(
        self, values: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, *parameters: Tensor
    ) -> Tensor:
        result: Tensor = Linear.apply(self, values, weight, bias, gradient, list(parameters))  # type: ignore[no-untyped-call]
        return result

    def _norm(
        self, drop: DropoutArgument, residual: Tensor, added: Tensor, linear: nn.Linear, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = ResidualNorm.apply(  # type: ignore[no-untyped-call]
            self, drop, residual, added, linear.bias, norm
        )
        return result

    def _firsts(self, states: tuple[Tensor, Tensor], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = Take.apply(self, batch.firsts, *states)  # type: ignore[no-untyped-call]
        return result


def _parameters(linears: Sequence[nn.Linear]) -> list[Tensor]:
    """Their weights, then their biases."""
    return [linear.weight for linear in linears] + [linear.bias for linear in linears]
