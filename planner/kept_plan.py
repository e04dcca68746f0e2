"""The one plan that trains several phases best, looked for near a plan that serves them all.

Sharding, micro-batch rows and what is computed again are changed, one at a time, as long as that makes all phases
together shorter. Replicas, tensor groups, stages and devices stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from nebula.plan.values import Plan
from nebula.planner.space import Limits, divisors, policies, shardings
from nebula.planner.stretch import Way, way_of, with_policy

Taken = Callable[[Plan], float]
"""Seconds that all phases take under a plan; infinite where it does not serve in one."""


def descended(plan: Plan, taken_s: Taken, fixed: Mapping[str, int | str], batch: int) -> Plan:
    """The plan, or a better one near it.

    Args:
        plan: that serves in all phases.
        taken_s: what is to be least.
        fixed: degrees that the user asked for.
        batch: what replicas times rows must divide.
    """
    known: dict[Way, float] = {way_of(plan): taken_s(plan)}
    while True:
        for near in variations(plan, fixed, batch):
            if way_of(near) not in known:
                known[way_of(near)] = taken_s(near)
        best = min(variations(plan, fixed, batch), key=lambda near: known[way_of(near)])
        if known[way_of(best)] >= known[way_of(plan)]:
            return plan
        plan = best


def variations(plan: Plan, fixed: Mapping[str, int | str], batch: int) -> Iterator[Plan]:
    """The plan with another sharding, number of rows or recompute policy, and as it is."""
    first = plan.stages[0]
    limits = Limits(devices=plan.world_size, devices_per_node=1, layers=first.layers[1], fixed=fixed)
    for sharding in shardings(first.data, limits, Counter()):
        yield replace(plan, stages=tuple(replace(stage, sharding=sharding) for stage in plan.stages))
    own = first.replicas[0].micro_batch_rows
    for rows in divisors(batch // first.data):
        if limits.allows("micro_batch_rows", rows):
            yield with_policy(plan, rows, first.recompute)
    for recompute in policies(limits):
        yield with_policy(plan, own, recompute)
