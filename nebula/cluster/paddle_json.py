"""Paddle's own cluster JSON (`paddle.distributed.auto_parallel`), to and from Cluster.

Paddle lists every device and every link; equal neighbouring machines become one group here and are written out again
there. Its types are CPU, GPU, XPU and DCU: an NPU is written as an XPU that carries its own model name, and the
model name decides when such a file is read back. What Paddle has no key for (efficiencies, prices, tiers beyond one
latency) is lost on the way out and comes from the catalogue or the defaults on the way in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from nebula.cluster import catalogue, topology
from nebula.cluster.sections import NO_LINK
from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup
from nebula.errors import BadInput

TO_PADDLE = {"gpu": "GPU", "cpu": "CPU", "xpu": "XPU", "npu": "XPU"}
FROM_PADDLE = {"GPU": "gpu", "CPU": "cpu", "XPU": "xpu", "DCU": "gpu"}
MOST_LINKS = 200_000
"""More links than this are refused: Paddle takes a minute for 1,024 devices."""

_GB = 1e9
"""Paddle's GB, both of a memory and of a bandwidth (`convert_base` of its get_beta is 1000)."""


_LIKENESS = ("type", "model", "memory", "sp_gflops", "dp_gflops", "hp_gflops")


class _Machine(NamedTuple):
    """What equal machines have in common."""

    device: tuple[Any, ...]
    devices: int
    intra: tuple[float, str]
    inter: tuple[float, str]


def to_paddle(cluster: Cluster) -> dict[str, Any]:
    """The cluster in Paddle's form: machines with devices and a link from each device to each other.

    Raises:
        BadInput: the links would be more than MOST_LINKS.
    """
    links = cluster.device_count * (cluster.device_count - 1)
    if links > MOST_LINKS:
        size = f"{cluster.device_count} devices have {links:,} links in Paddle's form, which lists each"
        raise BadInput(f"cluster {cluster.name}: {size}; export fewer nodes")
    inter = max((g.nic.latency_s for g in cluster.groups), default=0.0) + sum(t.latency_s for t in cluster.tiers)
    intra = max((g.intra.latency_s for g in cluster.groups), default=0.0)
    return {
        "machines": list(_machines(cluster)),
        "alpha_latency": {
            "base": {"ring": 0.0, "tree": 0.0, "inter": 0.0},
            "intra": {"ring": intra * 1e6, "tree": intra * 1e6},
            "inter": {"ring": inter * 1e6, "tree": inter * 1e6},
            "switch": 0.0,
        },
    }


def _machines(cluster: Cluster) -> Iterator[dict[str, Any]]:
    first = 0
    for group in cluster.groups:
        for node in range(group.count):
            devices = range(first, first + group.devices_per_node)
            first += group.devices_per_node
            yield {
                "hostname": f"{group.name}-{node}",
                "addr": "127.0.0.1",
                "port": "0",
                "devices": [_to_device(group.device, d, local) for local, d in enumerate(devices)],
                "links": [
                    _to_link(cluster, d, other, other in devices)
                    for d in devices
                    for other in range(cluster.device_count)
                    if other != d
                ],
            }


def _to_device(device: DeviceType, index: int, local: int) -> dict[str, Any]:
    half = max(device.peak("float16"), device.peak("bfloat16"))
    return {
        "global_id": index,
        "local_id": local,
        "type": TO_PADDLE[device.kind],
        "model": device.name,
        "memory": device.memory_bytes / _GB,
        "sp_gflops": device.peak("float32") / 1e9,
        "dp_gflops": device.peak_flops.get("float64", device.peak("float32") / 2) / 1e9,
        "hp_gflops": half / 1e9,
    }


def _to_link(cluster: Cluster, a: int, b: int, same_node: bool) -> dict[str, Any]:
    link = topology.link(cluster, a, b)
    kind = "NET"
    if same_node:
        kind = "NVL" if link.kind.lower().startswith("nv") else "PHB"
    return {"source_global_id": a, "target_global_id": b, "type": kind, "bandwidth": link.bytes_per_s / _GB}


