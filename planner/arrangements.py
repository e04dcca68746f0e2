"""The ways to place a uniform split: in which order its axes are numbered, and in which order nodes are taken.

Ranks of a node follow each other, as Paddle's launcher numbers them. Ways in which a tensor or sharding group would
cross a WAN are left out; which way is best is placement.py's question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, permutations
from math import gcd
from typing import NamedTuple

import numpy as np

from nebula.cluster.values import Cluster
from nebula.cost_model.communication import Fabric
from nebula.cost_model.placed import Placed, place, stage_grid
from nebula.plan.layout import FLEET, ORDERS, Order
from nebula.planner.packing import Ints, devices_of, sequences, slots_of, unit_sizes


class Mesh(NamedTuple):
    """The degrees that say who talks to whom; `data` counts all replicas, `degree` those of a sharding group."""

    data: int
    tensor: int
    pipeline: int
    degree: int

    @property
    def ranks(self) -> int:
        """Points of the mesh."""
        return self.data * self.tensor * self.pipeline

    @property
    def sizes(self) -> dict[str, int]:
        """Of the axes as nebula.plan.layout names them."""
        outer = self.data // self.degree
        return {"data": outer, "pipeline": self.pipeline, "sharding": self.degree, "tensor": self.tensor}

    @property
    def orders(self) -> list[Order]:
        """The orders of the axes that number ranks differently, fleet's own first."""
        wide = {axis for axis, size in self.sizes.items() if size > 1}
        known: dict[Order, Order] = {}
        for order in ORDERS:
            known.setdefault(tuple(axis for axis in order if axis in wide), order)
        return list(known.values())

    def blocks(self, order: Order) -> tuple[int, ...]:
        """Sizes of the groups of consecutive ranks that lie within each other, ascending."""
        found, size = [], 1
        for axis in reversed(order):
            size *= self.sizes[axis]
            if size > 1 and size not in found:
                found.append(size)
        return tuple(found) or (1,)


class Arrangement(NamedTuple):
    """A way to place a mesh.

    Attributes:
        order: in which ranks are numbered.
        devices: [ranks] global indices.
    """

    order: Order
    devices: Ints


