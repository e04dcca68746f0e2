"""The papers' own case, predicted and not tuned to it, beside their figures: ERNIE 3.0 Titan on Ascend 910.

The figures are those of the ERNIE 3.0 Titan paper (arXiv:2112.12731) and of the paper on its training system
(arXiv:2112.02752), which report the same run; docs/published-cases.md says what they leave open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nebula.cluster.resize import with_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.fleet import Pricing
from nebula.graph.values import DistributedGraph
from nebula.models.describe import graph
from nebula.plan.job import RECOMPUTE, Objective
from nebula.plan.layout import uniform_stages
from nebula.plan.run_file import load_run
from nebula.plan.values import MadeFrom, Plan, Sharding
from nebula.planner.options import fits
from nebula.planner.placed_answer import placed_search
from nebula.planner.pool import places
from nebula.planner.scaling import scaling
from tests.bench.rows import Row

RUN = load_run(Path("examples/titan-1920.yaml"))
GRAPH = graph(RUN.model.preset, dtype="float16")

TENSOR, DATA = 8, 4
"""Devices of a tensor group, which is a node, and replicas (the latter from arXiv:2112.12731)."""

EVEN, AWARE = 49, 60
"""Stages of the even and of the resource-aware split: 1,568 and 1,920 devices, 22 % more."""

REPORTED_SPEED_UP, REPORTED_EFFICIENCY = 2.1, 91.7
"""Of the resource-aware split over the even one, and percent of weak scaling (both papers)."""

BATCHES = (480, 1920, 6144)
"""Rows of a step; the papers name none. The last is that of the 10 B model before (arXiv:2107.02137)."""

SLOW_KERNEL_S = 40e-6
"""A kernel's fixed cost where the host launches operators one by one."""

HELD = {"data": DATA, "tensor": TENSOR, "pipeline": AWARE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """How layers are dealt to stages, on four replicas of tensor groups of eight."""

    name: str
    boundaries: tuple[int, ...]

    @property
    def devices(self) -> int:
        """That it takes."""
        return TENSOR * DATA * (len(self.boundaries) - 1)


def by_number(layers: int, stages: int) -> tuple[int, ...]:
    """Boundaries of stages with equally many layers, the last ones with one more where they do not divide.

    It is what Paddle's PipelineLayer does where nobody says otherwise (`seg_method="uniform"`).

    Example:
        >>> by_number(7, 3)
        (0, 2, 4, 7)
    """
    size, more = divmod(layers, stages)
    return tuple(stage * size + max(0, stage - (stages - more)) for stage in range(stages + 1))


def apart(model: DistributedGraph, task_stages: int) -> tuple[int, ...]:
    """Boundaries of stages with one layer of the universal module each, and so many stages for all behind them."""
    first = model.layer_names.index("universal.0")
    behind = first + sum(name.startswith("universal") for name in model.layer_names)
    tasks = by_number(len(model.layer_names) - behind, task_stages)
    return (0, *range(first + 1, behind), *(behind + place for place in tasks))


def rows() -> Iterator[Row]:
    """Throughputs and their ratios, then weak scaling."""
    layers = len(GRAPH.layer_names)
    even = Deal(name="layers by number", boundaries=by_number(layers, EVEN))
    behind = Deal(name="all task layers in the last", boundaries=apart(GRAPH, 1))
    slow, slower = with_kernels(RUN.cluster, SLOW_KERNEL_S), f", {1e6 * SLOW_KERNEL_S:g} us a kernel"
    for batch in BATCHES:
        yield from _against((even, behind), RUN.cluster, batch, f"{batch:,} rows")
    yield from _against((even, behind), slow, BATCHES[1], f"{BATCHES[1]:,} rows{slower}")
    yield from _scaling()


def tokens_per_s(deal: Deal, cluster: Cluster, batch: int) -> float:
    """Predicted, under the recompute policy that fits and takes least; 0 when none fits."""
    sized = with_devices(cluster, deal.devices)
    pricing = Pricing(GRAPH, sized, replace(RUN.job, global_batch=batch))
    plans = (_plan(deal, sized, batch, policy) for policy in RECOMPUTE)
    predicted = [replace(plan, prediction=pricing.predict(plan)) for plan in plans]
    return max((plan.prediction.tokens_per_s for plan in predicted if plan.prediction and fits(plan)), default=0.0)


def planned_tokens_per_s(cluster: Cluster, batch: int, fixed: dict[str, int | str]) -> float:
    """Of the planner's choice."""
    job = replace(RUN.job, global_batch=batch)
    found = placed_search(GRAPH, cluster, job, Objective(fixed=fixed)).plan.prediction
    assert found is not None
    return found.tokens_per_s


def with_kernels(cluster: Cluster, kernel_s: float) -> Cluster:
    """The cluster with another fixed cost of a kernel."""
    slower = (replace(group, device=replace(group.device, kernel_s=kernel_s)) for group in cluster.groups)
    return replace(cluster, groups=tuple(slower))


def _against(deals: tuple[Deal, ...], cluster: Cluster, batch: int, told: str) -> Iterator[Row]:
    planned = planned_tokens_per_s(cluster, batch, HELD)
    yield Row(name=f"1,920: {AWARE} stages as planned, {told}", value=planned / 1e3, unit="ktok/s")
    for deal in deals:
        before = tokens_per_s(deal, cluster, batch)
        yield Row(name=f"{deal.devices:,}: {deal.name}, {told}", value=before / 1e3, unit="ktok/s")
        yield Row(name="    the plan is faster by", value=planned / before, unit="x", reported=REPORTED_SPEED_UP)
    if told.endswith("rows"):
        best = planned_tokens_per_s(cluster, batch, {})
        yield Row(name=f"1,920: any split, {told}", value=best / 1e3, unit="ktok/s")


def _scaling() -> Iterator[Row]:
    sizes = [TENSOR * AWARE * data for data in range(1, DATA + 1)]
    for batch, fixed, told in (
        (BATCHES[1], HELD, ""),
        (BATCHES[0], HELD, ", a quarter of the batch"),
        (BATCHES[1], {}, ", any split"),
    ):
        free = {name: value for name, value in fixed.items() if name != "data"}
        job = replace(RUN.job, global_batch=batch)
        for point in scaling(GRAPH, RUN.cluster, job, Objective(fixed=free), sizes=sizes)[1:]:
            name = f"weak scaling {sizes[0]} to {point.devices:,}{told}"
            reported = REPORTED_EFFICIENCY if point.devices == sizes[-1] else None
            yield Row(name=name, value=100.0 * point.efficiency, unit="%", reported=reported)


def _plan(deal: Deal, cluster: Cluster, batch: int, policy: str) -> Plan:
    stages = uniform_stages(
        boundaries=deal.boundaries,
        data=DATA,
        tensor=TENSOR,
        sharding=Sharding(),
        micro_batch_rows=1,
        recompute=policy,
    )
    return Plan(
        stages=stages,
        micro_batches=batch // DATA,
        schedule="1f1b",
        engine="fleet",
        ranks=places(cluster, list(range(deal.devices))),
        job=replace(RUN.job, global_batch=batch),
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )
