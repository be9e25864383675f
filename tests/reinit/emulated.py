"""`kernels.cu` on a processor, one thread after another: what it computes can be seen without a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from reinit.kernels import SOURCE, Argument, Launch, definitions, packed_arguments

CUDA: Final = Path(__file__).with_name("cuda_on_a_cpu.h")
ADDRESSES: Final = "KERNELS_CHECK_ADDRESSES"
"""In the environment of a process that `checking_addresses` started."""


def checking_addresses(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, ended by a kernel's first access to memory that nobody has asked for."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    # Python itself gives nothing back at its end.
    options = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", ADDRESSES: "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **options},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def kernels_in(source: str) -> list[str]:
    """Their names."""
    return re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(", source)


@functools.cache
def emulated(
    low: torch.dtype,
    head: int,
    width: int,
    source: str = SOURCE.read_text(encoding="utf-8"),
    *,
    backwards: bool = False,
) -> Launch:
    """As `kernels_for`, for tensors on a CPU; blocks, warps and threads in order, or the last one first."""
    entries = [
        f'extern "C" void run_{name}(const int* sizes, void** given) {{ fibers::launch({name}, sizes, given); }}'
        for name in kernels_in(source)
    ]
    with tempfile.TemporaryDirectory() as made:
        file, library = Path(made, "kernels.cpp"), Path(made, "kernels.so")
        file.write_text("\n".join([f'#include "{CUDA}"', "#line 1", source, *entries]), encoding="utf-8")
        # Shared memory that is too small is a fault on a GPU, and would silently be somebody else's memory here.
        checks = ["-fsanitize=bounds", "-fsanitize-undefined-trap-on-error"]
        if ADDRESSES in os.environ:
            checks = ["-fsanitize=address"]
        flags = [
            "-O1",
            "-std=c++17",
            "-fPIC",
            "-shared",
            *checks,
            f"-DBACKWARDS={int(backwards)}",
            *definitions(low, head, width),
        ]
        subprocess.run(["g++", *flags, "-o", str(library), str(file)], check=True, timeout=120)
        loaded = ctypes.CDLL(str(library))

    def launch(name: str, grid: Sequence[int], block: Sequence[int], *arguments: Argument) -> None:
        sizes = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
        addresses, _values = packed_arguments(arguments)
        assert all(each.is_contiguous() or each.stride(-1) == 1 for each in arguments if isinstance(each, torch.Tensor))
        loaded[f"run_{name}"]((ctypes.c_int * 6)(*sizes), addresses)

    return launch
