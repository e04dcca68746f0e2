"""The split that comes nearest to fitting into memory without doing so, of all that a setting allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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
    found = [
        held
        for tensor in cutting(setting)
        for data, r in rows.items()
        for recompute in policies(limits)
        for sharding in _widest(data, limits)
        if sharding.stage or data == min(rows)
        for held in _least_above(setting, (data, tensor, r), sharding, recompute)
    ]
    return min(found, key=lambda held: held[0])[1] if found else None


def _least_above(
    setting: Setting, degrees: tuple[int, int, int], sharding: Sharding, recompute: str
) -> Iterator[tuple[float, Split]]:
    """The bytes and the number of stages that come nearest to fitting without doing so."""
    prices, limits = setting.prices, setting.limits
    data, tensor, rows = degrees
    most = min(limits.layers, limits.devices // (tensor * data))
    split = Split(data=data, tensor=tensor, pipeline=max(most, 1), rows=rows, sharding=sharding, recompute=recompute)
    if most < 1 or not runs(split, prices.job, setting.device_kind):
        return
    table = prices.leanest_deals(split)
    for stages in range(1, most + 1):
        needed = table.value(stages)
        if needed > prices.limit_bytes and limits.allows("pipeline", stages):
            yield needed, replace(split, pipeline=stages)


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
