"""Processes and devices: which rank this is, on which device, with how many threads.

Law: joined once per process and before any engine. One process per GPU, started by `reinit.launch`, which sets RANK,
LOCAL_RANK and WORLD_SIZE; without them this process is the only rank and opens no port. What a GPU fails in is told
apart from what a program does wrong.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

# A GPU's matrix library reads this when it is first used; deterministic algorithms need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.distributed
from torch._C._distributed_c10d import HashStore  # torch.distributed has it, but does not export it to type checkers

from jobs.errors import ConfigurationError, TransientError

T = TypeVar("T")

SHARED: Final = 0.05
"""Of a GPU's memory: what others must hold for it to be their doing that ours ran out. A process's context is less."""

DEVICE: Final = ("CUDA error", "NCCL error", "NCCL communicator was aborted")
"""How errors of a GPU, of a link or of a peer begin."""
PROGRAM: Final = ("device-side assert", "illegal memory access", "misaligned address", "invalid argument")
"""Those among them that come of what a kernel was given: the same again on another node."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world_size: int
    device: torch.device
    sharers: int = 1
    """Processes that this one shares its GPU with, itself counted: each is charged its part of the time."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes: results, logs, progress."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """The first rank's `value`, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:  # noqa: FBT001  a predicate over ranks, not an option
        """Whether `flag` is true on some rank; every rank must ask at the same step."""
        return bool(self.most(int(flag)))

    def most(self, number: int) -> int:
        """The largest `number` of any rank; every rank must ask at the same step."""
        if self.world_size == 1:
            return number
        votes = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return int(votes.item())


@functools.cache
def join_ranks() -> Ranks:
    """Join the process group and make this process deterministic.

    Raises:
        ConfigurationError: fewer GPUs than ranks on this machine.
        TransientError: a GPU was promised (`REINIT_DEVICE=cuda`) and cannot be used.
    """
    world_size, rank, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    gpu = _use_gpu(os.environ.get("REINIT_DEVICE"))
    if gpu and local_rank >= torch.cuda.device_count():
        raise ConfigurationError(
            "more processes than GPUs",
            expected=f"LOCAL_RANK below {torch.cuda.device_count()}",
            got=local_rank,
            remedy="ask for no more GPUs than a node has: `gpus` of the cluster file, REINIT_GPUS of a process",
        )
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    # DeepSpeed chooses its accelerator when imported, and warns on the terminal when left to guess.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if gpu:
        torch.cuda.set_device(device)
    _be_deterministic()
    if not torch.distributed.is_initialized():
        backend = "nccl" if gpu else "gloo"
        if world_size == 1:
            torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            torch.distributed.init_process_group(backend, init_method="env://")
    _join_deepspeed(backend="nccl" if gpu else "gloo")
    return Ranks(rank, world_size, device, int(os.environ.get("REINIT_GPU_SHARERS", "1")))


def _use_gpu(promised: str | None) -> bool:
    """Whether to run on a GPU; one that was asked for and is not there must not become hours on a CPU."""
    if promised == "cpu":
        return False
    if promised == "cuda" and not torch.cuda.is_available():
        raise TransientError(
            "the GPU cannot be used",
            expected="a CUDA device, as REINIT_DEVICE says",
            got=f"torch {torch.__version__} sees none",
            remedy="look at the node's driver; or say gpus: 0 to run on the CPU",
        )
    return torch.cuda.is_available()


def _be_deterministic() -> None:
    torch.use_deterministic_algorithms(mode=True)
    # Filling fresh memory guards against code that reads what it never wrote; it costs every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _join_deepspeed(backend: str) -> None:
    import deepspeed  # after DS_ACCELERATOR is set
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    # On a CPU DeepSpeed compiles a shared-memory collective at first start (half a minute, and a compiler that an
    # image need not have). gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


@contextmanager
def gpu_faults() -> Iterator[None]:
    """Give what the GPU or its driver fails in inside this block the class that says whether to try again.

    Raises:
        TransientError: an error of the GPU, or its memory is taken by other processes.
        ConfigurationError: the run alone needs more memory than the GPU has.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(error) from error
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not reason.startswith(DEVICE) or any(each in reason for each in PROGRAM):
            raise
        raise TransientError(
            f"the GPU failed: {reason}", remedy="look at the node: dmesg for Xid, nvidia-smi -q for ECC errors"
        ) from error


def _out_of_memory(error: torch.OutOfMemoryError) -> TransientError | ConfigurationError:
    free, total = torch.cuda.mem_get_info()
    ours = torch.cuda.memory_reserved()
    others = total - free - ours
    reason = str(error).partition("\n")[0]
    if others > SHARED * total:
        return TransientError(
            "the GPU's memory is taken by other processes",
            expected=f"{total / 1e9:.1f} GB for this process alone",
            got=f"{others / 1e9:.1f} GB taken by others, {ours / 1e9:.1f} GB by this process; {reason}",
            remedy="fewer workers on this GPU",
        )
    return ConfigurationError(
        "the run needs more memory than the GPU has",
        got=f"{ours / 1e9:.1f} of {total / 1e9:.1f} GB in use; {reason}",
        remedy="a GPU with more memory, several GPUs, or a shorter max_length",
    )


def device_model(device: torch.device) -> str:
    """The device's model name, part of the numerics version."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  not a file of ours
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else 'cpu'} ({capability})"
