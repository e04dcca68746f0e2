"""The cluster file: YAML to Cluster, every mistake with its line and a remedy.

Which keys there are stands in sections.py and docs/cluster-file.md. Values that are legal and probably not meant
(bits for bytes, both directions for one) warn. dump.py writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nebula import marked_yaml
from nebula.cluster import calibration, catalogue, paddle_json, suspicion
from nebula.cluster.checks import check
from nebula.cluster.dump import dump_cluster
from nebula.cluster.sections import (
    NO_LINK,
    ClusterSection,
    DeviceSection,
    HostSection,
    IntraSection,
    NicSection,
    NodeSection,
    TierSection,
)
from nebula.cluster.values import Cluster, DeviceType, Host, Link, NodeGroup, Site, Tier
from nebula.errors import BadInput, closest
from nebula.marked_yaml import Document
from nebula.validation import validated

__all__ = ["dump_cluster", "load_cluster"]


def load_cluster(source: Path | str | Mapping[str, Any] | Document) -> Cluster:
    """The cluster that a file (or the data of one) describes.

    Paddle's own cluster JSON is recognised by its key `machines`.

    Raises:
        BadInput: what is wrong, with file, line and caret where there is a text.
    """
    document = _document(source)
    if isinstance(document.value, Mapping) and "machines" in document.value:
        return _under_our_rules(paddle_json.from_paddle(document.value, document.source), document.source)
    section = validated(document, ClusterSection)
    check(document, section)
    own = {name: _own_type(document, name, entry) for name, entry in section.devices.items()}
    groups = tuple(_group(document, index, entry, own) for index, entry in enumerate(section.nodes))
    network = section.network
    wan = network.wan
    cluster = Cluster(
        name=section.name,
        groups=groups,
        tiers=tuple(_tier(t) for t in network.tiers),
        sites=tuple(Site(name=s.name, groups=tuple(s.nodes)) for s in network.sites),
        wan=Link(kind="wan", bytes_per_s=wan.bandwidth, latency_s=wan.rtt / 2) if wan else None,
        origin=(("file", document.source),),
    )
    named = [section.calibration] if isinstance(section.calibration, str) else section.calibration
    cluster = calibration.apply(document, named, cluster)
    suspicion.warn(document, cluster)
    return cluster


def _under_our_rules(cluster: Cluster, source: str) -> Cluster:
    """The cluster of another format, once our own file of it could be read: links that must be there, possible rates.

    Raises:
        BadInput: what our own file would be refused for.
    """
    try:
        load_cluster(marked_yaml.parse(dump_cluster(cluster), f"{source}, as a cluster file"))
    except yaml.YAMLError:
        raise BadInput(f"{source}: a name that is no text; give devices a `model` in letters") from None
    return cluster


def _document(source: Path | str | Mapping[str, Any] | Document) -> Document:
    if isinstance(source, Document):
        return source
    if isinstance(source, Mapping):
        return marked_yaml.plain(source, "the cluster")
    return marked_yaml.read(Path(source))


def _own_type(document: Document, name: str, entry: DeviceSection) -> DeviceType:
    """A device type of the file: from the catalogue with changes, or from scratch."""
    way = ("devices", name)
    figures: dict[str, Any] = {
        field: value for key, (field, _) in catalogue.FIELDS.items() if (value := getattr(entry, key)) is not None
    }
    peaks = {catalogue.DTYPES[key]: value for key, value in entry.peak_flops.items()}
    changed = ["peak_flops"] * bool(peaks) + list(figures)
    if entry.like:
        base = _catalogued(document, (*way, "like"), entry.like)
        said = entry.sources or {**dict(base.sources), **dict.fromkeys(changed, document.source)}
        kind = entry.kind or base.kind
        emulated = base.emulated if entry.emulated is None else entry.emulated
        return replace(
            base,
            name=name,
            kind=kind,
            peak_flops={**base.peak_flops, **peaks},
            emulated=emulated,
            sources=tuple(said.items()),
            **figures,
        )
    for key in ("kind", "peak_flops", "memory", "memory_bandwidth"):
        if not getattr(entry, key):
            meaning = DeviceSection.model_fields[key].description
            remedy = f"add `{key}: {meaning}`, or `like:` with a name of the catalogue"
            raise document.fault(way, f"device {name!r} has no {key}; {remedy}")
    if "float32" not in peaks:
        raise document.fault(
            (*way, "peak_flops"), f"device {name!r} has no peak in fp32, which other dtypes fall back to; add it"
        )
    said = entry.sources or dict.fromkeys(changed, document.source)
    emulated = bool(entry.emulated)
    return DeviceType(
        name=name, kind=entry.kind, peak_flops=peaks, emulated=emulated, sources=tuple(said.items()), **figures
    )


def _catalogued(document: Document, way: marked_yaml.Keys, name: str) -> DeviceType:
    try:
        return catalogue.device_type(name)
    except BadInput as error:
        raise document.fault(way, str(error)) from None


def _group(document: Document, index: int, entry: NodeSection, own: Mapping[str, DeviceType]) -> NodeGroup:
    way = ("nodes", index)
    device = own.get(entry.device) or _device(document, (*way, "device"), entry.device, own)
    for key in ("exclude", "slow"):
        for node in getattr(entry, key):
            if node >= entry.count:
                raise document.fault((*way, key), f"{entry.name} has nodes 0 to {entry.count - 1}: no {node}")
    intra, nic = entry.intra, entry.nic
    return NodeGroup(
        name=entry.name,
        count=entry.count,
        device=device,
        devices_per_node=entry.devices_per_node,
        intra=_link(intra) if intra else NO_LINK,
        nic=_link(nic) if nic else NO_LINK,
        nic_count=nic.count if nic else 1,
        excluded=frozenset(entry.exclude),
        slow=tuple(sorted(entry.slow.items())),
        ports=tuple(entry.ports),
        host=_host(document, (*way, "host", "links"), entry.host, entry.devices_per_node),
    )


def _host(document: Document, way: marked_yaml.Keys, entry: HostSection, devices: int) -> Host:
    if entry.links and entry.links > devices:
        raise document.fault(way, f"{entry.links} links of {devices} devices to their host; a device has one at most")
    return Host(
        memory_bytes=entry.memory or 0.0,
        memory_bytes_per_s=entry.memory_bandwidth or Host().memory_bytes_per_s,
        links=entry.links or 0,
    )


def _link(entry: IntraSection | NicSection) -> Link:
    return Link(kind=entry.kind, bytes_per_s=entry.bandwidth, latency_s=entry.latency, attained=entry.attained)


def _device(document: Document, way: marked_yaml.Keys, name: str, own: Mapping[str, DeviceType]) -> DeviceType:
    try:
        return catalogue.device_type(name)
    except BadInput:
        remedy = closest(name, (*own, *catalogue.names()))
        raise document.fault(way, f"neither `devices` nor the catalogue has a device {name!r}; {remedy}") from None


def _tier(entry: TierSection) -> Tier:
    return Tier(name=entry.name, nodes=entry.nodes, oversubscription=entry.oversubscription, latency_s=entry.latency)
