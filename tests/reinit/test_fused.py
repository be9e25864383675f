"""The kernels of a captured step, run on a processor, against torch: loss, gradients, their norm, dropout, updates."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from jobs.cell import Recipe, Truncate
from jobs.errors import ConfigurationError
from reinit.engine import ClippedAdamW, norm_of
from reinit.fused import Fused, suits
from reinit.kernels import SEVERAL, SOURCE, DropoutArgument, compiled
from reinit.operations import COLUMNS, PARTS, ROWS, SQUARED, Attention
from reinit.optimiser import Group
from reinit.packed import PackedClassifier
from reinit.rows import PackedBatch, pack
from reinit.train import losses_of
from reinit.update import PIECE
from tests.reinit.architectures import CONFIGS, DEPTH, VOCABULARY, load, save
from tests.reinit.emulated import checking_addresses, emulated, kernels_in
from tests.reinit.test_packed import PACKED, packed_form, prepared, texts_of

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernels on a processor")

CPU: Final = torch.device("cpu")
LENGTHS: Final = (8, 3, 1, 13, 5)
TEXT: Final = SOURCE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save(CONFIGS[kind](), tmp_path_factory.mktemp(kind)) for kind in PACKED}


def fused_of(form: PackedClassifier, low: torch.dtype, source: str = TEXT, *, backwards: bool = False) -> Fused:
    for parameter in form.parameters():
        # Weights lie where the checkpoint's file has them; what goes to a GPU is aligned.
        parameter.data = parameter.data.clone()
    width = form.network.config.hidden_size
    fused = form.fused_by(emulated(low, width // form._heads, width, source, backwards=backwards), low)
    fused.copies.refresh()
    return fused


def batch_of(form: PackedClassifier, lengths: Sequence[int] = LENGTHS) -> PackedBatch:
    """Filled up, as a captured graph has it."""
    return form.collate(texts_of(lengths), 1 / len(lengths), CPU, len(lengths) + 2)


def by_torch(form: PackedClassifier, batch: PackedBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    form.zero_grad()
    loss = (losses_of(form(batch).float(), batch.labels, regression=False) * batch.weights).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = gradients_of(form)
    # Torch's own norm of a large gradient in float32 is off by 1e-5 on a processor.
    norm = torch.stack([each.double().norm() for each in gradients.values()]).norm().float()
    return loss.detach(), norm, gradients


def by_kernels(form: PackedClassifier, batch: PackedBatch, fused: Fused) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    form.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=fused.low is torch.bfloat16):
        logits = form.by(fused, batch)
    loss = fused.loss(logits, batch, regression=False)
    loss.backward()  # type: ignore[no-untyped-call]
    norm, _ = fused.finish(list(form.parameters()), loss.detach())
    return loss.detach(), norm.clone(), gradients_of(form)


def gradients_of(form: PackedClassifier) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in form.named_parameters() if value.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKED)
def test_loss_gradients_and_norm_are_those_of_torch(folders: dict[str, Path], kind: str) -> None:
    network, _ = prepared(folders[kind], dropout=0.0)
    form = packed_form(network)
    expect_torch_s_gradients(form)


@pytest.mark.slow
@pytest.mark.parametrize("width", [384, 768, 1152])
def test_so_they_are_at_the_widths_that_people_use(tmp_path: Path, width: int) -> None:
    """A row has more threads than at the widths of other tests, up to the most and more than four columns each."""
    sizes: dict[str, Any] = {"num_attention_heads": width // 64, "intermediate_size": 64, "vocab_size": VOCABULARY}
    config = BertConfig(hidden_size=width, num_hidden_layers=DEPTH, **sizes)
    network, _ = prepared(save(config, tmp_path), dropout=0.0)
    expect_torch_s_gradients(packed_form(network))


def expect_torch_s_gradients(form: PackedClassifier) -> None:
    batch, fused = batch_of(form), fused_of(form, torch.float32)
    loss, norm, expected = by_torch(form, batch)
    # Twice, since buffers are used again.
    for _ in range(2):
        found_loss, found_norm, found = by_kernels(form, batch, fused)
        torch.testing.assert_close(found_loss, loss)
        torch.testing.assert_close(found_norm, norm, rtol=1e-5, atol=0)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * norm.item(), msg=name)
    assert norm > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_bf16_moves_gradients_by_its_own_rounding_and_no_more(folders: dict[str, Path], kind: str) -> None:
    network, _ = prepared(folders[kind], dropout=0.0)
    form = packed_form(network)
    batch = batch_of(form)
    loss, norm, expected = by_torch(form, batch)
    found_loss, found_norm, found = by_kernels(form, batch, fused_of(form, torch.bfloat16))
    assert found.keys() == expected.keys()
    apart = torch.stack([(found[name] - value).norm() for name, value in expected.items()]).norm()
    assert 1e-4 * norm < apart < 3e-2 * norm
    assert found_norm == pytest.approx(norm.item(), rel=1e-2)
    assert found_loss == pytest.approx(loss.item(), rel=1e-2)
    assert all(value.dtype == torch.float32 for value in found.values())


@pytest.mark.slow
def test_what_the_kernels_compute_is_what_their_source_says(folders: dict[str, Path]) -> None:
    """The comparisons above fail where one text sees another's tokens, or a sum leaves something out."""
    network, _ = prepared(folders["bert"], dropout=0.0)
    form = packed_form(network)
    batch = batch_of(form)
    loss, norm, _ = by_torch(form, batch)
    for right, wrong in [
        ("bool is_own = text.x <= key && key < text.y &&", "bool is_own ="),
        ("sums[1] += arrived;", "sums[1] += row ? arrived : 0;"),
    ]:
        assert right in TEXT
        found_loss, found_norm, _ = by_kernels(
            form, batch, fused_of(form, torch.float32, source=TEXT.replace(right, wrong))
        )
        assert abs(found_loss - loss) > 1e-4 or abs(found_norm - norm) > 1e-4 * norm


