"""A plan for every way in which a cluster is likely to shrink, made before it does: a family around a base plan.

Nodes of a group are alike, so that one lost node stands for any of them. Which file holds which plan is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster, NodeGroup
from nebula.errors import BadInput, Infeasible
from nebula.plan.values import Plan
from nebula.planner.options import Replanned
from nebula.planner.replan import Replanner

MOST_LOST = 2
"""Up to so many nodes of a group are lost together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A way in which a cluster shrinks.

    Attributes:
        name: short, for files.
        missing: nodes and groups that are gone.
    """

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The answer to a case.

    Attributes:
        left_hash: identity of the cluster that would hold just the nodes that are left.
        nodes: how many are left.
        devices: likewise.
        replanned: the plan and the way to it from the base plan; None where nothing fits.
        why_not: what then is wrong and what would help; else empty.
    """

    case: Case
    left_hash: str
    nodes: int
    devices: int
    replanned: Replanned | None
    why_not: str = ""


def cases(cluster: Cluster, plan: Plan, most_lost: int = MOST_LOST) -> tuple[Case, ...]:
    """One node less, two less and so on of each group, each group gone, each device type gone that has several groups.

    Args:
        cluster: that the base plan runs on.
        plan: the base plan; nodes that it uses are lost first, the last of them first.
        most_lost: nodes of one group.

    Raises:
        BadInput: most_lost is below 1.
    """
    if most_lost < 1:
        raise BadInput(f"a family is of plans for 1 lost node or more, not {most_lost}")
    groups = [group for group in cluster.groups if _usable(group)]
    return (*_fewer_nodes(groups, plan, most_lost), *_fewer_groups(groups))


def _fewer_nodes(groups: list[NodeGroup], plan: Plan, most_lost: int) -> Iterator[Case]:
    used = Counter(place.node for place in plan.ranks)
    for group in groups:
        nodes = sorted(_usable(group), key=lambda name: name in used)
        for lost in range(1, min(most_lost, len(nodes) - 1) + 1):
            yield Case(name=f"{group.name}-minus-{lost}", missing=tuple(nodes[-lost:]))


def _fewer_groups(groups: list[NodeGroup]) -> Iterator[Case]:
    if len(groups) > 1:
        yield from (Case(name=f"without-{group.name}", missing=(group.name,)) for group in groups)
    types = Counter(group.device.name for group in groups)
    for name, count in types.items():
        if 1 < count < len(groups):
            gone = tuple(group.name for group in groups if group.device.name == name)
            yield Case(name=f"without-device-{name}", missing=gone)
    if len(groups) == 1 and len(_usable(groups[0])) == 1:
        raise BadInput(f"the cluster has one node, {_usable(groups[0])[0]}: nothing is left when it is lost")


def _usable(group: NodeGroup) -> list[str]:
    return [f"{group.name}/{node}" for node in range(group.count) if node not in group.excluded]


def family(kept: Replanner, most_lost: int = MOST_LOST, *, patience_s: float = 0.0) -> Iterator[Member]:
    """A member for every case, one after another.

    Args:
        kept: of the base plan.
        most_lost: nodes of one group that are lost together.
        patience_s: for each member, as of replan.
    """
    for case in cases(kept.cluster, kept.plan, most_lost):
        left = exclude(kept.cluster, case.missing)
        remaining = _shrunk(left)
        replanned, why_not = None, ""
        try:
            replanned = kept.replan(left, patience_s=patience_s)
        except Infeasible as error:
            why_not = str(error)
        yield Member(
            case=case,
            left_hash=cluster_hash(remaining),
            nodes=remaining.node_count,
            devices=remaining.device_count,
            replanned=replanned,
            why_not=why_not,
        )


def _shrunk(cluster: Cluster) -> Cluster:
    """The cluster as one that never had the excluded nodes."""
    groups = (replace(g, count=g.count - len(g.excluded), excluded=frozenset(), slow=()) for g in cluster.groups)
    return replace(cluster, groups=tuple(group for group in groups if group.count))
