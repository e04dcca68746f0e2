"""Measures what offload rests on: copies to and from the host's memory, kernels beside them, AdamW on the host.

Needs PyTorch with CUDA. Usage: python3 measure_host.py OUT.json
Copies are of pinned memory. Rates are of payload: bytes of the copied tensor over the median seconds of rounds; of
AdamW the bytes that its update moves (gradient, weight and two moments read, weight and moments written, in float32).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

SIZES = tuple(1 << n for n in range(16, 31, 2))
ADAMW_BYTES = 28
ELEMENTS = 1 << 28


def median(times: list[float]) -> float:
    """The middle one."""
    return sorted(times)[len(times) // 2]


def seconds(run, rounds: int = 7, repeats: int = 4) -> float:
    """Median seconds of one call, launched back to back."""
    run()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / repeats)
    return median(times)


def copies() -> list[dict]:
    """Copies each way alone, and both at once."""
    rows = []
    for size in SIZES:
        host, other = (torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2))
        device, behind = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
        beside = torch.cuda.Stream()

        def both() -> None:
            with torch.cuda.stream(beside):
                behind.copy_(other, non_blocking=True)
            host.copy_(device, non_blocking=True)

        ways = {
            "to host": lambda: host.copy_(device, non_blocking=True),
            "from host": lambda: device.copy_(host, non_blocking=True),
            "both": both,
        }
        rows += [{"what": "copy", "way": way, "bytes": size, "seconds": seconds(run)} for way, run in ways.items()]
    return rows


def beside() -> list[dict]:
    """What kernels take alone and while copies to the host run."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    wide = torch.empty(1 << 29, device="cuda", dtype=torch.bfloat16)
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    stream, rows = torch.cuda.Stream(), []
    kernels = {"product": lambda: torch.mm(a, a), "pointwise": lambda: wide.mul_(1.0)}
    for name, kernel in kernels.items():
        for copied in (False, True):
            times = []
            for _ in range(7):
                kernel()
                torch.cuda.synchronize()
                if copied:
                    with torch.cuda.stream(stream):
                        for _ in range(8):
                            host.copy_(device, non_blocking=True)
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                for _ in range(20):
                    kernel()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1e-3 / 20)
                torch.cuda.synchronize()
            rows.append({"what": "kernel", "kernel": name, "beside_copy": copied, "seconds": median(times)})
    return rows


def adamw() -> list[dict]:
    """The fused AdamW of PyTorch on the host, by threads."""
    rows = []
    for threads in (1, 2, 4, 8, 16):
        if threads > (os.cpu_count() or 1):
            break
        torch.set_num_threads(threads)
        weight = torch.zeros(ELEMENTS, requires_grad=True)
        weight.grad = torch.full((ELEMENTS,), 1e-3)
        optimizer = torch.optim.AdamW([weight], fused=True)
        optimizer.step()
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            optimizer.step()
            times.append(time.perf_counter() - begin)
        one = median(times)
        rate = ADAMW_BYTES * ELEMENTS / one
        rows.append({"what": "adamw", "threads": threads, "elements": ELEMENTS, "seconds": one, "bytes_per_s": rate})
    return rows


def main() -> None:
    """Writes the rows."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    about = {"device": torch.cuda.get_device_name(), "host": cpu, "cores": os.cpu_count(), "torch": torch.__version__}
    rows = [*copies(), *beside(), *adamw()]
    Path(sys.argv[1]).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
