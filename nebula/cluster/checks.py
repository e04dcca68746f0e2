"""What no single key of a cluster file can say: names that must differ or exist, links that must be there.

The first contradiction raises BadInput with its place; values that are merely odd are suspicion.py's.
"""

from __future__ import annotations

from collections import Counter

from nebula.cluster.sections import ClusterSection, NodeSection, SiteSection
from nebula.errors import closest
from nebula.marked_yaml import Document

RESERVED = ("node", "wan")
"""Names of levels that are no tiers."""

MOST_DEVICES = 1_000_000
"""More devices in one cluster are taken for a mistake: lists of them would not fit into memory."""


def check(document: Document, section: ClusterSection) -> None:
    """What no single key can say: names, links that must be there, sites and tiers."""
    if not section.nodes:
        raise document.fault(("nodes",), "a cluster without devices: list at least one group of nodes")
    for way, kind, entries in (
        (("nodes",), "node group", section.nodes),
        (("network", "tiers"), "tier", section.network.tiers),
        (("network", "sites"), "site", section.network.sites),
    ):
        _check_names(document, way, kind, [entry.name for entry in entries])
    devices = sum(entry.count * entry.devices_per_node for entry in section.nodes)
    if devices > MOST_DEVICES:
        raise document.fault(
            ("nodes",), f"{devices:,} devices are more than the {MOST_DEVICES:,} that a cluster may have"
        )
    several = sum(entry.count for entry in section.nodes) > 1
    for index, entry in enumerate(section.nodes):
        if "/" in entry.name:
            raise document.fault(
                ("nodes", index, "name"), f"{entry.name!r}: `/` stands between a group and the index of a node"
            )
        for key, needed in (("intra", entry.devices_per_node > 1), ("nic", several)):
            if needed and getattr(entry, key) is None:
                why = (
                    f"its {entry.devices_per_node} devices need a link"
                    if key == "intra"
                    else "its nodes need a network"
                )
                meaning = NodeSection.model_fields[key].description
                raise document.fault(
                    ("nodes", index), f"node group {entry.name!r} has no {key}, {why}; add `{key}: {meaning}`"
                )
    _check_sites(document, section)
    _check_ports(document, section)
    _check_tiers(document, section)


def _check_names(document: Document, way: tuple[str, ...], kind: str, names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        index = len(names) - 1 - names[::-1].index(twice)
        raise document.fault((*way, index, "name"), f"two {kind}s are called {twice!r}; give one of them another name")


def _check_sites(document: Document, section: ClusterSection) -> None:
    network = section.network
    groups = [entry.name for entry in section.nodes]
    seen: dict[str, str] = {}
    for index, site in enumerate(network.sites):
        for place, name in enumerate(site.nodes):
            way = ("network", "sites", index, "nodes", place)
            if name not in groups:
                raise document.fault(
                    way, f"site {site.name!r} names a node group {name!r} that does not exist; {closest(name, groups)}"
                )
            if name in seen:
                raise document.fault(
                    way, f"node group {name!r} is in site {seen[name]!r} and in site {site.name!r}; keep one"
                )
            seen[name] = site.name
    outside = [name for name in groups if name not in seen]
    if network.sites and outside:
        raise document.fault(("network", "sites"), f"node group {outside[0]!r} is in no site; list it under one")
    if len(network.sites) > 1 and network.wan is None:
        raise document.fault(
            ("network",), "several sites and no WAN between them; add `wan: {bandwidth: 10Gb/s, rtt: 50ms}`"
        )
    if network.wan is not None and len(network.sites) < 2:
        raise document.fault(("network", "wan"), "a WAN lies between sites; list two or more under `sites`")


def _check_ports(document: Document, section: ClusterSection) -> None:
    """A port for every node of a group that names any, and no port twice in a site."""
    site = {name: entry.name for entry in section.network.sites for name in entry.nodes}
    taken: dict[tuple[str, int], str] = {}
    next_port: dict[str, int] = {}
    for index, entry in enumerate(section.nodes):
        here, way = site.get(entry.name, ""), ("nodes", index, "ports")
        if entry.ports and len(entry.ports) != entry.count:
            raise document.fault(way, f"{len(entry.ports)} ports for {entry.count} nodes; give each node of it one")
        first = next_port.get(here, 0)
        for node, port in enumerate(entry.ports or range(first, first + entry.count)):
            other = taken.setdefault((here, port), f"{entry.name}/{node}")
            if other != f"{entry.name}/{node}":
                place = way if entry.ports else way[:-1]
                raise document.fault(place, f"{other} and {entry.name}/{node} both hang at port {port}; move one")
        next_port[here] = first + entry.count


def _check_tiers(document: Document, section: ClusterSection) -> None:
    tiers = section.network.tiers
    spans = section.network.sites or [SiteSection(name="everywhere", nodes=[entry.name for entry in section.nodes])]
    counts = [sum(entry.count for entry in section.nodes if entry.name in site.nodes) for site in spans]
    most = max(*counts, *(max(entry.ports, default=0) + 1 for entry in section.nodes))
    below = 1
    for index, tier in enumerate(tiers):
        way = ("network", "tiers", index, "nodes")
        if tier.name in RESERVED:
            raise document.fault(
                (*way[:-1], "name"),
                f"a tier cannot be called {tier.name!r}, which is a level already; give it another name",
            )
        last = index == len(tiers) - 1
        if last and 0 < tier.nodes < most:
            raise document.fault(
                way,
                f"the last tier {tier.name!r} joins {tier.nodes} of {most} nodes; it must span all: leave `nodes` out",
            )
        if not last and tier.nodes == 0:
            raise document.fault(
                way[:-1],
                f"tier {tier.name!r} is not the last and has no `nodes`; say how many nodes one of its switches joins",
            )
        if tier.nodes and tier.nodes % below:
            raise document.fault(
                way, f"{tier.nodes} nodes at tier {tier.name!r} is no multiple of the {below} at the tier below it"
            )
        below = tier.nodes or below
