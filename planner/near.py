"""Plans near one that ran: the same tensor degree, and every number of replicas and stages that the devices allow.

The tensor degree decides how the model is cut and what is warm in a Pricing, so these plans are found in a fraction of
a second: each way of running is bounded by its work, the promising ones are dealt layers, the best are priced exactly
by nebula.planner.replan. What another tensor degree could gain is search.py's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from nebula.cost_model.candidates import Candidates, Way
from nebula.cost_model.communication import Levels
from nebula.cost_model.groups import Groups, uniform_groups
from nebula.cost_model.many import Many
from nebula.cost_model.spans import Spans, Sums
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Plan, Sharding
from nebula.planner.deals import Cost, Deals, deal, every_run, moved
from nebula.planner.engines import runs
from nebula.planner.holdings import Floats
from nebula.planner.pool import Pool
from nebula.planner.space import Split, divisors
from nebula.planner.stages import Busy, geometric_bound

MOST_DEALS = 16
"""Ways that are dealt layers, the most promising first."""

TOLERATED = 1.1
"""Plans whose step takes longer than the best one's by this factor are of no use, however little they move."""

FEWER = 2
"""Ways that differ from the old one in as little as can be: so many are looked at in any case."""

PIPELINES = 2
"""Numbers of stages of one way that are looked at further."""

CLIMBS = 6
"""Steps of one layer across a border that boundaries are improved by."""

SLACK = 3e-3
"""How far above the least bound boundaries may lie: few stages near the worst matter more than the last permille."""

SCHEDULE = "1f1b"


class Dealt(NamedTuple):
    """A way with its boundaries and about how long its step takes."""

    way: Way
    boundaries: tuple[int, ...]
    step_s: float


