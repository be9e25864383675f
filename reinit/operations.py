"""What a captured step is made of, each with its way back: kernels of `kernels.cu`, and torch's products.

Law: activations' gradients go the way of torch; those of parameters are made beside it (`Side`), and are in the
parameters after `Fused.finish`.
"""
# ruff: noqa: D102  torch says what forward and backward are

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from reinit.kernels import Argument, DropoutArgument, TablesArgument, row_threads
from reinit.rows import PackedBatch

if TYPE_CHECKING:
    from reinit.fused import Fused

COLUMNS: Final = 32
ROWS: Final = 8
SQUARED: Final = 16384
PARTS: Final = 4
"""As in `kernels.cu`: columns of a block that sums them, rows of a block of attention, values that a block squares, and
parts of a sum of rows."""


def _by_rows(fused: Fused, name: str, rows: int, width: int, *arguments: Argument) -> None:
    """Launch a kernel of which a block has a row."""
    fused.launch(name, (rows,), (row_threads(width),), *arguments)


def _by_columns(fused: Fused, name: str, width: int, *arguments: Argument) -> None:
    """Launch a kernel of which a block adds up some columns."""
    fused.launch(name, (-(-width // COLUMNS),), (COLUMNS, 32), *arguments)


_ATTENTION_BLOCK: Final = (32 * ROWS,)


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Left @ right, rounded to nothing less than float32 on its way to `out`."""
    if left.device.type == "cuda" and left.dtype != torch.float32:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)


class Linear(torch.autograd.Function):
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
            made = [*torch.split(ctx.gradient, sizes)]
            return [*made, *torch.split(_column_sums(ctx.fused, gradient), sizes)] if ctx.has_bias else made

        ctx.fused.side(ctx.parameters, (gradient, values), of_parameters)
        return None, torch.mm(gradient, weight), None, None, None, None


def _column_sums(fused: Fused, values: Tensor) -> Tensor:
    rows, width = values.shape
    sums = fused.vector(width)
    _by_columns(fused, "column_sums", width, values, rows, width, sums)
    return sums


class ResidualNorm(torch.autograd.Function):
    """norm(x + dropout(a + bias)), float32 and low."""

    @staticmethod
    def forward(
        ctx: Any, fused: Fused, drop: DropoutArgument, x: Tensor, a: Tensor, bias: Tensor, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        rows, width = x.shape
        h, y, y_low = torch.empty_like(x), torch.empty_like(x), torch.empty_like(a)
        moments, gamma, beta = x.new_empty(rows, 2), norm.weight, norm.bias
        arguments = (x, a, bias, gamma, beta, drop, norm.eps, width, h, moments, y, y_low)
        _by_rows(fused, "norm_forward", rows, width, *arguments)
        ctx.fused, ctx.drop, ctx.dtype, ctx.parameters = fused, drop, a.dtype, (gamma, beta, bias)
        ctx.save_for_backward(h, moments, gamma)
        ctx.set_materialize_grads(False)
        return y, y_low

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_low: Tensor | None) -> tuple[Any, ...]:
        h, moments, gamma = ctx.saved_tensors
        fused, (rows, width) = ctx.fused, h.shape
        g, g_low = _contiguous(g), _contiguous(g_low)
        g_x, g_a = torch.empty_like(h), torch.empty_like(h, dtype=ctx.dtype)
        _by_rows(fused, "norm_backward", rows, width, g, g_low, h, moments, gamma, ctx.drop, width, g_x, g_a)

        def of_parameters() -> Sequence[Tensor]:
            totals = torch.split(fused.vector(3 * width), width)
            _by_columns(fused, "norm_columns", width, g, g_low, h, moments, g_a, rows, width, *totals)
            return totals

        used = [each for each in (g, g_low, h, moments, g_a) if each is not None]
        fused.side(ctx.parameters, used, of_parameters)
        return None, None, g_x, g_a, None, None


class Gelu(torch.autograd.Function):
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


class Attention(torch.autograd.Function):
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


class Take(torch.autograd.Function):
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
        ctx.fused.launch(
            "take_backward", (ctx.rows,), (256,), g.contiguous(), _contiguous(g_low), places, taken, width, g_x
        )
        return None, None, g_x, None


class Embed(torch.autograd.Function):
    """dropout(norm(the sum of embeddings)), float32 and low.

    `anchor` is one of their weights, so that there is a way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fused: Fused,
        drop: DropoutArgument,
        embeddings: Sequence[nn.Embedding],
        rows: Sequence[Tensor],
        norm: nn.LayerNorm,
        anchor: Tensor,  # noqa: ARG004
    ) -> tuple[Tensor, Tensor]:
        tables, gamma, beta = [each.weight for each in embeddings], norm.weight, norm.bias
        tokens, width = len(rows[0]), tables[0].shape[1]
        h = gamma.new_empty(tokens, width)
        y, y_low, moments = torch.empty_like(h), torch.empty_like(h, dtype=fused.low), gamma.new_empty(tokens, 2)
        read = [each for pair in zip(tables, rows, strict=True) for each in pair] + [None, None] * (3 - len(tables))
        arguments = (*read, gamma, beta, drop, norm.eps, width, h, moments, y, y_low)
        _by_rows(fused, "embed_forward", tokens, width, *arguments)
        ctx.fused, ctx.drop, ctx.rows = fused, drop, rows
        ctx.paddings = [-1 if each.padding_idx is None else each.padding_idx for each in embeddings]
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
        g, g_low = _contiguous(g), _contiguous(g_low)
        at_norm, g_h = torch.empty_like(h), torch.empty_like(h)
        arguments = (g, g_low, h, moments, gamma, ctx.drop, width, at_norm, g_h)
        _by_rows(fused, "embed_backward", tokens, width, *arguments)

        def of_parameters() -> Sequence[Tensor]:
            vectors = fused.vector(2 * width).split(width)
            arguments = (at_norm, None, h, moments, None, tokens, width, *vectors, None)
            _by_columns(fused, "norm_columns", width, *arguments)
            (whole,) = ctx.totals
            tables = [table.shape for table in ctx.parameters[2:]]
            totals = [
                part.view(shape) for part, shape in zip(whole.split([a * b for a, b in tables]), tables, strict=True)
            ]
            argument = TablesArgument.of(ctx.rows, totals, ctx.paddings)
            grid, block = (tokens, len(totals)), (row_threads(width), PARTS)
            fused.launch("embedding_rows", grid, block, g_h, argument, tokens, width)
            fused.squares(whole)
            return *vectors, *totals

        fused.side(ctx.parameters, (at_norm, h, moments, g_h), of_parameters)
        return (None,) * 6


class Loss(torch.autograd.Function):
    """The loss, with its gradient on the way."""

    @staticmethod
    def forward(ctx: Any, fused: Fused, logits: Tensor, batch: PackedBatch, regression: bool) -> Tensor:  # noqa: FBT001
        loss, gradient = logits.new_empty(()), torch.empty_like(logits)
        sizes = (batch.texts, logits.shape[1], int(regression))
        logits = logits.contiguous()
        fused.launch("losses", (1,), (32,), logits, *batch.labels_and_weights, *sizes, loss, gradient)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * g, None, None
