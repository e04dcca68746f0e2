"""What the host's memory holds in place of a device's, and what copying it and updating there take.

Optimizer states: the host keeps them and updates the weights (ZeRO-Offload, Ren et al., USENIX ATC 2021, arXiv
2101.06840, section 4), once a step and one thing after the other: gradients to the host, the update, weights back.
Activations: what a layer keeps leaves while the next layers run and is back before its backward.
"""

from __future__ import annotations

from nebula.cluster.topology import HostShare
from nebula.cluster.values import DeviceType
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.execution import Execution
from nebula.graph.values import DTYPE_BYTES

CONTENTION = 0.017
"""Of the shorter of kernels and a copy that runs beside them, by how much it delays them: pointwise kernels of an H100
take so much longer, products do not (`measurements/h100_host.json`)."""

CLIP_PASSES = 3
"""Over the gradients on the device: the norm reads them, the clip reads and writes them."""


def holds_states(offload: str) -> bool:
    """Whether the states of the optimizer lie in the host's memory under one of OFFLOAD."""
    return offload in ("optimizer", "both")


def holds_activations(offload: str) -> bool:
    """Whether kept activations do."""
    return offload in ("activations", "both")


def copies_seconds(work_s: float, kept_bytes: float, host: HostShare) -> float:
    """What copying a layer's activations adds to a pass of it that takes so long: out in the forward, in before the
    backward, beside the work of a layer.

    Example:
        >>> copies_seconds(1.0, 3.0, HostShare(bytes_per_s=2.0, memory_bytes_per_s=9.0, memory_bytes=9.0))
        0.517
    """
    copy_s = kept_bytes / host.bytes_per_s
    return max(0.0, copy_s - work_s) + CONTENTION * min(copy_s, work_s)


def update_seconds(elements: float, execution: Execution, device: DeviceType, host: HostShare) -> float:
    """The clip on the device, gradients to the host, the update there, weights back; nothing beside one another.

    The update reads gradients and reads and writes states and master copy, from which it writes the weights that go
    back; without a master copy these are what it updates. It is bound by the host's memory.

    Args:
        elements: whose states the rank owns.
    """
    gradient, weight = DTYPE_BYTES[execution.accumulation_dtype], DTYPE_BYTES[execution.compute_dtype]
    clip_s = moving_seconds(CLIP_PASSES * gradient * elements, 0.0, device)
    master = DTYPE_BYTES[execution.master_dtype] if execution.master_dtype else 0
    states = DTYPE_BYTES[execution.moments_dtype] * execution.moments
    touched = gradient + 2 * states + (2 * master + weight if master else 2 * weight)
    each_s = (gradient + weight) / host.bytes_per_s + touched / host.memory_bytes_per_s
    return clip_s + elements * each_s


def staged_bytes(flight_bytes: float, widest_bytes: float) -> float:
    """What of offloaded activations is still on the device: those of the layer at work and of the one being copied.

    Args:
        flight_bytes: of all micro-batches in flight together.
        widest_bytes: of the layer that keeps most of a micro-batch.
    """
    return min(flight_bytes, 2.0 * widest_bytes)
