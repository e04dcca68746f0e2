"""A cluster as the text of a cluster file, in the units that people write; load_cluster gives the same cluster back.

Numbers keep every digit: a unit is used only where it loses none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from nebula.cluster.catalogue import DTYPES, FIELDS, device_type, names
from nebula.cluster.values import Cluster, DeviceType, Host, Link, NodeGroup
from nebula.units import parse_bytes, parse_quantity, parse_rate, parse_seconds

_UNITS: dict[Callable[..., float], list[tuple[str, float]]] = {
    parse_bytes: [("GiB", 2.0**30), ("MiB", 2.0**20), ("B", 1.0)],
    parse_rate: [("GB/s", 1e9), ("MB/s", 1e6), ("B/s", 1.0)],
    parse_seconds: [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)],
}
_NICE = re.compile(r"\d{1,6}(\.\d{1,3})?")


class _Flow(dict[str, Any]):
    """A mapping written on one line."""


class _Row(list[int]):
    """A list written on one line."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that knows _Flow and _Row."""


_Dumper.add_representer(_Row, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))
_Dumper.add_representer(_Flow, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, True))


def dump_cluster(cluster: Cluster) -> str:
    """The cluster as the text of a cluster file; load_cluster gives the same cluster back."""
    types = {group.device.name: group.device for group in cluster.groups}
    assert all(types[g.device.name] == g.device for g in cluster.groups), "one name for two device types"
    own = {
        name: _device(device) for name, device in types.items() if name not in names() or device != device_type(name)
    }
    document: dict[str, Any] = {"name": cluster.name}
    if own:
        document["devices"] = own
    document["nodes"] = [_group(group) for group in cluster.groups]
    network = _network(cluster)
    if network:
        document["network"] = network
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def _quantity(value: float, parse: Callable[..., float]) -> str | float:
    """The value with the first unit that gives a short number and loses nothing, else the shortest plain number."""
    for unit, factor in _UNITS.get(parse, []):
        text = f"{value / factor:.10g}"
        if _NICE.fullmatch(text) and parse(text + unit) == value and float(text) >= 1:
            return text + unit
    text = f"{value:.6g}".replace("e+", "e")
    if "e" in text and float(text) == value:
        return text
    return int(value) if float(value).is_integer() else value


def _device(device: DeviceType) -> dict[str, Any]:
    back = {dtype: key for key, dtype in DTYPES.items()}
    entry: dict[str, Any] = {
        "kind": device.kind,
        "peak_flops": _Flow(
            {back[dtype]: _quantity(value, parse_quantity) for dtype, value in device.peak_flops.items()}
        ),
    }
    entry |= {key: _quantity(getattr(device, field), parse) for key, (field, parse) in FIELDS.items()}
    if device.emulated:
        entry["emulated"] = True
    if device.sources:
        entry["sources"] = dict(device.sources)
    return entry


def _group(group: NodeGroup) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": group.name,
        "count": group.count,
        "device": group.device.name,
        "devices_per_node": group.devices_per_node,
    }
    if group.intra.bytes_per_s:
        entry["intra"] = _Flow({"kind": group.intra.kind, **_link(group.intra)})
    if group.nic.bytes_per_s:
        entry["nic"] = _Flow({"count": group.nic_count, "kind": group.nic.kind, **_link(group.nic)})
    if group.excluded:
        entry["exclude"] = sorted(group.excluded)
    if group.slow:
        entry["slow"] = dict(group.slow)
    if group.ports:
        entry["ports"] = _Row(group.ports)
    if group.host != Host():
        entry["host"] = _Flow(_host(group.host))
    return entry


def _host(host: Host) -> dict[str, Any]:
    said: dict[str, Any] = {"memory_bandwidth": _quantity(host.memory_bytes_per_s, parse_rate)}
    if host.memory_bytes:
        said["memory"] = _quantity(host.memory_bytes, parse_bytes)
    return {**said, "links": host.links} if host.links else said


def _link(link: Link) -> dict[str, Any]:
    said = {"bandwidth": _quantity(link.bytes_per_s, parse_rate), "latency": _quantity(link.latency_s, parse_seconds)}
    return {**said, "attained": True} if link.attained else said


def _network(cluster: Cluster) -> dict[str, Any]:
    network: dict[str, Any] = {}
    if cluster.tiers:
        network["tiers"] = [
            _Flow(
                name=t.name,
                **({"nodes": t.nodes} if t.nodes else {}),
                oversubscription=t.oversubscription,
                latency=_quantity(t.latency_s, parse_seconds),
            )
            for t in cluster.tiers
        ]
    if cluster.sites:
        network["sites"] = [_Flow(name=s.name, nodes=list(s.groups)) for s in cluster.sites]
    if cluster.wan:
        wan = cluster.wan
        rtt = _quantity(2 * wan.latency_s, parse_seconds)
        network["wan"] = _Flow(bandwidth=_quantity(wan.bytes_per_s, parse_rate), rtt=rtt)
    return network