class Near:
    """The neighbourhood of a plan on a pool of devices.

    Args:
        many: prices on the devices of the pool.
        pool: the devices.
        plan: that ran.
        fixed: degrees that the user asked for.
    """

    def __init__(self, many: Many, pool: Pool, plan: Plan, fixed: Mapping[str, object]) -> None:
        self.many, self.pool, self.plan, self.fixed = many, pool, plan, fixed
        self.pricing = many.pricing
        self._levels: dict[int, Levels] = {}
        self._known: dict[tuple[int, int, int], Groups] = {}

    @cached_property
    def ways(self) -> list[tuple[Way, float]]:
        """Every way with as many stages as there is room for, and a step time that it cannot beat; the least first."""
        return sorted(self._ways(), key=lambda pair: pair[1])

    def best(self, number: int) -> list[Dealt]:
        """The best of the neighbourhood, none twice; empty when nothing fits."""
        found: list[tuple[float, Way, Deals]] = []
        to_beat_s = np.inf
        for way, bound_s in self.ways[:MOST_DEALS]:
            if bound_s >= to_beat_s:
                break
            found += self._deals(way, to_beat_s)
            found = sorted(found, key=lambda each: each[0])[:number]
            if found:
                to_beat_s = found[-1][0] if len(found) == number else TOLERATED * found[0][0]
        return [Dealt(way, table.boundaries(way.pipeline, SLACK), step_s) for step_s, way, table in found]

    def first(self) -> list[Dealt]:
        """What to look at in any case: the same stages on fewer replicas, and the same replicas on fewer stages."""
        before, devices = self.plan, len(self.pool.devices)
        bounds = (0, *(stage.layers[1] for stage in before.stages))
        stages, tensor, recompute = len(before.stages), before.stages[0].tensor, before.stages[0].recompute
        fit = [way for way, _ in self.ways if way.recompute == recompute]
        fewer = sorted({way.data for way in fit if way.data * tensor * stages <= devices})[-FEWER:]
        same = [way._replace(pipeline=stages) for way in fit if way.data in fewer and way.pipeline >= stages]
        same = [way for way in same if self._allows("pipeline", stages)]
        found = [Dealt(way, bounds, step_s) for way, step_s in zip(same, self._seconds(same, bounds), strict=True)]
        own = (before.stages[0].data, before.stages[0].sharding, before.stages[0].replicas[0].micro_batch_rows)
        alike = [way for way in fit if (way.data, way.sharding, way.rows) == own]
        shorter = [deals for way in alike for deals in self._deals(way, np.inf)]
        found += [Dealt(way, table.boundaries(way.pipeline, SLACK), step_s) for step_s, way, table in shorter]
        return [each for each in sorted(found, key=lambda each: each.step_s)[:FEWER] if each.step_s < np.inf]

    def _seconds(self, ways: list[Way], boundaries: tuple[int, ...]) -> list[float]:
        """Exact step times of ways with the same boundaries; infinite where they do not fit."""
        if not ways:
            return []
        priced = self.many.price(Candidates.of([(way, [boundaries]) for way in ways]))
        seconds: list[float] = np.where(priced.fits, priced.step_s, np.inf).tolist()
        return seconds

    def improved(self, dealt: Dealt) -> Dealt:
        """The same way after single layers were moved across borders for as long as the step got shorter."""
        for _ in range(CLIMBS):
            near = [dealt.boundaries, *map(tuple, moved(dealt.boundaries).tolist())]
            priced = self.many.price(Candidates.of([(dealt.way, near)]))
            step_s = np.where(priced.fits, priced.step_s, np.inf)
            best = int(step_s.argmin())
            dealt = Dealt(dealt.way, near[best], float(step_s[best]))
            if best == 0:
                break
        return dealt

    def _ways(self) -> Iterator[tuple[Way, float]]:
        first, job, layers = self.plan.stages[0], self.pricing.job, len(self.pricing.graph.layers)
        kind = "emulated" if self.pool.device.emulated else self.pool.device.kind
        tensor, rows = first.tensor, sorted({1, first.replicas[0].micro_batch_rows})
        if not self._allows("tensor", tensor) or self.pool.devices_per_node % tensor:
            return
        for data, row, recompute in product(divisors(job.global_batch), rows, RECOMPUTE):
            pipeline = min(layers, len(self.pool.devices) // (tensor * data))
            if pipeline < 1 or job.global_batch % (data * row):
                continue
            spans = self._spans(tensor, row, recompute)
            m = job.global_batch // (data * row)
            for sharding in self._shardings(data):
                way = Way(pipeline, SCHEDULE, tensor, row, recompute, data, sharding)
                if self._asked(way) and runs(split_of(way), job, kind):
                    yield way, _bound_s(spans, way, m)

    def _shardings(self, data: int) -> list[Sharding]:
        """None, and over as many replicas as before, the next fewer, the next more, and all."""
        before = self.plan.stages[0].sharding
        degrees = [d for d in divisors(data) if d > 1]
        fewer = [d for d in degrees if d <= before.degree][-1:]
        more = [d for d in degrees if d > before.degree][:1]
        chosen = sorted({*fewer, *more, *degrees[-1:]})
        stages = {before.stage or 1, int(str(self.fixed.get("sharding", 1))) or 1}
        return [Sharding(), *(Sharding(stage=stage, degree=d) for stage in sorted(stages) for d in chosen)]

    def allows(self, plan: Plan) -> bool:
        """Whether a plan has the degrees that the user asked for."""
        first = plan.stages[0]
        rows = first.replicas[0].micro_batch_rows
        way = Way(len(plan.stages), plan.schedule, first.tensor, rows, first.recompute, first.data, first.sharding)
        return self._asked(way) and self._allows("tensor", way.tensor) and self._allows("pipeline", way.pipeline)

    def _asked(self, way: Way) -> bool:
        named = {
            "data": way.data,
            "micro_batch_rows": way.rows,
            "sharding": way.sharding.stage,
            "sharding_degree": way.sharding.degree,
            "recompute": way.recompute,
            "schedule": way.schedule,
        }
        return all(self._allows(name, value) for name, value in named.items())

    def _allows(self, name: str, value: object) -> bool:
        return self.fixed.get(name, value) == value

    def _spans(self, tensor: int, rows: int, recompute: str) -> Spans:
        if tensor not in self._levels:
            self._levels[tensor] = self.pricing.fabric.levels(self.pool.devices[:tensor])
        levels = self._levels[tensor]
        return self.pricing.spans(
            rows=rows, tensor=tensor, levels=levels, sequence=False, device=self.pool.device, policy=recompute
        )

    def _deals(self, way: Way, to_beat_s: float) -> Iterator[tuple[float, Way, Deals]]:
        """The way with its layers dealt to the numbers of stages that take the least time, less than to_beat_s."""
        m = self.pricing.job.global_batch // (way.data * way.rows)
        spans, groups = self._spans(way.tensor, way.rows, way.recompute), self._groups(way)
        table = _dealt(spans, way, m, groups, self.many.limit_bytes, to_beat_s)
        values = [(table.value(p), p) for p in range(1, way.pipeline + 1) if self._allows("pipeline", p)]
        for step_s, p in sorted(values)[:PIPELINES]:
            if step_s < to_beat_s:
                yield step_s, way._replace(pipeline=p), table

    def _groups(self, way: Way) -> Groups:
        """Whom the ranks of a stage meet: those of the stage in the middle stand for all."""
        key = (way.data, way.pipeline, way.sharding.degree)
        if key not in self._known:
            self._known[key] = self._met(way)
        return self._known[key]

    def _met(self, way: Way) -> Groups:
        pipeline, middle = way.pipeline, way.pipeline // 2
        devices = self.many.devices[: way.data * way.tensor * pipeline]
        grid = devices.reshape(-1, pipeline, way.sharding.degree, way.tensor).transpose(1, 0, 2, 3)
        neighbours = grid[max(0, middle - 1) : middle + 2]
        held = neighbours.reshape(len(neighbours), way.data, way.tensor)
        return uniform_groups(held, way.sharding.degree, self.pricing.fabric)[min(1, middle)]


def split_of(way: Way) -> Split:
    """A way as the planner's rules name it."""
    return Split(
        data=way.data,
        tensor=way.tensor,
        pipeline=way.pipeline,
        rows=way.rows,
        sharding=way.sharding,
        recompute=way.recompute,
    )


def _bound_s(spans: Spans, way: Way, micro_batches: int) -> float:
    """A step time that the way cannot beat, with up to as many stages: its work and updates over all of them."""
    work_s = spans.work_s(micro_batches, way.sharding, Groups())
    update_s = float(spans.update(spans.whole, way.sharding, 1.0))
    even_s = (micro_batches * work_s + update_s) / way.pipeline
    return max(even_s, micro_batches * spans.widest_s, geometric_bound(work_s, micro_batches, way.pipeline))


def _dealt(spans: Spans, way: Way, micro_batches: int, groups: Groups, limit_bytes: float, to_beat_s: float) -> Deals:
    """Layers dealt to up to way.pipeline stages as if all of them lay alike, by the bound of nebula.planner.stages.

    Runs of layers that alone take to_beat_s are left out.
    """
    layers = every_run(spans.layers)
    alone_s = _both_s(spans, way._replace(sharding=Sharding()), 1, Groups(), spans.of(layers.first, layers.end))
    layers, _ = layers.where(micro_batches * alone_s < to_beat_s)
    sums = spans.of(layers.first, layers.end)
    costs = spans.costs(sums, micro_batches, way.sharding, groups, 1.0, limit_bytes)
    in_front_s, behind_s = (_both_s(spans, way, micro_batches, groups, each) for each in (spans.fronts, spans.backs))
    busy = Busy.of(costs.forward_s, costs.backward_s, in_front_s[sums.first], micro_batches)
    (received_s, returned_s), (sent_s, got_s) = spans.entry(groups), spans.exit(groups)
    borders_s = (received_s + returned_s)[sums.first] + (sent_s + got_s)[sums.end]

    def cost(stages_behind: int, which: slice, waits_s: Floats) -> Cost:
        """Of some runs with so many stages behind them."""
        waits_s = behind_s[sums.end[which]] + waits_s
        bound_s = busy.of_runs(which).bound(waits_s, micro_batches, stages_behind) + costs.tail_s[which]
        bound_s[costs.room[which] < min(stages_behind + 1, micro_batches)] = np.inf
        return Cost(bound_s, borders_s[which])

    return deal(layers, cost, way.pipeline, to_beat_s)


def _both_s(spans: Spans, way: Way, micro_batches: int, groups: Groups, sums: Sums) -> Floats:
    """One forward and one backward of runs of layers, borders apart."""
    forward_s, backward_s = spans.passes(sums, micro_batches, way.sharding, groups, 1.0)
    return forward_s + backward_s