# Three of the barriers: of a sum over a block, of attention's tiles, of the rows that an embedding's sum goes over.
BARRIERS: Final = [
    "__syncthreads();\n    if (threadIdx.x % 32 == 0) {",
    "__syncthreads();\n        a_rows.store(",
    "__syncthreads();\n            if (part == 0 && threadIdx.x < 32) {",
]


@pytest.mark.slow
def test_the_order_of_threads_makes_no_difference(tmp_path: Path) -> None:
    """Where a barrier of the kernels is left out, it does. Of two warps, more tokens than are looked at at once."""
    sizes: dict[str, Any] = {"num_attention_heads": 4, "intermediate_size": 64, "vocab_size": VOCABULARY}
    config = BertConfig(hidden_size=160, num_hidden_layers=DEPTH, **sizes)
    network, _ = prepared(save(config, tmp_path), Truncate(depth=2), dropout=0.1)
    form = packed_form(network)
    batch = batch_of(form, (130, 70, *(3,) * 290))

    def bits(source: str) -> list[bool]:
        found = []
        for backwards in (False, True):
            torch.manual_seed(0)
            loss, norm, gradients = by_kernels(form, batch, fused_of(form, torch.float32, source, backwards=backwards))
            found.append([loss, norm, *gradients.values()])
        return [torch.equal(one, other) for one, other in zip(*found, strict=True)]

    assert all(bits(TEXT))
    for barrier in BARRIERS:
        assert TEXT.count(barrier) == 1
        assert not in_child(bits, TEXT.replace(barrier, barrier.removeprefix("__syncthreads();"))), barrier


