"""Reads boxes of saved tensors, whatever pieces they were saved in, and refuses bytes that were not saved.

What is read is checked against its sha256, always; `verify` reads all of a checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.checkpoint import manifest as manifests
from nebula.checkpoint.boxes import Box, overlap, whole
from nebula.checkpoint.dtypes import carrier
from nebula.checkpoint.manifest import Damaged, Manifest, Piece, Saved, damaged

KEPT_PIECES = 4
"""Pieces that stay in memory because neighbouring boxes may need them again."""


class Reader:
    """A complete checkpoint.

    Attributes:
        folder: of the checkpoint.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Reads the manifest, unless it is given.

        Raises:
            BadInput: it is missing or damaged.
        """
        self.folder, self.manifest = folder, manifest or manifests.load(folder)
        self._checked_files: set[str] = set()
        self._piece = functools.lru_cache(KEPT_PIECES)(self._read_piece)

    def read(self, key: str, box: Box | None = None) -> npt.NDArray[Any]:
        """Elements of a tensor, in the carrier of its dtype; all of them without a box.

        Raises:
            Damaged: a file is missing or damaged.
        """
        saved = self.manifest.tensors[key]
        wanted = whole(saved.shape) if box is None else box
        out = np.empty(wanted.shape, carrier(saved.dtype))
        for piece in saved.pieces:
            shared = overlap(wanted, piece.box)
            if shared is not None:
                out[shared.within(wanted)] = self._piece(key, piece)[shared.within(piece.box)]
        return out

    def verify(self) -> None:
        """Reads everything.

        Raises:
            Damaged: the first file that is missing or damaged.
        """
        for name in self.manifest.files:
            self._check_file(name)
        for key, saved in self.manifest.tensors.items():
            for piece in saved.pieces:
                self._read_piece(key, piece)

    def _read_piece(self, key: str, piece: Piece) -> npt.NDArray[Any]:
        self._check_file(piece.file)
        saved: Saved = self.manifest.tensors[key]
        content = self._bytes(piece.file, piece.begin, saved.piece_bytes(piece))
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            raise damaged(self.folder / piece.file, f"in {key}")
        return np.frombuffer(content, carrier(saved.dtype)).reshape(piece.box.shape)

    def _check_file(self, name: str) -> None:
        """Once per file: its size and its header."""
        if name in self._checked_files:
            return
        path, file = self.folder / name, self.manifest.files[name]
        if not path.is_file():
            raise Damaged(f"{path} is missing: restore it from a copy, or delete {self.folder} to go on without it")
        size = path.stat().st_size
        if size != file.bytes:
            raise damaged(path, f"{size} bytes instead of {file.bytes}")
        if hashlib.sha256(self._bytes(name, 0, file.header_bytes)).hexdigest() != file.header_sha256:
            raise damaged(path, "in its header")
        self._checked_files.add(name)

    def _bytes(self, name: str, begin: int, count: int) -> bytes:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                os.lseek(file.fileno(), begin, os.SEEK_SET)
                return file.read(count)
        except OSError as error:
            raise Damaged(f"{path}: cannot be read: {error.strerror}") from None
