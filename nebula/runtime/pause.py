"""What a script does between two steps and Nebula knows nothing of: an evaluation, a report, a download.

A rank that says nothing for long hangs. In a pause a thread says for it that it goes on, for as long as the script has
allowed; who is stopped by a signal, or holds the interpreter's lock, is found as ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nebula.errors import BadInput
from nebula.runtime.progress import NoProgress, Progress, Section

SAID_S = 0.2
"""Between two words that the pause goes on."""
LONGEST_S = 7 * 86400.0


@contextmanager
def pause(progress: Progress | NoProgress, at_most_s: float) -> Iterator[None]:
    """Counts what the block takes for no step.

    Args:
        at_most_s: a pause that takes longer is a hang.

    Raises:
        BadInput: `at_most_s` is no time.
    """
    if not isinstance(at_most_s, int | float) or not 0 < at_most_s <= LONGEST_S or math.isnan(at_most_s):
        raise BadInput(f"a pause of at most {at_most_s!r} s: give seconds, more than 0 and at most a week")
    began_s, over = time.monotonic(), threading.Event()
    progress.enter(Section.PAUSE)
    words = threading.Thread(target=_say, args=(progress, over, began_s + at_most_s), name="pause", daemon=True)
    words.start()
    try:
        yield
    finally:
        over.set()
        words.join()
        progress.paused(time.monotonic() - began_s)


def _say(progress: Progress | NoProgress, over: threading.Event, until_s: float) -> None:
    while time.monotonic() < until_s and not over.wait(SAID_S):
        progress.touch()
