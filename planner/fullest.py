"""What one split needs on its fullest device: which stage that is, how far above the limit, and what would help.

The layers are dealt so that the fullest device holds least; the figures are those of a whole plan, buffers included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from nebula.errors import BadInput
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Plan, Prediction, Sharding, StageMemory
from nebula.planner.engines import runs
from nebula.planner.offloaded import leanest_plan, offload_words, unpriced_plan
from nebula.planner.setting import Setting
from nebula.planner.space import Split, divisors
from nebula.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fullest:
    """The fullest device of a split.

    Attributes:
        plan: of the split, with its prediction.
        stage: of the fullest device.
        memory: what it holds.
    """

    plan: Plan
    stage: int
    memory: StageMemory

    @property
    def over_bytes(self) -> float:
        """Bytes above the limit; negative where it fits."""
        return self.memory.total_bytes - self.memory.limit_bytes

    @property
    def sentence(self) -> str:
        """`stage 0 needs 40 GiB, 10.6 GiB more than the 29.4 GiB that ... allows`."""
        fraction = self.plan.job.memory_fraction
        return (
            f"stage {self.stage} needs {format_bytes(self.memory.total_bytes)} on a device, "
            f"{format_bytes(self.over_bytes)} more than the {format_bytes(self.memory.limit_bytes)} that "
            f"objective.limits.memory_fraction={fraction:g} allows"
        )


def fullest(setting: Setting, split: Split) -> Fullest:
    """The fullest device of a split whose layers are dealt so that it holds least.

    Raises:
        BadInput: the tensor degree does not divide what it has to cut.
    """
    plan = leanest_plan(setting.prices, split)
    plan = replace(plan, prediction=setting.prices.pricing.predict(plan))
    assert plan.prediction is not None
    stage, memory = max(enumerate(plan.prediction.memory), key=lambda pair: pair[1].total_bytes)
    return Fullest(plan=plan, stage=stage, memory=memory)


def too_full(prediction: Prediction) -> str:
    """The first stage that needs more than a plan may fill, in words; empty when all fit."""
    for stage, held in enumerate(prediction.memory):
        if held.total_bytes > held.limit_bytes:
            return (
                f"stage {stage} needs {format_bytes(held.total_bytes)} > {format_bytes(held.limit_bytes)} of a device"
            )
    return ""


def plan_of(setting: Setting, split: Split, boundaries: tuple[int, ...]) -> Plan:
    """The plan of a split and its boundaries, with its prediction."""
    plan = unpriced_plan(setting.prices, split, boundaries)
    return replace(plan, prediction=setting.prices.pricing.predict(plan))


def changes(setting: Setting, split: Split) -> Iterator[str]:
    """Single changes with which a split that does not fit would, each computed: one of each kind, the least first."""
    alone = True
    for kind in (_more_recompute, _more_sharding, _fewer_rows, _more_stages):
        for other in kind(setting, split):
            held = fullest(setting, other)
            if held.over_bytes <= 0:
                alone = False
                yield f"{_changed(split, other)} would do ({format_bytes(held.memory.total_bytes)})"
                break
    # no engine offloads yet, so that it is told where nothing else would do
    if alone and (words := offload_words(setting.prices, split)):
        yield words
    memory = fullest(setting, split).memory
    whole = setting.prices.pool.device.memory_bytes
    if memory.total_bytes <= whole:
        yield f"objective.limits.memory_fraction={ceil(memory.total_bytes / whole * 1000) / 1000:.3f} would do"
    mebibytes = ceil(memory.total_bytes / setting.prices.job.memory_fraction / 2**20)
    yield f"devices with {mebibytes:,} MiB each would do"


def _more_recompute(setting: Setting, split: Split) -> Iterator[Split]:
    for policy in RECOMPUTE[RECOMPUTE.index(split.recompute) + 1 :]:
        if setting.limits.allows("recompute", policy):
            yield from _possible(setting, replace(split, recompute=policy))


def _more_sharding(setting: Setting, split: Split) -> Iterator[Split]:
    """The stage of ZeRO first, then more replicas that share."""
    degree, limits = split.sharding.degree, setting.limits
    degrees = [d for d in divisors(split.data) if d >= max(degree, 2)]
    for more in degrees:
        for stage in range(max(split.sharding.stage, 1), 4):
            sharding = Sharding(stage=stage, degree=more)
            allowed = limits.allows("sharding", stage) and limits.allows("sharding_degree", more)
            if allowed and sharding != split.sharding:
                yield from _possible(setting, replace(split, sharding=sharding))


def _fewer_rows(setting: Setting, split: Split) -> Iterator[Split]:
    for rows in reversed([d for d in divisors(split.rows) if d < split.rows]):
        if setting.limits.allows("micro_batch_rows", rows):
            yield from _possible(setting, replace(split, rows=rows))


def _more_stages(setting: Setting, split: Split) -> Iterator[Split]:
    limits = setting.limits
    for stages in range(split.pipeline + 1, min(limits.layers, limits.devices // (split.data * split.tensor)) + 1):
        if limits.allows("pipeline", stages):
            yield from _possible(setting, replace(split, pipeline=stages))


def _possible(setting: Setting, split: Split) -> Iterator[Split]:
    """The split, if an engine runs it and it can be cut."""
    if not runs(split, setting.prices.job, setting.device_kind):
        return
    try:
        setting.prices.spans(split.tensor, split.rows, split.recompute)
    except BadInput:
        return
    yield split


def _changed(before: Split, after: Split) -> str:
    """The degree that differs, as `objective.fixed` would take it."""
    if after.recompute != before.recompute:
        return f"recompute={after.recompute}"
    if after.rows != before.rows:
        return f"micro_batch_rows={after.rows}"
    if after.pipeline != before.pipeline:
        return f"pipeline={after.pipeline}"
    if after.sharding.stage != before.sharding.stage:
        over = f",sharding_degree={after.sharding.degree}" if after.sharding.degree != before.sharding.degree else ""
        return f"sharding={after.sharding.stage}{over}"
    return f"sharding_degree={after.sharding.degree}"
