"""Draws who sends how much to whom in a step: a matrix of nodes for each axis, and a table by level of the network.

Beyond a few dozen nodes those that look alike are put together, as in the drawing of the cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nebula.cluster.values import Cluster
from nebula.cost_model.flows import AXES
from nebula.cost_model.traffic_matrix import INSIDE, WAN, TrafficMatrix
from nebula.plan.values import Plan
from nebula.report.folding import UNUSED, Tile, device_stages, tiles
from nebula.report.svg import drawing, rect, text
from nebula.report.words import named_stages, percent, ranges
from nebula.units import format_bytes

MOST_PARTS = 32
SIDE, LEFT, TOP = 250.0, 92.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Nodes that are one row and one column of the matrix.

    Attributes:
        name: `fast/0` or `fast/0–3, 8–11`.
        label: the same where it is short, else what they have in common: `stage 3 × 24`.
        nodes: their names.
    """

    name: str
    label: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRow:
    """What one axis sends through one level of the network in a step.

    Attributes:
        axis: of AXES.
        level: `node`, the name of a tier, or `wan`.
        sent_bytes: by all nodes together.
        share: of all that is sent.
        busiest_s: what the node that sends most takes for it at the full rate of its links, or over a WAN the site.
    """

    axis: str
    level: str
    sent_bytes: float
    share: float
    busiest_s: float

    @property
    def where(self) -> str:
        """The level in words."""
        return {INSIDE: "inside nodes", WAN: "between sites"}.get(self.level, f"through {self.level}")


def level_rows(traffic: TrafficMatrix) -> tuple[LevelRow, ...]:
    """A row for every axis and level that has bytes, axis by axis, from the node outward."""
    sent, longest, whole = traffic.level_bytes(), traffic.busiest_seconds(), traffic.total_bytes
    return tuple(
        LevelRow(
            axis=axis,
            level=level,
            sent_bytes=float(sent[i, j]),
            share=float(sent[i, j]) / whole,
            busiest_s=float(longest[i, j]),
        )
        for j, axis in enumerate(AXES)
        for i, level in enumerate(traffic.levels)
        if sent[i, j]
    )


def traffic_words(traffic: TrafficMatrix) -> str:
    """All of it in a sentence."""
    inside = sum(row.share for row in level_rows(traffic) if row.level == INSIDE)
    return (
        f"All ranks together send {format_bytes(traffic.total_bytes)} in a step; {percent(inside)} stays inside nodes."
    )


def parts_of(traffic: TrafficMatrix, cluster: Cluster, plan: Plan) -> tuple[Part, ...]:
    """What is one row of the matrix: a node each while there are few, else nodes with the same stages, or several."""
    used = set(traffic.nodes)
    if len(used) <= MOST_PARTS:
        return tuple(Part(name=name, label=name, nodes=(name,)) for name in traffic.nodes)
    stages = device_stages(plan)
    found: dict[str, list[Tile]] = {}
    for group in cluster.groups:
        alike = (Tile(t.look, tuple(n for n in t.nodes if f"{group.name}/{n}" in used)) for t in tiles(group, stages))
        found[group.name] = [tile for tile in alike if tile.nodes]
    together = -(-sum(map(len, found.values())) // MOST_PARTS)
    return tuple(
        _part(group, each[start : start + together])
        for group, each in found.items()
        for start in range(0, len(each), together)
    )


def _part(group: str, alike: Sequence[Tile]) -> Part:
    numbers = sorted(n for tile in alike for n in tile.nodes)
    held = sorted({stage for tile in alike for stage in tile.look.stages if stage != UNUSED})
    label = f"{named_stages(held)} × {len(numbers)}"
    return Part(name=f"{group}/{ranges(numbers)}", label=label, nodes=tuple(f"{group}/{n}" for n in numbers))


def matrices(traffic: TrafficMatrix, cluster: Cluster, plan: Plan) -> tuple[str, ...]:
    """One drawing for each axis that sends anything, all in one scale of shades."""
    parts = parts_of(traffic, cluster, plan)
    cells = traffic.folded([part.nodes for part in parts])
    shown = [j for j in range(len(AXES)) if cells[:, :, j].any()]
    sizes = cells[cells > 0]
    low, high = (float(sizes.min()), float(sizes.max())) if sizes.size else (1.0, 1.0)
    return tuple(_matrix(AXES[j], cells[:, :, j].tolist(), parts, low, high) for j in shown)


def _matrix(axis: str, cells: list[list[float]], parts: Sequence[Part], low: float, high: float) -> str:
    cell = SIDE / len(parts)
    total = sum(sum(row) for row in cells)
    out = [
        text(LEFT, 14, axis, class_="small strong"),
        text(LEFT + SIDE, 14, format_bytes(total), class_="small end"),
        text(LEFT, TOP - 8, "to →", class_="tick"),
        rect(LEFT, TOP, SIDE, SIDE, class_="lane"),
    ]
    for i, row in enumerate(cells):
        if cell >= 11 or i % math.ceil(11 / cell) == 0:
            label = parts[i].label
            short = label if len(label) <= 15 else f"{label[:14]}…"
            out.append(
                text(LEFT - 6, TOP + (i + 0.5) * cell + 4, short, class_="tick end", title=f"from {parts[i].name}")
            )
        for j, size in enumerate(row):
            if size:
                out.append(_cell(LEFT + j * cell, TOP + i * cell, cell, size, (parts[i], parts[j]), (low, high)))
    return drawing(LEFT + SIDE + 4, TOP + SIDE + 6, out, label=f"bytes from node to node along the {axis} axis")


def _cell(x: float, y: float, side: float, size: float, ends: tuple[Part, Part], bounds: tuple[float, float]) -> str:
    low, high = bounds
    shade = 1.0 if high <= low else 0.2 + 0.8 * math.log(size / low) / math.log(high / low)
    gap = min(1.0, side * 0.1)
    source, target = ends
    whither = f"within {source.name}" if source is target else f"{source.name} → {target.name}"
    tip = f"{whither}: {format_bytes(size)}"
    return rect(x, y, side - gap, side - gap, class_="sent", fill_opacity=round(shade, 2), title=tip)
