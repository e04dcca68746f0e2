"""The bounds of all outer halves of one inner half on one pool, as arrays.

A device works on its layers in every micro-batch, waits for the first chunks of the devices before it and, where W
cannot fill the wait, for the last gradients to pass them; behind that it reduces, gathers and updates its parameters.
Groups are taken to lie as close together as on the first devices of the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nebula.plan.values import Sharding
from nebula.planner.explore.deal import Chain, Floats, Ints
from nebula.planner.explore.durations import prefix_sums, waiting_factor
from nebula.planner.explore.options import Options
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.shares import Share, Shares
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import Inner, Outer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Outer halves that may beat what was found and may fit, least bound first.

    Attributes:
        bounds_s: [n] ascending.
        pools: of the space; all stages lie on one of them, `pool`.
        data, stages, chunks, schedules: [n] of each.
        shardings: [n, 2] stage and degree of each.
        leanest: of those that do not fit, what the fullest device holds at least of its limit, and the outer half.
        cut: by rule, how many were left out.
    """

    bounds_s: Floats
    pool: int
    pools: int
    data: Ints
    stages: Ints
    chunks: Ints
    schedules: NDArray[np.str_]
    shardings: Ints
    leanest: tuple[float, Outer] | None
    cut: dict[str, int]

    def __len__(self) -> int:
        return len(self.bounds_s)

    def outer(self, index: int) -> Outer:
        """The outer half of that index."""
        stages = tuple(int(self.stages[index]) if pool == self.pool else 0 for pool in range(self.pools))
        stage, degree = self.shardings[index].tolist()
        return Outer(
            int(self.data[index]),
            stages,
            str(self.schedules[index]),
            int(self.chunks[index]),
            Sharding(stage=stage, degree=degree),
        )


