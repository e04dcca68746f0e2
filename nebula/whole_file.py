"""Writes a text file whole or not at all: a reader never sees half of one, and a full disk leaves the old one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nebula.errors import BadInput


def write_whole(path: Path, text: str) -> None:
    """Write a file through a temporary one beside it.

    A link stays a link. What is no file (/dev/stdout, a pipe) is written to, never replaced.

    Raises:
        BadInput: it cannot be written; what was there is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
