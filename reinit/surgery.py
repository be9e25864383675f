"""Surgery on a pretrained network: redraw, permute, cut off or freeze whole layers, and nothing else.

Law: layers are found by structure, never by a list of model names, and what cannot be found or redrawn for certain is
refused. A draw depends on (seed, layer, parameter's name within the layer) alone, so two treatments share the redrawn
weights of the layers they share; the process's global random state is never read or moved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jobs.cell import Init, Reinit
from jobs.errors import SpecError
from reinit.streams import Stream, numpy_stream, stream, stream_seed

SD: Final = 0.02
"""Standard deviation of BERT's initialisation (Devlin et al. 2019), the paper's and every head's."""

TOGETHER: Final = 65_536
"""Weights that are drawn together."""
DEGREE: Final = 6
"""Of the polynomial that draws them; one less makes an error of half a millionth."""

Role = Literal["weight", "bias", "norm weight", "norm bias"]
"""What a parameter is to its module: a matrix to draw, a bias, or the scale and shift of a norm."""


# ------------------------------------------------------------------------------------------------ finding the layers


@dataclass(frozen=True)
class Stack:
    """The layer stack of a network: the one list of repeated blocks of attention and feed-forward."""

    network: PreTrainedModel
    name: str
    """Where it is in the network, for example `bert.encoder.layer`."""
    layers: nn.ModuleList
    """The layers that run, layer 0 next to the embeddings."""
    whole: tuple[nn.Module, ...]
    """Every pretrained layer, also those that `truncate` took away."""

    def __len__(self) -> int:
        """Number of layers that run."""
        return len(self.layers)


def find_stack(network: nn.Module) -> Stack:
    """The layer stack of a Hugging Face encoder or decoder.

    A stack is an outermost `nn.ModuleList` of blocks of one class, each with an attention module and matrices besides.
    There must be exactly one, with a block of its own for each of the configuration's `num_hidden_layers`.

    Raises:
        SpecError: there is no such list, there are several (encoder and decoder), or layers share parameters.
    """
    found = {name: module for name, module in network.named_modules() if _is_stack(module)}
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    kind = type(network).__name__
    if not outer or not isinstance(network, PreTrainedModel):
        raise SpecError(
            f"{kind} has no layer stack",
            expected="one list of equal transformer blocks, each with attention and a feed-forward part",
        )
    if len(outer) > 1:
        raise SpecError(
            f"{kind} has several layer stacks, so a layer's number says nothing",
            expected="an encoder or a decoder, not both",
            got=", ".join(outer),
        )
    name, layers = outer[0], found[outer[0]]
    assert isinstance(layers, nn.ModuleList)  # noqa: S101  `_is_stack` said so
    depth = getattr(network.config, "num_hidden_layers", len(layers))
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    if len(layers) != depth or len({id(parameter) for parameter in parameters}) != len(parameters):
        raise SpecError(
            f"the layers of {kind} share parameters or come in groups, so none can be changed alone",
            where=name,
            expected=f"{depth} blocks for {depth} layers, each with parameters of its own",
            got=f"{len(layers)} blocks",
        )
    return Stack(network, name, layers, tuple(layers))


def find_pooler(network: PreTrainedModel) -> nn.Module | None:
    """The base model's pooler, None where it has none (RoBERTa, DistilBERT and every decoder here)."""
    pooler = getattr(network.base_model, "pooler", None)
    return pooler if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()) else None


def _is_stack(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.ModuleList)
        and len({type(block) for block in module}) == 1
        and all(_is_block(block) for block in module)
    )


def _is_block(block: nn.Module) -> bool:
    """Whether it has an attention module within, and matrices outside of it."""
    attentions = [
        module for module in block.modules() if module is not block and "attention" in type(module).__name__.lower()
    ]
    attended = {id(parameter) for module in attentions for parameter in module.parameters()}
    matrices = {id(parameter) for parameter in block.parameters() if parameter.ndim >= 2}
    return bool(matrices & attended) and bool(matrices - attended)


# ---------------------------------------------------------------------------------------------------------- redrawing