def in_child(bits: Callable[[str], list[bool]], source: str) -> bool:
    """Whether all are equal, computed where a fault ends nothing else."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if all(bits(source)) else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


BEYOND: Final = """
import torch
from tests.reinit.emulated import emulated
from tests.reinit.test_fused import TEXT
source = TEXT + 'extern "C" __global__ void beyond(const float* x, float* y) { y[blockIdx.x] = x[blockIdx.x]; }'
launch = emulated(torch.float32, 8, 64, source)
launch("beyond", (8,), (1,), torch.zeros(8), torch.zeros(8))
print("within", flush=True)
launch("beyond", (8,), (1,), torch.zeros(7), torch.zeros(8))
print("beyond", flush=True)
"""


@pytest.mark.slow
def test_kernels_neither_read_nor_write_beyond_their_tensors() -> None:
    beyond = checking_addresses("-c", BEYOND)
    assert "heap-buffer-overflow" in beyond.stderr, "such an access is seen"
    assert beyond.stdout == "within\n"
    chosen = "(widths and 384) or updates_are_those or long_texts or (bf16 and mpnet) or training_by_kernels"
    found = checking_addresses("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", chosen)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "7 passed" in found.stdout.splitlines()[-1]


# ----------------------------------------------------------------------------------------------------------- attention


def attention(
    query: Tensor, others: Tensor | None, batch: PackedBatch, heads: int, dropout: float = 0.0, key: int = 0
) -> Tensor:
    """By the kernels, float32."""
    width = query.shape[1] // (3 if others is None else 1)
    launch = emulated(torch.float32, width // heads, width)
    fused = Fused.__new__(Fused)
    fused.launch, fused.heads, fused.low = launch, heads, torch.float32
    ranges = torch.empty(batch.tokens + batch.texts, 2, dtype=torch.int32)
    fused._ranges = torch.split(ranges, [batch.tokens, batch.texts])
    launch("text_ranges", (batch.texts + 1,), (128,), batch.numbers, batch.tokens, batch.texts, *fused._ranges)
    keys = torch.tensor([key])
    drop = DropoutArgument(keys.data_ptr(), 1, round(dropout * 2**32), 1 / (1 - dropout))
    fused._key = keys
    result: Tensor = Attention.apply(fused, drop, batch, query, others)  # type: ignore[no-untyped-call]
    return result


def reference(query: Tensor, keys: Tensor, values: Tensor, is_seen: Tensor, heads: int) -> Tensor:
    q, k, v = (each.view(len(each), heads, -1).transpose(0, 1) for each in (query, keys, values))
    scores = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1).nan_to_num()
    result: Tensor = (weights @ v).transpose(0, 1).flatten(1)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("firsts", [False, True], ids=["every token", "first tokens"])
def test_attention_of_long_texts_is_that_of_torch(*, firsts: bool) -> None:
    """Texts of more than one tile, of one token, over a boundary of rows, and none at all."""
    batch = pack(texts_of((70, 1, 3, 67, 9)), 1.0, fill_to=7)
    heads, width = 2, 16
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch.tokens, 3 * width, generator=generator)
    q = torch.randn(batch.texts, width, generator=generator) if firsts else qkv[:, :width]
    g = torch.randn(len(q), width, generator=generator)
    asking = torch.arange(batch.texts) if firsts else batch.numbers
    is_seen = asking.unsqueeze(1) == batch.numbers.unsqueeze(0)
    parts = [each.contiguous().requires_grad_() for each in (q, qkv[:, width : 2 * width], qkv[:, 2 * width :])]
    expected = reference(parts[0], parts[1], parts[2], is_seen, heads)
    expected.backward(g)  # type: ignore[no-untyped-call]
    if firsts:
        given = [parts[0].detach().clone(), torch.cat([parts[1], parts[2]], 1).detach()]
    else:
        given = [torch.cat(parts, 1).detach()]
    given = [each.requires_grad_() for each in given]
    found = attention(given[0], given[1] if firsts else None, batch, heads)
    found.backward(g)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    back = torch.cat([each.grad for each in given if each.grad is not None], 1) if not firsts else None
    wanted = [each.grad for each in parts if each.grad is not None]
    if back is not None:
        torch.testing.assert_close(back, torch.cat(wanted, 1), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(given[0].grad, wanted[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(given[1].grad, torch.cat(wanted[1:], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_attention_s_way_back_drops_what_its_way_there_dropped() -> None:
    """In float32 by differences: along a direction the loss changes as its gradient says, dropout's key held."""
    batch = pack(texts_of((9, 5)), 1.0)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch.tokens, 48, generator=generator, requires_grad=True)
    g, direction = torch.randn(batch.tokens, 16, generator=generator), torch.randn(qkv.shape, generator=generator)

    def loss(values: Tensor, key: int = 7) -> Tensor:
        return (attention(values, None, batch, 2, dropout=0.4, key=key) * g).sum()

    loss(qkv).backward()  # type: ignore[no-untyped-call]
    assert qkv.grad is not None
    step = 1e-3
    with torch.no_grad():
        slope = (loss(qkv + step * direction) - loss(qkv - step * direction)) / (2 * step)
        assert loss(qkv, key=8) != loss(qkv)
    assert (qkv.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-2)


