"""A folder of copies (nebula.checkpoint.copy_file) read as one checkpoint.

Copies of several ranks hold many pieces alike; each is read from one of them. Refuses a folder whose copies leave
something out, or are of several steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nebula.checkpoint.boxes import Box
from nebula.checkpoint.copy_file import Content, content
from nebula.checkpoint.dtypes import carrier
from nebula.checkpoint.manifest import Manifest, Piece, Saved, ShardFile, check_whole
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.share import Copy, writers
from nebula.errors import BadInput


class CopyReader(Reader):
    """Reads boxes of tensors from copies; their bytes were checked when they travelled, if they did."""

    def __init__(self, folder: Path) -> None:
        """Looks at all copies of a folder.

        Raises:
            BadInput: they do not make up a training.
        """
        super().__init__(folder, assemble(folder))

    def _read_piece(self, key: str, piece: Piece) -> Any:
        saved = self.manifest.tensors[key]
        found = self._bytes(piece.file, piece.begin, saved.piece_bytes(piece))
        return np.frombuffer(found, carrier(saved.dtype)).reshape(piece.box.shape)


RANDOM = "random/"
"""How keys of a rank's random state begin, which it shares with nobody."""
TENSORS = "tensors"
"""The fact that says how many tensors all ranks hold together."""
WHERE = "checkpoints"
"""The fact that says where checkpoints of the training are, and how many of them stay: `folder` and `keep`."""


def assemble(folder: Path, *, everything: bool = False) -> Manifest:
    """One manifest of all copies in a folder.

    Args:
        everything: whether copies of all ranks are needed, not those of some alone.

    Raises:
        BadInput: there is none, they are of several steps, or leave out a tensor or a part of one.
    """
    contents = [content(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    steps = sorted({one.stamp.step for one in contents})
    if len(steps) != 1:
        told = f"copies of steps {', '.join(map(str, steps))}" if steps else "no copy of a training"
        raise BadInput(f"{folder} holds {told}: copies of one step are needed")
    tensors = _tensors(contents)
    whole = sum(not key.startswith(RANDOM) for key in tensors)
    if everything and whole < contents[0].facts[TENSORS]:
        raise BadInput(f"{folder} holds copies of {whole} tensors, the training has {contents[0].facts[TENSORS]}")
    files = {piece.file: _no_file for saved in tensors.values() for piece in saved.pieces}
    manifest = Manifest(step=steps[0], files=files, tensors=tensors, facts=contents[0].facts)
    check_whole(manifest, folder)
    return manifest


_no_file = ShardFile(bytes=0, header_bytes=0, header_sha256="")
"""Copies are not checked as files are."""


def _tensors(contents: Sequence[Content]) -> Mapping[str, Saved]:
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    found: dict[tuple[int, str, Box], Piece] = {}
    for index, one in enumerate(contents):
        for key, (dtype, shape, pieces) in one.pieces.items():
            kinds[key] = (dtype, shape)
            found |= {(index, key, piece.box): piece for piece in pieces}
    held: list[list[Copy]] = [[] for _ in contents]
    for index, key, box in found:
        dtype, shape = kinds[key]
        held[index].append(Copy(key, box, math.prod(shape), carrier(dtype).itemsize))
    taken: dict[str, list[Piece]] = {key: [] for key in kinds}
    for (key, box), index in writers(held).items():
        taken[key].append(found[index, key, box])
    return {
        key: Saved(dtype=dtype, shape=shape, pieces=tuple(sorted(taken[key], key=lambda piece: piece.box.offset)))
        for key, (dtype, shape) in kinds.items()
    }
