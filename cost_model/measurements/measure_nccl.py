"""Measures collectives between the CUDA devices of one host, and what products lose while a collective runs beside.

Needs PyTorch with CUDA and NCCL. Usage: python3 measure_nccl.py OUT.json [overlap]; with `overlap` it measures what
products lose beside collectives, else the collectives.
Each row: the collective, ranks, bytes of the larger buffer on one rank, seconds (median of rounds, the slowest rank's
where they differ, since all wait for it).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SIZES = tuple(1 << n for n in range(10, 31))


def seconds(run, repeats: int, rounds: int = 5) -> float:
    """Median seconds of one call, launched back to back."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        dist.barrier()
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / repeats)
    return sorted(times)[rounds // 2]


def collectives(rank: int, ranks: int) -> list[dict]:
    """All kinds over all sizes."""
    rows = []
    for size in SIZES:
        whole = torch.randn(size // 2, device="cuda").to(torch.bfloat16)
        part = torch.empty(size // 2 // ranks, device="cuda", dtype=torch.bfloat16)
        other = torch.empty_like(whole)
        peer = rank ^ 1

        def exchange(whole=whole, other=other, peer=peer) -> None:
            sends = [dist.P2POp(dist.isend, whole, peer), dist.P2POp(dist.irecv, other, peer)]
            for work in dist.batch_isend_irecv(sends):
                work.wait()

        def one_way(whole=whole, other=other, peer=peer) -> None:
            if rank % 2 == 0:
                dist.send(whole, peer)
            else:
                dist.recv(other, peer)

        runs = {
            "all_reduce": lambda whole=whole: dist.all_reduce(whole),
            "all_gather": lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part),
            "reduce_scatter": lambda whole=whole, part=part: dist.reduce_scatter_tensor(part, whole),
            "all_to_all": lambda whole=whole, other=other: dist.all_to_all_single(other, whole),
            "broadcast": lambda whole=whole: dist.broadcast(whole, 0),
            "send": one_way,
            "exchange": exchange,
        }
        repeats = max(5, min(100, (1 << 31) // size))
        for name, run in runs.items():
            rows.append({"op": name, "ranks": ranks, "bytes": size, "s": seconds(run, repeats)})
    return rows


def overlap(rank: int, ranks: int) -> list[dict]:
    """Products alone, a collective alone, and both at once on two streams; and a memory-bound kernel likewise."""
    rows = []
    side = torch.cuda.Stream()
    for n in (2048, 4096, 8192):
        a, b = (torch.randn((n, n), device="cuda", dtype=torch.bfloat16) for _ in "ab")
        big = torch.randn((64 << 20,), device="cuda", dtype=torch.bfloat16)
        count = max(4, int(0.03 / (2 * n**3 / 600e12)))
        for op, size in (("all_reduce", 256 << 20), ("all_gather", 256 << 20), ("reduce_scatter", 256 << 20)):
            whole = torch.randn(size // 2, device="cuda").to(torch.bfloat16)
            part = torch.empty(size // 2 // ranks, device="cuda", dtype=torch.bfloat16)
            send = {
                "all_reduce": lambda whole=whole: dist.all_reduce(whole),
                "all_gather": lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part),
                "reduce_scatter": lambda whole=whole, part=part: dist.reduce_scatter_tensor(part, whole),
            }[op]
            work = {"product": lambda a=a, b=b: a @ b, "vector": lambda big=big: big.add_(1.0)}
            for kind, kernel in work.items():
                if kind == "vector" and n != 4096:
                    continue
                alone_s = timed(lambda kernel=kernel, count=count: [kernel() for _ in range(count)])
                # as many on every rank, or they would wait for each other
                sends = agreed(max(2, int(alone_s / timed(send) * 1.5)))

                def beside(kernel=kernel, send=send, sends=sends, count=count) -> float:
                    side.wait_stream(torch.cuda.current_stream())
                    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    with torch.cuda.stream(side):
                        for _ in range(sends):
                            send()
                    begin.record()
                    for _ in range(count):
                        kernel()
                    end.record()
                    torch.cuda.synchronize()
                    return begin.elapsed_time(end) * 1e-3

                beside()
                both_s = sorted(beside() for _ in range(5))[2]
                rows.append(
                    {"op": f"{kind} beside {op}", "ranks": ranks, "n": n, "alone_s": alone_s, "beside_s": both_s}
                )
    return rows


def agreed(number: int) -> int:
    """The number of rank 0."""
    box = torch.tensor([number], device="cuda")
    dist.broadcast(box, 0)
    return int(box.item())


def timed(run) -> float:
    """Median seconds of one call."""
    return seconds(run, 1)


def worker(rank: int, ranks: int, out: str) -> None:
    """One rank."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=torch.device("cuda", rank))
    start = time.perf_counter()
    rows = [] if "overlap" in sys.argv else collectives(rank, ranks)
    if rank == 0:
        print(f"collectives: {time.perf_counter() - start:.0f} s", flush=True)
    rows += overlap(rank, ranks) if "overlap" in sys.argv else []
    if rank == 0:
        found = {
            "device": torch.cuda.get_device_name(0),
            "ranks": ranks,
            "torch": torch.__version__,
            "nccl": ".".join(str(n) for n in torch.cuda.nccl.version()),
            "rows": rows,
        }
        Path(out).write_text(json.dumps(found))
        print(f"overlap: {time.perf_counter() - start:.0f} s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(worker, args=(torch.cuda.device_count(), sys.argv[1]), nprocs=torch.cuda.device_count())
