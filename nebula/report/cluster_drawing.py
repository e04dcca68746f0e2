"""Draws the cluster: node groups as panels, nodes as tiles with their devices coloured by stage, and what links them.

The network stands on the left, outermost on the far left: WAN, then each switch tier, then the network cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nebula.cluster.topology import FLAT
from nebula.cluster.values import Cluster, NodeGroup
from nebula.cost_model.traffic_matrix import WAN, TrafficMatrix
from nebula.plan.values import Plan
from nebula.report.folding import UNUSED, Tile, device_stages, tiles
from nebula.report.svg import drawing, element, line, rect, stage_colour, text
from nebula.report.words import ranges, stage_names
from nebula.units import format_bytes, format_rate, format_seconds

WIDTH = 1180.0
TRUNK = 34.0
NIC = 112.0
MOST_TILES = 240
CELLS = ((4, 44.0), (24, 20.0), (MOST_TILES, 14.0))


def _device_line(group: NodeGroup) -> str:
    kind = group.device
    count = f"{group.count} node{'s' if group.count > 1 else ''} × {group.devices_per_node} {kind.name}"
    return (
        f"{group.name} · {count} · {format_bytes(kind.memory_bytes)} each · emulated"
        if kind.emulated
        else (f"{group.name} · {count} · {format_bytes(kind.memory_bytes)} each")
    )


def _link_line(group: NodeGroup) -> str:
    link = group.intra
    return f"inside a node: {link.kind} {format_rate(link.bytes_per_s)}, {format_seconds(link.latency_s)}"


def _tip(group: NodeGroup, tile: Tile, device: int, names: Sequence[str]) -> str:
    stage = tile.look.stages[device]
    work = "not used" if stage == UNUSED else names[stage]
    return f"{group.name}/{ranges(tile.nodes)}, device {device}: {work}"


def _columns(devices: int) -> int:
    return devices if devices <= 8 else 8


def _tile_size(group: NodeGroup, cell: float) -> tuple[float, float]:
    columns = _columns(group.devices_per_node)
    lines = -(-group.devices_per_node // columns)
    return max(columns * (cell + 2) + 12, 64.0), lines * (cell + 2) + 28


def _devices(group: NodeGroup, tile: Tile, x: float, y: float, cell: float, names: Sequence[str]) -> list[str]:
    columns, out = _columns(group.devices_per_node), []
    for device, stage in enumerate(tile.look.stages):
        down, along = divmod(device, columns)
        left, top = x + 7 + along * (cell + 2), y + 20 + down * (cell + 2)
        used = (
            {"class_": "unused"} if stage == UNUSED else {"fill": stage_colour(stage, len(names)), "data_stage": stage}
        )
        out.append(rect(left, top, cell, cell, rx=3, title=_tip(group, tile, device, names), **used))
        if stage != UNUSED and cell >= 18:
            out.append(text(left + cell / 2, top + cell / 2 + 4, str(stage), class_="on-stage middle"))
    return out


def _tile(group: NodeGroup, tile: Tile, x: float, y: float, cell: float, names: Sequence[str]) -> list[str]:
    width, height = _tile_size(group, cell)
    many = len(tile.nodes)
    out = []
    if many > 1:
        out += [rect(x + off, y - off, width, height, rx=5, class_="node behind") for off in (5.0, 2.5)]
    out.append(rect(x, y, width, height, rx=5, class_="node out" if tile.look.state == "excluded" else "node"))
    first = f"{tile.nodes[0]}" if many == 1 else f"{tile.nodes[0]}…"
    out.append(text(x + 7, y + 14, first, class_="tick", title=f"nodes {ranges(tile.nodes)}"))
    marks = [f"× {many}" if many > 1 else "", tile.look.state]
    out.append(text(x + width - 7, y + 14, ", ".join(filter(None, marks)), class_="tick end strong"))
    return out + _devices(group, tile, x, y, cell, names)


def _cell(cluster: Cluster, rows: Sequence[Sequence[Tile]]) -> float:
    """The side of a device's square, one for the whole drawing: the more there is to draw, the smaller."""
    most = max(len(row) for row in rows)
    size = next((size for limit, size in CELLS if most <= limit), CELLS[-1][1])
    return min(size, 20.0) if any(g.devices_per_node > 8 for g in cluster.groups) else size


