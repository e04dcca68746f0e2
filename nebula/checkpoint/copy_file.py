"""A copy of a rank's part of the training in shared memory: written in place step after step, whole or marked as not.

A file begins with a prologue (which step it is of, how long it is) and a JSON header that names its pieces and holds
what a checkpoint knows beside its tensors. A rank has two files and writes them in turn, so that one of them is whole
at any moment, also when it is killed while it writes. The bytes of a copy in local memory carry no hash; a file that
travels does.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nebula.checkpoint.boxes import Box
from nebula.checkpoint.dtypes import SAFETENSORS
from nebula.checkpoint.manifest import Piece
from nebula.checkpoint.shard_file import Part
from nebula.errors import BadInput

_MAGIC = b"nebula1\0"
_PROLOGUE = struct.Struct("<8sQQQQQ")
"""Mark; whether the rest is whole; generation; its ranks; step; bytes of the file."""
_ROOM = 1.05
"""A file grows by more than is needed, so that texts that become longer seldom make it grow again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a whole copy is of; `ranks` has its generation."""

    generation: int
    ranks: int
    step: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a copy holds, without its numbers.

    Attributes:
        facts: of the checkpoint.
        pieces: key -> dtype, whole shape, and where its pieces lie in the file.
        header_bytes: before the numbers.
    """

    stamp: Stamp
    facts: Mapping[str, Any]
    pieces: Mapping[str, tuple[str, tuple[int, ...], tuple[Piece, ...]]]
    header_bytes: int


class CopyFile:
    """A file that is written again and again; one that somebody keeps by another name is left to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._memory: mmap.mmap | None = None

    def write(
        self,
        parts: Sequence[Part],
        facts: Mapping[str, Any],
        *,
        generation: int,
        ranks: int,
        step: int,
        beat: Callable[[], None] = lambda: None,
    ) -> Stamp:
        """Writes a copy; until it is whole the file says that it is not.

        Args:
            beat: is called before every part.

        Raises:
            OSError: there is no room for it; the file keeps what it held.
        """
        header, places = _header(parts, facts)
        end = places[-1][1] if places else len(header)
        memory = self._grown(end)
        memory[: _PROLOGUE.size] = _PROLOGUE.pack(_MAGIC, 0, generation, ranks, step, end)
        memory[_PROLOGUE.size : len(header)] = header[_PROLOGUE.size :]
        room = np.frombuffer(memory, np.uint8)
        for part, (begin, finish) in zip(parts, places, strict=True):
            beat()
            room[begin:finish].view(part.array.dtype).reshape(part.box.shape)[...] = part.array
        memory[: _PROLOGUE.size] = _PROLOGUE.pack(_MAGIC, 1, generation, ranks, step, end)
        return Stamp(generation=generation, ranks=ranks, step=step, bytes=end)

    def _grown(self, size: int) -> mmap.mmap:
        if self._descriptor < 0:
            self._descriptor = self._opened()
        if self._memory is None or len(self._memory) < size:
            # memory is taken now: a file that is only made longer would kill who writes where there is none left
            os.posix_fallocate(self._descriptor, 0, int(size * _ROOM) + mmap.PAGESIZE)
            self._memory = mmap.mmap(self._descriptor, 0)
        return self._memory

    def _opened(self) -> int:
        if self.path.exists() and self.path.stat().st_nlink > 1:
            self.path.unlink()
        return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)


def stamp(path: Path) -> Stamp | None:
    """What a file is a copy of; None where there is none, or it is being written."""
    try:
        with path.open("rb") as file:
            head = file.read(_PROLOGUE.size)
    except OSError:
        return None
    if len(head) < _PROLOGUE.size:
        return None
    magic, complete, generation, ranks, step, size = _PROLOGUE.unpack(head)
    whole = magic == _MAGIC and complete
    return Stamp(generation=generation, ranks=ranks, step=step, bytes=size) if whole else None


def content(path: Path) -> Content:
    """What a whole copy holds.

    Raises:
        BadInput: it is no whole copy.
    """
    found = stamp(path)
    if found is None:
        raise BadInput(f"{path} is no whole copy of a training")
    with path.open("rb") as file:
        file.seek(_PROLOGUE.size)
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    begin = _PROLOGUE.size + 8 + length
    facts = json.loads(entries.pop("__metadata__")["facts"])
    pieces: dict[str, tuple[str, tuple[int, ...], tuple[Piece, ...]]] = {}
    for entry in entries.values():
        key, shape, offset = entry["of"]
        box = Box(tuple(offset), tuple(entry["shape"]))
        piece = Piece(file=path.name, box=box, begin=begin + entry["data_offsets"][0], sha256="")
        before = pieces[key][2] if key in pieces else ()
        pieces[key] = (_DTYPES[entry["dtype"]], tuple(shape), (*before, piece))
    return Content(stamp=found, facts=facts, pieces=pieces, header_bytes=begin)


_DTYPES = {name: dtype for dtype, name in SAFETENSORS.items()}


def _header(parts: Sequence[Part], facts: Mapping[str, Any]) -> tuple[bytes, list[tuple[int, int]]]:
    """Prologue and header as bytes, and where the numbers of each part lie in the file."""
    entries: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts, allow_nan=False)}}
    at, offsets = 0, []
    for part in parts:
        begin = -(-at // 16) * 16
        at = begin + part.array.nbytes
        offsets.append((begin, at))
        name = f"{part.key}@{','.join(map(str, part.box.offset))}"
        entries[name] = {
            "dtype": SAFETENSORS[part.dtype],
            "shape": list(part.box.shape),
            "data_offsets": [begin, at],
            "of": [part.key, list(part.shape), list(part.box.offset)],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _PROLOGUE.size + 8) % 64)
    header = bytes(_PROLOGUE.size) + len(text).to_bytes(8, "little") + text
    return header, [(len(header) + begin, len(header) + end) for begin, end in offsets]
