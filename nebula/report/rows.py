"""The stages of a plan as rows for people: layers by name, devices, split and memory; long pipelines folded.

The terminal table and the HTML report show the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from nebula.cluster.values import Cluster
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan, Stage
from nebula.report.words import name_ranges, percent, places, ranges
from nebula.units import format_bytes

FOLD_FROM = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage, or neighbours that are alike.

    Attributes:
        stages: indices of the stages.
        layers: names of the layers, folded.
        layer_count: of each of the stages.
        places: nodes and devices.
        ranks: numbers of the ranks, folded.
        groups: names of the node groups that they are in.
        split: how one stage is divided among its devices.
        used_bytes: lowest and highest peak of the stages' fullest devices; zeros without a prediction.
        limit_bytes: what such a device has.
    """

    stages: tuple[int, ...]
    layers: str
    layer_count: int
    places: str
    ranks: str
    groups: tuple[str, ...]
    split: str
    used_bytes: tuple[float, float] = (0.0, 0.0)
    limit_bytes: float = 0.0

    @property
    def name(self) -> str:
        """`0` or `1–56`."""
        return ranges(self.stages)

    @property
    def count_words(self) -> str:
        """Layers of a stage: `12`, or `1 each`."""
        return f"{self.layer_count} each" if len(self.stages) > 1 else str(self.layer_count)

    @property
    def memory_words(self) -> str:
        """`21 GiB of 32 GiB · 66 %`; empty without a prediction."""
        if not self.limit_bytes:
            return ""
        low, high = (format_bytes(b) for b in self.used_bytes)
        used = high if low == high else f"{low} to {high}"
        return f"{used} of {format_bytes(self.limit_bytes)} · {percent(self.used_bytes[1] / self.limit_bytes)}"


def split_words(stage: Stage) -> str:
    """How a stage is divided: its degrees above 1, rows where replicas differ, recompute."""
    words = [f"{name} {degree}" for name, degree in _degrees(stage) if degree > 1]
    if stage.sharding.stage:
        words.append(f"sharding {stage.sharding.stage} over {stage.sharding.degree}")
    rows = sorted({r.micro_batch_rows for r in stage.replicas})
    words.append(f"{ranges(rows) if len(rows) == 1 else '/'.join(map(str, rows))} row{'s' if rows != [1] else ''}")
    if stage.recompute != "none":
        words.append(f"recompute {stage.recompute_words}")
    if stage.offload != "none":
        words.append(f"offload {stage.offload}")
    return " · ".join(words)


def _degrees(stage: Stage) -> tuple[tuple[str, int], ...]:
    tensor = max(len(r.ranks) for r in stage.replicas) // stage.context
    return (("data", stage.data), ("tensor", tensor), ("context", stage.context), ("expert", stage.expert))


def stage_rows(plan: Plan, graph: DistributedGraph, *, fold_from: int = FOLD_FROM) -> tuple[StageRow, ...]:
    """A row a stage; from `fold_from` stages on, neighbours with like layers and split share one."""

    def alike(index: int) -> object:
        stage = plan.stages[index]
        group = plan.ranks[stage.ranks[0]].node.rpartition("/")[0]
        return graph.layers[slice(*stage.layers)], split_words(stage), group, len(plan.stages) < fold_from and index

    runs = (tuple(run) for _, run in groupby(range(len(plan.stages)), key=alike))
    return tuple(_row(plan, graph, run) for run in runs)


def device_types(cluster: Cluster, groups: Sequence[str]) -> str:
    """The device types of those node groups."""
    return ", ".join(dict.fromkeys(group.device.name for group in cluster.groups if group.name in groups))


def _row(plan: Plan, graph: DistributedGraph, indices: tuple[int, ...]) -> StageRow:
    stages = [plan.stages[i] for i in indices]
    first, last = stages[0].layers[0], stages[-1].layers[1]
    memory = [plan.prediction.memory[i] for i in indices] if plan.prediction else []
    used = [m.total_bytes for m in memory]
    return StageRow(
        stages=indices,
        layers=name_ranges(graph.layer_names[first:last]),
        layer_count=stages[0].layers[1] - stages[0].layers[0],
        places=places(plan, _ranks(stages)),
        ranks=ranges(_ranks(stages)),
        groups=tuple(dict.fromkeys(plan.ranks[rank].node.rpartition("/")[0] for rank in _ranks(stages))),
        split=split_words(stages[0]),
        used_bytes=(min(used), max(used)) if used else (0.0, 0.0),
        limit_bytes=min((m.limit_bytes for m in memory), default=0.0),
    )


def _ranks(stages: Iterable[Stage]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(rank for stage in stages for rank in stage.ranks))
