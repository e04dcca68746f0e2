"""In which order the nodes of a cluster of unlike devices are given up when a plan on fewer of them is sought.

By what computing costs on a device type, in the measure of the aim: those nodes go first whose floating point operation
costs most money, takes most energy or most time. All nodes of a type go before any of the next; other choices of nodes
are not tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from nebula.cluster.places import node_name
from nebula.cluster.values import Cluster, DeviceType
from nebula.plan.job import Objective
from nebula.plan.values import PRECISION_DTYPE, Job
from nebula.planner.explore.pools import pools_of


def given_up(cluster: Cluster, job: Job, objective: Objective) -> tuple[tuple[str, ...], ...]:
    """Names of the nodes of each device type, those that are given up last first.

    Args:
        cluster: what may be used.
        job: whose precision tells how fast devices compute.
        objective: the aim, and what is left out.

    Raises:
        BadInput: the cluster offers no device.
    """
    pools, dtype = pools_of(cluster, objective.exclude), PRECISION_DTYPE[job.precision]
    found = sorted(
        zip(pools.types, pools.devices, strict=True), key=lambda pair: operation_cost(pair[0], dtype, objective)
    )
    return tuple(tuple(dict.fromkeys(node_name(cluster, int(d)) for d in devices)) for _, devices in found)


def operation_cost(kind: DeviceType, dtype: str, objective: Objective) -> float:
    """What a floating point operation costs on a device type in money or joules, or the seconds that it takes.

    A price or a power that is not known counts as 0; who pays for it says so when the plan is known.
    """
    seconds = 1.0 / (kind.peak(dtype) * kind.product_efficiency)
    if objective.minimise == "energy":
        return kind.power_w * seconds
    if objective.minimise == "cost" or objective.budget:
        return kind.price_per_hour / 3600.0 * seconds
    return seconds


def order_words(order: Sequence[Sequence[str]], cluster: Cluster) -> tuple[str, ...]:
    """A sentence on the order of several device types; none on one."""
    kinds = {group.name: group.device.name for group in cluster.groups}
    names = [kinds[nodes[0].rpartition("/")[0]] for nodes in reversed(order)]
    if len(names) < 2:
        return ()
    return (f"Fewer nodes are those without {', then '.join(names[:-1])}: computing costs most there.",)
