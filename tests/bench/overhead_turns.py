"""How a rank of the benchmark overhead takes turns with the ranks of another launch.

A rank sleeps until it is told to go on, does so many steps and tells what they took, so that two launches that are
alive side by side never compute at once. Asked for the log, it does one step with the device's log on.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle

from nebula.emulator import clock

WARM, SOCKET, LOG = 5, "turns", "log"


def take_turns(step: Callable[[], float], folder: Path) -> None:
    """Does what each line from the folder's socket says and answers with a line, until the other side hangs up."""
    for _ in range(WARM):
        step()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(folder / SOCKET))
        with link.makefile("rw") as lines:
            answer: Any = paddle.distributed.get_rank()
            print(json.dumps(answer), file=lines, flush=True)
            for line in lines:
                answer = _logged(step) if line.strip() == LOG else _timed(step, int(line))
                print(json.dumps(answer), file=lines, flush=True)


def _timed(step: Callable[[], float], steps: int) -> dict[str, float]:
    virtual_s, cpu_s = clock.virtual_seconds(), time.process_time()
    for _ in range(steps):
        step()
    return {"cpu_s": time.process_time() - cpu_s, "virtual_s": clock.virtual_seconds() - virtual_s}


def _logged(step: Callable[[], float]) -> list[tuple[str, str, float, float]]:
    """What a step dispatched to the device, in order: kind, name, bytes and FLOPs of each."""
    clock.record(True)
    step()
    clock.record(False)
    return [(event.kind.name, event.name, event.moved_bytes, event.flops) for event in clock.drain()]
