"""This machine's CPU as devices: one per core that this process may use, timed with a product and a copy in numpy.

The times are of numpy, not of Paddle, and of a machine that may be busy; their source says measured. A training
process on the CPU talks to its peers through gloo, whose rate is taken from a measurement elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from nebula.cluster.drivers import Found
from nebula.cluster.values import DeviceType, Link

MOST_DEVICES = 8
"""More training processes than this on one CPU are not worth starting."""

GLOO = Link(kind="gloo", bytes_per_s=1e9, latency_s=200e-6, attained=True)
"""Between two processes of one machine: all_reduce of 1, 10 and 100 MB in 0.8, 9.9 and 95 ms (PaddlePaddle 3.3.1,
two ranks on two cores)."""

_SIZE = 768
_COPY_BYTES = 64 * 2**20


def devices(root: Path = Path("/")) -> Found:
    """The cores as devices with an equal part of the measured speed and of the memory each."""
    cores = usable_cores(root)
    count = max(1, min(cores, MOST_DEVICES))
    flops, bytes_per_s = (_rounded(rate) for rate in measure())
    measured = f"measured on {cores} core{'s' * (cores > 1)}: numpy"
    device = DeviceType(
        name=f"{model_name(root)}, {cores / count:g} of {cores} core{'s' * (cores > 1)}",
        kind="cpu",
        peak_flops={"float32": flops / count},
        memory_bytes=memory_bytes(root) // count,
        memory_bytes_per_s=bytes_per_s / count,
        kernel_s=20e-6,
        product_efficiency=1.0,
        memory_efficiency=1.0,
        sources=(
            ("peak_flops", f"{measured} product of {_SIZE} x {_SIZE} in fp32"),
            ("memory_bytes", "the kernel, an equal part for each device"),
            ("memory_bytes_per_s", f"{measured} copy of {_COPY_BYTES // 2**20} MiB, read and written"),
            ("product_efficiency", "the peak is an attained rate"),
            ("memory_efficiency", "the bandwidth is an attained rate"),
            ("kernel_s", "assumed"),
        ),
    )
    return Found(count=count, device=device, link=GLOO, source="the CPU; no accelerator's driver answered")


def measure(clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """FLOP/s of a matrix product and bytes per second of a copy, the best of a few tries each."""
    left = np.full((_SIZE, _SIZE), 0.5, np.float32)
    product = _best(lambda: left @ left, clock)
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    copy = _best(lambda: np.copyto(target, source), clock)
    return 2.0 * _SIZE**3 / product, 2.0 * _COPY_BYTES / copy


def _best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of up to 12 tries within 0.2 s; the first try warms caches and threads up."""
    work()
    begin, best = clock(), float("inf")
    for _ in range(12):
        start = clock()
        work()
        best = min(best, clock() - start)
        if clock() - begin > 0.2:
            break
    return best


def _rounded(rate: float) -> float:
    """Two digits: more would differ at every measurement and claim what no timing of a tenth of a second can."""
    return float(f"{rate:.2g}")


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, cut to the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_bytes(root: Path = Path("/")) -> float:
    """Memory of the machine, cut to the container's limit."""
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    total = float(psutil.virtual_memory().total)
    return min(total, float(limit)) if limit.isdecimal() else total


def model_name(root: Path = Path("/")) -> str:
    """What the kernel calls the CPU."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return " ".join(value.split())
    return "cpu"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
