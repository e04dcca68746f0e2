"""What the boundaries of one split cost: lower bounds of many runs of layers at once, exact times of given boundaries.

The same formulas as nebula.cost_model.evaluate, over arrays of runs of layers; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.border import meets
from nebula.cost_model.closed_form import step_seconds
from nebula.cost_model.communication import Levels
from nebula.cost_model.groups import Groups
from nebula.cost_model.placed import Placed
from nebula.cost_model.spans import Costs, Spans, Sums
from nebula.plan.values import Sharding
from nebula.planner.deals import Cost, Deals, Runs, deal
from nebula.planner.furthest import Ahead, Ceiling, fewest_stages, least
from nebula.planner.stages import Busy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Boundaries = Sequence[Sequence[int]] | Ints
"""[deals, stages + 1]: first layer of each stage of each deal, and the number of layers."""

_Dealt = tuple[Ints, Costs, Ints]
"""Some stages, what their runs of layers cost, borders apart, and [boundaries, stages] which of these runs each is."""

NOWHERE = Groups()
"""Groups of one rank each: communication that costs nothing, for bounds."""


class Useful(NamedTuple):
    """The runs of layers that may be a stage, and what they add up to."""

    runs: Runs
    sums: Sums


class SplitPrice:
    """Prices the boundaries of one split.

    Args:
        spans: of the chain that the split runs, no faster on any stage.
        where: the same where the tensor groups of a stage lie so.
        placed: its stages.
        sharding: of every stage.
        micro_batches: of one step.
        limit_bytes: device memory that may be filled.
        aheads: what first layers cost as stages, by where these are; of all prices that differ in their stages alone.
    """

    def __init__(
        self,
        spans: Spans,
        where: Mapping[Levels, Spans],
        placed: Placed,
        sharding: Sharding,
        micro_batches: int,
        limit_bytes: float,
        aheads: dict[tuple[object, ...], Ahead],
    ) -> None:
        self.spans, self.where, self.placed, self.sharding = spans, where, placed, sharding
        self.micro_batches, self.limit_bytes, self._aheads = micro_batches, limit_bytes, aheads

    def fewest_stages(self, to_beat_s: float) -> int:
        """Stages that a step shorter than to_beat_s takes at least; one more than are placed where no deal has one."""
        every, of_kind = [], [0] * len(self.placed.kinds)
        for index, (where, alike) in enumerate(self._alike.items()):
            if where not in self._aheads:
                self._aheads[where] = self._ahead(*self.placed.kinds[alike[0]])
            every.append(self._aheads[where])
            for kind in alike:
                of_kind[kind] = index
        kinds = [every[of_kind[kind]] for kind in reversed(self.placed.stages)]
        room_bytes = self.limit_bytes - self.spans.memories.process_bytes
        most = self.spans.memories.most_flying(self.micro_batches)
        return fewest_stages(kinds, least(every), Ceiling(self.micro_batches, to_beat_s, room_bytes, most))

    def _ahead(self, groups: Groups, slow: float) -> Ahead:
        """What the first layers cost as a stage of one kind."""
        spans = self.where[groups.tensor]
        fronts = spans.fronts
        passes_s = spans.passes(fronts, self.micro_batches, self.sharding, groups, slow)
        tail_s = spans.tail(fronts, self.sharding, groups, slow)
        lasting = spans.memories.lasting(fronts, self.sharding)
        return Ahead.of(np.array([*passes_s, tail_s, lasting.held, lasting.kept]))

    def deals(self, useful: Useful, to_beat_s: float, fewest: int) -> Deals:
        """The best deals of layers to `fewest` stages up to as many as are placed, by their lower bound.

        Args:
            useful: what may be a stage.
            to_beat_s: a deal whose step takes longer is of no use, and its bound may be too high.
            fewest: fewest stages.
        """
        first, end = useful.sums.first, useful.sums.end
        (f_front_s, b_front_s), (f_back_s, b_back_s) = map(self._least_passes, (self.spans.fronts, self.spans.backs))
        before_s, behind_s = (f_front_s + b_front_s)[first], (f_back_s + b_back_s)[end]
        kinds = self._kinds(useful.sums, before_s, b_front_s[first])
        m, last = self.micro_batches, len(self.placed.stages) - 1

        def cost(behind: int, which: slice, waits_s: Floats) -> Cost:
            """The cost of some runs with so many stages behind, whose borders take `waits_s` at least."""
            kind = kinds[self.placed.stages[last - behind]]
            busy, room, tailed_s, borders_s = kind.of(which)
            bound_s = busy.bound(behind_s[which] + waits_s, m, behind) + tailed_s
            bound_s[room < min(behind + 1, m)] = np.inf
            return Cost(bound_s, borders_s)

        return deal(useful.runs, cost, last + 1, to_beat_s, fewest)

    def _kinds(self, sums: Sums, before_s: Floats, front_s: Floats) -> list[_Kind]:
        """Every run as each kind of stage; kinds that differ in their borders alone share the rest."""
        found: dict[int, _Kind] = {}
        for alike in self._alike.values():
            own = self._inside(sums, *self.placed.kinds[alike[0]])
            tailed_s = np.maximum(0.0, own.tail_s - front_s)
            for kind in alike:
                groups, _ = self.placed.kinds[kind]
                costs = self.spans.bordered(own, sums, groups)
                busy = Busy.of(costs.forward_s, costs.backward_s, before_s, self.micro_batches)
                (received_s, returned_s), (sent_s, got_s) = self.spans.entry(groups), self.spans.exit(groups)
                borders_s = (received_s + returned_s)[sums.first] + (sent_s + got_s)[sums.end]
                found[kind] = _Kind(busy, own.room, tailed_s, borders_s)
        return [found[kind] for kind in range(len(found))]

    def _least_passes(self, sums: Sums) -> tuple[Floats, Floats]:
        """One forward and one backward of runs on the best placed stage, borders apart.

        A run of no layers is no stage, and sends none of the messages whose number does not depend on the layers.
        """
        places = {groups.shard: groups for groups, _ in self.placed.kinds}.values()
        each = [self.spans.passes(sums, self.micro_batches, self.sharding, groups, 1.0) for groups in places]
        there = sums.end > sums.first
        forward_s, backward_s = (np.minimum.reduce(column) * there for column in zip(*each, strict=True))
        return forward_s, backward_s

    def fitting_seconds(self, boundaries: Boundaries) -> Floats:
        """The exact step time of each of several boundaries, infinite where it does not fit into memory."""
        bounds, stages = np.array(boundaries), len(self.placed.stages)
        needed, dealt = np.minimum(np.arange(stages, 0, -1), self.micro_batches), self._dealt(bounds)
        fits = np.ones(len(bounds), dtype=bool)
        for own, inside, which in dealt:
            fits &= (inside.room[which] >= needed[own]).all(axis=1)
        fitting_s = np.full(len(bounds), np.inf)
        if fits.any():
            among = [(own, inside, which[fits]) for own, inside, which in dealt]
            fitting_s[fits] = self._step_seconds(bounds[fits], among)
        return fitting_s

    def step_seconds(self, boundaries: Boundaries) -> Floats:
        """The exact step time of each of several boundaries."""
        bounds = np.array(boundaries)
        return self._step_seconds(bounds, self._dealt(bounds))

    def _step_seconds(self, bounds: Ints, dealt: Sequence[_Dealt]) -> Floats:
        forward_s, backward_s, tail_s = np.empty((3, bounds.shape[1] - 1, len(bounds)))
        for own, inside, which in dealt:
            for column, values in zip((forward_s, backward_s, tail_s), inside[:3], strict=True):
                column[own] = values[which.T]
        received_s, back_s, sent_s, returned_s = self._borders_seconds(bounds)
        forward_s, backward_s = forward_s + received_s + sent_s, backward_s + back_s + returned_s
        met_s = back_s.T if meets(self.spans.device) else None
        return step_seconds(forward_s.T, backward_s.T, tail_s.T, self.micro_batches, met_s=met_s)

    def _borders_seconds(self, bounds: Ints) -> list[Floats]:
        """[stages, boundaries] each: receiving a forward, sending its gradient; sending one on, receiving its own."""
        borders, kinds = self.spans.layers + 1, np.array(self.placed.stages)[:, None] * (self.spans.layers + 1)
        found = []
        for side, layers in ((self.spans.entry, bounds[:, :-1]), (self.spans.exit, bounds[:, 1:])):
            each = np.array([side(groups) for groups, _ in self.placed.kinds]).reshape(-1, 2, borders)
            found += [each[:, way].ravel().take(kinds + layers.T) for way in (0, 1)]
        return found

    def computing_seconds(self, boundaries: Boundaries) -> Floats:
        """Seconds of a step in which a device computes, on average over all, for each of several boundaries."""
        bounds, m = np.array(boundaries), self.micro_batches
        sums = self.spans.of(bounds[:, :-1], bounds[:, 1:])
        found = np.empty(sums.first.shape)
        for kind, own in self._own:
            groups, slow = self.placed.kinds[kind]
            spans, some = self.where[groups.tensor], sums.where((slice(None), own))
            some = some if spans is self.spans else spans.of(some.first, some.end)
            computing_s = m * spans.computing(some, m, self.sharding, groups, slow)
            found[:, own] = computing_s + spans.update(some, self.sharding, slow)
        mean_s: Floats = found.mean(axis=1)
        return mean_s

    def _dealt(self, bounds: Ints) -> list[_Dealt]:
        """The stages of several boundaries, by kinds that differ in their borders alone."""
        found = []
        for kind, own in self._own:
            runs, which = _distinct(bounds[:, own], bounds[:, own + 1], self.spans.layers)
            found.append((own, self._inside(self.spans.of(*runs), *self.placed.kinds[kind]), which))
        return found

    @cached_property
    def _alike(self) -> dict[tuple[object, ...], list[int]]:
        """The kinds of stages that differ in their borders alone, by what they share."""
        found: dict[tuple[object, ...], list[int]] = {}
        for kind, (groups, slow) in enumerate(self.placed.kinds):
            key = (groups.tensor, groups.shard, groups.outer, bool(groups.before or groups.behind), slow)
            found.setdefault(key, []).append(kind)
        return found

    @cached_property
    def _own(self) -> list[tuple[int, Ints]]:
        """Of each set of such kinds the first, and the stages that are of any."""
        stages = np.array(self.placed.stages)
        return [(alike[0], np.flatnonzero(np.isin(stages, alike))) for alike in self._alike.values()]

    def _inside(self, sums: Sums, groups: Groups, slow: float) -> Costs:
        """Costs of runs as stages of one kind, borders apart."""
        spans = self.where[groups.tensor]
        own = sums if spans is self.spans else spans.of(sums.first, sums.end)
        return spans.inside(own, self.micro_batches, self.sharding, groups, slow, self.limit_bytes)


class RelaxedPrice(SplitPrice):
    """A lower bound for every placement and sharding of a split: nothing but the model's own work takes time.

    Memory is that of the leanest sharding.
    """

    def __init__(self, spans: Spans, stages: int, leanest: Sharding, micro_batches: int, limit_bytes: float) -> None:
        placed = Placed(kinds=((NOWHERE, 1.0),), stages=(0,) * stages)
        super().__init__(spans, {}, placed, Sharding(), micro_batches, limit_bytes, {})
        self._leanest = leanest

    def _ahead(self, groups: Groups, slow: float) -> Ahead:
        fronts = self.spans.fronts
        passes_s = self.spans.passes(fronts, self.micro_batches, self.sharding, groups, slow)
        lasting = self.spans.memories.lasting(fronts, self._leanest)
        return Ahead.of(np.array([*passes_s, np.zeros_like(lasting.held), lasting.held, lasting.kept]))

    def _inside(self, sums: Sums, groups: Groups, slow: float) -> Costs:
        passes_s = self.spans.passes(sums, self.micro_batches, self.sharding, groups, slow)
        room = self.spans.most_room(sums, self._leanest, groups, self.micro_batches, self.limit_bytes)
        return Costs(*passes_s, np.zeros_like(room), room)


class _Kind(NamedTuple):
    """Every run as one kind of stage.

    Attributes:
        busy: of the bound.
        room: most micro-batches in flight.
        tailed_s: what the tail adds to the step where nothing hides it: while a stage synchronizes, those before it
            still run one backward each.
        borders_s: what the borders of each run take of a micro-batch's way forth and back.
    """

    busy: Busy
    room: Floats
    tailed_s: Floats
    borders_s: Floats

    def of(self, which: slice) -> _Kind:
        """Some of the runs."""
        return _Kind(self.busy.of_runs(which), self.room[which], self.tailed_s[which], self.borders_s[which])


def _distinct(first: Ints, end: Ints, layers: int) -> tuple[tuple[Ints, Ints], Ints]:
    """The runs that there are, each once, and which of them each is: near deals share most of their stages."""
    codes = first * (layers + 1) + end
    there = np.zeros((layers + 1) ** 2, dtype=bool)
    there[codes] = True
    runs = np.flatnonzero(there)
    place = np.empty(len(there), dtype=np.int64)
    place[runs] = np.arange(len(runs))
    return (runs // (layers + 1), runs % (layers + 1)), place[codes]
