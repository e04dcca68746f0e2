"""How long element-wise work, norms and softmax take: their passes over memory, or their instructions where those last.

Error functions, exponentials and random numbers cost dozens of instructions, which bound a kernel as soon as memory is
fast; norms read their rows once for the statistics and once more to apply them.
"""

from __future__ import annotations

from nebula.cluster.values import FLOPS_PER_EXPONENTIAL, DeviceType
from nebula.cost_model.kernel_parameters import (
    CAST_OPERATIONS,
    POINTWISE_SHARE,
    SOFTMAX_INSTRUCTIONS,
)
from nebula.graph.values import Kernel

READS = {"layer_norm": 2.0, "rms_norm": 2.0}
"""How often kernels read their inputs, where it is more than once: rows in flight exceed registers and cache."""

INSTRUCTIONS = {"softmax": SOFTMAX_INSTRUCTIONS.value}
"""By how much the instructions of a kind exceed its counted operations."""

SHARPNESS = 6.0
"""Exponent of the norm that joins the two bounds."""


def pointwise_seconds(kernel: Kernel, device: DeviceType) -> float:
    """Seconds of a kernel that holds no matrix product, its launch apart."""
    moved_bytes = kernel.read_bytes * READS.get(kernel.kind, 1.0) + kernel.written_bytes
    operations = kernel.flops * INSTRUCTIONS.get(kernel.kind, 1.0)
    if kernel.kind == "cast":
        operations = CAST_OPERATIONS.value * moved_bytes
    moving_s = moved_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
    working_s = operations / (FLOPS_PER_EXPONENTIAL * device.exponentials * POINTWISE_SHARE.value)
    longer, shorter = max(moving_s, working_s), min(moving_s, working_s)
    return longer * (1.0 + (shorter / longer) ** SHARPNESS) ** (1.0 / SHARPNESS) if longer else 0.0
