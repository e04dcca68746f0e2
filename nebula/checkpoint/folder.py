"""The folder of a run's checkpoints: which are complete, which to keep, what a crash left behind."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nebula.checkpoint import manifest as manifests
from nebula.errors import BadInput

SAVING, REMOVING = ".saving-", ".removing-"
"""Begins of the names of hidden folders: a checkpoint that grows, one that goes."""
_NAME = re.compile(r"step-(\d{8,})")


def folder_name(step: int) -> str:
    """The name of a checkpoint.

    Example:
        >>> folder_name(40)
        'step-00000040'
    """
    return f"step-{step:08}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder that has a checkpoint's name; `complete` when it has a manifest."""

    step: int
    path: Path
    complete: bool


def checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints of a folder, oldest first; without the folder none."""
    if not folder.is_dir():
        return ()
    found = [
        Checkpoint(step=int(match[1]), path=path, complete=(path / manifests.NAME).is_file())
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return tuple(sorted(found, key=lambda one: one.step))


def newest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint."""
    complete = [one for one in checkpoints(folder) if one.complete]
    return complete[-1] if complete else None


def retain(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` complete checkpoints.

    Each gets a hidden name first, so that a crash leaves no checkpoint with half of its files.
    """
    assert keep >= 1, "no training goes on from no checkpoint"
    for old in [one for one in checkpoints(folder) if one.complete][:-keep]:
        hidden = old.path.with_name(REMOVING + old.path.name)
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(old.path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> int:
    """Removes what a crash left half-written or half-removed.

    Returns:
        How many folders that was.
    """
    left = [path for path in folder.glob(".*") if path.name.startswith((SAVING, REMOVING))] if folder.is_dir() else []
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def pick(folder: Path) -> tuple[Checkpoint, ...]:
    """What a person means by a folder: one checkpoint, a folder of them, or a run that has a folder `checkpoints`.

    Raises:
        BadInput: it holds none.
    """
    match = _NAME.fullmatch(folder.resolve().name)
    if match and folder.is_dir():
        return (Checkpoint(step=int(match[1]), path=folder, complete=(folder / manifests.NAME).is_file()),)
    found = checkpoints(folder) or checkpoints(folder / "checkpoints")
    if not found:
        raise BadInput(f"{folder} holds no checkpoint: name a run's folder, its folder of checkpoints, or one of them")
    return found
