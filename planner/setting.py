"""What a search works on, for those who ask about splits that it did not choose: prices, limits and kind of device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import PRECISION_DTYPE, Job
from nebula.planner.placed_answer import placed_search
from nebula.planner.pool import equal_devices
from nebula.planner.price import Prices
from nebula.planner.search import Answer
from nebula.planner.space import Limits

Find = Callable[[Objective], Answer]
"""The best plan under an objective: nebula.planner.placed_answer.placed_search for one graph, cluster and job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One graph, cluster, job and objective.

    Attributes:
        prices: of splits over the devices that a search would use.
        limits: of the space, with the fixed degrees of the objective.
        device_kind: as in the legality table.
        find: the best plan under another objective.
    """

    objective: Objective
    prices: Prices
    limits: Limits
    device_kind: str
    find: Find

    def fixing(self, fixed: Mapping[str, int | str]) -> Setting:
        """The same with these degrees fixed, and no others."""
        return replace(
            self, objective=replace(self.objective, fixed=fixed), limits=replace(self.limits, fixed=dict(fixed))
        )

    def best(self) -> Answer:
        """The best plan.

        Raises:
            BadInput: the fixed degrees are no split.
            Infeasible: nothing fits into memory.
        """
        return self.find(self.objective)


def setting_of(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    find: Find | None = None,
    chains: Chains | None = None,
) -> Setting:
    """What a search of those works on.

    Args:
        find: how plans are found; by default by a search that tells nobody how far it is.
        chains: of the graph, whose blocks are cut already.

    Raises:
        BadInput: the cluster offers no device, or a fixed degree has an unknown name.
    """
    pool = equal_devices(cluster, PRECISION_DTYPE[job.precision], objective.exclude)
    return Setting(
        objective=objective,
        prices=Prices(graph, cluster, job, pool, chains),
        limits=Limits(
            devices=len(pool.devices),
            devices_per_node=pool.devices_per_node,
            layers=len(graph.layers),
            fixed=objective.fixed,
        ),
        device_kind="emulated" if pool.device.emulated else pool.device.kind,
        find=find or (lambda wanted: placed_search(graph, cluster, job, wanted)),
    )
