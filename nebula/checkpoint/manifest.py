"""The manifest of a checkpoint: what it holds, where each part lies, and the sha256 of every byte.

JSON with one tensor a line. Its text is canonical and carries its own sha256, so that a change of any byte is seen. A
checkpoint is complete when its folder has its final name, which it gets after the manifest is safe on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nebula.checkpoint.boxes import Box, tile
from nebula.checkpoint.dtypes import SAFETENSORS, carrier
from nebula.errors import BadInput, shown

FORMAT = "nebula-checkpoint/1"
NAME = "manifest.json"
MOST_BYTES = 2**30
"""A larger manifest is not read; 100,000 pieces take 20 MB."""


class Damaged(BadInput):
    """A checkpoint's bytes are not those that were saved, or cannot be read: an older one may be whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A box of a tensor in a file.

    Attributes:
        file: its name in the checkpoint's folder.
        begin: first byte in the file.
        sha256: of its bytes, which lie row by row.
    """

    file: str
    box: Box
    begin: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A tensor of the whole model, whatever plan it was saved under; its pieces hold every element once."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def piece_bytes(self, piece: Piece) -> int:
        """The size of a piece."""
        return piece.box.elements * carrier(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """The size of the tensor."""
        return sum(map(self.piece_bytes, self.pieces))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """A rank's file: what lies before its first piece, and its whole size."""

    bytes: int
    header_bytes: int
    header_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete checkpoint.

    Attributes:
        step: optimizer steps that were done.
        tensors: by key: `model/NAME`, `optimizer/STATE/NAME`, ...
        facts: plain data beside the tensors: plan, optimizer, schedule of the learning rate, position in the data.
    """

    step: int
    files: Mapping[str, ShardFile]
    tensors: Mapping[str, Saved]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.bytes for file in self.files.values())


def dumps(manifest: Manifest) -> str:
    """The text of a manifest."""
    body = "".join(
        [
            f' "step": {manifest.step},\n',
            f' "facts": {_line(manifest.facts)},\n',
            _section("files", {name: _file(file) for name, file in manifest.files.items()}) + ",\n",
            _section("tensors", {key: _tensor(saved) for key, saved in manifest.tensors.items()}) + "\n}\n",
        ]
    )
    return f'{{\n "format": "{FORMAT}",\n "sha256": "{_sha256(body)}",\n{body}'


def loads(text: str, source: Path) -> Manifest:
    """The manifest in a text.

    Raises:
        BadInput: it is cut off, was changed, is of another version, or its pieces leave something out.
    """
    value = _parsed(text, source)
    try:
        manifest = Manifest(
            step=value["step"],
            facts=value["facts"],
            files={name: ShardFile(**file) for name, file in value["files"].items()},
            tensors={key: _saved(tensor) for key, tensor in value["tensors"].items()},
        )
        same = dumps(manifest) == text
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        same = False
    if not same:
        raise damaged(source)
    check_whole(manifest, source)
    return manifest


def load(folder: Path) -> Manifest:
    """The manifest of a checkpoint's folder.

    Raises:
        BadInput: there is none, or see loads.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(f"{folder} is no complete checkpoint: it has no {NAME}") from None
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise damaged(path)
    try:
        return loads(content.decode(), path)
    except UnicodeDecodeError:
        raise damaged(path) from None


def damaged(path: Path, what: str = "") -> Damaged:
    """What a reader says about a file whose bytes are not those that were saved."""
    why = f" ({what})" if what else ""
    return Damaged(
        f"{path} is damaged{why}: its bytes are not those that were saved; "
        f"restore it from a copy, or delete {path.parent} to go on from the checkpoint before it"
    )


def _parsed(text: str, source: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(source) from None
    if not isinstance(value, dict):
        raise damaged(source)
    if value.get("format") != FORMAT:
        raise BadInput(f"{source}: its format is {shown(value.get('format'))}, this version reads {FORMAT}")
    return value


def check_whole(manifest: Manifest, source: Path) -> None:
    """Refuses a manifest whose pieces leave elements out or hold some twice.

    Raises:
        BadInput: with the tensor's key; or a file is named that lies elsewhere.
    """
    for name in manifest.files:
        if Path(name).name != name:
            raise BadInput(f"{source}: {name} is no name of a file in its folder")
    for key, saved in manifest.tensors.items():
        unknown = [piece.file for piece in saved.pieces if piece.file not in manifest.files]
        if saved.dtype not in SAFETENSORS or unknown or not tile(saved.shape, [piece.box for piece in saved.pieces]):
            raise BadInput(f"{source}: the pieces of {key} do not make up the tensor: the checkpoint is not whole")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _section(name: str, rows: Mapping[str, Any]) -> str:
    lines = ",\n".join(f"  {_line(key)}: {_line(row)}" for key, row in sorted(rows.items()))
    return f' "{name}": {{\n{lines}\n }}'


def _file(file: ShardFile) -> dict[str, Any]:
    return {"bytes": file.bytes, "header_bytes": file.header_bytes, "header_sha256": file.header_sha256}


def _tensor(saved: Saved) -> dict[str, Any]:
    pieces = [
        {"file": p.file, "offset": p.box.offset, "shape": p.box.shape, "begin": p.begin, "sha256": p.sha256}
        for p in saved.pieces
    ]
    return {"dtype": saved.dtype, "shape": saved.shape, "pieces": pieces}


def _saved(value: Mapping[str, Any]) -> Saved:
    pieces = tuple(
        Piece(
            file=piece["file"],
            box=Box(tuple(piece["offset"]), tuple(piece["shape"])),
            begin=piece["begin"],
            sha256=piece["sha256"],
        )
        for piece in value["pieces"]
    )
    return Saved(dtype=value["dtype"], shape=tuple(value["shape"]), pieces=pieces)
