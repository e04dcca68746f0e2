"""The split that comes nearest to fitting into memory without doing so, of all that a setting allows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from nebula.errors import BadInput
from nebula.plan.values import Sharding
from nebula.planner.engines import runs
from nebula.planner.setting import Setting
from nebula.planner.space import Limits, Split, data_and_rows, policies, shardings, tensor_degrees


def leanest_above(setting: Setting) -> Split | None:
    """Of the splits that do not fit however their layers are dealt, the one that needs least.

    Looked for among those with the smallest micro-batches, as memory grows with their rows, and with each stage of
    sharding over as many replicas as may be; None when all of these fit.
    """
    prices, limits = setting.prices, setting.limits
    rows: dict[int, int] = {}
    for data, r in data_and_rows(prices.job, limits, Counter()):
        rows[data] = min(r, rows.get(data, r))
    ways = [
        Split(data=data, tensor=tensor, pipeline=most, rows=r, sharding=sharding, recompute=recompute)
        for tensor in cutting(setting)
        for data, r in rows.items()
        if (most := min(limits.layers, limits.devices // (tensor * data)))
        for recompute in policies(limits)
        for sharding in _widest(data, limits)
        if sharding.stage or data == min(rows)
    ]
    found: tuple[float, Split | None] = (math.inf, None)
    for way in ways:
        if runs(way, prices.job, setting.device_kind):
            found = _leaner(setting, way, found)
    return found[1]


def _leaner(setting: Setting, way: Split, found: tuple[float, Split | None]) -> tuple[float, Split | None]:
    """The bytes and the split that come nearest to fitting without doing so: found before, or with fewer stages."""
    prices, limits = setting.prices, setting.limits
    table = prices.leanest_deals(way, found[0])
    for stages in range(1, way.pipeline + 1):
        needed = table.value(stages)
        if prices.limit_bytes < needed < found[0] and limits.allows("pipeline", stages):
            found = needed, replace(way, pipeline=stages)
    return found


def _widest(data: int, limits: Limits) -> list[Sharding]:
    """Each allowed stage of sharding over the most replicas that are allowed."""
    widest = {each.stage: each for each in sorted(shardings(data, limits, Counter()), key=lambda each: each.degree)}
    return list(widest.values())


def cutting(setting: Setting) -> list[int]:
    """The tensor degrees of the space that divide what they must cut."""
    return [t for t in tensor_degrees(setting.limits, Counter()) if not shape_fault(setting, t)]


def shape_fault(setting: Setting, tensor: int) -> str:
    """What the partition says of the first block that a tensor degree does not cut evenly; empty when there is none."""
    pricing = setting.prices.pricing
    for index in sorted(set(pricing.graph.layers)):
        try:
            pricing.chains.block(index, 1, tensor, False)
        except BadInput as error:
            return f"tensor {tensor}: {error}"
    return ""
