"""One safetensors file of a checkpoint's weights, as Hugging Face's tools and others read it, tensor by tensor."""

from __future__ import annotations

import os
from pathlib import Path

from nebula.checkpoint.dtypes import carrier
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.shard_file import entry, head_of
from nebula.errors import BadInput

WEIGHTS = ("model/", "buffer/")
"""Begins of the keys that make up a model; the rest is the training's."""


def export(reader: Reader, path: Path) -> int:
    """Writes the weights under their names in the model, in the dtype in which they were trained.

    Holds one tensor in memory at a time. The file appears whole or not at all.

    Returns:
        How many tensors.

    Raises:
        BadInput: the checkpoint is damaged or the file cannot be written.
    """
    names = {key.split("/", 1)[1]: key for key in reader.manifest.tensors if key.startswith(WEIGHTS)}
    # larger items first, which keeps every tensor at a multiple of its item's size
    ordered = sorted(names, key=lambda name: (-carrier(reader.manifest.tensors[names[name]].dtype).itemsize, name))
    entries, begin = {}, 0
    for name in ordered:
        saved = reader.manifest.tensors[names[name]]
        entries[name] = entry(saved.dtype, saved.shape, begin, begin + saved.nbytes)
        begin += saved.nbytes
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(head_of(entries))
            for name in ordered:
                file.write(reader.read(names[name]).tobytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return len(ordered)
