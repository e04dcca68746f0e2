"""Where the fastest measured split of a job stands among all splits that its devices allow, as the model ranks them.

The space is what a planner searches on equal terms: tensor degrees that fit into a node, pipelines, virtual stages
where the software is known to interleave, micro-batches, what is computed again. Context, experts and sharding stay as
they were measured. Splits that do not fit into memory are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.execution import Execution, Recompute
from nebula.cost_model.peak import Counted, LayerLoad, rank_peak
from nebula.cost_model.plan_peaks import chunks_of, layer_loads, setting_of
from nebula.cost_model.runs.case import Case, plan_of
from nebula.cost_model.runs.choices import Choice
from nebula.cost_model.runs.schema import Row
from nebula.cost_model.runs.score import Progress
from nebula.cost_model.step import StageTimes, StepPricing
from nebula.errors import BadInput
from nebula.plan.values import Plan

POLICIES = ("none", "core", "layer")
"""What every stack can compute again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One way to run a job."""

    tensor: int = 1
    pipeline: int = 1
    chunks: int = 1
    data: int = 1
    rows: int = 1
    again: str = "none"

    @property
    def words(self) -> str:
        """As a line of text.

        Example:
            >>> Split(tensor=4, pipeline=8, chunks=1, data=2, rows=1, again="core").words
            'tensor 4 · pipeline 8 · data 2 · rows 1 · recompute core'
        """
        named = (("tensor", self.tensor), ("pipeline", self.pipeline), ("chunks", self.chunks), ("data", self.data))
        degrees = [f"{name} {value}" for name, value in named if value > 1]
        return " · ".join([*degrees, f"rows {self.rows}", f"recompute {self.again}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The place of the fastest measured split.

    Attributes:
        position: 1 for the split that is predicted fastest of all.
        splits: how many were ranked, the measured one among them.
        behind: what it is predicted to take more than the first, as a share.
        first: the one that is predicted fastest.
    """

    position: int
    splits: int
    behind: float
    first: Split


Ranks = Mapping[str, Rank]
"""Ranks of jobs by the id of their fastest measured row; empty where nobody asked for them."""

NO_RANKS: Ranks = {}


def ranks_of(found: Sequence[Choice], progress: Progress = lambda _: None) -> Ranks:
    """The rank of every job.

    Args:
        found: the jobs.
        progress: is told after each how many are done.
    """
    ranks = {}
    for done, choice in enumerate(found, 1):
        ranks[choice.best.row.id] = rank(choice)
        progress(done)
    return ranks


def rank(choice: Choice) -> Rank:
    """The rank of the fastest measured split of a job among all that fit."""
    case, best_s = choice.best.predicted.case, choice.best.predicted.time_s
    own = _measured(case)
    found = {split: s for split, s in priced(case, interleaved=choice.interleaved) if split != own} | {own: best_s}
    first = min(found, key=lambda split: found[split])
    return Rank(
        position=1 + sum(s < best_s for s in found.values()),
        splits=len(found),
        behind=best_s / found[first] - 1.0,
        first=first,
    )


def _measured(case: Case) -> Split:
    row = case.row
    return Split(
        tensor=row.tp,
        pipeline=row.pp,
        chunks=row.vpp,
        data=row.dp,
        rows=row.micro_batch,
        again=case.execution.recompute.what,
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def splits(row: Row, per_node: int, *, interleaved: bool) -> Iterator[Split]:
    """The splits of a row's job that use all its devices, of one row a micro-batch and nothing computed again.

    Args:
        row: of the job.
        per_node: devices of its smallest node.
        interleaved: whether the software has virtual stages.
    """
    for tensor in (t for t in _divisors(per_node) if row.devices % (t * row.cp) == 0):
        for pipeline in _divisors(row.devices // (tensor * row.cp)):
            data = row.devices // (tensor * row.cp * pipeline)
            dealt = data * row.cp * tensor % (row.ep * row.etp) == 0
            if pipeline > row.layers or row.batch % data or not dealt:
                continue
            even = interleaved and pipeline > 1 and row.layers % pipeline == 0
            for chunks in _divisors(row.layers // pipeline) if even else [1]:
                yield Split(tensor=tensor, pipeline=pipeline, chunks=chunks, data=data)


def priced(case: Case, *, interleaved: bool) -> Iterator[tuple[Split, float]]:
    """Every split of a case's job that fits, with the seconds of a step."""
    yield from _Job(case, interleaved).priced()


class _Job:
    """Prices the splits of one job under each thing that can be computed again."""

    def __init__(self, case: Case, interleaved: bool) -> None:
        self.case, self.interleaved = case, interleaved
        policies = dict.fromkeys((*POLICIES, case.execution.recompute.what))
        self.pricings = {what: _Alike(case, replace(case.execution, recompute=_again(case, what))) for what in policies}
        first = next(iter(self.pricings.values()))
        for pricing in self.pricings.values():
            # a cut does not depend on what is computed again
            pricing.cuts, pricing.fabric = first.cuts, first.fabric

    def priced(self) -> Iterator[tuple[Split, float]]:
        """Every split that fits, with the seconds of a step."""
        per_node = min(g.devices_per_node for g in self.case.cluster.groups)
        for split in splits(self.case.row, per_node, interleaved=self.interleaved):
            for rows in _divisors(self.case.row.batch // split.data):
                fitting = list(self._fitting(replace(split, rows=rows)))
                yield from fitting
                if not fitting:
                    # more rows take more memory
                    break

    def _fitting(self, split: Split) -> Iterator[tuple[Split, float]]:
        try:
            plan = plan_of(_row(self.case.row, split), self.case.cluster, self.case.execution)
            for what, pricing in self.pricings.items():
                if pricing.fits(plan):
                    yield replace(split, again=what), pricing.step(plan, self.case.expert_tensor).step_s
        except BadInput:
            # a degree that does not cut the model, or a schedule that does not take these numbers
            return


class _Alike(StepPricing):
    """Prices plans whose ranks are the devices in their order; stages that lie alike are worked out once."""

    def __init__(self, case: Case, execution: Execution) -> None:
        super().__init__(case.graph, case.cluster, execution)
        self._expert_tensor = case.expert_tensor
        self._limit_bytes = min(g.device.memory_bytes for g in case.cluster.groups)
        self._period = (
            case.cluster.groups[0].devices_per_node if len(case.cluster.groups) == 1 else len(case.plan.ranks)
        )
        self._known: dict[tuple[object, ...], StageTimes] = {}
        self._held: dict[tuple[int, ...], tuple[LayerLoad, ...]] = {}

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """As the measured runs' plans lie."""
        return np.arange(len(plan.ranks))

    def fits(self, plan: Plan) -> bool:
        """Whether every rank keeps within what a plan may fill."""
        degrees = self.degrees(plan, self._expert_tensor)
        if degrees not in self._held:
            self._held[degrees] = layer_loads(self.graph, self.execution, lambda index: self.block(index, degrees))
        setting = setting_of(plan, self.execution, Counted.PROCESS, 0.0, expert_tensor=self._expert_tensor)
        limit_bytes = plan.job.memory_fraction * self._limit_bytes
        return all(rank_peak(chunks, setting).bytes <= limit_bytes for chunks in chunks_of(plan, self._held[degrees]))

    def _stage(
        self, plan: Plan, index: int, grids: Sequence[NDArray[np.int64]], expert_tensor: int, *, alone: bool
    ) -> StageTimes:
        stage, first = plan.stages[index], int(grids[index].flat[0])
        behind = int(grids[index + 1].flat[0]) - first if index + 1 < len(grids) else 0
        layers = self.graph.layers[slice(*stage.layers)]
        key = (
            *(self.degrees(plan, expert_tensor), plan.micro_batches, stage.data, stage.sharding, alone),
            *(first % self._period, behind, frozenset(Counter(layers).items()), layers[-1]),
        )
        if key not in self._known:
            self._known[key] = super()._stage(plan, index, grids, expert_tensor, alone=alone)
        return self._known[key]


def _again(case: Case, what: str) -> Recompute:
    own = case.execution.recompute
    return own if own.what == what else Recompute(what=what)


def _row(row: Row, split: Split) -> Row:
    return row.model_copy(
        update={
            "tp": split.tensor,
            "pp": split.pipeline,
            "vpp": split.chunks,
            "dp": split.data,
            "micro_batch": split.rows,
            "stage_partition": None,
        }
    )
