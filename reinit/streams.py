"""Named random streams: every random number of a run comes from one of them.

Law: a stream is a function of (seed, name, key) alone. No stream is shared, advanced by another, or drawn from the
process's global generator, so a change in what one stream is asked for never moves another.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import torch

from jobs.cell import canonical

Name = Literal["subset", "redraw", "classifier", "order", "dropout"]
"""What a stream is for.

- `subset`: which training rows; no key.
- `redraw`: values of redrawn parameters; key (layer, name within the layer), so that two treatments share the redrawn
  weights of the layers they share.
- `classifier`: the fresh head; key (parameter's name).
- `order`: order of the examples; key (epoch).
- `dropout`: dropout masks; key (rank), for a probe ("classifier") and ("encoder", epoch, block).
"""

Stream = tuple[int, Name, *tuple[str | int, ...]]
"""One of them: the arguments of the functions below."""


def stream_seed(seed: int, name: Name, *key: str | int) -> int:
    """A 63-bit number that depends on nothing but its arguments: the sha256 of their canonical JSON.

    `1` and `"1"` are different keys, and a key is never the beginning of another.
    """
    if name not in get_args(Name):
        raise ValueError(f"unknown stream {name!r}, allowed: {', '.join(get_args(Name))}")
    digest = hashlib.sha256(canonical([seed, name, *key])).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: Name, *key: str | int) -> torch.Generator:
    """A generator of its own, seeded by `stream_seed`.

    Always on the CPU: values are drawn there and copied, so that they are the same whatever device trains. Torch's
    CPU generator reads the low 32 bits of a seed.
    """
    return torch.Generator().manual_seed(stream_seed(seed, name, *key))


def numpy_stream(seed: int, name: Name, *key: str | int) -> np.random.Generator:
    """The same for NumPy, whose uniform draws cost a third of torch's; SFC64 reads the whole of a seed."""
    return np.random.Generator(np.random.SFC64(stream_seed(seed, name, *key)))
