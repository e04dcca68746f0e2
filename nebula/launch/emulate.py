"""Translates a cluster and a plan into the emulator's devices and links, one of each per rank.

An emulated device works at the attainable rates of its type (peak times efficiency), slowed by its node's factor; a
link is what lies between the two devices in the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from nebula.cluster import topology
from nebula.cluster.passages import ways
from nebula.cluster.places import device_index, slowness
from nebula.cluster.values import Cluster
from nebula.emulator.replay import step_starts
from nebula.emulator.table import MOST_DEVICES, EmulatedDevice, Fault, Link, SharedLinks, write_table
from nebula.emulator.work import read_work
from nebula.errors import BadInput
from nebula.plan.values import Plan


def device_table(cluster: Cluster, plan: Plan, path: Path, faults: Sequence[Fault] = ()) -> Path:
    """Writes the table of a plan's devices and links.

    Args:
        path: of the table; rank r of the plan is device r in it.
        faults: of devices, on command.

    Returns:
        The path.

    Raises:
        BadInput: the plan names devices that the cluster does not have, or more than one host can emulate.
    """
    check_size(plan)
    devices = _devices(cluster, plan)
    kinds = [emulated_device(cluster, device) for device in devices]
    plain = [rank for rank, device in enumerate(devices) if not cluster.device_type(device).emulated]
    shared = _shared(cluster, devices)
    return write_table(path, kinds, _links(cluster, devices), shared=shared, faults=faults, plain=plain)


def check_size(plan: Plan) -> None:
    """Refuses a plan of more ranks than one host emulates.

    Raises:
        BadInput: it has more.
    """
    if plan.world_size > MOST_DEVICES:
        raise BadInput(f"the plan has {plan.world_size} ranks; one host emulates at most {MOST_DEVICES}")


def steps_on_shared_links(cluster: Cluster, plan: Plan, folder: Path) -> list[float]:
    """Virtual seconds of each step of a recorded run, where links are shared by who uses them at the time.

    Args:
        folder: in which its ranks left their records.

    Raises:
        BadInput: a record is missing or damaged.
    """
    devices = _devices(cluster, plan)
    work = read_work(folder, plan.world_size)
    begun = step_starts(work, _links(cluster, devices), _shared(cluster, devices))[0]
    return [after - before for before, after in pairwise(begun[number] for number in sorted(begun))]


def _devices(cluster: Cluster, plan: Plan) -> list[int]:
    return [device_index(cluster, place.node, place.device) for place in plan.ranks]


def _links(cluster: Cluster, devices: list[int]) -> dict[tuple[int, int], Link]:
    ranks = range(len(devices))
    return {(a, b): _link(cluster, devices[a], devices[b]) for a in ranks for b in ranks if a != b}


def _shared(cluster: Cluster, devices: list[int]) -> SharedLinks:
    """What messages between the devices pass together."""
    between = ways(cluster, devices)
    index: dict[tuple[object, ...], int] = {}
    rates: list[float] = []
    for passage in (passage for way in between.values() for passage in way.passages):
        if passage.name not in index:
            index[passage.name] = len(rates)
            rates.append(passage.bytes_per_s)
    through = {
        pair: (way.alone_bytes_per_s, tuple(index[passage.name] for passage in way.passages))
        for pair, way in between.items()
    }
    return SharedLinks(ports=tuple(rates), through=through)


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
