"""Writes a result to a file that must not be there yet, unless the user says that it may be replaced."""

from __future__ import annotations

from pathlib import Path

from nebula.errors import BadInput


def free(path: Path, *, force: bool) -> Path:
    """The path, once it is sure that nothing is lost there.

    Raises:
        BadInput: something is there and `force` is not set, or its folder is missing.
    """
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise BadInput(f"{path} exists and stays as it is: name another file, or replace it with --force")
    return path


def apart(*paths: Path | None) -> None:
    """Makes sure that no two results go to one file.

    Raises:
        BadInput: two of the paths are the same.
    """
    named = [path.resolve() for path in paths if path]
    for path in named:
        if named.count(path) > 1:
            raise BadInput(f"two results cannot both be written to {path.name}: name two files")
