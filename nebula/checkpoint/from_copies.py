"""Copies in memory written as a checkpoint on the disk, for when nobody stays who holds them. Knows no paddle.

One process writes all of it, into one file. What becomes visible is whole, as with any other save.
"""

from __future__ import annotations

import mmap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.checkpoint import folder as folders
from nebula.checkpoint.commit import abandon, commit, saving_folder, write_part
from nebula.checkpoint.copies import TENSORS, WHERE, assemble
from nebula.checkpoint.dtypes import carrier
from nebula.checkpoint.manifest import Manifest, Piece, Saved
from nebula.checkpoint.shard_file import Part
from nebula.errors import BadInput, RunFailed


def write_checkpoint(copies: Path, fence: Callable[[Path], None]) -> Path:
    """Makes a checkpoint of a folder of copies, among those of its training.

    Args:
        fence: raises where a later generation writes a folder of checkpoints by now.

    Returns:
        The checkpoint's folder: also where it was there already.

    Raises:
        BadInput: the copies do not make up a training, or do not say where its checkpoints are.
        RunFailed: the disk refused, or a later generation writes there.
    """
    manifest = assemble(copies, everything=True)
    where = manifest.facts.get(WHERE)
    if not where:
        raise BadInput(f"the copies of step {manifest.step} do not say where checkpoints are")
    folder = Path(where["folder"])
    there = folder / folders.folder_name(manifest.step)
    if there.exists():
        return there
    facts = {name: value for name, value in manifest.facts.items() if name not in (TENSORS, WHERE)}
    saving = saving_folder(folder, manifest.step, uuid.uuid4().hex[:8])
    try:
        fence(folder)
        write_part(saving, 0, list(_parts(manifest, copies)))
        final, _ = commit(saving, step=manifest.step, ranks=1, facts=facts, fence=lambda: fence(folder))
    except RunFailed:
        abandon(saving)
        raise
    folders.retain(folder, where["keep"])
    return final


def _parts(manifest: Manifest, copies: Path) -> Iterator[Part]:
    for key, saved in manifest.tensors.items():
        for piece in saved.pieces:
            array = _mapped(copies / piece.file, saved, piece)
            yield Part(key=key, dtype=saved.dtype, shape=saved.shape, box=piece.box, array=array)


def _mapped(path: Path, saved: Saved, piece: Piece) -> npt.NDArray[Any]:
    """The numbers of a piece where they lie, without a copy."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    kind = carrier(saved.dtype)
    found = np.frombuffer(memory, kind, piece.box.elements, offset=piece.begin)
    return found.reshape(piece.box.shape)
