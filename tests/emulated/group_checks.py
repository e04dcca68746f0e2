"""A program for several emulated devices: every collective once, its values and its virtual times as JSON.

Started by paddle.distributed.launch with the folder for answers and the names of the checks to run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.nn import functional as F

from nebula.emulator import clock

COUNT = 12_000  # elements of the whole array; divisible by the ranks that the tests use


def timed(work: Callable[[], Any]) -> dict[str, Any]:
    """The result of one collective, and when this rank began and ended it."""
    clock.drain()
    clock.record(True)
    values = work()
    clock.record(False)
    calls = [[e.name, e.start_s, e.end_s, e.moved_bytes] for e in clock.drain() if e.kind is clock.EventKind.COLLECTIVE]
    return {"values": values, "calls": calls}


def collectives() -> dict[str, Any]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    whole = paddle.arange(COUNT, dtype="float32") + 1000 * rank
    part = whole[: COUNT // ranks] + 0
    for _ in range(rank):  # ranks begin at different times
        part = part + 0
    ends = lambda tensor: [float(tensor[0]), float(tensor[-1])]  # noqa: E731

    def all_reduce(dtype: str, op: int) -> list[float]:
        copy = whole.clone().astype(dtype)
        dist.all_reduce(copy, op=op)
        return ends(copy.astype("float32"))

    def all_gather() -> list[float]:
        parts: list[paddle.Tensor] = []
        dist.all_gather(parts, part)
        return [float(p[1]) for p in parts]

    def reduce_scatter() -> list[float]:
        out = paddle.zeros([COUNT // ranks])
        dist.stream.reduce_scatter(out, whole)
        return ends(out)

    def broadcast() -> list[float]:
        copy = whole + 0
        dist.broadcast(copy, src=1)
        return ends(copy)

    def reduce() -> list[float]:
        copy = whole + 0
        dist.reduce(copy, dst=0)
        return ends(copy)

    def all_to_all() -> list[float]:
        out = paddle.zeros([COUNT])
        dist.alltoall_single(out, whole)
        return [float(out[r * (COUNT // ranks)]) for r in range(ranks)]

    def uneven_all_to_all() -> list[float]:
        sizes = [100 * (rank + 1) * (other + 1) for other in range(ranks)]  # the same both ways
        out = paddle.zeros([sum(sizes)])
        dist.alltoall_single(out, whole[: sum(sizes)] + 0, sizes, sizes)
        return ends(out)

    def to_next() -> list[float]:
        got = paddle.zeros([COUNT])
        there = dist.isend(whole, (rank + 1) % ranks)
        dist.irecv(got, (rank - 1) % ranks).wait()
        there.wait()
        return ends(got)

    return {
        "all_reduce": timed(lambda: all_reduce("float32", dist.ReduceOp.SUM)),
        "all_reduce_max": timed(lambda: all_reduce("float32", dist.ReduceOp.MAX)),
        "all_reduce_float16": timed(lambda: all_reduce("float16", dist.ReduceOp.SUM)),
        "all_reduce_bfloat16": timed(lambda: all_reduce("bfloat16", dist.ReduceOp.SUM)),
        "all_gather": timed(all_gather),
        "reduce_scatter": timed(reduce_scatter),
        "broadcast": timed(broadcast),
        "reduce": timed(reduce),
        "all_to_all": timed(all_to_all),
        "uneven_all_to_all": timed(uneven_all_to_all),
        "to_next": timed(to_next),
    }


def overlap() -> dict[str, float]:
    """A collective beside independent work, waited for before and after it."""
    big, x = paddle.ones([2_000_000]), paddle.ones([512, 512])
    spans = {}
    for name in ("work", "both", "serial"):
        paddle.device.synchronize()
        dist.barrier()
        begin = clock.virtual_seconds()
        if name != "work":
            task = dist.all_reduce(big, sync_op=False)
            if name == "serial":
                task.wait()
        for _ in range(4):
            paddle.matmul(x, x)
        if name == "both":
            task.wait()
        spans[name] = clock.virtual_seconds() - begin
    return spans


def sharding() -> dict[str, list[float]]:
    """Losses of sharding stages 2 and 3, and of one process over the whole batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    batch = np.random.RandomState(3).randn(4, 16).astype("float32")
    own = batch[4 // ranks * rank : 4 // ranks * (rank + 1)]

    def losses(level: str, rows: np.ndarray) -> list[float]:
        paddle.seed(5)
        model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
        if level:
            model, optimizer, _ = dist.sharding.group_sharded_parallel(model, optimizer, level)
        x, values = paddle.to_tensor(rows), []
        for _ in range(5):
            loss = F.mse_loss(model(x), x)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            mean = loss.detach() / (ranks if level else 1)
            if level:
                dist.all_reduce(mean)
            values.append(float(mean))
        return values

    return {level or "serial": losses(level, own if level else batch) for level in ("os_g", "p_g_os", "")}


def failing(work: Callable[[], Any]) -> str:
    try:
        work()
    except OSError as error:
        return type(error).__name__
    return ""


def mismatches() -> dict[str, str]:
    """Calls that do not fit together, each on a group of its own: the connection is of no use afterwards."""
    rank = dist.get_rank()
    groups = [dist.new_group([0, 1]) for _ in range(2)]
    if rank > 1:
        return {}
    shape = failing(lambda: dist.all_reduce(paddle.ones([8 + 8 * rank]), group=groups[0]))
    x = paddle.ones([8])
    order = failing(
        lambda: dist.all_reduce(x, group=groups[1]) if rank == 0 else dist.broadcast(x, src=0, group=groups[1])
    )
    return {"shape": shape, "order": order}


def parting() -> list[float]:
    """Rank 0 ends right after a send that rank 1 takes later."""
    dist.barrier()
    big = paddle.full([12_000_000], 3.0 - dist.get_rank())
    if dist.get_rank() == 0:
        dist.send(big, dst=1)
    elif dist.get_rank() == 1:
        time.sleep(1)
        dist.recv(big, src=0)
        return [float(big[0]), float(big[-1])]
    return []


def wait_for(name: str) -> None:
    while not Path(sys.argv[1], name).exists():
        time.sleep(0.05)


def stuck() -> dict[str, Any]:
    """Rank 1 waits for what rank 0 never sends; both have met before, else Paddle's own store would wait."""
    dist.barrier()
    if dist.get_rank() == 0:
        wait_for("patience")
        return {}
    begin = time.monotonic()
    error = failing(lambda: dist.recv(paddle.ones([4]), src=0))
    Path(sys.argv[1], "patience").touch()
    return {"error": error, "waited_s": time.monotonic() - begin}


def death() -> dict[str, str]:
    """Rank 1 ends without a word while rank 0 counts on it; the launcher learns of it later."""
    if dist.get_rank() == 1:
        wait_for("ready")
        os.kill(os.getpid(), 9)
    x = paddle.ones([64])
    Path(sys.argv[1], "ready").touch()
    return {"error": failing(lambda: dist.all_reduce(x))}


CHECKS = {f.__name__: f for f in (collectives, overlap, sharding, mismatches, parting, stuck, death)}


def main(folder: Path, names: list[str]) -> None:
    dist.init_parallel_env()
    answer = {}
    for name in names:
        answer[name] = CHECKS[name]()
        (folder / f"answer.{dist.get_rank()}").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
