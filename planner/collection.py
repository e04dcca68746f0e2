"""How often Python looks for cycles while a plan is searched.

A search makes millions of values that live until it ends, in no cycles worth finding: looked through every few hundred,
as Python does by default, they take a tenth of its time, and every fifty thousand still up to a twentieth.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

VALUES = 1_000_000
"""Made since the youngest were last looked through, before they are again."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Lets values gather before they are looked through; afterwards as often as before."""
    before = gc.get_threshold()
    gc.set_threshold(max(VALUES, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
