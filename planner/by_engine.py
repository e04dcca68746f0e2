"""The best plan that some engine executes on the devices at hand: fleet's, or the executor's where it wins clearly.

Both spaces are searched, the executor's by nebula.planner.explore held to what that engine runs; the second search
looks only for what would win against the first. Each answer says which engine it names, why, and what the other's best
takes; its bound holds for what was searched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster, NodeGroup
from nebula.cost_model.chain import Chains
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.legality import kind_of_device
from nebula.plan.values import Job
from nebula.planner.collection import seldom_collected
from nebula.planner.engine_choice import STOPPED, WORTH, Side, chosen, first_line
from nebula.planner.explore.extent import Extent, executor_extent
from nebula.planner.explore.search import NothingFaster, explore
from nebula.planner.explore.space import experts_of
from nebula.planner.placed_answer import placed_search
from nebula.planner.search import Answer, Told, beyond_fleet, check_objective
from nebula.planner.type_order import in_best_order
from nebula.units import format_seconds

LONG_TOKENS = 8192
"""From so many tokens of a row on ranks may well share a sequence."""

KEPT = 3
"""Plans of the executor that an answer holds with their full prediction."""

Enough = Callable[[float], bool]
"""Whether an answer will do, asked with the gap that is proved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a plan is asked for, and how.

    Attributes:
        graph: the model.
        cluster: what may be used.
        job: batch, precision, optimizer, memory to fill.
        objective: fixed degrees and nodes to leave out.
        token_wise: whether all elements of the model promise to work on each token by itself.
        chains: of the graph, whose blocks are cut already; None: they are cut anew.
        on_progress: called each time a plan has been priced.
        enough: asked with the gap that is proved in the executor's space, whether what was found will do.
        processes: as of both searches.
    """

    graph: DistributedGraph
    cluster: Cluster
    job: Job
    objective: Objective
    token_wise: bool = True
    chains: Chains | None = None
    on_progress: Told = lambda _: None
    enough: Enough = lambda _: False
    processes: int = 0


@seldom_collected()
def planned(asked: Asked, clock: Callable[[], float] = time.perf_counter) -> Answer:
    """The best plan for training a model on a cluster that some engine executes there.

    Raises:
        BadInput: the objective or the cluster cannot be used.
        Infeasible: no engine has a plan that fits into memory.
    """
    began_s = clock()
    check_objective(asked.objective)
    # what one search cuts the other need not cut again
    asked = asked if asked.chains else replace(asked, chains=Chains(asked.graph))
    engine = asked.objective.fixed.get("engine")
    if engine is not None:
        why, refused = f"objective.fixed.engine is {engine}", Side(bound_s=0.0)
        fleet = of_fleet(asked) if engine == "fleet" else replace(refused, why=why)
        executor = of_executor(asked) if engine == "executor" else replace(refused, why=why)
    elif evident(asked):
        executor = of_executor(asked)
        fleet = Side(why=STOPPED) if executor.interrupted else of_fleet(asked, executor.step_s)
    else:
        fleet = of_fleet(asked)
        executor = Side(why=STOPPED) if fleet.interrupted else of_executor(asked, fleet.step_s / (1.0 + WORTH))
    answer = chosen(fleet, executor)
    return replace(answer, seconds=clock() - began_s)


def evident(asked: Asked) -> bool:
    """Whether the executor is likely to win, so that its space is searched first.

    It is where degrees are fixed that fleet has not, for models with experts, on devices of several types and for long
    sequences.
    """
    several = len({group.device.name for group in usable(asked)}) > 1
    long = asked.graph.tokens_per_row >= LONG_TOKENS
    return bool(beyond_fleet(asked.objective.fixed)) or experts_of(asked.graph) > 1 or several or long


def usable(asked: Asked) -> list[NodeGroup]:
    """Groups of nodes of which some may be used."""
    left = exclude(asked.cluster, asked.objective.exclude)
    return [group for group in left.groups if len(group.excluded) < group.count]


def of_fleet(asked: Asked, executor_s: float = math.inf) -> Side:
    """The best plan of fleet; those that lose clearly against one of the executor's are not looked for."""
    try:
        answer = placed_search(
            asked.graph,
            asked.cluster,
            asked.job,
            asked.objective,
            chains=asked.chains,
            on_progress=asked.on_progress,
            processes=asked.processes,
            to_beat=executor_s * (1.0 + WORTH),
        )
    except (BadInput, Infeasible) as error:
        why = f"fleet has none: {first_line(error)}" if isinstance(error, BadInput) else "fleet has none that fits"
        if math.isfinite(executor_s):
            why = first_line(error)
        return Side(bound_s=executor_s * (1.0 + WORTH), why=why, error=error)
    return Side(answer=answer, bound_s=answer.bound_s)


def of_executor(asked: Asked, to_beat_s: float = math.inf) -> Side:
    """The best plan of the executor, plain CPUs left out.

    Args:
        to_beat_s: plans that take no less are not looked for.
    """
    kind_of_group = {group.name: kind_of_device(group.device) for group in usable(asked)}
    kinds = tuple(dict.fromkeys(kind for kind in kind_of_group.values() if kind != "cpu"))
    extent = executor_extent(asked.job, kinds, token_wise=asked.token_wise) if kinds else None
    if extent is None:
        return Side(bound_s=math.inf, why="the executor runs nothing on these devices")
    left_out = tuple(name for name, kind in kind_of_group.items() if kind == "cpu")
    objective = replace(asked.objective, exclude=(*asked.objective.exclude, *left_out))
    return _explored(replace(asked, objective=objective), extent, to_beat_s)


def _explored(asked: Asked, extent: Extent, to_beat_s: float) -> Side:
    args = asked.graph, asked.cluster, asked.job, asked.objective
    on_progress, enough = asked.on_progress, asked.enough
    try:
        found = explore(
            *args,
            on_progress=on_progress,
            enough=enough,
            processes=asked.processes,
            extent=extent,
            to_beat_s=to_beat_s,
            kept=KEPT,
            chains=asked.chains,
        )
        answer = in_best_order(found, *args, on_progress=on_progress, enough=enough, extent=extent)
    except NothingFaster as nothing:
        why = f"the executor has none that takes less than {format_seconds(nothing.bound_s)}"
        return Side(bound_s=nothing.bound_s, why=why, error=nothing)
    except (BadInput, Infeasible) as error:
        why = "that fits" if isinstance(error, Infeasible) else f"at all: {first_line(error)}"
        return Side(bound_s=math.inf, why=f"the executor has none {why}", error=error)
    return Side(answer=answer, bound_s=answer.bound_s)
