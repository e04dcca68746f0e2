"""Tears the newest checkpoint of a folder, as a disk would that lied about what it had written."""

from __future__ import annotations

import os
from pathlib import Path

from nebula.checkpoint.folder import checkpoints
from nebula.errors import BadInput


def tear(folder: Path) -> str:
    """Takes the second half of the newest complete checkpoint's largest file away.

    Returns:
        What was done, in words.

    Raises:
        BadInput: there is no older one that a job could go on from.
    """
    complete = [one for one in checkpoints(folder) if one.complete]
    if len(complete) < 2:
        there = f"{len(complete)} complete checkpoint{'s' * (len(complete) != 1)}"
        raise BadInput(f"{folder} has {there}: ask again once there are two, or the job could not go on")
    newest = complete[-1].path
    victim = max(newest.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    return f"{newest.name}/{victim.name} lost its second half"
