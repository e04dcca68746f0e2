"""How a checkpoint becomes real: every rank writes its file, then one of them makes the whole visible at once.

All happens in a hidden folder beside its final place. A rank syncs its file, then leaves a record of it. The committing
rank waits for all records, writes the manifest, syncs it and the folder, renames the folder and syncs the one above. A
crash at any moment leaves the checkpoint whole or hidden. The ranks meet in the file system alone, so that a background
thread never takes part in collectives.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nebula.checkpoint import manifest as manifests
from nebula.checkpoint import shard_file
from nebula.checkpoint.boxes import Box
from nebula.checkpoint.folder import SAVING, folder_name
from nebula.checkpoint.manifest import Manifest, Piece, Saved, ShardFile
from nebula.checkpoint.shard_file import Part, Written
from nebula.errors import BadInput, NebulaError, RunFailed
from nebula.whole_file import write_whole

POLL_S = 0.02


def saving_folder(folder: Path, step: int, run: str) -> Path:
    """Where a checkpoint grows; `run` is the same word on all ranks of a run and another in every run."""
    return folder / f"{SAVING}{folder_name(step)}-{run}"


def write_part(saving: Path, rank: int, parts: Sequence[Part]) -> int:
    """Writes a rank's file and its record.

    Returns:
        Bytes of the file.

    Raises:
        RunFailed: it cannot be written; the committing rank is told, if the disk takes as much.
    """
    try:
        saving.mkdir(parents=True, exist_ok=True)
        written = shard_file.write(saving / _file_name(rank), parts)
        write_whole(saving / _record_name(rank), json.dumps(_record(written)))
    except (OSError, BadInput) as error:
        sentence = f"{saving / _file_name(rank)} cannot be written: {getattr(error, 'strerror', None) or error}"
        with suppress(OSError):
            (saving / _file_name(rank)).unlink()  # on a full disk there is room for the record of it then
        _tell_failure(saving / _failure_name(rank), sentence)
        raise RunFailed(sentence) from None
    return written.file.bytes


def commit(
    saving: Path,
    *,
    step: int,
    ranks: int,
    facts: Mapping[str, Any],
    patience_s: float = 600.0,
    fence: Callable[[], None] = lambda: None,
) -> tuple[Path, Manifest]:
    """Waits for the records of all ranks and makes the checkpoint visible.

    Args:
        patience_s: how long a rank's record may take.
        fence: raises where another generation of the job writes the folder by now; asked last of all.

    Returns:
        The checkpoint's folder, safe on the disk, and its manifest.

    Raises:
        RunFailed: a rank failed to write, was too slow, or the disk refused.
    """
    final = saving.parent / folder_name(step)
    manifest = _gathered(_records(saving, ranks, patience_s), step, facts)
    try:
        manifests.check_whole(manifest, final)
        write_whole(saving / manifests.NAME, manifests.dumps(manifest))
        for rank in range(ranks):
            (saving / _record_name(rank)).unlink()
        sync_folder(saving)
        fence()
        os.rename(saving, final)
        sync_folder(final.parent)
    except (OSError, NebulaError) as error:
        raise RunFailed(f"{final} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    return final, manifest


def sync_folder(folder: Path) -> None:
    """Returns once the disk knows what a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def abandon(saving: Path) -> None:
    """Removes a checkpoint that will not become one."""
    shutil.rmtree(saving, ignore_errors=True)


def _records(saving: Path, ranks: int, patience_s: float) -> list[dict[str, Any]]:
    """What each rank wrote."""
    deadline_s, records = time.monotonic() + patience_s, []
    for rank in range(ranks):
        path, failure = saving / _record_name(rank), saving / _failure_name(rank)
        while not path.exists():
            if failure.exists():
                raise RunFailed(f"rank {rank}: {failure.read_text(encoding='utf-8')}")
            if time.monotonic() > deadline_s:
                raise RunFailed(
                    f"rank {rank} has not written {path.with_suffix('.safetensors')} in {patience_s:g} s: "
                    "do all nodes see the same folder?"
                )
            time.sleep(POLL_S)
        records.append(json.loads(path.read_text(encoding="utf-8")))
    return records


def _gathered(records: Sequence[Mapping[str, Any]], step: int, facts: Mapping[str, Any]) -> Manifest:
    """One manifest of all records."""
    pieces: dict[str, list[Piece]] = {}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for record in records:
        for dtype, shape, key, offset, size, begin, digest in record["pieces"]:
            assert kinds.setdefault(key, (dtype, tuple(shape))) == (dtype, tuple(shape)), f"{key} has two shapes"
            box = Box(tuple(offset), tuple(size))
            pieces.setdefault(key, []).append(Piece(file=record["name"], box=box, begin=begin, sha256=digest))
    tensors = {
        key: Saved(dtype=dtype, shape=shape, pieces=tuple(sorted(pieces[key], key=lambda piece: piece.box.offset)))
        for key, (dtype, shape) in kinds.items()
    }
    files = {record["name"]: ShardFile(**record["file"]) for record in records}
    return Manifest(step=step, files=files, tensors=tensors, facts=facts)


def _record(written: Written) -> dict[str, Any]:
    file = written.file
    return {
        "name": written.name,
        "file": {"bytes": file.bytes, "header_bytes": file.header_bytes, "header_sha256": file.header_sha256},
        "pieces": [
            [part.dtype, part.shape, part.key, piece.box.offset, piece.box.shape, piece.begin, piece.sha256]
            for part, piece in zip(written.parts, written.pieces, strict=True)
        ],
    }


def _tell_failure(path: Path, sentence: str) -> None:
    try:
        write_whole(path, sentence)
    except BadInput:
        return  # a full disk: the rank's own error says it


def _file_name(rank: int) -> str:
    return f"rank-{rank:05}.safetensors"


def _record_name(rank: int) -> str:
    return f"rank-{rank:05}.json"


def _failure_name(rank: int) -> str:
    return f"rank-{rank:05}.failed"
