"""A process that saves checkpoints as fast as it can until it is killed; what each holds follows from its step.

Arguments: the folder. Prints `saving` once, after the first checkpoint.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np

from nebula.checkpoint.boxes import Box
from nebula.checkpoint.commit import commit, saving_folder, write_part
from nebula.checkpoint.folder import newest, retain, sweep
from nebula.checkpoint.shard_file import Part

RANKS, ROWS, COLUMNS, KEEP = 3, 96, 64, 2


def content(step: int) -> np.ndarray:
    """The tensor of a step, which no other step has."""
    return np.random.default_rng(step).standard_normal((RANKS * ROWS, COLUMNS)).astype(np.float32)


def parts(step: int, rank: int) -> list[Part]:
    """A rank's rows of it, and a state of its own."""
    array, shape = content(step), (RANKS * ROWS, COLUMNS)
    box = Box((rank * ROWS, 0), (ROWS, COLUMNS))
    own = np.full(7, step % 256, np.uint8)
    return [
        Part(key="model/weight", dtype="float32", shape=shape, box=box, array=array[rank * ROWS : (rank + 1) * ROWS]),
        Part(key=f"random/{rank}", dtype="uint8", shape=(7,), box=Box((0,), (7,)), array=own),
    ]


def save(folder: Path, step: int, run: str = "run") -> Path:
    """One checkpoint; each rank is a thread, rank 0 commits."""
    saving = saving_folder(folder, step, run)
    others = [threading.Thread(target=write_part, args=(saving, r, parts(step, r))) for r in range(1, RANKS)]
    for other in others:
        other.start()
    write_part(saving, 0, parts(step, 0))
    path, _ = commit(saving, step=step, ranks=RANKS, facts={"model": "toy", "words": "data 3", "optimizer": "AdamW"})
    for other in others:
        other.join()
    return path


def main(folder: Path) -> None:
    """Goes on from the newest checkpoint, for ever."""
    sweep(folder)
    last = newest(folder)
    step = last.step if last else 0
    while True:
        step += 1
        save(folder, step)
        retain(folder, KEEP)
        print("saving", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
