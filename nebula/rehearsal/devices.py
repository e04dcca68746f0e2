"""A cluster whose devices are emulated: the rates, the memory and the links of the real one, computing in float32."""

from __future__ import annotations

from dataclasses import replace

from nebula.cluster.values import Cluster, DeviceType
from nebula.plan.values import PRECISION_DTYPE


def emulated(cluster: Cluster, precision: str) -> Cluster:
    """The cluster, each device at the attainable rates of the real one for the precision of a job.

    Args:
        precision: of the job. An emulated device computes in float32, at the rate that the real one has in this.
    """
    groups = tuple(replace(g, device=_device(g.device, PRECISION_DTYPE[precision])) for g in cluster.groups)
    return replace(cluster, name=f"{cluster.name}, emulated", groups=groups)


def _device(device: DeviceType, dtype: str) -> DeviceType:
    if device.emulated:
        return device
    return replace(
        device,
        emulated=True,
        peak_flops={"float32": device.peak(dtype)},
        half_product_flops=0.0,
        multiprocessors=0,
        exponentials_per_s=0.0,
        unaligned_share=1.0,
        older_kernel_share=1.0,
    )
