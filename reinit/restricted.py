"""A checkpoint engine for DeepSpeed that reads tensors, numbers, texts and plain containers, and nothing else.

Law: no byte of a checkpoint is ever executed. DeepSpeed's own engine unpickles whatever it finds; this one lets torch's
restricted unpickler do it, which refuses every name that is not on its short list, so that there is no second reading
that could see something else. A file that cannot be written is remembered and not raised: the ranks wait for each
other in the middle of DeepSpeed's saving, and one that left early would leave the others there.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine


class RestrictedEngine(TorchCheckpointEngine):  # type: ignore[misc]  # DeepSpeed ships no types
    """Takes the place of `DeepSpeedEngine.checkpoint_engine`."""

    def __init__(self) -> None:
        """One engine's; `error` is why the last file could not be written, None where it could."""
        super().__init__()
        self.error: Exception | None = None

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write one file."""
        self.error = write(state_dict, path)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file.

        Raises:
            pickle.UnpicklingError: it holds something that is not plain, or is no checkpoint.
        """
        return read(path, map_location)


def write(state: dict[str, Any], path: str) -> Exception | None:
    """Write one file; why it could not be written, None where it could."""
    try:
        torch.save(state, path)
    except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError of a full disk
        return error
    return None


def read(path: str, map_location: Any = "cpu") -> Any:
    """What `write` wrote, and nothing that runs.

    Raises:
        pickle.UnpicklingError: it holds something that is not plain, or is no checkpoint.
    """
    return torch.load(path, map_location=map_location, weights_only=True)