def draw(init: Init, shape: Sequence[int], source: Stream, into: Tensor | None = None) -> Tensor:
    """A weight matrix by one of the initialisations of `jobs.cell.Init`, float32 on the CPU; `into` one that is there.

    `released` keeps the authors' `scipy.stats.truncnorm(-2 * sd, 2 * sd, scale=sd)`, whose bounds SciPy reads in
    standard deviations: values within `2 * sd * sd` = 8e-4, nearly uniform, with a standard deviation of 4.6e-4.
    """
    values = torch.empty(*shape) if into is None else into
    if init == "normal":
        return values.normal_(std=SD, generator=stream(*source))
    if init == "truncated_normal":
        return _truncated_normal(values, 2.0, source)
    if init == "released":
        return _truncated_normal(values, 2.0 * SD, source)
    raise ValueError(f"init {init} belongs to a whole module, not to a matrix")


def _truncated_normal(values: Tensor, cut: float, source: Stream) -> Tensor:
    """Fill `values` with N(0, `SD`) cut at `cut` standard deviations, by the inverse of its distribution function.

    Torch's `trunc_normal_` rejects, for so long that on BERT-base 20 s a run would go into the draw. Both halves of
    every number drawn are used, as integers of 32 bits; what is made of them on the way stays in a core's cache.
    """
    inside, terms = _inverse(cut)
    numbers = numpy_stream(*source).integers(0, 2**64, -(-values.numel() // 2), np.uint64).view(np.int32)
    logarithms, factors = np.empty((2, TOGETHER), np.float32)
    integers = torch.from_numpy(numbers[: values.numel()])
    for block, drawn in zip(torch.split(values.view(-1), TOGETHER), torch.split(integers, TOGETHER), strict=True):
        uniform = block.copy_(drawn).mul_(inside * 2.0**-31).numpy()
        logarithm, factor = logarithms[: len(block)], factors[: len(block)]
        np.log(np.subtract(1.0, np.multiply(uniform, uniform, out=logarithm), out=logarithm), out=logarithm)
        np.multiply(logarithm, terms[-1], out=factor)
        for term in terms[-2:0:-1]:
            factor += term
            factor *= logarithm
        factor += terms[0]
        uniform *= factor
        # Rounding may land a hair outside.
        block.clamp_(-cut * SD, cut * SD)
    return values


@lru_cache
def _inverse(cut: float) -> tuple[float, list[float]]:
    """The normal distribution's share within `cut` standard deviations, and the inverse of its distribution there.

    Where 2q - 1 = u, the quantile q of N(0, `SD`) is u P(log(1 - u^2)), P a polynomial with these coefficients, the
    constant first, to the precision of float32: the form of Giles, Approximating the erfinv function, 2010.
    """
    inside = math.erf(cut / math.sqrt(2.0))

    def factor(logarithm: NDArray[np.float64]) -> NDArray[np.float64]:
        uniform = torch.from_numpy(-np.expm1(logarithm)).sqrt()
        return (math.sqrt(2.0) * SD * uniform.erfinv() / uniform).numpy()

    found = Chebyshev.interpolate(factor, DEGREE, [math.log1p(-(inside**2)), 0.0])
    return inside, found.convert(kind=Polynomial).coef.tolist()


@torch.no_grad()
def reinitialise(stack: Stack, treatment: Reinit, seed: int) -> None:
    """Redraw the treatment's layers in place, and its pooler where it says so.

    Its frozen layers are left to the optimiser's groups: their gradients are still wanted (see `Reinit`).

    Raises:
        SpecError: a parameter is neither matrix, bias nor norm, so that only `architecture` knows how to draw it; or
            the pooler is to be redrawn and there is none.
    """
    for index in treatment.layers:
        redraw(stack.layers[index], stack.network, treatment.init, seed, index, keep_norms=treatment.keep_layernorm)
    if treatment.pooler == "redraw":
        pooler = find_pooler(stack.network)
        if pooler is None:
            raise SpecError(f"{type(stack.network).__name__} has no pooler to redraw", remedy="say pooler: keep")
        redraw(pooler, stack.network, treatment.init, seed, "pooler", keep_norms=treatment.keep_layernorm)


@torch.no_grad()
def redraw(
    module: nn.Module, network: PreTrainedModel, init: Init, seed: int, key: int | str, *, keep_norms: bool = False
) -> None:
    """Redraw every parameter of `module`, a layer or the pooler, in place.

    Matrices are drawn; biases are zero, or kept by `released`; norms become the identity, or are kept by `keep_norms`.
    `architecture` asks the network's own `_init_weights` for everything.

    Args:
        module: what is redrawn.
        network: the network that it belongs to.
        init: how.
        seed: the run's.
        key: the layer's index or `pooler`: with the seed and a parameter's name, what its values depend on.
        keep_norms: leave the norms as they are.
    """
    roles = {name: _role(_owner(module, name), name, parameter) for name, parameter in module.named_parameters()}
    kept = {name for name, role in roles.items() if keep_norms and role in {"norm weight", "norm bias"}}
    if init == "architecture":
        values = _architecture_values(module, network, seed, key)
    else:
        _check_known(module, roles, kept)
        kept |= {name for name, role in roles.items() if init == "released" and role == "bias"}
        values = _drawn(module, roles, kept, init, seed, key)
    for name, parameter in module.named_parameters():
        if name not in kept:
            _put(values[name], parameter)


def _drawn(
    module: nn.Module, roles: dict[str, Role | None], kept: set[str], init: Init, seed: int, key: int | str
) -> dict[str, Tensor]:
    """New values of each parameter of `module` that is not kept."""
    parameters = {name: parameter for name, parameter in module.named_parameters() if name not in kept}

    def of(name: str) -> Tensor:
        return _value(roles[name], init, parameters[name], (seed, "redraw", key, name))

    if all(parameter.device.type == "cpu" for parameter in parameters.values()):
        return {name: of(name) for name in parameters}
    # A generator draws on one core, and beside a GPU the drawing would take as long as a short run's training.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return dict(zip(parameters, threads.map(of, parameters), strict=True))


@torch.no_grad()
def draw_head(parameters: dict[str, nn.Parameter], network: nn.Module, seed: int) -> None:
    """Draw a fresh classification head in place: weights N(0, .02), biases zero, norms the identity.

    Args:
        parameters: the head's parameters by their names in `network`.
        network: what holds them.
        seed: the run's; each parameter has a classifier stream of its own.

    Raises:
        SpecError: a parameter of the head is neither matrix, bias nor norm.
    """
    roles = {name: _role(_owner(network, name), name, parameter) for name, parameter in parameters.items()}
    if odd := sorted(name for name, role in roles.items() if role is None):
        raise SpecError("the classification head has a parameter that is no matrix, bias or norm", got=", ".join(odd))
    for name, parameter in parameters.items():
        _put(_value(roles[name], "normal", parameter, (seed, "classifier", name)), parameter)


def _owner(module: nn.Module, name: str) -> nn.Module:
    """The module within `module` that holds the parameter `name` directly."""
    return module.get_submodule(name.rpartition(".")[0])


def _role(owner: nn.Module, name: str, parameter: nn.Parameter) -> Role | None:
    """What a parameter is, by the kind of its owner; None where only the architecture knows."""
    leaf = name.rpartition(".")[2]
    if isinstance(owner, nn.Linear | Conv1D):
        return {("weight", 2): "weight", ("bias", 1): "bias"}.get((leaf, parameter.ndim))  # type: ignore[return-value]
    if "Norm" in type(owner).__name__ and parameter.ndim == 1 and _is_identity_at_one(owner, parameter):
        return {"weight": "norm weight", "bias": "norm bias"}.get(leaf)  # type: ignore[return-value]
    return None


def _is_identity_at_one(norm: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether the norm only normalises at weight 1 and bias 0: those with scale 1 + weight (Gemma) do not."""
    if norm not in _IDENTITIES:
        start = {name: torch.full_like(value, float(name == "weight")) for name, value in norm.named_parameters()}
        ramp = torch.linspace(-1.0, 1.0, parameter.numel(), device=parameter.device)
        output: Tensor = torch.func.functional_call(norm, start, (ramp.expand(1, 1, -1),))
        _IDENTITIES[norm] = parameter.numel() == 1 or abs(float(output.square().mean()) - 1.0) < 0.01
    return _IDENTITIES[norm]


_IDENTITIES: Final = WeakKeyDictionary[nn.Module, bool]()
"""What was found, of every norm that is still there: to try one takes longer than to reset it."""


def _check_known(module: nn.Module, roles: dict[str, Role | None], kept: set[str]) -> None:
    if odd := [name for name, role in roles.items() if role is None and name not in kept]:
        raise SpecError(
            f"{type(module).__name__} has a parameter that is no matrix, bias or norm, so no general rule draws it",
            got=", ".join(odd),
            remedy="say init: architecture, the model's own initialisation",
        )


def _value(role: Role | None, init: Init, parameter: nn.Parameter, source: Stream) -> Tensor:
    if role == "weight":
        # Where it is wanted, if that is on the CPU: fresh memory and a copy would take as long as the draw.
        is_here = parameter.device.type == "cpu" and parameter.is_contiguous()
        return draw(init, parameter.shape, source, parameter.detach() if is_here else None)
    return torch.full(parameter.shape, 1.0 if role == "norm weight" else 0.0)


def _put(value: Tensor, parameter: nn.Parameter) -> None:
    """Nothing to do where the value was made in its place."""
    if value.data_ptr() != parameter.data_ptr():
        parameter.copy_(value)


def _architecture_values(module: nn.Module, network: PreTrainedModel, seed: int, key: int | str) -> dict[str, Tensor]:
    """What the network's own `_init_weights` makes of each parameter of `module`.

    It is applied to a copy, children before parents as the library does, each module with a stream of its own. The copy
    is on the CPU, so that the values do not depend on the device, and starts as NaN, so that a parameter which the
    library leaves alone is noticed.
    """
    fresh = copy.deepcopy(module).to("cpu")
    for parameter in fresh.parameters():
        parameter.fill_(torch.nan)
        # The library's own init functions leave parameters alone that it has loaded.
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # noqa: SLF001
    with torch.random.fork_rng(devices=[]):
        for name, part in reversed(list(fresh.named_modules())):
            # Not torch.manual_seed, which would seed every GPU's generator too.
            torch.default_generator.manual_seed(stream_seed(seed, "redraw", key, name))
            network._init_weights(part)  # type: ignore[no-untyped-call]  # noqa: SLF001  what each architecture overrides
    values = {name: parameter.detach() for name, parameter in fresh.named_parameters()}
    if untouched := [name for name, value in values.items() if value.isnan().any()]:
        raise SpecError(
            f"the initialisation of {type(network).__name__} leaves parameters of {type(module).__name__} alone",
            got=", ".join(untouched),
        )
    return values


# --------------------------------------------------------------------------------- moving, cutting off and freezing


@torch.no_grad()
def permute(stack: Stack, order: Sequence[int]) -> None:
    """Depth i gets the parameters of pretrained layer `order[i]`, bit by bit; the modules stay where they are.

    Raises:
        SpecError: the layers differ in structure, so that parameters do not mean the same at another depth.
    """
    if difference := first_difference(stack.layers):
        raise SpecError(
            f"the layers of {type(stack.network).__name__} differ, so they cannot be permuted", got=difference
        )
    states = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in stack.layers]
    for layer, source in zip(stack.layers, order, strict=True):
        layer.load_state_dict(states[source])


def first_difference(layers: Sequence[nn.Module] | nn.ModuleList) -> str | None:
    """The first thing in which a layer is built differently from layer 0, None where all are alike.

    Compared are modules' classes, parameters' shapes and plain attributes (ModernBERT: layer 0 has no attention norm,
    and global and local attention alternate). An attribute that is the layer's own index is no difference.
    """
    built = [dict(_structure(layer)) for layer in layers]
    names = list(dict.fromkeys(name for structure in built for name in structure))
    for name in names:
        values = [structure.get(name, "absent") for structure in built]
        if values == list(range(len(built))):
            continue
        for index, value in enumerate(values):
            if value != values[0]:
                return f"{name} is {values[0]} in layer 0 and {value} in layer {index}"
    return None


def _structure(layer: nn.Module) -> Iterator[tuple[str, object]]:
    for path, module in layer.named_modules():
        yield path or "layer", type(module).__name__
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and _is_plain(value):
                yield f"{path}.{name}".lstrip("."), value
    for name, tensor in layer.state_dict().items():
        yield f"{name} (shape)", tuple(tensor.shape)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def truncate(stack: Stack, depth: int) -> None:
    """Keep the first `depth` layers; whatever follows the stack (final norm, pooler) stays."""
    del stack.layers[depth:]
    stack.network.config.num_hidden_layers = depth


def restore(stack: Stack) -> None:
    """Undo `truncate`: every pretrained layer runs again."""
    stack.layers.extend(stack.whole[len(stack.layers) :])
    stack.network.config.num_hidden_layers = len(stack.whole)


def freeze_for_probe(network: PreTrainedModel) -> None:
    """Train nothing of the base model: embeddings, layers, pooler."""
    network.base_model.requires_grad_(False)


def reload_as_released(stack: Stack, depth: int, seed: int) -> None:
    """What the released code scores a probe on: all layers again, those from `depth` on initialised at random.

    The code saves the network of `depth` layers and loads it as one of full depth, whose other layers the checkpoint
    lacks, so that they get the architecture's own initialisation.
    """
    restore(stack)
    for index in range(depth, len(stack)):
        redraw(stack.layers[index], stack.network, "architecture", seed, index)