# ------------------------------------------------------------------------------------------------------------- dropout

# Of the authors' Random123, kat_vectors: counter, key, bits.
KNOWN: Final = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
BITS: Final = """
extern "C" __global__ void bits(const i64* key, const u32* counters, u32* bits)
{
    int place = threadIdx.x;
    philox(key, counters[3 * place], counters[3 * place + 1], counters[3 * place + 2], bits + 4 * place);
}
"""


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & 0xFFFFFFFF, (first >> 32) ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def test_bits_are_those_of_philox() -> None:
    for counter, key, expected in KNOWN:
        assert philox(counter, key) == expected
    launch = emulated(torch.float32, 8, 16, TEXT + BITS)
    random = np.random.default_rng(0)
    counters = np.concatenate([np.zeros((1, 3)), random.integers(0, 2**32, (31, 3))]).astype(np.uint32)
    for seed in (0, 0x299F31D0A4093822):
        found = torch.empty(32, 4, dtype=torch.int32)
        launch("bits", (1,), (32,), torch.tensor([seed]), torch.from_numpy(counters.view(np.int32)), found)
        bits = [philox([*map(int, each), 0], [seed & 0xFFFFFFFF, seed >> 32]) for each in counters]
        assert found.numpy().view(np.uint32).tolist() == bits


def kept(key: int, site: int, dropout: float, rows: int = 64, width: int = 256) -> Tensor:
    """Which of the values that `norm_forward` adds it keeps, [rows, width]."""
    launch = emulated(torch.float32, 8, width)
    keys = torch.tensor([key])
    drop = DropoutArgument(keys.data_ptr(), site, round(dropout * 2**32), 1 / (1 - dropout))
    zeros, ones = torch.zeros(rows, width), torch.ones(rows, width)
    vector, moments = torch.zeros(width), torch.empty(rows, 2)
    h, y, low = torch.empty(3, rows, width).unbind()
    launch("norm_forward", (rows,), (64,), zeros, ones, vector, vector, vector, drop, 1e-5, width, h, moments, y, low)
    assert set(torch.unique(h).tolist()) <= {0.0, torch.tensor(1 / (1 - dropout)).item()}
    return h > 0


def test_values_are_dropped_with_the_recipe_s_probability_and_apart_from_each_other() -> None:
    p = 0.1
    first, again = kept(1, 1, p), kept(1, 1, p)
    assert torch.equal(first, again)
    others = {"site": kept(1, 2, p), "key": kept(2, 1, p), "high half of the key": kept(1 + 2**32, 1, p)}
    size = first.numel()
    for mask in (first, *others.values()):
        assert stats.binomtest(int((~mask).sum()), size, p).pvalue > 1e-3
    for name, mask in others.items():
        assert stats.binomtest(int((~mask & ~first).sum()), size, p * p).pvalue > 1e-3, name
    # Neighbours in a row, in a column, and in the four that one call draws.
    for left, right in [(first[:, :-1], first[:, 1:]), (first[:-1], first[1:]), (first[:, ::4], first[:, 3::4])]:
        assert stats.binomtest(int((~left & ~right).sum()), left.numel(), p * p).pvalue > 1e-3
    # A mask that is the same for every row would be seen.
    same = first[:1].expand_as(first)
    assert stats.binomtest(int((~same[:-1] & ~same[1:]).sum()), same[1:].numel(), p * p).pvalue < 1e-6


# ---------------------------------------------------------------------------------------------------- pieces of a step


