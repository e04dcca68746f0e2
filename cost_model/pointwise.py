"""How long the arithmetic of element-wise work and of norms takes, where it may be longer than moving the bytes.

Error functions, exponentials and random numbers cost dozens of instructions; on devices with fast memory they, not the
bytes, bound a kernel.
"""

from __future__ import annotations

from nebula.cluster.values import DeviceType
from nebula.cost_model.kernel_parameters import POINTWISE_SHARE
from nebula.graph.values import Kernel

RANDOM_FLOPS = 5.0
"""By how much the random numbers of dropout (Philox: ten rounds of multiplications for four) exceed its counted FLOPs."""


def pointwise_seconds(kernel: Kernel, device: DeviceType) -> float:
    """Seconds of the counted operations of a kernel that holds no matrix product."""
    flops = kernel.flops * (RANDOM_FLOPS if kernel.kind == "dropout" else 1.0)
    return flops / (device.peak("float32") * POINTWISE_SHARE.value)
