"""`no_collection`: many values are made without looking for cycles among them.

Law: for what holds values alone and no cycles, and for a while: whatever does is collected later.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's search for cycles goes through all objects again and again as their number grows: here it does not."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