def test_low_values_are_rounded_as_torch_rounds() -> None:
    source = (
        TEXT + 'extern "C" __global__ void round_all(const float* x, low* y) { y[blockIdx.x] = narrow(x[blockIdx.x]); }'
    )
    launch = emulated(torch.bfloat16, 8, 64, source)
    x = torch.randn(512, generator=torch.Generator().manual_seed(0)) * 1e3
    x[:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38])
    # Halves between two neighbours, which go to the even one.
    x[64:128] = (torch.arange(64, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)
    found, expected = torch.empty(512, dtype=torch.bfloat16), x.to(torch.bfloat16)
    launch("round_all", (512,), (1,), x, found)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_the_activation_and_its_slope_are_those_of_torch() -> None:
    launch, rows, width = emulated(torch.float32, 8, 64), 5, 96
    generator = torch.Generator().manual_seed(0)
    u, g = (6 * torch.randn(rows, width, generator=generator) for _ in range(2))
    bias = torch.randn(width, generator=generator)
    given = u.clone().requires_grad_()
    expected = F.gelu(given + bias)
    expected.backward(g)  # type: ignore[no-untyped-call]
    found, slope, size = torch.empty_like(u), torch.empty_like(u), ctypes.c_longlong(u.numel())
    launch("gelu_forward", (1,), (256,), u, bias, width, size, found)
    launch("gelu_backward", (1,), (256,), u, bias, g, width, size, slope)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope, given.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_loss_and_its_gradient_are_those_of_torch(folders: dict[str, Path], outputs: int) -> None:
    fused = fused_of(packed_form(load(folders["bert"])), torch.float32)
    batch = pack(texts_of((3,) * 40), 0.3, fill_to=41)
    logits = (5 * torch.randn(41, outputs, generator=torch.Generator().manual_seed(0))).requires_grad_()
    expected = (losses_of(logits, batch.labels, regression=outputs == 1) * batch.weights).sum()
    expected.backward()  # type: ignore[no-untyped-call]
    gradient, logits.grad = logits.grad, None
    found = fused.loss(logits, batch, regression=outputs == 1)
    (2 * found).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)
    assert gradient is not None
    torch.testing.assert_close(logits.grad, 2 * gradient)


def test_a_loss_that_is_not_finite_is_said_to_be_bad(folders: dict[str, Path]) -> None:
    fused = fused_of(packed_form(load(folders["bert"])), torch.float32)
    for value, expected in [(0.0, 0), (3e38, 0), (torch.inf, 1), (-torch.inf, 1), (torch.nan, 1)]:
        _, is_bad = fused.finish([], torch.tensor(value))
        assert is_bad == expected


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_updates_are_those_of_torch_and_reach_the_copies(folders: dict[str, Path], low: torch.dtype) -> None:
    """Sizes that fours do not divide, several groups, gradients clipped and not; a skipped step changes nothing."""
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(size, generator=generator)) for size in (1, 6, 4096, 5001)]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    recipe = Recipe.model_validate({"duration": {"kind": "steps", "steps": 9}, "weight_decay": 0.01})

    def optimiser_of(parameters: list[nn.Parameter]) -> ClippedAdamW:
        first = Group("decays", 1e-2, 0.1, ("a", "b"), tuple(parameters[:2]))
        rest = Group("does not", 3e-3, 0.0, ("c", "d"), tuple(parameters[2:]))
        return ClippedAdamW([first, rest], recipe, parameters)

    fused = fused_of(packed_form(load(folders["bert"])), torch.float32)
    fused.copies.of = {each: torch.empty_like(each, dtype=low) for each in ours[1:]}
    fused.copies.refresh()
    one, other = optimiser_of(ours), optimiser_of(theirs)
    one.fused, one.at = fused, "here"
    gradients = [torch.empty_like(each) for each in ours]
    for step in range(6):
        scale = 10.0 ** (step - 3)
        for mine, their, gradient in zip(ours, theirs, gradients, strict=True):
            gradient.copy_(scale * torch.randn(gradient.shape, generator=generator))
            mine.grad, their.grad = gradient, gradient.clone()
        for optimiser in (one, other):
            optimiser.norm, optimiser.skip = norm_of(theirs), torch.tensor(float(step == 4))
            optimiser.step()
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-7)
            for name in ("exp_avg", "exp_avg_sq", "step"):
                torch.testing.assert_close(one.state[mine][name], other.state[their][name], rtol=1e-5, atol=1e-9)
        for parameter, copied in fused.copies.of.items():
            assert torch.equal(copied, parameter.detach().to(low))
    assert one.state[ours[0]]["step"] == 5


