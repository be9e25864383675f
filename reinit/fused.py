"""The packed forward pass and its gradients in few kernels: what a captured step on a GPU is made of.

Law: the loss and gradients are those of `PackedClassifier.forward`, up to floating-point order and dropout's draws: each
value is dropped with the recipe's probability to 1 in 4 billion, by a key that is drawn from torch's generator at every
step. Matrix products take bfloat16 where the recipe says bf16; everything between them, sums of attention and all
gradients of parameters are float32.

Kernels of matrix products are torch's. Gradients of parameters have nothing after them but the optimiser, so that they
are computed beside the way back, on a stream of their own.

Shapes: N tokens of B texts, H hidden, h heads of size d, M the feed-forward part's width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from reinit.attention import Apart, Together
from reinit.kernels import DropoutArgument, Launch, TablesArgument
from reinit.rows import PackedBatch

if TYPE_CHECKING:
    from reinit.packed import Layer

WIDEST: Final = 4096
LARGEST_HEAD: Final = 64
COLUMNS: Final = 32
ROWS: Final = 8
SQUARED: Final = 16384
"""As in `kernels.cu`: columns of a block that sums them, rows of a block of attention, values that a block squares."""


def suits(layers: Sequence[Layer], heads: int) -> bool:
    """Whether the kernels are made for layers of this kind."""
    width = layers[0].out.weight.shape[0]
    return (
        width % 4 == 0
        and width <= WIDEST
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
        self.of.update(zip(parts, whole.split(sizes), strict=True))
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
            # The allocator hands memory on in the order of the stream that asked for it, and would not wait for this one.
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
        self._ranges = torch.zeros(2, 0, 2, dtype=torch.int32, device=device).unbind()
        # Gradients of vectors lie side by side, and the squares of all gradients.
        layer = layers[0]
        vectors = 9 * len(layer.out.weight) + len(layer.up.weight)
        self._vectors = torch.empty((1 + len(layers)) * vectors, device=device)
        self._squares = torch.empty(weights // SQUARED + 32 * (1 + len(layers)), device=device)
        self._vector_count = self._square_count = 0

    def begin(self, batch: PackedBatch) -> None:
        """Before each forward pass: a new key for dropout, and where the batch's texts are."""
        device = self._key.device
        self._key = torch.randint(2**63 - 1, (1,), device=device)
        self._sites = self._vector_count = self._square_count = 0
        self._ranges = torch.empty(batch.tokens + batch.texts, 2, dtype=torch.int32, device=device).split(
            [batch.tokens, batch.texts]
        )
        self.launch(
            "text_ranges", (batch.texts + 1,), (128,), batch.numbers, batch.tokens, batch.texts, *self._ranges
        )

    def finish(self, parameters: Sequence[Tensor]) -> Tensor:
        """After the way back: every gradient in its parameter; the norm of those of `parameters`, float32 []."""
        for parameter in parameters:
            if parameter.grad is not None:
                # By torch's own way back.
                self.squares(parameter.grad)
        self.side.join()
        self.squares(self._vectors[: self._vector_count])
        norm = self._squares.new_empty(())
        self.launch("root_of_sum", (1,), (1024,), self._squares, self._square_count, norm)
        return norm

    def vector(self, size: int) -> Tensor:
        """Room for a vector's gradient, float32 [size], whose squares are added up in the end."""
        self._vector_count += size
        return self._vectors[self._vector_count - size : self._vector_count]

    def squares(self, gradient: Tensor) -> None:
        """Add this gradient's squares up for the norm."""
        count = -(-gradient.numel() // SQUARED)
        size = ctypes.c_longlong(gradient.numel())
        self.launch("squares", (count,), (512,), gradient.contiguous(), size, self._squares[self._square_count :])
        self._square_count += count
        assert self._square_count <= len(self._squares)  # noqa: S101

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
        norm = embeddings.LayerNorm
        paddings = [-1 if table.padding_idx is None else table.padding_idx for table in tables]
        weights = [table.weight for table in tables]
        result: tuple[Tensor, Tensor] = _Embed.apply(  # type: ignore[no-untyped-call]
            self, self.dropout(), norm.eps, rows, paddings, norm.weight, norm.bias, *weights
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
        wide = _Gelu.apply(self, wide, layer.up.bias)  # type: ignore[no-untyped-call]
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
            attended: Tensor = _Attention.apply(self, self.dropout(), batch, query, others)  # type: ignore[no-untyped-call]
            return attended
        query, key, value = query.chunk(3, dim=1) if others is None else (query, *others.chunk(2, dim=1))
        probability = self._threshold / 2**32
        return attend(query, key, value, lambda each: nn.functional.dropout(each, probability), is_last=is_last)

    def _linear(
        self, values: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, *parameters: Tensor
    ) -> Tensor:
        result: Tensor = _Linear.apply(self, values, weight, bias, gradient, list(parameters))  # type: ignore[no-untyped-call]
        return result

    def _norm(
        self, drop: DropoutArgument, residual: Tensor, added: Tensor, linear: nn.Linear, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _ResidualNorm.apply(  # type: ignore[no-untyped-call]
            self, drop, norm.eps, residual, added, linear.bias, norm.weight, norm.bias
        )
        return result

    def _firsts(self, states: tuple[Tensor, Tensor], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _Take.apply(self, batch.firsts, *states)  # type: ignore[no-untyped-call]
        return result


# ----------------------------------------------------------------------------------------------- operations


def _row_block(width: int) -> tuple[int]:
    """Threads of a block that has a row: a quarter of the width in whole warps, at most 256."""
    return (min(256, -(-width // 128) * 32),)


def _columns(width: int) -> tuple[int]:
    return (-(-width // COLUMNS),)


_COLUMN_BLOCK: Final = (COLUMNS, 32)
_ATTENTION_BLOCK: Final = (32 * ROWS,)


def _parameters(linears: Sequence[nn.Linear]) -> list[Tensor]:
    """Their weights, then their biases."""
    return [linear.weight for linear in linears] + [linear.bias for linear in linears]


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left @ right, rounded to nothing less than float32 on its way to `out`."""
    if left.device.type == "cuda" and left.dtype != torch.float32:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)


class _Linear(torch.autograd.Function):
    """values @ weight' + bias, whose gradients go to the parameters that weight and bias are copies of."""

    @staticmethod
    def forward(
        ctx: Any,
        fused: Fused,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gradient: Tensor,
        parameters: list[Tensor],
    ) -> Tensor:
        ctx.fused, ctx.has_bias, ctx.gradient, ctx.parameters = fused, bias is not None, gradient, parameters
        ctx.save_for_backward(values, weight)
        if bias is None:
            return torch.mm(values, weight.t())
        return torch.addmm(bias, values, weight.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        values, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        sizes = [len(each) for each in ctx.parameters if each.ndim == 2]

        def of_parameters() -> list[Tensor]:
            _product(gradient.t(), values, ctx.gradient)
            ctx.fused.squares(ctx.gradient)
            made = [*ctx.gradient.split(sizes)]
            return [*made, *_column_sums(ctx.fused, gradient).split(sizes)] if ctx.has_bias else made

        ctx.fused.side(ctx.parameters, (gradient, values), of_parameters)
        return None, torch.mm(gradient, weight), None, None, None, None


def _column_sums(fused: Fused, values: Tensor) -> Tensor:
    rows, width = values.shape
    sums = fused.vector(width)
    fused.launch("column_sums", _columns(width), _COLUMN_BLOCK, values, rows, width, sums)
    return sums


class _ResidualNorm(torch.autograd.Function):
    """norm(x + dropout(a + bias)), float32 and low."""

    @staticmethod
    def forward(
        ctx: Any,
        fused: Fused,
        drop: DropoutArgument,
        epsilon: float,
        x: Tensor,
        a: Tensor,
        bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows, width = x.shape
        h, y, y_low = torch.empty_like(x), torch.empty_like(x), torch.empty_like(a)
        moments = x.new_empty(rows, 2)
        fused.launch(
            "norm_forward",
            (rows,),
            _row_block(width),
            *(x, a, bias, gamma, beta, drop, epsilon, width, h, moments, y, y_low),
        )
        ctx.fused, ctx.drop, ctx.dtype, ctx.parameters = fused, drop, a.dtype, (gamma, beta, bias)
        ctx.save_for_backward(h, moments, gamma)
        ctx.set_materialize_grads(False)
        return y, y_low

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_low: Tensor | None) -> tuple[Any, ...]:
        h, moments, gamma = ctx.saved_tensors
        fused, (rows, width) = ctx.fused, h.shape
        g, g_low = (None if each is None else each.contiguous() for each in (g, g_low))
        g_x, g_a = torch.empty_like(h), torch.empty_like(h, dtype=ctx.dtype)
        fused.launch(
            "norm_backward",
            (rows,),
            _row_block(width),
            *(g, g_low, h, moments, gamma, ctx.drop, width, g_x, g_a),
        )

        def of_parameters() -> Sequence[Tensor]:
            totals = fused.vector(3 * width).split(width)
            fused.launch(
                "norm_columns", _columns(width), _COLUMN_BLOCK, g, g_low, h, moments, g_a, rows, width, *totals
            )
            return totals

        used = [each for each in (g, g_low, h, moments, g_a) if each is not None]
        fused.side(ctx.parameters, used, of_parameters)
        return None, None, None, g_x, g_a, None, None, None


class _Gelu(torch.autograd.Function):
    """gelu(u + bias)."""

    @staticmethod
    def forward(ctx: Any, fused: Fused, u: Tensor, bias: Tensor) -> Tensor:
        ctx.fused = fused
        ctx.save_for_backward(u, bias)
        result = torch.empty_like(u)
        fused.launch("gelu_forward", *_by_fours(u), u, bias, *_sizes(u), result)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        u, bias = ctx.saved_tensors
        g_u = torch.empty_like(u)
        ctx.fused.launch("gelu_backward", *_by_fours(u), u, bias, g.contiguous(), *_sizes(u), g_u)
        ctx.fused.side([bias], [g_u], lambda: [_column_sums(ctx.fused, g_u)])
        return None, g_u, None


def _by_fours(values: Tensor) -> tuple[tuple[int], tuple[int]]:
    """Blocks whose threads have four values each."""
    return (-(-values.numel() // 1024),), (256,)


def _sizes(values: Tensor) -> tuple[int, ctypes.c_longlong]:
    return values.shape[1], ctypes.c_longlong(values.numel())


class _Attention(torch.autograd.Function):
    """Each token to those of its text: of queries, keys and values side by side, or queries of first tokens alone."""

    @staticmethod
    def forward(
        ctx: Any, fused: Fused, drop: DropoutArgument, batch: PackedBatch, query: Tensor, others: Tensor | None
    ) -> Tensor:
        width = query.shape[1] if others is not None else query.shape[1] // 3
        out = query.new_empty(len(query), width)
        logs = query.new_empty(len(query), fused.heads, dtype=torch.float32)
        ranges = fused.ranges(of_texts=others is not None)
        scale = (width // fused.heads) ** -0.5
        arguments = [*_strided(query, others), ranges, len(query), scale, drop]
        grid = (-(-len(query) // ROWS), fused.heads)
        fused.launch("attention_forward", grid, _ATTENTION_BLOCK, *arguments, out, logs)
        ctx.fused, ctx.drop, ctx.scale, ctx.batch = fused, drop, scale, batch
        ctx.save_for_backward(query, others, out, logs, ranges, fused.ranges(of_texts=False))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        query, others, out, logs, ranges, token_ranges = ctx.saved_tensors
        batch = ctx.batch
        g_query, g_others = torch.empty_like(query), None if others is None else torch.empty_like(others)
        arguments = [*_strided(query, others), ranges, len(query), ctx.scale, ctx.drop, token_ranges, batch.numbers]
        arguments += [batch.tokens, int(others is not None), out, logs, g.contiguous(), *_strided(g_query, g_others)]
        grid = (-(-max(len(query), batch.tokens) // ROWS), ctx.fused.heads, 2)
        ctx.fused.launch("attention_backward", grid, _ATTENTION_BLOCK, *arguments)
        return None, None, None, g_query, g_others


def _strided(query: Tensor, others: Tensor | None) -> list[Any]:
    """Queries with their stride, keys, values and theirs."""
    stride = ctypes.c_longlong(query.shape[1])
    if others is None:
        _, keys, values = query.chunk(3, dim=1)
        return [query, stride, keys, values, stride]
    keys, values = others.chunk(2, dim=1)
    return [query, stride, keys, values, ctypes.c_longlong(others.shape[1])]


class _Take(torch.autograd.Function):
    """Some rows of the states, which may be the same ones several times."""

    @staticmethod
    def forward(ctx: Any, fused: Fused, places: Tensor, x: Tensor, x_low: Tensor) -> tuple[Tensor, Tensor]:
        ctx.fused, ctx.rows = fused, len(x)
        ctx.save_for_backward(places)
        ctx.set_materialize_grads(False)
        y, y_low = (each.new_empty(len(places), each.shape[1]) for each in (x, x_low))
        fused.launch("take_forward", (len(places),), (256,), x, x_low, places, x.shape[1], y, y_low)
        return y, y_low

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_low: Tensor | None) -> tuple[Any, ...]:
        (places,) = ctx.saved_tensors
        taken, width = g.shape
        g_x = g.new_empty(ctx.rows, width)
        g_low = None if g_low is None else g_low.contiguous()
        ctx.fused.launch(
            "take_backward", (ctx.rows,), (256,), g.contiguous(), g_low, places, taken, width, g_x
        )
        return None, None, g_x, None


class _Embed(torch.autograd.Function):
    """dropout(norm(the sum of embeddings)), float32 and low."""

    @staticmethod
    def forward(
        ctx: Any,
        fused: Fused,
        drop: DropoutArgument,
        epsilon: float,
        rows: list[Tensor],
        paddings: list[int],
        gamma: Tensor,
        beta: Tensor,
        *tables: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tokens, width = len(rows[0]), tables[0].shape[1]
        h = gamma.new_empty(tokens, width)
        y, y_low, moments = torch.empty_like(h), torch.empty_like(h, dtype=fused.low), gamma.new_empty(tokens, 2)
        read = [each for pair in zip(tables, rows, strict=True) for each in pair] + [None, None] * (3 - len(tables))
        fused.launch(
            "embed_forward",
            (tokens,),
            _row_block(width),
            *(*read, gamma, beta, drop, epsilon, width, h, moments, y, y_low),
        )
        ctx.fused, ctx.drop, ctx.rows, ctx.paddings = fused, drop, rows, paddings
        ctx.parameters, ctx.totals = (gamma, beta, *tables), []

        def clear() -> Sequence[Tensor]:
            sizes = [table.numel() for table in tables]
            ctx.totals.append(torch.zeros(sum(sizes), device=h.device))
            return ()

        fused.side((), (), clear)
        ctx.save_for_backward(h, moments, gamma)
        ctx.set_materialize_grads(False)
        return y, y_low

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_low: Tensor | None) -> tuple[Any, ...]:
        h, moments, gamma = ctx.saved_tensors
        fused, (tokens, width) = ctx.fused, h.shape
        g, g_low = (None if each is None else each.contiguous() for each in (g, g_low))
        at_norm, g_h = torch.empty_like(h), torch.empty_like(h)
        fused.launch(
            "embed_backward",
            (tokens,),
            _row_block(width),
            *(g, g_low, h, moments, gamma, ctx.drop, width, at_norm, g_h),
        )

        def of_parameters() -> Sequence[Tensor]:
            vectors = fused.vector(2 * width).split(width)
            fused.launch(
                "norm_columns",
                _columns(width),
                _COLUMN_BLOCK,
                *(at_norm, None, h, moments, None, tokens, width, *vectors, None),
            )
            (whole,) = ctx.totals
            tables = [table.shape for table in ctx.parameters[2:]]
            totals = [part.view(shape) for part, shape in zip(whole.split([a * b for a, b in tables]), tables, strict=True)]
            argument = TablesArgument.of(ctx.rows, totals, ctx.paddings)
            grid, block = (tokens, len(totals)), (*_row_block(width), 4)
            fused.launch("embedding_rows", grid, block, g_h, argument, tokens, width)
            fused.squares(whole)
            return *vectors, *totals

        fused.side(ctx.parameters, (at_norm, h, moments, g_h), of_parameters)
        return (None,) * (5 + len(ctx.parameters))
