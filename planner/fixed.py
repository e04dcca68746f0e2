"""Whether the degrees that a user fixed can be a split at all, before anything is searched.

Each impossible one is refused with its equation: what must divide what, or how many ranks there are for how many
devices. Whether the split fits into memory is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.engines import missing, runs
from nebula.planner.price import Prices
from nebula.planner.space import Limits, Split, divisors

DEGREES = ("data", "tensor", "pipeline", "sharding_degree", "micro_batch_rows")
STAGES = range(4)
"""Stages of ZeRO."""


class Fault(NamedTuple):
    """Why degrees are no split: the rule (of nebula.planner.space.RULES, or `value`, `sharding`) and its equation."""

    rule: str
    sentence: str


def check_fixed(prices: Prices, limits: Limits, device_kind: str) -> None:
    """Refuses fixed degrees of which no split can be made.

    Args:
        prices: of the graph on the devices.
        limits: of the space, with the fixed degrees.
        device_kind: as in the legality table.

    Raises:
        BadInput: the first equation that does not hold, with its numbers.
    """
    for fault in faults(prices, limits, device_kind):
        raise BadInput(f"objective.fixed: {fault.sentence}")


def faults(prices: Prices, limits: Limits, device_kind: str) -> Iterator[Fault]:
    """What is impossible about the fixed degrees; each is worked out as if those before it did not hold."""
    yield from _faults(prices.job, limits)
    fixed, graph = limits.fixed, prices.pricing.graph
    if "tensor" in fixed:
        yield from _uncut(prices, graph, _degree(fixed, "tensor"), _degree(fixed, "micro_batch_rows"))
    split = smallest_split(prices.job, limits)
    if not runs(split, prices.job, device_kind):
        why = "; ".join(missing(split, prices.job, device_kind))
        yield Fault("engine", f"no engine runs {_words(fixed)} on {prices.pool.device.name}: {why}")


def smallest_split(job: Job, limits: Limits) -> Split:
    """A split with the fixed degrees and of the others as little as they allow."""
    fixed = limits.fixed
    data, stage = least_data(job, fixed), _degree(fixed, "sharding", 0)
    asked = _degree(fixed, "sharding_degree")
    degree = asked if asked > 1 else data
    sharded = stage or asked > 1
    return Split(
        data=data,
        tensor=_degree(fixed, "tensor"),
        pipeline=_degree(fixed, "pipeline"),
        rows=1,
        sharding=Sharding(stage=stage or 1, degree=degree) if sharded else Sharding(),
        recompute=str(fixed.get("recompute", RECOMPUTE[0])),
    )


def least_data(job: Job, fixed: Mapping[str, object]) -> int:
    """Fewest replicas: those fixed, or as many as sharding asks for."""
    if "data" in fixed:
        return _degree(fixed, "data")
    degree = _degree(fixed, "sharding_degree")
    if degree > 1 or not _degree(fixed, "sharding", 0):
        return degree
    return next((d for d in divisors(job.global_batch) if d > 1), 2)


def _faults(job: Job, limits: Limits) -> Iterator[Fault]:
    """What the numbers alone make impossible."""
    fixed = limits.fixed
    yield from (Fault("value", sentence) for sentence in _bad_words(fixed))
    yield from (Fault("sharding", sentence) for sentence in _bad_sharding(fixed))
    data, rows = least_data(job, fixed), _degree(fixed, "micro_batch_rows")
    replicas = "data" if "data" in fixed else "sharding_degree"
    factors = {replicas: data, "micro_batch_rows": rows}
    factors = {name: n for name, n in factors.items() if n > 1}
    yield from (Fault("batch", sentence) for sentence in _undivided("global_batch", job.global_batch, factors))
    pipeline = _degree(fixed, "pipeline")
    if pipeline > limits.layers:
        yield Fault("layers", f"pipeline {pipeline} > {limits.layers} layers; each stage holds at least one")
    degrees = {"data": data, "tensor": _degree(fixed, "tensor"), "pipeline": pipeline}
    named = {name: n for name, n in degrees.items() if n > 1}
    ranks = data * degrees["tensor"] * pipeline
    if ranks > limits.devices:
        equation = " × ".join(f"{name} {n}" for name, n in named.items())
        equation += f" = {ranks}" if len(named) > 1 else ""
        implied = f"; sharding asks for data {data}" if data > 1 and "data" not in fixed else ""
        yield Fault("devices", f"{equation} > {limits.devices} devices{implied}")


def _bad_words(fixed: Mapping[str, object]) -> Iterator[str]:
    for name in DEGREES:
        value = fixed.get(name, 1)
        if not isinstance(value, int) or value < 1:
            yield f"{name} must be a whole number from 1 on, not {value!r}"
    if fixed.get("sharding", 0) not in STAGES:
        yield f"sharding stage {fixed['sharding']} is not 0..3"
    if fixed.get("recompute", RECOMPUTE[0]) not in RECOMPUTE:
        yield f"recompute {fixed['recompute']!r} is none of {', '.join(RECOMPUTE)}"


def _bad_sharding(fixed: Mapping[str, object]) -> Iterator[str]:
    stage, degree = fixed.get("sharding"), fixed.get("sharding_degree")
    if stage == 0 and degree not in (None, 1):
        yield f"sharding stage 0 cuts nothing, so sharding_degree {degree} != 1"
    if stage and degree == 1:
        yield f"sharding stage {stage} needs a sharding degree from 2 on, not 1"
    if stage and fixed.get("data") == 1:
        yield f"sharding stage {stage} cuts over replicas and needs data from 2 on, not 1"
    if degree is not None and "data" in fixed:
        yield from _undivided("data", _degree(fixed, "data"), {"sharding_degree": _degree(fixed, "sharding_degree")})


def _undivided(whole: str, number: int, factors: Mapping[str, int]) -> Iterator[str]:
    """`global_batch 8 % data 3 = 2`; the factors one by one, then their product."""
    for name, factor in factors.items():
        if number % factor:
            yield f"{whole} {number} % {name} {factor} = {number % factor}"
    product = " × ".join(f"{name} {factor}" for name, factor in factors.items())
    ranks = 1
    for factor in factors.values():
        ranks *= factor
    if number % ranks:
        yield f"{whole} {number} % ({product}) = {number % ranks}"


def _uncut(prices: Prices, graph: DistributedGraph, tensor: int, rows: int) -> Iterator[Fault]:
    """What the partition says of the first block that the degree does not cut evenly."""
    for index in sorted(set(graph.layers)):
        try:
            prices.pricing.chains.block(index, rows, tensor, False)
        except BadInput as error:
            yield Fault("shape", f"tensor {tensor}: {error}")
            return


def _degree(fixed: Mapping[str, object], name: str, default: int = 1) -> int:
    return int(str(fixed.get(name, default)))


def _words(fixed: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fixed.items())
