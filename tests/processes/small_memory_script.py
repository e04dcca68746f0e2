"""A rank's copy grows in shared memory of 256 KiB, as containers have little of it; prints what its file holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from nebula.checkpoint.boxes import whole
from nebula.checkpoint.copy_file import CopyFile, stamp
from nebula.checkpoint.shard_file import Part


def main(folder: Path) -> None:
    """In a memory that this process alone sees."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=True)
    file = CopyFile(folder / "rank-00000.common.0")
    for step, count in enumerate((1000, 1_000_000, 2000), 1):
        part = Part(
            key="w", dtype="float32", shape=(count,), box=whole((count,)), array=np.full(count, step, np.float32)
        )
        try:
            file.write([part], {}, generation=1, ranks=1, step=step)
        except OSError as error:
            print(step, error.strerror)
        held = stamp(file.path)
        assert held is not None
        print(step, "holds", held.step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
