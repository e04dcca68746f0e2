"""How long operators take on one device: a roofline per kernel, summed over what a layer launches.

A kernel costs its launch plus its memory traffic or, for a matrix product, its arithmetic if that takes longer.
Communication is not priced here (communication.py), nor is waiting (simulate.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Amount
from nebula.graph.values import Kernel, Work

SEVERAL_PRODUCTS = frozenset({"attention", "rnn"})
"""Kinds that do several matrix products in one kernel."""


def saturation(flops: float, half_product_flops: float) -> float:
    """Share of the attainable rate that a product of that size reaches: f / (f + f_half).

    Example:
        >>> saturation(1e9, 1e9)
        0.5
    """
    return flops / (flops + half_product_flops) if half_product_flops else 1.0


def kernel_seconds(kernel: Kernel, device: DeviceType) -> float:
    """Seconds that one launch occupies a device.

    The roofline of Williams, Waterman, Patterson (CACM 52(4), 2009) with attainable instead of peak rates, plus the
    fixed cost of a launch.
    """
    moved_s = (kernel.read_bytes + kernel.written_bytes) / (device.memory_bytes_per_s * device.memory_efficiency)
    return device.kernel_s + max(product_seconds(kernel, device), moved_s)


def product_seconds(kernel: Kernel, device: DeviceType) -> float:
    """Seconds of a kernel's matrix products; 0 for element-wise work, which memory bounds on every device."""
    if kernel.product is None and kernel.kind.removesuffix("_grad") not in SEVERAL_PRODUCTS:
        return 0.0
    rate = device.peak(kernel.dtype) * device.product_efficiency
    return kernel.flops / (rate * saturation(kernel.flops, device.half_product_flops))


def compute_seconds(work: Iterable[Work], device: DeviceType) -> float:
    """Seconds of all kernels among the work, one after the other; collectives are skipped."""
    return sum(kernel_seconds(w, device) for w in work if isinstance(w, Kernel))


def moving_seconds(moved_bytes: Amount, launches: Amount, device: DeviceType) -> Amount:
    """Seconds of `launches` kernels that only move bytes."""
    return launches * device.kernel_s + moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
