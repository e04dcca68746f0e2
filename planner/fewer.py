"""What a plan would be on fewer nodes: for time against money without a search for each number of them.

Plans near the given one, of the same tensor degree; aims.py searches all plans.
"""

from __future__ import annotations

from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan
from nebula.planner.replan import Replanner


def near_on_fewer_nodes(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> list[Plan]:
    """The fastest plans near a plan on half of its nodes, a quarter and so on, as long as there are any.

    Args:
        graph: the model.
        cluster: that the plan is for.
        plan: with its prediction; plans with experts or context parallelism have none near them.
    """
    try:
        replanner = Replanner(graph, cluster, plan)
    except BadInput:
        return []
    nodes = list(dict.fromkeys(place.node for place in plan.ranks))
    every = [f"{group.name}/{index}" for group in cluster.groups for index in range(group.count)]
    found: list[Plan] = []
    while len(nodes) > 1:
        nodes = nodes[: -(-len(nodes) // 2)]
        kept = set(nodes)
        options = replanner.near(exclude(cluster, [name for name in every if name not in kept]))
        if not options:
            break
        found.append(min(options, key=lambda option: option.step_s).plan)
    return found
