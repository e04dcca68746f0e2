"""How long operators take on one device: a bound per kernel, summed over what a layer launches.

A kernel costs its launch plus its memory traffic or, for a matrix product, its arithmetic if that takes longer. Devices
that state their multiprocessors have products and attention priced from their shapes (products.py,
attention_kernels.py). Communication is not priced here (communication.py), nor is waiting (simulate.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.attention_kernels import attention_seconds
from nebula.cost_model.communication import Amount
from nebula.cost_model.pointwise import pointwise_seconds
from nebula.cost_model.products import products_seconds
from nebula.graph.values import DTYPE_BYTES, Kernel, Work

Floats = NDArray[np.float64]

SEVERAL_PRODUCTS = frozenset({"attention", "rnn"})
"""Kinds that do several matrix products in one kernel."""

GENERATION = 2
"""FlashAttention's, where nobody says which kernel attends."""


def saturation(flops: float, half_product_flops: float) -> float:
    """Share of the attainable rate that a product of that size reaches: f / (f + f_half).

    Example:
        >>> saturation(1e9, 1e9)
        0.5
    """
    return flops / (flops + half_product_flops) if half_product_flops else 1.0


def kernel_seconds(kernel: Kernel, device: DeviceType, attention: int = GENERATION) -> float:
    """Seconds that one launch occupies a device; see kernels_seconds."""
    return float(kernels_seconds((kernel,), device, attention)[0])


def kernels_seconds(kernels: Sequence[Kernel], device: DeviceType, attention: int = GENERATION) -> Floats:
    """Seconds that each launch occupies a device, [n].

    The roofline of Williams, Waterman, Patterson (CACM 52(4), 2009) with attainable instead of peak rates, plus the
    fixed cost of a launch.

    Args:
        kernels: n of them.
        device: priced from shapes where it is `shaped`, else by `product_seconds`.
        attention: the generation of fused attention, 1, 2 or 3.
    """
    moved_bytes = np.array([k.read_bytes + k.written_bytes for k in kernels], dtype=float)
    seconds: Floats = moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
    if not device.shaped:
        return device.kernel_s + np.maximum(seconds, [product_seconds(k, device) for k in kernels])
    plain = [i for i, k in enumerate(kernels) if k.product is not None]
    if plain:
        seconds[plain] = _products([kernels[i] for i in plain], moved_bytes[plain], device)
    for i, kernel in enumerate(kernels):
        if kernel.product is None:
            seconds[i] = max(seconds[i], _other_seconds(kernel, device, attention))
    return device.kernel_s + seconds


def _products(kernels: Sequence[Kernel], moved_bytes: Floats, device: DeviceType) -> Floats:
    shapes = [k.product for k in kernels if k.product is not None]
    peaks = np.array([device.peak(k.dtype) for k in kernels], dtype=float)
    sustained = np.full(len(kernels), device.product_efficiency)
    element_bytes = np.array([DTYPE_BYTES[k.dtype] for k in kernels], dtype=float)
    return products_seconds(shapes, peaks, sustained, moved_bytes, device, element_bytes)


def _other_seconds(kernel: Kernel, device: DeviceType, attention: int) -> float:
    """Seconds of what is no matrix product, beyond moving its bytes."""
    if kernel.scores is not None:
        backward = kernel.kind.endswith("_grad")
        return attention_seconds(kernel.scores, device.peak(kernel.dtype), device, attention, backward=backward)
    if kernel.kind.removesuffix("_grad") in SEVERAL_PRODUCTS:
        return product_seconds(kernel, device)
    return pointwise_seconds(kernel, device)


def product_seconds(kernel: Kernel, device: DeviceType) -> float:
    """Seconds of a kernel's matrix products from their FLOPs alone; 0 for element-wise work.

    No product is faster on a device that is priced from shapes, where half_product_flops is 0.
    """
    if kernel.product is None and kernel.kind.removesuffix("_grad") not in SEVERAL_PRODUCTS:
        return 0.0
    rate = device.peak(kernel.dtype) * device.product_efficiency
    return kernel.flops / (rate * saturation(kernel.flops, device.half_product_flops))


def compute_seconds(work: Iterable[Work], device: DeviceType, attention: int = GENERATION) -> float:
    """Seconds of all kernels among the work, one after the other; collectives are skipped."""
    return float(kernels_seconds([w for w in work if isinstance(w, Kernel)], device, attention).sum())


def sequence_seconds(kernel_s: Floats, host_kernel_s: float) -> float:
    """Seconds of kernels [n] that a host launches one by one, running ahead of the device.

    Over a region that follows another the device is late by its own work or by the host's, whichever is more: the host
    never waits for the device, and what it was ahead on long kernels is there for the short ones.

    Example:
        >>> sequence_seconds(np.array([1.0, 1.0, 10.0]), 5.0)
        15.0
    """
    return max(float(kernel_s.sum()), len(kernel_s) * host_kernel_s)


def moving_seconds(moved_bytes: Amount, launches: Amount, device: DeviceType) -> Amount:
    """Seconds of `launches` kernels that only move bytes."""
    return launches * device.kernel_s + moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
