"""How what was built from a corpus is kept: named by a hash of everything it was built from, written at once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from nebula.cache_folder import UNWRITABLE
from nebula.errors import BadInput


def digest(parts: Iterable[bytes | str]) -> str:
    """16 hexadecimal digits that change with any part."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


def write(path: Path, data: bytes) -> None:
    """Writes a file at once: a reader sees all of it or none, and of two writers one wins.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        _write(path, data)
    except OSError as error:
        raise BadInput(UNWRITABLE.format(f"{path.parent}: {error.strerror}")) from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
