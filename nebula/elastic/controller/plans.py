"""Which plan a membership trains under: the job's own where all nodes are there, else one that the planner finds.

Nodes that join take seats: the node names of the cluster file. A node that comes back gets its own again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nebula.cluster.places import exclude, usable_nodes
from nebula.cluster.values import Cluster
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput
from nebula.plan.values import Plan

REMEMBERED = 16
"""Plans that were found and are not looked for again."""

Replan = Callable[[Cluster], Plan]
"""Finds a plan for what is left of the cluster; raises Infeasible where there is none."""


class Plans:
    """The plans of a job."""

    def __init__(self, cluster: Cluster, base: Plan, replan: Replan) -> None:
        self.cluster, self.base, self._replan = cluster, base, replan
        self.nodes = {f"{group.name}/{node}": len(devices) for group, node, devices in usable_nodes(cluster)}
        self._found: dict[frozenset[str], Plan] = {}

    def of(self, seats: Sequence[str]) -> Plan:
        """The plan for these nodes of the cluster.

        Raises:
            Infeasible: there is none.
        """
        here = frozenset(seats)
        if here not in self._found:
            if len(self._found) >= REMEMBERED:
                del self._found[next(iter(self._found))]
            missing = [name for name in self.nodes if name not in here]
            used = {place.node for place in self.base.ranks}
            same = not missing or used <= here
            self._found[here] = self.base if same else self._replan(exclude(self.cluster, missing))
        return self._found[here]

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
