"""Prints a cluster for a terminal: node groups with their devices and links, then the network between them."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster, Link, NodeGroup
from nebula.units import format_bytes, format_count, format_rate, format_seconds

TRAINED = ("bfloat16", "float16", "float32")
"""Of these dtypes the first that a device type lists is the one whose peak is shown."""


def cluster_table(cluster: Cluster) -> RenderableType:
    """The cluster as one block of text for a rich console."""
    nodes, devices = cluster.node_count, cluster.device_count
    head = f"{cluster.name}: {nodes:,} node{'s' * (nodes > 1)}, {devices:,} device{'s' * (devices > 1)}"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("group", "nodes", "devices of a node", "memory", "peak", "links of a device and of a node"):
        table.add_column(heading, justify="right" if heading in ("nodes", "memory") else "left")
    for group in cluster.groups:
        table.add_row(*_row(group))
    parts: list[RenderableType] = [Text.assemble((head, "bold"), f"  ({cluster_hash(cluster)})"), Text(), table]
    return Group(*parts, *(Text(line) for line in _network(cluster)))


def link_words(link: Link) -> str:
    """A link's kind, bandwidth and latency."""
    return f"{link.kind} {format_rate(link.bytes_per_s)}, {format_seconds(link.latency_s)}"


def _row(group: NodeGroup) -> tuple[str, ...]:
    device = group.device
    dtype = next(d for d in TRAINED if d in device.peak_flops)
    emulated = " (emulated)" if device.emulated else ""
    cards = f"{group.nic_count} × " if group.nic_count > 1 else ""
    links = [link_words(group.intra)] if group.devices_per_node > 1 else []
    links += [cards + link_words(group.nic)] if group.count > 1 else []
    return (
        group.name,
        f"{group.count:,}",
        f"{group.devices_per_node} × {device.name}{emulated}",
        format_bytes(device.memory_bytes),
        f"{format_count(device.peak_flops[dtype])}FLOP/s\n{dtype}",
        "\n".join(links) or "none: one device",
    )


def _network(cluster: Cluster) -> list[str]:
    lines = []
    for tier in cluster.tiers:
        joins = f"{tier.nodes} nodes" if tier.nodes else "all nodes"
        latency = format_seconds(tier.latency_s)
        lines.append(f"tier {tier.name}: joins {joins}, oversubscribed {tier.oversubscription:g}:1, adds {latency}")
    for site in cluster.sites:
        lines.append(f"site {site.name}: {', '.join(site.groups)}")
    if cluster.wan:
        lines.append(
            f"between sites: {format_rate(cluster.wan.bytes_per_s)}, {format_seconds(cluster.wan.latency_s)} one way"
        )
    for group in cluster.groups:
        if group.excluded:
            lines.append(f"excluded of {group.name}: nodes {', '.join(map(str, sorted(group.excluded)))}")
        lines += [f"slow: {group.name}/{node} by {factor:g}" for node, factor in group.slow]
    return ["", *lines] if lines else []