@pytest.mark.slow
def test_training_by_kernels_is_training(folders: dict[str, Path]) -> None:
    """Some steps at dropout 0, the embedding's unused rows left out; then the same by torch."""
    losses: dict[bool, list[float]] = {}
    recipe = Recipe.model_validate({"duration": {"kind": "steps", "steps": 4}, "dropout": 0.0, "learning_rate": 1e-3})
    for kernels in (False, True):
        network, _ = prepared(folders["bert"], dropout=0.0)
        form = packed_form(network)
        examples = [texts_of((5, 3, 7), seed) for seed in range(4)]
        groups = form.fit_to([each for several in examples for each in several], network.groups)
        assert form.rows.embedding.num_embeddings < VOCABULARY, "rows are left out"
        optimiser = ClippedAdamW(groups, recipe, tuple(form.parameters()))
        fused = fused_of(form, torch.float32)
        of_this = losses[kernels] = []
        for texts in examples:
            batch = form.collate(texts, 1 / 3, CPU, 3)
            if kernels:
                loss, optimiser.norm, _ = by_kernels(form, batch, fused)
                # Gradients by torch's own way back lie elsewhere at each step here.
                optimiser.fused, optimiser.at, optimiser.skip = fused, len(of_this), torch.zeros(())
            else:
                loss, optimiser.norm, _ = by_torch(form, batch)
            optimiser.step()
            of_this.append(loss.item())
        form.release()
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert max(losses[True]) - min(losses[True]) > 1e-2


# ------------------------------------------------------------------------------------------------------ for every card


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_source_compiles_for_every_card_without_one(architecture: str) -> None:
    """By the library that does it on a GPU: heads and widths of MiniLM, BERT-base and what is largest."""
    for low, head, width in [(torch.bfloat16, 64, 768), (torch.float32, 32, 384), (torch.float32, 64, 4096)]:
        code = compiled(architecture, low, head, width)
        assert code.startswith(b"\x7fELF")
        for name in kernels_in(TEXT):
            assert f".text.{name}\0".encode() in code


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "kernels.cu"
    wrong.write_text(TEXT.replace("float warp_sum(float", "float warp_some(float"), encoding="utf-8")
    monkeypatch.setattr("reinit.kernels.SOURCE", wrong)
    with pytest.raises(ConfigurationError, match="cannot be compiled") as caught:
        compiled("sm_90", torch.float32, 64, 768)
    assert "warp_s" in str(caught.value)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ConfigurationError, match="cuda-bindings"):
        compiled("sm_90", torch.float32, 64, 768)


# --------------------------------------------------------------------------------------------------- what it is for


def test_sizes_here_are_those_of_the_source() -> None:
    for name, value in {"ROWS": ROWS, "SQUARED": SQUARED, "PARTS": PARTS, "PIECE": PIECE, "SEVERAL": SEVERAL}.items():
        assert re.search(rf"^#define {name} {value}$", TEXT, re.MULTILINE)
    assert f"blockIdx.x * {COLUMNS} + threadIdx.x" in TEXT


def test_the_kernels_are_for_the_usual_activation_and_widths_alone(tmp_path: Path) -> None:
    def form_of(**more: Any) -> PackedClassifier:
        sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 4}
        name = "-".join(f"{key}{value}" for key, value in more.items()) or "plain"
        config = BertConfig(vocab_size=50, **{**sizes, **more})
        return packed_form(load(save(config, tmp_path / name)))

    def electra(embedding: int) -> PackedClassifier:
        config = CONFIGS["electra"]()
        config.embedding_size = embedding
        return packed_form(load(save(config, tmp_path / f"electra{embedding}")))

    for form, expected in [
        (form_of(), True),
        (form_of(hidden_act="relu"), False),
        (form_of(hidden_act="gelu_new"), False),
        (form_of(hidden_size=66, num_attention_heads=3), False),
        (form_of(hidden_size=144, num_attention_heads=2), False),
        (form_of(intermediate_size=98), False),
        (electra(32), True),
        (electra(68), False),
        (electra(30), False),
    ]:
        assert suits(form._all_layers, form._heads, form.rows.embedding.embedding_dim) is expected
    assert form_of().fused("fp32") is None, "there is no GPU here"
