"""When Python looks for garbage: not while many objects are made that all stay.

Law: moves time alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Within it nothing is looked through for cycles of garbage; what is not part of a cycle is freed as ever.

    Each time that so many objects were added, Python looks through all of them: a quarter of the time of importing the
    libraries or of tokenising, and nothing is found.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
