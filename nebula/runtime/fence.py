"""Keeps checkpoints of a generation that was given up from appearing among those of the one that trains.

A folder of checkpoints says which generation writes it. A rank 0 that was frozen, or cut off from its controller, and
goes on later finds a higher number there and makes nothing visible any more. Without an agent there are no generations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nebula.errors import RunFailed
from nebula.whole_file import write_whole

FILE = ".generation"
VARIABLE = "NEBULA_GENERATION"


def raise_fence(folder: Path, env: Mapping[str, str] = os.environ) -> None:
    """Says that this process's generation writes the folder from now on.

    Raises:
        RunFailed: a later one does.
    """
    if VARIABLE in env:
        check_fence(folder, env)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, env[VARIABLE])


def check_fence(folder: Path, env: Mapping[str, str] = os.environ) -> None:
    """Refuses a process of an earlier generation than the one that writes the folder.

    Raises:
        RunFailed: with both.
    """
    try:
        there = int((folder / FILE).read_text())
    except (OSError, ValueError):
        return
    if VARIABLE in env and int(env[VARIABLE]) < there:
        raise RunFailed(f"this process is of generation {env[VARIABLE]}, generation {there} writes {folder} by now")
