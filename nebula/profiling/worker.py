"""One rank of a profile: measures its device while the others measure theirs, then the links between them."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import paddle

import nebula
from nebula.launch.emulated_clock import clock_of
from nebula.profiling.collectives import messages
from nebula.profiling.device import NOTHING, measure
from nebula.profiling.measurements import Measurements, plain
from nebula.profiling.timing import FULL, QUICK
from nebula.runtime.start import device


def main() -> None:
    """Arguments: the folder for measured.<rank>.json, `full` or `quick`, dtypes with commas, bytes of the device.

    Without dtypes only messages are measured.
    """
    folder, effort, dtypes, memory_bytes = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), float(sys.argv[4])
    plan = nebula.init()
    here = device()
    paddle.set_device(here)
    clock, taken = clock_of(here), {"full": FULL, "quick": QUICK}[effort]
    if clock.name == "virtual":
        taken = replace(taken, rounds=1, sample_s=0.0)  # every sample would be the same
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    # one thread's own time is what it would take on an idle machine; several threads have no such sum
    own = here == "cpu" and threads == 1
    seconds = time.process_time if own else clock.seconds
    bare = clock.name == "virtual"
    times = measure(tuple(dtypes), seconds, taken, memory_bytes, here, bare=bare) if any(dtypes) else NOTHING
    measured = Measurements(
        kernel_s=times.kernel_s,
        copy_bytes_per_s=times.copy_bytes_per_s,
        products=times.products,
        moves=times.moves,
        references=times.references,
        messages=messages(clock.seconds, taken),
        processes=plan.world_size,
        threads=threads,
        clock="cpu" if own else clock.name,
    )
    rank = paddle.distributed.get_rank() if plan.world_size > 1 else 0
    (folder / f"measured.{rank}.json").write_text(json.dumps(plain(measured)), encoding="utf-8")
