"""When nothing fits: by how much memory is exceeded in the best case, and which single change would make it fit.

Each remedy is found by computing: the least memory that any split needs is worked out again with the change made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from nebula.errors import BadInput, Infeasible
from nebula.planner.offloaded import offload_words
from nebula.planner.price import Prices
from nebula.planner.space import Limits, Split, data_and_rows, policies, shardings, tensor_degrees
from nebula.units import format_bytes

MOST_TIMES = 4096
"""Up to so many times the offered devices are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leanest:
    """The split whose fullest device holds least, and how much that is."""

    split: Split
    bytes: float


def infeasible(prices: Prices, limits: Limits) -> Infeasible:
    """The error that says what is missing.

    Returns:
        An error whose text names the leanest split, the bytes by which it exceeds the limit, and computed remedies.
    """
    best = leanest(prices, limits)
    device, limit = prices.pool.device, prices.limit_bytes
    if best is None:
        return Infeasible(
            f"no split of {limits.layers} layers over {limits.devices} {device.name} has the degrees that "
            f"objective.fixed asks for: {dict(limits.fixed)}; relax one"
        )
    over = best.bytes - limit
    text = (
        f"{prices.pricing.graph.name} does not fit on {limits.devices} {device.name}: even the leanest split "
        f"({describe(best.split)}) needs {format_bytes(best.bytes)} on its fullest device, "
        f"{format_bytes(over)} more than the {format_bytes(limit)} that "
        f"objective.limits.memory_fraction={prices.job.memory_fraction:g} allows"
    )
    return Infeasible(f"{text}; {', or '.join(remedies(prices, limits))}")


def describe(split: Split) -> str:
    """A split in words."""
    sharding = f", sharding stage {split.sharding.stage} over {split.sharding.degree}" if split.sharding.stage else ""
    return (
        f"data {split.data}, tensor {split.tensor}, pipeline {split.pipeline}{sharding}, recompute {split.recompute}, "
        f"micro-batches of {split.rows} row{'s' if split.rows > 1 else ''}"
    )


def leanest(prices: Prices, limits: Limits) -> Leanest | None:
    """The split whose fullest device holds least; None when the fixed degrees leave no split."""
    found: Leanest | None = None
    for tensor in tensor_degrees(limits, Counter()):
        for data, rows in _smallest_rows(prices, limits):
            for recompute in policies(limits):
                stages = min(limits.layers, limits.devices // (tensor * data))
                if stages >= 1 and (lean := _leanest_of(prices, limits, tensor, data, rows, recompute, stages)):
                    found = min((f for f in (found, lean) if f), key=lambda f: f.bytes)
    return found


def remedies(prices: Prices, limits: Limits) -> Iterator[str]:
    """Single changes that make it fit, each computed."""
    best = leanest(prices, limits)
    assert best is not None
    whole = prices.pool.device.memory_bytes
    if best.bytes <= whole:
        yield f"objective.limits.memory_fraction={best.bytes / whole + 0.005:.2f} would do"
    for name, value in limits.fixed.items():
        freed = leanest(prices, replace(limits, fixed=_without(limits.fixed, name)))
        if freed and freed.bytes <= prices.limit_bytes:
            yield f"without {name}={value} it fits ({describe(freed.split)}: {format_bytes(freed.bytes)})"
    if words := offload_words(prices, best.split):
        yield words
    more = enough_devices(prices, limits, best)
    if more:
        yield f"{more} devices would hold it"
    mebibytes = ceil(best.bytes / prices.job.memory_fraction / 2**20)
    yield f"{limits.devices} devices with {mebibytes:,} MiB each would hold it"


def enough_devices(prices: Prices, limits: Limits, best: Leanest) -> int:
    """The fewest devices, in whole nodes, that hold the model split like `best` with other data and pipeline degrees.

    Returns:
        0 when even MOST_TIMES the devices do not hold it.
    """
    step = limits.devices_per_node

    def fits(devices: int) -> bool:
        fixed = {**limits.fixed, "tensor": best.split.tensor, "recompute": best.split.recompute}
        lean = leanest(prices, replace(limits, devices=devices, fixed=fixed))
        return lean is not None and lean.bytes <= prices.limit_bytes

    high = max(limits.devices // step, 1)
    while not fits(high * step):
        high *= 2
        if high * step > MOST_TIMES * limits.devices:
            return 0
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle * step) else (middle, high)
    return high * step


def _leanest_of(
    prices: Prices, limits: Limits, tensor: int, data: int, rows: int, recompute: str, stages: int
) -> Leanest | None:
    """The leanest split of those degrees over any number of stages."""
    allowed = list(shardings(data, limits, Counter()))
    if not allowed:
        return None
    sharding = max(allowed, key=lambda s: (s.stage, s.degree))
    split = Split(data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=sharding, recompute=recompute)
    try:
        table = prices.leanest_deals(split)
    except BadInput:
        return None
    needs = [(table.value(p), p) for p in range(1, stages + 1) if limits.allows("pipeline", p)]
    if not needs:
        return None
    least, pipeline = min(needs)
    return Leanest(split=replace(split, pipeline=pipeline), bytes=least)


def _smallest_rows(prices: Prices, limits: Limits) -> list[tuple[int, int]]:
    """For each number of replicas the smallest micro-batch: memory grows with its rows."""
    pairs: dict[int, int] = {}
    for data, rows in data_and_rows(prices.job, limits, Counter()):
        pairs[data] = min(rows, pairs.get(data, rows))
    return list(pairs.items())


def _without(fixed: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in fixed.items() if key != name}
