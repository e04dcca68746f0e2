"""One rank's file: its pieces in the layout of safetensors, hashed while they are written, and safe on the disk after.

Any reader of safetensors opens such a file; a piece is called `KEY@OFFSET` there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.checkpoint.boxes import Box
from nebula.checkpoint.dtypes import SAFETENSORS, carrier
from nebula.checkpoint.manifest import Piece, ShardFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a rank writes of a tensor.

    Attributes:
        key: of the tensor.
        shape: of the whole tensor.
        box: which of its elements these are.
        array: [box.shape], of the dtype's carrier.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    box: Box
    array: npt.NDArray[Any]

    def __post_init__(self) -> None:
        assert self.array.dtype == carrier(self.dtype), f"{self.key}: {self.array.dtype} does not carry {self.dtype}"
        assert tuple(self.array.shape) == self.box.shape, f"{self.key}: {self.array.shape} is not {self.box}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file that is safe on the disk; `pieces` follow `parts`."""

    name: str
    file: ShardFile
    parts: tuple[Part, ...]
    pieces: tuple[Piece, ...]


def write(path: Path, parts: Sequence[Part]) -> Written:
    """Writes a new file and returns once the disk has it.

    Raises:
        OSError: it exists, or cannot be written.
    """
    # the largest items first: every piece then begins at a multiple of its item's size
    ordered = sorted(parts, key=lambda part: (-part.array.itemsize, part.key, part.box.offset))
    head = header(ordered)
    pieces, begin = [], len(head)
    with path.open("xb") as file:
        file.write(head)
        for part in ordered:
            content = np.ascontiguousarray(part.array).reshape(-1).view(np.uint8).data
            digest = hashlib.sha256(content).hexdigest()
            pieces.append(Piece(file=path.name, box=part.box, begin=begin, sha256=digest))
            begin += file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sizes = ShardFile(bytes=begin, header_bytes=len(head), header_sha256=hashlib.sha256(head).hexdigest())
    return Written(name=path.name, file=sizes, parts=tuple(ordered), pieces=tuple(pieces))


def header(parts: Sequence[Part]) -> bytes:
    """The begin of a safetensors file: the length of a JSON text, and the text, which ends at a multiple of 8."""
    entries, begin = {}, 0
    for part in parts:
        end = begin + part.box.elements * part.array.itemsize
        name = f"{part.key}@{','.join(map(str, part.box.offset))}"
        entries[name] = entry(part.dtype, part.box.shape, begin, end)
        begin = end
    return head_of(entries)


def entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    """What a header says of a tensor."""
    return {"dtype": SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [begin, end]}


def head_of(entries: dict[str, Any]) -> bytes:
    """The bytes of a header."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