def _panel(
    group: NodeGroup, row: Sequence[Tile], left: float, top: float, cell: float, names: Sequence[str]
) -> tuple[list[str], float]:
    """The panel's shapes and its height."""
    width, height = _tile_size(group, cell)
    across = max(1, int((WIDTH - left - 24) / (width + 12)))
    shown = row[:MOST_TILES]
    bottom = 50 + -(-len(shown) // across) * (height + 12) + (18 if len(row) > len(shown) else 0)
    out = [rect(left, top, WIDTH - left - 2, bottom, rx=8, class_="panel")]
    out.append(text(left + 14, top + 22, _device_line(group), class_="strong"))
    out.append(text(WIDTH - 16, top + 22, _link_line(group), class_="small end"))
    for index, tile in enumerate(shown):
        down, along = divmod(index, across)
        out += _tile(group, tile, left + 14 + along * (width + 12), top + 42 + down * (height + 12), cell, names)
    if len(row) > len(shown):
        rest = sum(len(t.nodes) for t in row[len(shown) :])
        out.append(text(left + 14, top + bottom - 10, f"and {rest:,} more nodes", class_="small"))
    return out, bottom


def _trunk(x: float, top: float, bottom: float, words: str, class_: str) -> list[str]:
    """A switch tier or a WAN as an upright bar, with its name along it; the words are cut to the bar."""
    middle, room = (top + bottom) / 2, max(3, int((bottom - top) / 6.4))
    shown = words if len(words) <= room else words[: room - 1] + "…"
    turn = f"rotate(-90 {x + 11:.1f} {middle:.1f})"
    label = element("g", text(x + 11, middle + 4, shown, class_="tick middle"), transform=turn)
    return [rect(x, top, 22, bottom - top, rx=5, class_=class_, title=words), label]


def _nic(group: NodeGroup, left: float, y: float, most_bytes: float) -> list[str]:
    """The cards of a node, and what the node that sends most puts through them in a step."""
    cards = f"{group.nic_count} × " if group.nic_count > 1 else ""
    x = left - NIC
    return [
        line(x, y, left, y, class_="cable"),
        text(x + NIC / 2, y - 6, f"{cards}{format_rate(group.nic.bytes_per_s)}", class_="tick middle"),
        text(x + NIC / 2, y + 14, f"{format_seconds(group.nic.latency_s)} a node", class_="tick middle"),
        *(
            [text(x + NIC / 2, y + 30, f"≤ {format_bytes(most_bytes)} a step", class_="tick middle strong")]
            * bool(most_bytes)
        ),
    ]


def _sites(cluster: Cluster) -> tuple[tuple[str, tuple[NodeGroup, ...]], ...]:
    """The groups by site; one nameless site when there is no WAN."""
    if not cluster.sites:
        return (("", cluster.groups),)
    return tuple((s.name, tuple(g for g in cluster.groups if g.name in s.groups)) for s in cluster.sites)


def _tier_words(cluster: Cluster, through: Mapping[str, float]) -> list[str]:
    """Outermost first."""
    words = []
    for tier in reversed(cluster.tiers):
        joins = f" of {tier.nodes}" if tier.nodes else ""
        rate = f"{tier.oversubscription:g}:1 · +{format_seconds(tier.latency_s)}"
        words.append(f"{tier.name}{joins}{_a_step(through, tier.name)} · {rate}")
    alone = [f"one switch{_a_step(through, FLAT.name)}"] if cluster.node_count > 1 else []
    return words or alone


def _a_step(through: Mapping[str, float], level: str) -> str:
    """What passes a level in a step, as a part of its name."""
    return f" · {format_bytes(through[level])} a step" if through.get(level) else ""


def _through(traffic: TrafficMatrix | None, groups: Sequence[NodeGroup]) -> dict[str, float]:
    """Bytes of a step by level, of what nodes of those groups send."""
    if traffic is None:
        return {}
    sent = traffic.level_bytes({group.name for group in groups})
    return dict(zip(traffic.levels, sent.sum(axis=1).tolist(), strict=True))


def cluster_drawing(cluster: Cluster, plan: Plan, traffic: TrafficMatrix | None = None) -> str:
    """The cluster with the plan's stages on its devices, and with traffic what a step sends through each level."""
    out_bytes = traffic.out_bytes() if traffic else {}
    stages, names = device_stages(plan), stage_names(plan)
    rows = {group.name: tiles(group, stages) for group in cluster.groups}
    cell, tiers = _cell(cluster, list(rows.values())), len(_tier_words(cluster, {}))
    wan = TRUNK if cluster.wan else 0.0
    left = wan + TRUNK * tiers + (NIC if tiers else 2.0)
    out: list[str] = []
    top = 4.0
    for name, groups in _sites(cluster):
        begin = top
        for group in groups:
            panel, height = _panel(group, rows[group.name], left, top, cell, names)
            most_bytes = max((size for n, size in out_bytes.items() if n.rpartition("/")[0] == group.name), default=0.0)
            out += panel + (_nic(group, left, top + height / 2, most_bytes) if tiers else [])
            top += height + 12
        out += _switches(name, _tier_words(cluster, _through(traffic, groups)), wan, begin, top - 12)
    if cluster.wan:
        words = f"WAN {format_rate(cluster.wan.bytes_per_s)}, {format_seconds(cluster.wan.latency_s)} one way"
        words += _a_step(_through(traffic, cluster.groups), WAN)
        out += _trunk(0.0, 4.0, top - 12, words, "wan")
    return drawing(WIDTH, top, out, label=f"cluster {cluster.name} with the stages of the plan")


def _switches(site: str, tiers: Sequence[str], left: float, top: float, bottom: float) -> list[str]:
    """The tiers of one site as bars, outermost first, each joined to what stands left of it."""
    out, middle = [], (top + bottom) / 2
    for index, words in enumerate(tiers):
        x = left + TRUNK * index
        out += _trunk(x, top, bottom, f"{site} · {words}" if site and index == 0 else words, "tier")
        if x:
            out.append(line(x - TRUNK + 22, middle, x, middle, class_="cable"))
    return out
