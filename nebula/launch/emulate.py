"""Translates a cluster and a plan into the emulator's devices and links, one of each per rank.

An emulated device works at the attainable rates of its type (peak times efficiency), slowed by its node's factor; a
link is what lies between the two devices in the cluster.
"""

from __future__ import annotations

from pathlib import Path

from nebula.cluster import topology
from nebula.cluster.places import device_index, slowness
from nebula.cluster.values import Cluster
from nebula.emulator.table import MOST_DEVICES, EmulatedDevice, Link, write_table
from nebula.errors import BadInput
from nebula.plan.values import Plan


def device_table(cluster: Cluster, plan: Plan, path: Path) -> Path:
    """Writes the table of a plan's devices and links.

    Args:
        path: of the table; rank r of the plan is device r in it.

    Returns:
        The path.

    Raises:
        BadInput: the plan names devices that the cluster does not have, or more than one host can emulate.
    """
    if plan.world_size > MOST_DEVICES:
        raise BadInput(f"the plan has {plan.world_size} ranks; one host emulates at most {MOST_DEVICES}")
    devices = [device_index(cluster, place.node, place.device) for place in plan.ranks]
    ranks = range(len(devices))
    links = {(a, b): _link(cluster, devices[a], devices[b]) for a in ranks for b in ranks if a != b}
    return write_table(path, [emulated_device(cluster, device) for device in devices], links)


def emulated_device(cluster: Cluster, device: int) -> EmulatedDevice:
    """The emulator's parameters of a device of that global index."""
    kind, slow = cluster.device_type(device), slowness(cluster, device)

    def product_rate(dtype: str) -> float:
        return kind.peak(dtype) * kind.product_efficiency / slow

    return EmulatedDevice(
        memory_bytes=int(kind.memory_bytes),
        float32_flops_per_s=product_rate("float32"),
        bfloat16_flops_per_s=product_rate("bfloat16"),
        float16_flops_per_s=product_rate("float16"),
        memory_bytes_per_s=kind.memory_bytes_per_s * kind.memory_efficiency / slow,
        kernel_s=kind.kernel_s * slow,
        host_bytes_per_s=kind.host_bytes_per_s,
    )


def _link(cluster: Cluster, a: int, b: int) -> Link:
    between = topology.link(cluster, a, b)
    return Link(bytes_per_s=between.bytes_per_s, latency_s=between.latency_s)
