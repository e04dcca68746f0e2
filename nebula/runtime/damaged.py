"""What an elastic job does about a checkpoint that is damaged: it goes on from what is there besides, and says so."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from nebula.checkpoint.manifest import Damaged
from nebula.runtime.progress import NoProgress, Progress

ASIDE = "damaged-"
"""Begins the name of a checkpoint that was set aside."""


def set_aside(path: Path | None, error: Damaged, instead: str, progress: Progress | NoProgress) -> str:
    """Gives a checkpoint a name under which it is none, unless another process has.

    Args:
        path: of the checkpoint; None: copies in memory, which have none.
        instead: what is taken up; empty: there is nothing.

    Returns:
        The sentence that the job's events have as well.

    Raises:
        Damaged: nobody goes on by itself: no agent watches this process, or there is nothing to take up.
    """
    if not instead or isinstance(progress, NoProgress):
        raise error
    if path is not None:
        with suppress(FileNotFoundError):
            aside = path.with_name(f"{ASIDE}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    sentence = f"{error}; {'it is set aside and ' if path else ''}{instead} taken up instead"
    progress.remark("damaged", sentence)
    return sentence
