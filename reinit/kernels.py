"""`kernels.cu`, compiled for the card at hand and launched.

Law: compiled in the process, by the library that comes with torch's CUDA build; nothing is written and no compiler has
to be installed. What a kernel computes is said in `kernels.cu`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import torch
from torch import Tensor

from jobs.errors import ConfigurationError

SOURCE: Final = Path(__file__).with_name("kernels.cu")
SEVERAL: Final = 4
"""As in `kernels.cu`: gradients whose squares are added up by one launch."""

Argument = Tensor | int | float | ctypes.Structure | ctypes.c_longlong | ctypes.c_double | None
"""A tensor is its address, None no address, an int C's int, a float C's float."""


class Launch(Protocol):
    """Starts a kernel of `kernels.cu` on the current stream."""

    def __call__(self, name: str, grid: Sequence[int], block: Sequence[int], *arguments: Argument) -> None:
        """Grid and block are sizes of one to three dimensions."""


class DropoutArgument(ctypes.Structure):
    """`Dropout` of `kernels.cu`."""

    _fields_ = (
        ("key", ctypes.c_void_p),
        ("site", ctypes.c_uint32),
        ("threshold", ctypes.c_uint32),
        ("scale", ctypes.c_float),
    )


class TablesArgument(ctypes.Structure):
    """`Tables` of `kernels.cu`."""

    _fields_ = (("rows", ctypes.c_void_p * 3), ("totals", ctypes.c_void_p * 3), ("paddings", ctypes.c_int * 3))

    @classmethod
    def of(cls, rows: Sequence[Tensor], totals: Sequence[Tensor], paddings: Sequence[int]) -> Self:
        """Of up to three embeddings."""
        rest = [0] * (3 - len(rows))
        argument = cls()
        argument.rows[:] = [each.data_ptr() for each in rows] + rest
        argument.totals[:] = [each.data_ptr() for each in totals] + rest
        argument.paddings[:] = [*paddings, *rest]
        return argument


class GradientsArgument(ctypes.Structure):
    """`Gradients` of `kernels.cu`."""

    _fields_ = (
        ("values", ctypes.c_void_p * SEVERAL),
        ("sizes", ctypes.c_longlong * SEVERAL),
        ("before", ctypes.c_int * SEVERAL),
    )

    @classmethod
    def of(cls, gradients: Sequence[Tensor], before: Sequence[int]) -> Self:
        """Of up to `SEVERAL` gradients that are contiguous."""
        rest = [0] * (SEVERAL - len(gradients))
        argument = cls()
        argument.values[:] = [each.data_ptr() for each in gradients] + rest
        argument.sizes[:] = [each.numel() for each in gradients] + rest
        argument.before[:] = [*before, *rest]
        return argument


def packed_arguments(arguments: Sequence[Argument]) -> tuple[Any, list[Any]]:
    """An array of addresses, as CUDA's launch takes them, and what it points at."""
    values = [_in_c(argument) for argument in arguments]
    return (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values)), values


def _in_c(argument: Argument) -> Any:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(0 if argument is None else argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


def row_threads(width: int) -> int:
    """Threads of a block that has a row: whole warps, a thread four columns as long as that makes no more than 256."""
    return min(256, -(-width // 128) * 32)


def definitions(low: torch.dtype, head: int, width: int) -> list[str]:
    """What the source is compiled with."""
    threads = row_threads(width)
    items = -(-width // (4 * threads))
    names = {"BF16": int(low is torch.bfloat16), "HEAD": head, "ROW_THREADS": threads, "ITEMS": items}
    return [f"-D{name}={value}" for name, value in names.items()]


def compiled(architecture: str, low: torch.dtype, head: int, width: int) -> bytes:
    """Machine code for an architecture such as `sm_90`, for what `kernels_for` says; no GPU is needed.

    Raises:
        ConfigurationError: NVIDIA's compiler library is missing, or the source cannot be compiled.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # looks for the library
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            "the GPU's kernels cannot be compiled",
            expected="cuda-bindings and nvidia-cuda-nvrtc, which come with torch's CUDA build",
            got=str(error),
            remedy="install both in the version of torch's CUDA",
        ) from error
    flags = [option.encode() for option in (f"--gpu-architecture={architecture}", *definitions(low, head, width))]
    program = _checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), b"kernels.cu", 0, [], []), "nvrtcCreateProgram")
    if int(nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program), "nvrtcGetProgramLogSize")
        _checked(nvrtc.nvrtcGetProgramLog(program, log), "nvrtcGetProgramLog")
        raise ConfigurationError(
            "the GPU's kernels cannot be compiled",
            where=f"reinit/kernels.cu for {architecture}",
            got=log.decode(errors="replace").strip("\0 \n"),
        )
    code: bytes = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program), "nvrtcGetCUBINSize")
    _checked(nvrtc.nvrtcGetCUBIN(program, code), "nvrtcGetCUBIN")
    _checked(nvrtc.nvrtcDestroyProgram(program), "nvrtcDestroyProgram")
    return code


@functools.cache
def kernels_for(low: torch.dtype, head: int, width: int, device: int) -> Launch:
    """The kernels for activations stored as `low`, heads of size `head` and rows of `width`, on a CUDA device.

    Raises:
        ConfigurationError: see `compiled`.
    """
    properties: Any = torch.cuda.get_device_properties(device)
    code = compiled(f"sm_{properties.major}{properties.minor}", low, head, width)
    from cuda.bindings import driver

    torch.cuda.current_stream(device)  # there is a context now
    module = _checked(driver.cuModuleLoadData(code), "cuModuleLoadData")
    functions: dict[str, Any] = {}

    def launch(name: str, grid: Sequence[int], block: Sequence[int], *arguments: Argument) -> None:
        if name not in functions:
            functions[name] = _checked(driver.cuModuleGetFunction(module, name.encode()), name)
        addresses, _values = packed_arguments(arguments)
        stream = torch.cuda.current_stream(device).cuda_stream
        sizes = (*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)))
        _checked(driver.cuLaunchKernel(functions[name], *sizes, 0, stream, ctypes.addressof(addresses), 0), name)

    return launch


def _checked(answer: tuple[Any, ...], what: str) -> Any:
    """The value that a call of NVIDIA's returned, in the words by which a fault of the card is known if it failed."""
    code, *values = answer
    if int(code):
        raise RuntimeError(f"CUDA error: {code.name} in {what}")
    return values[0] if values else None
