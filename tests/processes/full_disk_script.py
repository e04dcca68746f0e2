"""Two ranks save into a folder on a disk of 256 KiB, of which rank 1 needs more; prints what came of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from nebula.checkpoint.boxes import whole
from nebula.checkpoint.commit import abandon, commit, saving_folder, write_part
from nebula.checkpoint.folder import checkpoints
from nebula.checkpoint.reader import Reader
from nebula.checkpoint.shard_file import Part
from nebula.errors import RunFailed


def part(rank: int, count: int) -> Part:
    """Of a tensor of the rank's own."""
    array = np.full(count, rank, np.float32)
    return Part(key=f"model/{rank}", dtype="float32", shape=(count,), box=whole((count,)), array=array)


def save(folder: Path, step: int, counts: tuple[int, ...]) -> None:
    """Says why it failed, or that it did not."""
    saving, told = saving_folder(folder, step, "run"), []
    for rank, count in enumerate(counts):
        try:
            write_part(saving, rank, [part(rank, count)])
        except RunFailed as error:
            told.append(f"rank {rank}: {error}")
    try:
        commit(saving, step=step, ranks=len(counts), facts={}, patience_s=5.0)
    except RunFailed as error:
        told.append(f"commit: {error}")
        abandon(saving)
    print(step, " | ".join(told) or "saved")


def main(folder: Path) -> None:
    """On a disk that this process alone sees."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=True)
    save(folder, 1, (1000, 1000))
    save(folder, 2, (1000, 1_000_000))
    save(folder, 3, (1000, 1000))
    for one in checkpoints(folder):
        Reader(one.path).verify()
    print(sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