def from_paddle(value: Mapping[str, Any], source: str = "Paddle's cluster JSON") -> Cluster:
    """The cluster that a file of Paddle's form describes; consecutive equal machines become one group.

    Raises:
        BadInput: a key is missing, a type is unknown, or there is no device.
    """
    try:
        machines = value["machines"]
        alphas = value.get("alpha_latency") or {}
        where = {d["global_id"]: index for index, m in enumerate(machines) for d in _accelerators(m)}
        shapes = [_machine(m, index, where) for index, m in enumerate(machines)]
        groups: list[NodeGroup] = []
        for shape, same in groupby(shapes):
            groups.append(_from_machine(shape, len(list(same)), len(groups), alphas, len(machines)))
    except KeyError as error:
        raise BadInput(f"{source}: the key {error.args[0]!r} of Paddle's cluster JSON is missing; add it") from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{source}: not Paddle's cluster JSON: {error}") from None
    if not groups:
        raise BadInput(f"{source}: a cluster without devices: list at least one machine")
    return Cluster(name="paddle", groups=tuple(groups), origin=(("file", source),))


def _machine(machine: Mapping[str, Any], index: int, where: Mapping[int, int]) -> _Machine:
    """The machine by what makes it equal to others; its slowest links inside and to other machines."""
    name = machine.get("hostname", index)
    devices = _accelerators(machine)
    if not devices:
        raise ValueError(f"machine {name} has no devices")
    alike = Counter(tuple(d.get(k, 0) for k in _LIKENESS) for d in devices)
    if len(alike) > 1:
        raise ValueError(f"machine {name} has unlike devices; make a machine of each kind")
    own = {d["global_id"] for d in devices}
    rates: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    for link in machine.get("links", ()):
        a, b = link["source_global_id"], link["target_global_id"]
        if a in own and b in where:
            rates[where[b] == index].append((float(link["bandwidth"]), str(link["type"])))
    intra, inter = (min(rates[inside], default=(0.0, "none")) for inside in (True, False))
    return _Machine(next(iter(alike)), len(devices), intra, inter)


def _accelerators(machine: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The devices that compute: no network cards, and the CPU only where there is nothing else."""
    devices = [d for d in machine["devices"] if d["type"] != "NIC"]
    return [d for d in devices if d["type"] != "CPU"] or devices


def _from_machine(shape: _Machine, count: int, index: int, alphas: Mapping[str, Any], machines: int) -> NodeGroup:
    kinds = {"NVL": "nvlink", "PHB": "pcie"}
    intra, inter = shape.intra, shape.inter
    inside = Link(
        kind=kinds.get(intra[1], intra[1].lower()), bytes_per_s=intra[0] * _GB, latency_s=_alpha(alphas, "intra")
    )
    outside = Link(kind="network", bytes_per_s=inter[0] * _GB, latency_s=_alpha(alphas, "inter"))
    return NodeGroup(
        name=f"machines{index}",
        count=count,
        device=_from_device(*shape.device),
        devices_per_node=shape.devices,
        intra=inside if shape.devices > 1 else NO_LINK,
        nic=outside if machines > 1 else NO_LINK,
        nic_count=shape.devices if machines > 1 else 1,
    )


def _alpha(alphas: Mapping[str, Any], key: str) -> float:
    """Seconds of one of Paddle's latencies (microseconds of a ring); a file without them or with names gets 5 us."""
    value = (alphas.get(key) or {}).get("ring")
    return float(value) * 1e-6 if isinstance(value, int | float) else 5e-6


def _from_device(kind: str, model: str, memory: float, single: float, double: float, half: float) -> DeviceType:
    """The catalogue's type with the file's own figures, or one with nothing else known."""
    if kind not in FROM_PADDLE:
        raise ValueError(f"device type {kind!r} is none of {', '.join(FROM_PADDLE)}")
    peaks = {"float64": double * 1e9, "float32": single * 1e9, "float16": half * 1e9, "bfloat16": half * 1e9}
    known = catalogue.of_product(model)
    sources = dict.fromkeys(("peak_flops", "memory_bytes"), "Paddle's cluster JSON")
    return DeviceType(
        name=known.name if known else model or kind.lower(),
        kind=known.kind if known else FROM_PADDLE[kind],
        peak_flops={dtype: peak for dtype, peak in peaks.items() if peak},
        memory_bytes=float(memory) * _GB,
        memory_bytes_per_s=known.memory_bytes_per_s if known else 20 * half * 1e9 / 3,
        sources=tuple((sources | {"memory_bytes_per_s": "catalogue" if known else "assumed"}).items()),
    )
