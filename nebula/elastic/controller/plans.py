"""Which plan a membership trains under: the job's own where all nodes are there, else one that the planner finds.

Nodes that join take seats: the node names of the cluster file. A node that comes back gets its own again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock

from nebula.cluster.places import exclude, usable_nodes
from nebula.cluster.values import Cluster
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput, Infeasible
from nebula.plan.values import Plan

REMEMBERED = 16
"""Plans that were found and are not looked for again."""

Replan = Callable[[Cluster], Plan]
"""Finds a plan for what is left of the cluster; raises Infeasible where there is none."""


class Plans:
    """The plans of a job; several threads may ask."""

    def __init__(self, cluster: Cluster, base: Plan, replan: Replan) -> None:
        self.cluster, self.base, self._replan = cluster, base, replan
        self.nodes = {f"{group.name}/{node}": len(devices) for group, node, devices in usable_nodes(cluster)}
        self._found: dict[frozenset[str], Plan] = {}
        self._family: dict[frozenset[str], Plan] = {}
        self._lock = Lock()

    def of(self, seats: Sequence[str]) -> Plan:
        """The plan for these nodes of the cluster.

        Raises:
            Infeasible: there is none.
        """
        here = frozenset(seats)
        with self._lock:
            if here in self._family:
                return self._family[here]
            if here not in self._found:
                found = self._of_alike(here) or self._planned(here)
                if len(self._found) >= REMEMBERED:
                    del self._found[next(iter(self._found))]
                self._found[here] = found
            return self._found[here]

    def prepare(self, losses: Iterable[Sequence[str]]) -> None:
        """Finds plans before anything is lost, for the cluster without some of its nodes or groups each.

        Args:
            losses: nodes and groups that are lost together, as those of nebula.planner.family.cases.
        """
        for lost in losses:
            here = frozenset(name for name in self.nodes if name not in lost and name.partition("/")[0] not in lost)
            with self._lock, suppress(Infeasible):
                self._family[here] = self._planned(here)

    def _planned(self, here: frozenset[str]) -> Plan:
        missing = [name for name in self.nodes if name not in here]
        used = {place.node for place in self.base.ranks}
        return self.base if not missing or used <= here else self._replan(exclude(self.cluster, missing))

    def _of_alike(self, here: frozenset[str]) -> Plan | None:
        """The plan for other nodes of the same groups, on these; nodes that are not known to be alike are not taken."""
        for others, plan in self._family.items():
            lost, free = sorted(others - here), sorted(here - others)
            if [self._kind(name) for name in lost] == [self._kind(name) for name in free]:
                takes = dict(zip(lost, free, strict=True))
                ranks = tuple(place._replace(node=takes.get(place.node, place.node)) for place in plan.ranks)
                return replace(plan, ranks=ranks)
        return None

    def _kind(self, seat: str) -> str:
        """What two nodes have in common that can take each other's place: their group, or a name of their own."""
        name = seat.partition("/")[0]
        (group,) = (group for group in self.cluster.groups if group.name == name)
        return seat if group.slow or self.cluster.tiers else name

    def seat(self, node: str, slots: int, taken: Mapping[str, str]) -> str:
        """The node of the cluster that a node stands for.

        Args:
            taken: node -> its seat, of all that are known.

        Raises:
            BadInput: there is none left for it, or it has too few slots.
        """
        if node in taken:
            wanted = taken[node]
        else:
            here = frozenset(taken.values())
            free = [name for name in self.nodes if name not in here]
            fitting = [name for name in free if self.nodes[name] <= slots]
            if not fitting:
                why = f"those that are left have more than {slots} devices" if free else "all of them are taken"
                raise BadInput(
                    f"the cluster {self.cluster.name} has {len(self.nodes)} nodes and none for {node}: {why}"
                )
            wanted = node if node in fitting else fitting[0]
        if self.nodes[wanted] > slots:
            raise BadInput(f"{node} offers {slots} workers, {wanted} of the cluster has {self.nodes[wanted]} devices")
        return wanted


def ranks(
    plan: Plan,
    names: Mapping[str, str],
    hellos: Mapping[str, wire.Hello],
    select: Callable[[int, int], Mapping[str, str]],
) -> list[wire.Rank]:
    """Where each rank of a plan runs.

    Args:
        names: seat -> node.
        hellos: of the nodes, with their addresses and free ports.
        select: environment that gives a rank its device, from the rank and the device's number on its node.
    """
    local: dict[str, int] = {}
    found = []
    for number, place in enumerate(plan.ranks):
        node = names[place.node]
        slot = local.get(node, 0)
        local[node] = slot + 1
        endpoint = f"{hellos[node].address}:{hellos[node].ports[1 + slot]}"
        found.append(
            wire.Rank(
                rank=number,
                node=node,
                local=slot,
                device=place.device,
                endpoint=endpoint,
                environment=select(number, place.device),
            )
        )
    return found
