"""Which device each rank takes: heavy traffic on strong links, on any tree of switches and across sites of a WAN.

Paddle's mapper puts rank i on device i. Here the axes of the mesh may be numbered in any order and nodes taken in any
order; every way that is tried is priced by the cost model, rank i on device i among them, so that the answer is never
worse. Ranks of a node follow each other, as Paddle's launcher numbers them; how layers are dealt is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from nebula.cluster.values import Cluster
from nebula.cost_model.placed import Placed
from nebula.errors import BadInput
from nebula.plan.laws import WAN_CROSSED
from nebula.plan.layout import FLEET, order_of, uniform_stages
from nebula.plan.values import Plan, Prediction, Sharding
from nebula.planner.arrangements import Arrangement, Arrangements, Mesh
from nebula.planner.exchanges import exchanges
from nebula.planner.explain import deciding_term
from nebula.planner.pool import places
from nebula.units import format_seconds

TRIES = 48
"""Changes of the order of nodes that are priced from one start, where blocks do not fit the tree."""

TRIED_RANKS = 50_000
"""Of many ranks fewer changes are priced: so many ranks are placed from one start."""

STARTED_RANKS = 6_000
"""Likewise, so many ranks are placed in starts, one for each order of the axes."""

Predict = Callable[[Plan], Prediction]
Seconds = Callable[[Placed], float]
"""Seconds of a step of one split whose ranks meet so."""


def mesh_of(plan: Plan) -> Mesh | None:
    """The mesh of a plan whose stages are alike and whose ranks are numbered in an order of fleet; else None."""
    first = plan.stages[0]
    shapes = {(s.data, s.tensor, s.sharding, s.context, s.expert) for s in plan.stages}
    if len(shapes) > 1 or first.context * first.expert > 1 or order_of(plan.stages) is None:
        return None
    mesh = Mesh(first.data, first.tensor, len(plan.stages), max(1, first.sharding.degree))
    return mesh if mesh.ranks == plan.world_size else None


def with_arrangement(plan: Plan, arrangement: Arrangement, cluster: Cluster) -> Plan:
    """The same split with its ranks numbered and placed as arranged, without a prediction."""
    ranks, first = places(cluster, arrangement.devices.tolist()), plan.stages[0]
    if order_of(plan.stages) == arrangement.order:
        return replace(plan, ranks=ranks, prediction=None)
    stages = uniform_stages(
        boundaries=(*(stage.layers[0] for stage in plan.stages), plan.stages[-1].layers[1]),
        data=first.data,
        tensor=first.tensor,
        sharding=first.sharding if first.sharding.degree > 1 else Sharding(),
        micro_batch_rows=first.replicas[0].micro_batch_rows,
        order=arrangement.order,
    )
    kept = tuple(
        replace(new, recompute=old.recompute, recompute_layers=old.recompute_layers, offload=old.offload)
        for new, old in zip(stages, plan.stages, strict=True)
    )
    return replace(plan, stages=kept, ranks=ranks, prediction=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the ranks of a plan are best placed.

    Attributes:
        plan: with its prediction.
        first_fit: the same split with rank i on device i; None where that breaks the rule of the WAN.
        tried: how many placements were priced, these two among them.
        crossing: axes that cross a WAN.
        others: for other such axes the least step time found, by the axes in words.
    """

    plan: Plan
    first_fit: Plan | None
    tried: int
    crossing: tuple[str, ...] = ()
    others: tuple[tuple[str, float], ...] = ()

    @property
    def moved(self) -> bool:
        """Whether ranks are numbered or placed otherwise than first-fit does."""
        return self.first_fit is None or _where(self.plan) != _where(self.first_fit)


def best_placement(plan: Plan, ways: Arrangements, predict: Predict, seconds: Seconds | None = None) -> Placement:
    """The best placement found for the ranks of a plan on devices that may be used.

    Args:
        plan: alike stages, as fleet runs them.
        ways: to place it on the devices.
        predict: prices a plan.
        seconds: gives the same step time sooner; by default that of a prediction.

    Raises:
        BadInput: every placement has a tensor or sharding group across a WAN.
    """
    mesh = mesh_of(plan)
    assert mesh is not None, "stages that differ have no mesh to place"
    return _Placing(plan, mesh, ways, predict, seconds).best()