class Arrangements:
    """The ways to place meshes on devices.

    Args:
        cluster: that has them.
        devices: that may be used, in the order in which they are taken where nothing speaks for another.
        fabric: prices the links between them.
    """

    def __init__(self, cluster: Cluster, devices: Iterable[int], fabric: Fabric) -> None:
        self.cluster, self.fabric = cluster, fabric
        self.slots = slots_of(cluster, devices)
        self._site = np.zeros(cluster.device_count, dtype=np.int64)
        for slot in self.slots:
            self._site[list(slot.devices)] = slot.path[0]
        self._known: dict[Mesh, list[tuple[Arrangement, Placed]]] = {}
        self._packed: dict[tuple[tuple[int, ...], int], list[Ints]] = {}
        self._met: dict[tuple[Mesh, Order, bytes], Placed] = {}
        sizes = {slot.size for slot in self.slots}
        self.per_node = sizes.pop() if len(sizes) == 1 else 0

    @property
    def several_sites(self) -> bool:
        """Whether a WAN lies between the devices."""
        return len({slot.path[0] for slot in self.slots}) > 1

    def of(self, mesh: Mesh) -> list[tuple[Arrangement, Placed]]:
        """The lawful ways to place a mesh, each with whom its ranks meet; of those that meet alike the first.

        The first is in fleet's order on the devices as they were given, if that is lawful; there is none where every
        way has a tensor or sharding group across a WAN.
        """
        if mesh not in self._known:
            self._known[mesh] = self._distinct(mesh, self._few(mesh))
        return self._known[mesh]

    def every(self, mesh: Mesh) -> list[tuple[Arrangement, Placed]]:
        """Those of `of`, and on a tree that is not even further ones: axes woven over every packed sequence."""
        if not self.uneven:
            return self.of(mesh)
        return self._distinct(mesh, chain((arrangement for arrangement, _ in self.of(mesh)), self._woven(mesh)))

    def _distinct(self, mesh: Mesh, ways: Iterable[Arrangement]) -> list[tuple[Arrangement, Placed]]:
        found: dict[Placed, Arrangement] = {}
        for arrangement in ways:
            if self.lawful(mesh, arrangement):
                found.setdefault(self.met(mesh, arrangement), arrangement)
        return [(arrangement, placed) for placed, arrangement in found.items()]

    def _few(self, mesh: Mesh) -> Iterator[Arrangement]:
        given = devices_of(self.slots, mesh.ranks)
        yield Arrangement(FLEET, given)
        yield from weaves(mesh, given, self.per_node)
        if self.uneven:
            for order in mesh.orders:
                for devices in self._sequences(mesh.blocks(order), mesh.ranks):
                    yield Arrangement(order, devices)

    def _woven(self, mesh: Mesh) -> Iterator[Arrangement]:
        seen: dict[bytes, Ints] = {}
        for order in mesh.orders:
            for devices in self._sequences(mesh.blocks(order), mesh.ranks):
                if seen.setdefault(devices.tobytes(), devices) is devices:
                    yield from weaves(mesh, devices, self.per_node)

    def _sequences(self, blocks: tuple[int, ...], ranks: int) -> list[Ints]:
        if (blocks, ranks) not in self._packed:
            self._packed[blocks, ranks] = list(sequences(self.slots, blocks, ranks))
        return self._packed[blocks, ranks]

    def met(self, mesh: Mesh, arrangement: Arrangement) -> Placed:
        """Whom the ranks of each stage meet."""
        key = (mesh, arrangement.order, arrangement.devices.tobytes())
        if key not in self._met:
            self._met[key] = place(arrangement.devices, **mesh._asdict(), fabric=self.fabric, order=arrangement.order)
        return self._met[key]

    def lawful(self, mesh: Mesh, arrangement: Arrangement) -> bool:
        """Whether tensor and sharding groups stay within a site each."""
        if not self.several_sites:
            return True
        site = self._site[stage_grid(arrangement.devices, **mesh._asdict(), order=arrangement.order)]
        groups = site.reshape(-1, mesh.degree * mesh.tensor)
        return bool((groups == groups[:, :1]).all())

    def crossed(self, mesh: Mesh, arrangement: Arrangement) -> tuple[str, ...]:
        """The axes along which neighbours are at different sites."""
        if not self.several_sites:
            return ()
        site = self._site[stage_grid(arrangement.devices, **mesh._asdict(), order=arrangement.order)]
        by_stage = site.reshape(mesh.pipeline, -1, mesh.degree * mesh.tensor)
        pipeline, data = (by_stage != by_stage[:1]).any(), (by_stage != by_stage[:, :1]).any()
        return tuple(axis for axis, crosses in (("pipeline", pipeline), ("data", data)) if crosses)

    @property
    def uneven(self) -> bool:
        """Whether nodes or switches differ, or nodes are not in the order of the tree, or a WAN lies between them."""
        return self.several_sites or not unit_sizes(self.slots)


def weaves(mesh: Mesh, devices: Ints, per_node: int) -> Iterator[Arrangement]:
    """Every order of the axes over nodes of one size, for each way to fill a node; each way once.

    Which axes fill a node is decided by the order in which ranks are numbered, which axis is near beyond it by the
    order in which nodes are taken: stages may be neighbours under a leaf, or replicas, or half of the replicas.

    Args:
        devices: in the order in which nodes are taken where axes are nested as they are numbered.
        per_node: devices of each node; 0 where nodes differ.
    """
    seen = set()
    for order in mesh.orders:
        filled = _filled(mesh, order, per_node)
        if filled is None:
            continue
        outer, inner = filled
        for physical in permutations(range(len(outer))):
            key = (tuple(outer[i] for i in physical), inner)
            if key not in seen:
                seen.add(key)
                sizes = [outer[i][1] for i in physical]
                back = [physical.index(i) for i in range(len(outer))]
                nodes = devices.reshape(*sizes, per_node).transpose(*back, len(outer))
                yield Arrangement(order, nodes.reshape(-1))


Axes = tuple[tuple[str, int], ...]
"""Axes from the outside in, with their sizes."""


def _filled(mesh: Mesh, order: Order, per_node: int) -> tuple[Axes, Axes] | None:
    """The axes over nodes and those within a node, an axis that is in both cut in two; None where nodes are not filled.

    Example:
        >>> _filled(Mesh(data=4, tensor=2, pipeline=2, degree=1), FLEET, 8)
        ((('data', 2),), (('data', 2), ('pipeline', 2), ('tensor', 2)))
    """
    outer, inner, left = [], [], per_node
    for axis in reversed(order):
        size = mesh.sizes[axis]
        here = gcd(size, left)
        if here < min(size, left):
            return None
        outer.append((axis, size // here))
        inner.append((axis, here))
        left //= here
    if left != 1:
        return None
    within, over = (tuple((axis, n) for axis, n in reversed(found) if n > 1) for found in (inner, outer))
    return over, within
