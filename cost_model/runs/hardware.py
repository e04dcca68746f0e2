"""The cluster that a row ran on: device types from the catalogue, links from the source's texts.

Everything that the row leaves open is filled from tables of usual nodes; `origin` of the cluster says which facts were
printed, which follow from a name, and which are assumed.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any, NamedTuple

import yaml

from nebula.cluster.sections import NO_LINK
from nebula.cluster.values import Cluster, DeviceType, NodeGroup
from nebula.cost_model.runs.amounts import part_for
from nebula.cost_model.runs.devices import Found, find_device, usual_intra, usual_nic
from nebula.cost_model.runs.links import alone, intra_link, nics
from nebula.cost_model.runs.schema import Row
from nebula.errors import BadInput

USUAL_NODE = 8
"""Devices of a node where the row does not say."""

RACK = 72
"""Devices that NVLink joins in an NVL72 rack."""


class Part(NamedTuple):
    """So many consecutive devices of one type."""

    devices: int
    device: str


def cluster_of(row: Row) -> Cluster:
    """The cluster of a row, as many devices as it used (one, where a single device computed a share of a layer).

    Raises:
        BadInput: the device's text names other counts than the row.
    """
    origin: list[tuple[str, str]] = []
    groups = []
    parts = parts_of(row)
    for index, part in enumerate(parts):
        found = find_device(part.device)
        origin.append((f"device {part.device}", "printed" if found.known else "assumed"))
        group, origins = _group(row, part, found, f"n{index}" if len(parts) > 1 else "n", several_nodes(parts, row))
        groups.append(group)
        origin += origins
    return Cluster(name=row.id, groups=tuple(groups), origin=tuple(origin))


def parts_of(row: Row) -> tuple[Part, ...]:
    """The devices in the order of ranks: by `stage_devices`, by a text as `12x V100-16GB + 4x T4-16GB`, or alike."""
    if row.kind == "layer_shard":
        return (Part(1, row.device),)
    staged = _staged(row)
    if staged:
        return staged
    named = re.findall(r"([0-9]+)\s*[x×]\s*([^+,]+)", row.device)
    if len(named) < 2:
        return (Part(row.devices, named[0][1].strip() if named else row.device),)
    total = sum(int(n) for n, _ in named)
    if total != row.devices:
        terms = " + ".join(n for n, _ in named)
        raise BadInput(f"device {row.device!r} names {terms} = {total} ≠ devices {row.devices}")
    return tuple(Part(int(n), name.strip()) for n, name in named)


def _staged(row: Row) -> tuple[Part, ...]:
    """From the devices of each stage, in order; a stage may name one type, or several with their counts."""
    given: Any = row.stage_devices
    if isinstance(given, str):
        given = yaml.safe_load(given)
    if not isinstance(given, list) or len(given) != row.pp:
        return ()
    each = row.devices // row.pp
    flat: list[str] = []
    for stage in given:
        entries = stage if isinstance(stage, list) else [stage]
        names = [_entry(e) for e in entries]
        counted = [name for n, name in names for _ in range(n)]
        flat += counted if len(counted) == each else [names[i * len(names) // each][1] for i in range(each)]
    return tuple(Part(len(list(same)), name) for name, same in groupby(flat))


def _entry(entry: Any) -> tuple[int, str]:
    match = re.match(r"\s*([0-9]+)\s*[x×]\s*(.+)", str(entry))
    return (int(match[1]), match[2].strip()) if match else (1, str(entry).strip())


def several_nodes(parts: tuple[Part, ...], row: Row) -> bool:
    """Whether more than one node took part."""
    return len(parts) > 1 or parts[0].devices > (row.devices_per_node or USUAL_NODE)


def _group(row: Row, part: Part, found: Found, name: str, several: bool) -> tuple[NodeGroup, list[tuple[str, str]]]:
    """Equal nodes with the links that the texts say."""
    words = (part.device, found.device.name, *_instances(row, part.device))
    intra_text, inter_text = part_for(row.intra, words), part_for(row.inter, words)
    per_node = _per_node(row, part, intra_text)
    usual = usual_intra(found.device)
    intra = intra_link(intra_text, usual, f"row {row.id!r}: intra") if per_node > 1 else alone()
    net = nics(inter_text, per_node, usual_nic(found.device)) if several else alone()
    for field, text, reading in (("intra", intra_text, intra), ("inter", inter_text, net)):
        if reading.link is not NO_LINK and (reading.count < 1 or reading.link.bytes_per_s <= 0):
            raise BadInput(f"{field}: {text!r} means a link without any bytes per second")
    group = NodeGroup(
        name=name,
        count=part.devices // per_node,
        device=found.device,
        devices_per_node=per_node,
        intra=intra.link,
        nic=net.link,
        nic_count=net.count,
    )
    return group, [(f"{name} intra", intra.origin), (f"{name} nic", net.origin)]


def _per_node(row: Row, part: Part, intra: str) -> int:
    """Devices that the inner link joins: a node, or a rack where NVLink spans it."""
    node = min(row.devices_per_node or USUAL_NODE, part.devices)
    while part.devices % node:
        node -= 1
    if not re.search(r"nvl\s?(?:72|36)", intra, re.I):
        return node
    spans = [n for n in range(node, min(RACK, part.devices) + 1, node) if part.devices % n == 0]
    return max(spans, default=node)


def _instances(row: Row, device: str) -> tuple[str, ...]:
    """What the text `cluster` calls the nodes with that device: `3 x P3.8xlarge (4 V100, NVLink)` -> P3.8xlarge."""
    text = str((row.model_extra or {}).get("cluster", ""))
    short = re.split(r"[- ]", device)[0]
    pairs = re.findall(r"(?:[0-9]+\s*[x×]\s*)?([\w.]+)\s*\(([^)]*)\)", text)
    return tuple(name for name, inside in pairs if short.lower() in inside.lower())


def device_types(cluster: Cluster) -> tuple[DeviceType, ...]:
    """The device types of a cluster, each once."""
    return tuple({g.device.name: g.device for g in cluster.groups}.values())