class _Placing:
    """One plan being placed: every placement that was priced, with its step time."""

    def __init__(self, plan: Plan, mesh: Mesh, ways: Arrangements, predict: Predict, quick: Seconds | None) -> None:
        self.plan, self.mesh, self.ways, self.predict, self.quick = plan, mesh, ways, predict, quick
        self.known: dict[Placed, float] = {}
        self.tries = min(TRIES, TRIED_RANKS // mesh.ranks)

    def best(self) -> Placement:
        first = Arrangement(FLEET, np.array(sorted(d for s in self.ways.slots for d in s.devices))[: self.mesh.ranks])
        found = [first] if self.ways.lawful(self.mesh, first) else []
        found += [arrangement for arrangement, _ in self.ways.every(self.mesh)]
        if not found:
            raise BadInput(f"no placement of {self.plan.split} keeps to the WAN's rule: {self._broken()}")
        best = min(found, key=self.seconds)
        if self.ways.uneven:
            by_order = {arrangement.order: arrangement for arrangement in sorted(found, key=self.seconds, reverse=True)}
            starts = sorted(by_order.values(), key=self.seconds)[: max(1, STARTED_RANKS // self.mesh.ranks)]
            best = min((self.exchanged(start) for start in starts), key=self.seconds)
        crossing = self.ways.crossed(self.mesh, best)
        others: dict[str, float] = {}
        for each in found:
            words = " and ".join(self.ways.crossed(self.mesh, each))
            others[words] = min(others.get(words, np.inf), self.seconds(each))
        others.pop(" and ".join(crossing), None)
        return Placement(
            plan=self.priced(best),
            first_fit=self.priced(first) if found[0] is first else None,
            tried=len(self.known),
            crossing=crossing,
            others=tuple(others.items()),
        )

    def exchanged(self, best: Arrangement) -> Arrangement:
        """The arrangement after nodes were exchanged for as long as a step got shorter and tries are left."""
        left, better = self.tries, True
        while better:
            better, limit_s = False, self.seconds(best) * (1.0 - 1e-9)
            for devices in islice(exchanges(self.ways.slots, best.devices, self.mesh.blocks(best.order)), left):
                left -= 1
                one = Arrangement(best.order, devices)
                if self.ways.lawful(self.mesh, one) and self.seconds(one) < limit_s:
                    best, better = one, True
                    break
        return best

    def priced(self, arrangement: Arrangement) -> Plan:
        """The plan with its prediction."""
        plan = self._arranged(arrangement)
        return replace(plan, prediction=self.predict(plan))

    def _arranged(self, arrangement: Arrangement) -> Plan:
        return with_arrangement(self.plan, arrangement, self.ways.cluster)

    def seconds(self, arrangement: Arrangement) -> float:
        """Seconds of a step, in which ties are ties; ways in which ranks meet alike take as long."""
        placed = self.ways.met(self.mesh, arrangement)
        if placed not in self.known:
            step_s = self.quick(placed) if self.quick else self.predict(self._arranged(arrangement)).step_time_s
            self.known[placed] = float(f"{step_s:.12g}")
        return self.known[placed]

    def _broken(self) -> str:
        sites = [self.ways.cluster.sites[i].name for i in dict.fromkeys(s.path[0] for s in self.ways.slots)]
        return f"groups of {self.mesh.degree * self.mesh.tensor} ranks span " + WAN_CROSSED.format(" and ".join(sites))


def _where(plan: Plan) -> tuple[object, ...]:
    return plan.ranks, tuple(stage.ranks for stage in plan.stages)


SHOWN = 4
"""Nodes that a reason names."""


def reason(placement: Placement, cluster: Cluster) -> str:
    """Why ranks lie as they do, in a sentence or two: what crosses a WAN, and what rank i on device i would take."""
    words = [_wan_words(placement, cluster)] if placement.crossing else []
    others = placement.tried - 1
    if placement.moved:
        words.append(_moved_words(placement))
    elif others:
        words.append(f"Rank i lies on device i: none of {others} other placement{'s' * (others > 1)} is faster.")
    else:
        words.append("Rank i lies on device i: in every other placement groups meet on the same links.")
    return " ".join(words)


def _moved_words(placement: Placement) -> str:
    plan, first = placement.plan, placement.first_fit
    mesh, order = mesh_of(plan), order_of(plan.stages)
    assert mesh is not None
    assert order is not None
    assert plan.prediction is not None
    axes = [axis for axis in reversed(order) if mesh.sizes[axis] > 1]
    nodes = list(dict.fromkeys(place.node for place in plan.ranks))
    more = ", ..." if len(nodes) > SHOWN else ""
    text = f"Ranks lie {', '.join(axes)} from the inside out, on nodes {', '.join(nodes[:SHOWN])}{more}: "
    if first is None or first.prediction is None:
        return text + "rank i on device i would have a group across the WAN that must not be."
    name, more_s = deciding_term(plan.prediction.parts, first.prediction.parts)
    longer = first.prediction.step_time_s / plan.prediction.step_time_s - 1.0
    return text + f"with rank i on device i a step takes {longer:.2%} longer, by {format_seconds(more_s)} more {name}."


def _wan_words(placement: Placement, cluster: Cluster) -> str:
    used = {place.node.rpartition("/")[0] for place in placement.plan.ranks}
    sites = [site.name for site in cluster.sites if used & set(site.groups)]
    verb = "crosses" if len(placement.crossing) == 1 else "cross"
    text = f"Only {' and '.join(placement.crossing)} {verb} the WAN between {' and '.join(sites)}"
    for axes, step_s in placement.others:
        across = f"with {axes} across it" if axes else "at one site"
        text += f"; {across} a step takes {format_seconds(step_s)}"
    return text + "."
