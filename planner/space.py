"""Which splits of a model over equal devices there are, and which of them a rule leaves out before any is priced.

Every rule has a name, a sentence and a count, so that nothing is dropped silently. Which stage holds which layers is
not decided here (stages.py), nor what anything costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nebula.errors import BadInput, closest
from nebula.plan.job import FIXABLE, RECOMPUTE
from nebula.plan.values import Job, Sharding

RULES = {
    "devices": "more ranks than devices",
    "batch": "replicas times micro-batch rows do not divide the global batch",
    "node": "a tensor group does not fit evenly into a node",
    "layers": "more stages than layers",
    "shape": "the tensor degree does not divide what it has to cut",
    "fixed": "the user asked for another degree",
    "engine": "no engine can run it on these devices",
    "wan": "a tensor or sharding group would cross a WAN, which only pipeline and data may",
    "memory": "does not fit into device memory",
    "bound": "cannot beat what was found, by its lower bound",
}
"""Names of the reasons for which a candidate is left out, and what they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split before its layers are dealt to stages.

    Attributes:
        data: replicas, those of a sharding group included.
        tensor: ranks of one replica of one stage.
        pipeline: stages.
        rows: of a micro-batch of one replica.
        sharding: stage and degree of ZeRO.
        recompute: policy of every stage.
    """

    data: int
    tensor: int
    pipeline: int
    rows: int
    sharding: Sharding
    recompute: str

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.data * self.tensor * self.pipeline

    def sharded(self, sharding: Sharding) -> Split:
        """The split with another sharding; sooner than by `replace`."""
        return Split(
            data=self.data,
            tensor=self.tensor,
            pipeline=self.pipeline,
            rows=self.rows,
            sharding=sharding,
            recompute=self.recompute,
        )

    def micro_batches(self, job: Job) -> int:
        """Micro-batches of one replica in one step."""
        return job.global_batch // (self.data * self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the space.

    Attributes:
        devices: how many may be used.
        devices_per_node: of the smallest node.
        layers: of the model.
        fixed: degrees that the user asked for.
        batches: rows of one step of other jobs that replicas times micro-batch rows must divide as well.
    """

    devices: int
    devices_per_node: int
    layers: int
    fixed: Mapping[str, object]
    batches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in self.fixed:
            if name not in FIXABLE:
                raise BadInput(f"objective.fixed: {name!r} is no degree; {closest(name, FIXABLE)}")

    def allows(self, name: str, value: object) -> bool:
        """Whether the user left this open or asked for just this."""
        return self.fixed.get(name, value) == value


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    Example:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


def tensor_degrees(limits: Limits, cut: Counter[str]) -> Iterator[int]:
    """Tensor degrees worth pricing: divisors of a node's devices, or what the user fixed."""
    asked = limits.fixed.get("tensor")
    if asked is not None:
        yield int(str(asked))
        return
    for degree in range(1, limits.devices_per_node + 1):
        if limits.devices_per_node % degree == 0:
            yield degree
        else:
            cut["node"] += 1


def data_and_rows(job: Job, limits: Limits, cut: Counter[str]) -> Iterator[tuple[int, int]]:
    """Pairs of replicas and micro-batch rows whose product divides the global batch."""
    whole = math.gcd(job.global_batch, *limits.batches)
    for data in divisors(whole):
        for rows in divisors(whole // data):
            if data > limits.devices:
                cut["devices"] += 1
            elif limits.allows("data", data) and limits.allows("micro_batch_rows", rows):
                yield data, rows
            else:
                cut["fixed"] += 1


def shardings(data: int, limits: Limits, cut: Counter[str]) -> Iterator[Sharding]:
    """No sharding, and stages 1 to 3 over every divisor of the replicas."""
    every = [Sharding()] + [Sharding(stage=s, degree=d) for s in (1, 2, 3) for d in divisors(data) if d > 1]
    for sharding in every:
        if limits.allows("sharding", sharding.stage) and limits.allows("sharding_degree", sharding.degree):
            yield sharding
        else:
            cut["fixed"] += 1


def policies(limits: Limits) -> list[str]:
    """Recompute policies to try."""
    return [policy for policy in RECOMPUTE if limits.allows("recompute", policy)]