class Sheet:
    """Bounds of one inner half on one pool: of rows (numbers of replicas) and options (stages and schedules)."""

    def __init__(
        self, space: Space, prices: WayPrices, shares: Shares, options: Options, inner: Inner, pool: int
    ) -> None:
        self.space, self.prices, self.shares, self.options = space, prices, shares, options
        self.inner, self.pool = inner, pool
        fitting = [d for d in space.data_degrees(inner) if inner.width * d <= space.devices[pool]]
        self.data = np.array(fitting, dtype=np.int64)
        self.shardings: list[tuple[Sharding, ...]] = [space.shardings(d) for d in fitting]
        self.micro_batches = space.job.global_batch // (self.data * inner.rows)

    @cached_property
    def chain(self) -> Chain:
        """The layers as a rank runs them."""
        return self.prices.chain(self.inner, self.pool)

    @property
    def _every(self) -> int:
        """Outer halves that stand in the sheet."""
        return sum(map(len, self.shardings)) * len(self.options.schedules)

    def none(self) -> Ranked:
        """What is left where all are bounded from below by what there is to beat."""
        nothing = np.zeros(0, dtype=np.int64)
        return self._ranked(np.zeros(0), nothing, nothing, nothing, full=0)

    def _ranked(self, bounds_s: Floats, rows: Ints, shardings: Ints, options: Ints, full: int) -> Ranked:
        """What stands in those rows, shardings and options; so many more do not fit."""
        which = zip(rows.tolist(), shardings.tolist(), strict=True)
        chosen = [(s.stage, s.degree) for s in (self.shardings[row][index] for row, index in which)]
        return Ranked(
            bounds_s=bounds_s,
            pool=self.pool,
            pools=len(self.space.devices),
            data=self.data[rows],
            stages=self.options.pipeline[options],
            chunks=self.options.chunks[options],
            schedules=self.options.names[options],
            shardings=np.array(chosen, dtype=np.int64).reshape(-1, 2),
            leanest=None,
            cut={"bound": self._every - full - len(bounds_s), "memory": full},
        )

    def ranked(self, to_beat_s: float) -> Ranked:
        """Those whose bound is below `to_beat_s` and that may fit."""
        rows, columns = self._promising(to_beat_s)
        if not len(rows):
            return self.none()
        pairs = _Pairs(self, rows, columns)
        pair, sharding = pairs.under_shardings()
        bound_s, share = pairs.bounds(pair, sharding, to_beat_s)
        near = np.flatnonzero(bound_s < to_beat_s)
        fits = near[share[near] <= 1.0]
        full = len(near) - len(fits)

        def of_cases(cases: Ints) -> Ranked:
            at = pair[cases]
            return self._ranked(bound_s[cases], rows[at], sharding[cases], columns[at], full)

        found = of_cases(fits[np.argsort(bound_s[fits], kind="stable")])
        if not full:
            return found
        least = near[np.where(share[near] > 1.0, share[near], np.inf).argmin()]
        return replace(found, leanest=(float(share[least]), of_cases(np.array([least])).outer(0)))

    def _promising(self, to_beat_s: float) -> tuple[Ints, Ints]:
        """Rows and options that have room, and whose slowest device alone is fast enough."""
        options, m = self.options, self.micro_batches[:, None]
        groups = self.inner.width * self.data[:, None]
        even_s = self.chain.pass_s / options.pipeline
        room = (options.pipeline * groups <= self.space.devices[self.pool]) & (m >= options.least)
        turns = m * waiting_factor(
            -(-options.pipeline * groups // self.prices.pools.per_node[self.pool]), self.prices.parameters
        )
        # a deal is dear to know
        near = room & (turns * np.maximum(even_s, self.chain.widest_s) + self.prices.parameters.step_host_s < to_beat_s)
        if not near.any():
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        slowest_s = np.maximum(even_s, self._slowest_s[options.virtual - 1])
        quick = near & (turns * slowest_s + self.prices.parameters.step_host_s < to_beat_s)
        columns = np.flatnonzero(quick.any(axis=0))
        lean = columns[self._activations_fit(columns)]
        rows, at = np.nonzero(quick[:, lean])
        return rows, lean[at]

    @cached_property
    def _slowest_s(self) -> Floats:
        """[layers]: of the deal over so many stages less one, what the slowest takes for a micro-batch."""
        every = np.arange(len(self.chain.deals) - 1) + 1
        slowest: Floats = self._stages(self.chain.forward_s + self.chain.backward_s, every).max(axis=1)
        return slowest

    def _activations_fit(self, columns: Ints) -> NDArray[np.bool_]:
        """[columns]: whether what is kept of the fewest micro-batches leaves room on every device."""
        kept = self._stages(self.prices.kept(self.inner), self.options.virtual[columns])
        held = self.options.by_device(columns, self.options.flights[columns] * kept).max(axis=1)
        pools = self.prices.pools
        fits: NDArray[np.bool_] = pools.process_bytes(0) + pools.held_share * held <= self.limit_bytes
        return fits

    @property
    def limit_bytes(self) -> float:
        """What may be filled on a device."""
        return self.prices.pools.types[self.pool].memory_bytes * self.space.job.memory_fraction

    def _stages(self, layers: Floats, stages: Ints) -> Floats:
        """[stages, layers]: the sums of [layers] over the virtual stages of the deals of so many."""
        found: Floats = np.diff(prefix_sums(layers)[self.chain.deals[stages]], axis=1)
        return found


class _Pairs:
    """Pairs of a row and an option, [pairs], and figures of the options among them, [options, devices]."""

    def __init__(self, sheet: Sheet, rows: Ints, columns: Ints) -> None:
        self.sheet, self.rows, self.columns = sheet, rows, columns
        self.which, self.at = np.unique(columns, return_inverse=True)
        options = sheet.options
        self.stages = options.virtual[self.which]
        self.works: NDArray[np.bool_] = np.arange(options.layers) < options.pipeline[self.which][:, None]
        self.elements = [self._held(each) for each in sheet.prices.elements(sheet.inner)]
        self.has_experts = bool(self.elements[1].any())
        self.ends_s, self.back_s = self._ends()
        per_node = sheet.prices.pools.per_node[sheet.pool]
        ranks = options.pipeline[columns] * sheet.inner.width * sheet.data[rows]
        self.waiting = waiting_factor(-(-ranks // per_node), sheet.prices.parameters)

    def under_shardings(self) -> tuple[Ints, Ints]:
        """[cases]: each pair under each sharding of its row, by the index of the sharding and then by pair."""
        count = np.array([len(s) for s in self.sheet.shardings])[self.rows]
        sharding, pair = np.nonzero(np.arange(count.max())[:, None] < count)
        return pair, sharding

    def bounds(self, pair: Ints, sharding: Ints, to_beat_s: float) -> tuple[Floats, Floats]:
        """[cases] of a pair and the index of a sharding: bounds, and the least share of memory where they are low."""
        own = self._shares(pair, sharding, self.sheet.shares.own)
        bound_s, share = self._bounds(pair, own), np.zeros(len(pair))
        near = np.flatnonzero(bound_s < to_beat_s)
        if not len(near):
            return bound_s, share
        share[near] = self._memory(pair[near], own[near, Share._fields.index("held")])
        near = near[share[near] <= 1.0]
        # what replicas exchange is dear to know
        if len(near):
            every = self._shares(pair[near], sharding[near], self.sheet.shares.share)
            bound_s[near] = self._bounds(pair[near], every)
        return bound_s, share

    def _shares(
        self, pair: Ints, sharding: Ints, share: Callable[[Inner, int, Sharding, int], Share]
    ) -> NDArray[np.float64]:
        """[cases, fields of a share, 2]: what parameters cost."""
        sheet, rows = self.sheet, self.rows[pair]
        found = np.zeros((len(sheet.data), max(map(len, sheet.shardings)), len(Share._fields), 2))
        wanted = np.zeros(found.shape[:2], dtype=bool)
        wanted[rows, sharding] = True
        for row, index in zip(*(each.tolist() for each in np.nonzero(wanted)), strict=True):
            found[row, index] = share(sheet.inner, int(sheet.data[row]), sheet.shardings[row][index], sheet.pool)
        of_cases: Floats = found[rows, sharding]
        return of_cases

    def _bounds(self, pairs: Ints, shares: Floats) -> Floats:
        """[cases] of a pair each: bounds where parameters cost so much."""
        work_s, sync_s, update_s = (
            self._of_elements(shares[:, Share._fields.index(name)], pairs) for name in ("work_s", "sync_s", "update_s")
        )
        works = self.works[self.at[pairs]]
        ends_s = np.where(works, self.ends_s[pairs] + work_s, 0.0)
        ends_s[:, 0] = np.where(works, ends_s + self.back_s[pairs], 0.0).max(axis=1)
        step_s = self.waiting[pairs] * (ends_s + sync_s).max(axis=1)
        found: Floats = step_s + update_s.max(axis=1) + self.sheet.prices.parameters.step_host_s
        return found

    def _held(self, layers: Floats) -> Floats:
        """[options, devices]: the sums of [layers] over what each device holds."""
        return self.sheet.options.by_device(self.which, self.sheet._stages(layers, self.stages))

    def _of_elements(self, figures: Floats, pairs: Ints) -> Floats:
        """[cases, devices] of a pair each: what the parameters of each device come to at figures [cases, 2]."""
        at = self.at[pairs]
        found: Floats = figures[:, :1] * self.elements[0][at]
        return found + figures[:, 1:] * self.elements[1][at] if self.has_experts else found

    def _ends(self) -> tuple[Floats, Floats]:
        """[pairs, devices]: when each device has done its last backward, at the soonest; and how long gradients go on
        from there to the first."""
        ends_s = np.zeros((len(self.rows), self.sheet.options.layers))
        back_s = np.zeros_like(ends_s)
        m = self.sheet.micro_batches[self.rows][:, None]
        alike: dict[tuple[float, float], list[int]] = {}
        for row in np.unique(self.rows).tolist():
            alike.setdefault(self._sends(int(self.sheet.data[row])), []).append(row)
        for (fixed_s, byte_s), rows in alike.items():
            mine = np.flatnonzero(np.isin(self.rows, rows)) if len(alike) > 1 else np.arange(len(self.rows))
            busy_s, waits_s, passed_s = self._work(fixed_s, byte_s)
            ends_s[mine] = m[mine] * busy_s[self.at[mine]] + waits_s[self.at[mine]]
            back_s[mine] = passed_s[self.at[mine]]
        return ends_s, back_s

    def _sends(self, data: int) -> tuple[float, float]:
        """What a message to the next stage costs at least: fixed, and per byte."""
        sheet, prices = self.sheet, self.sheet.prices
        if not prices.pools.periods[sheet.pool] or sheet.inner.width * data * 2 > sheet.space.devices[sheet.pool]:
            return 0.0, 0.0
        return prices.first_send(sheet.inner, data, sheet.pool)

    def _work(self, fixed_s: float, byte_s: float) -> tuple[Floats, Floats, Floats]:
        """[options, devices] where messages cost so much: a micro-batch, the wait for the first, and for the last."""
        sheet, options = self.sheet, self.sheet.options
        chain, deals = sheet.chain, sheet.chain.deals[self.stages]
        forward_s, backward_s = (sheet._stages(s, self.stages) for s in (chain.forward_s, chain.backward_s))
        homes = options.homes[self.which]
        sent = np.zeros_like(forward_s)
        moves = (homes[:, :-1] != homes[:, 1:]) & (homes[:, 1:] < options.layers)
        sent[:, :-1] = np.where(moves, fixed_s + byte_s * chain.border_bytes[deals[:, 1:-1] - 1], 0.0)
        around, back = sheet.prices.hiding.around, np.roll(sent, 1, axis=1)
        (busy_s, beside_s), (returned_s, back_s) = around(forward_s, sent), around(backward_s, back)
        forward_s, backward_s = forward_s + busy_s, backward_s + returned_s
        waits = options.waits[self.which][:, None]
        passing = forward_s + beside_s, backward_s + np.roll(back_s, -1, axis=1)
        before_s, passed_s = (_before(np.where(self.works, s, 0.0)) for s in passing)
        passed_s[:, 1:] = np.where(waits, passed_s[:, 1:], -np.inf)  # as durations.passing_back says
        return options.by_device(self.which, forward_s + backward_s), before_s, passed_s

    def _memory(self, pairs: Ints, held: Floats) -> Floats:
        """[cases] of a pair each: what the fullest device holds at least, as a share of its limit."""
        sheet = self.sheet
        options, which = sheet.options, self.columns[pairs]
        more = options.more_flights(which, sheet.micro_batches[self.rows[pairs]])
        kept = self._kept[self.at[pairs]] + more * self._kept_by_stage[self.at[pairs]]
        whole = sheet.prices.pools.least_bytes(self._of_elements(held, pairs), kept)
        pipelines = sheet.options.pipeline[self.columns[pairs]]
        data = sheet.data[self.rows[pairs]]
        fixed = [
            sheet.shares.fixed_bytes(sheet.inner, d, p) for d, p in zip(data.tolist(), pipelines.tolist(), strict=True)
        ]
        share: Floats = (np.where(self.works[self.at[pairs]], whole, 0.0).max(axis=1) + fixed) / sheet.limit_bytes
        return share

    @cached_property
    def _kept_by_stage(self) -> Floats:
        """[options, layers]: bytes of the activations of one micro-batch on each virtual stage."""
        return self.sheet._stages(self.sheet.prices.kept(self.sheet.inner), self.stages)

    @cached_property
    def _kept(self) -> Floats:
        """[options, devices]: bytes of the activations of all micro-batches in flight."""
        options = self.sheet.options
        return options.by_device(self.which, options.flights[self.which] * self._kept_by_stage)


def _before(values: Floats) -> Floats:
    """The sums of [options, devices] over the devices before each."""
    found = np.zeros_like(values)
    found[:, 1:] = values[:, :-1].cumsum(axis=1)
    return found
