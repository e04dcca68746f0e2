"""The plan: how one model is trained on one cluster, with the prediction and the reason.

A plan is made by the planner or written by hand; files.py reads and writes it, legality.py says who can execute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

PRECISION_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Dtype of products and activations under each precision of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the user asks to be trained, apart from model and cluster.

    Attributes:
        global_batch: rows of one optimizer step.
        precision: `fp32`, `bf16` or `fp16`: dtype of products and activations.
        optimizer: `adamw` or `sgd`.
        tokens: token budget of the whole training; 0 when not given.
        memory_fraction: share of a device's memory that a plan may fill.
        steps: optimizer steps of `nebula train`; 0 when not given.
    """

    global_batch: int
    precision: str = "fp32"
    optimizer: str = "adamw"
    tokens: float = 0.0
    memory_fraction: float = 0.92
    steps: int = 0


class RankPlace(NamedTuple):
    """Where a rank runs: the node (`group/index`) and the device within it."""

    node: str
    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One holder of a stage: the ranks that split its tensors.

    Attributes:
        ranks: global ranks in tensor order.
        tensor_shares: how many equal parts of each split tensor each rank holds; all 1 for an even split.
        micro_batch_rows: rows of a micro-batch that this replica works on.
    """

    ranks: tuple[int, ...]
    tensor_shares: tuple[int, ...]
    micro_batch_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """ZeRO: `stage` 0 none, 1 optimizer states, 2 gradients too, 3 parameters too, cut over `degree` replicas."""

    stage: int = 0
    degree: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A run of layers and who holds it.

    Attributes:
        layers: [first, last) in the graph's chain.
        recompute: `none`, `selective` (attention only) or `full`.
        offload: what lies in the host's memory: `none`, `optimizer` (its states), `activations` or `both`.
        recompute_layers: how many of its layers are under the recompute policy, the first ones; 0: all.
        exchange: how ranks that share the sequence get what attention needs of the others: `ring`, `gather` or
            `ulysses`.
    """

    layers: tuple[int, int]
    replicas: tuple[Replica, ...]
    context: int = 1
    expert: int = 1
    sharding: Sharding = field(default_factory=Sharding)
    recompute: str = "none"
    offload: str = "none"
    recompute_layers: int = 0
    exchange: str = "ring"

    @property
    def policy_runs(self) -> tuple[tuple[str, int, int], ...]:
        """Runs of its layers with the recompute policy of each: policy, first layer, the layer behind the last.

        Example: of layers 4 to 9 under `full` with recompute_layers 2 they are ("full", 4, 6), ("none", 6, 10).
        """
        first, end = self.layers
        kept = first + self.recompute_layers if self.recompute_layers else end
        runs = ((self.recompute, first, min(kept, end)), ("none", kept, end))
        return tuple(run for run in runs if run[1] < run[2])

    @property
    def recompute_words(self) -> str:
        """`none`, `full`, `full of the first 2 layers`."""
        count = self.recompute_layers
        return f"{self.recompute} of the first {count} layer{'s' * (count > 1)}" if count else self.recompute

    @property
    def data(self) -> int:
        """Number of replicas, sharded ones counted."""
        return len(self.replicas)

    @property
    def tensor(self) -> int:
        """Ranks of the first replica."""
        return len(self.replicas[0].ranks)

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks of the stage."""
        return tuple(r for replica in self.replicas for r in replica.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Peak bytes on one rank of a stage, by what holds them.

    Attributes:
        workspace_bytes: what a backward needs beside what was kept.
        logits_bytes: tensors of the loss, where they are not part of the workspace.
        buffers_bytes: what communication holds, where it is not part of the gradients or the workspace.
        fragmentation_bytes: reserved by the allocator and not used.
        context_bytes: of the device's driver, libraries and communicators, outside of the allocator.
        host_bytes: what the rank holds in the host's memory instead.
        host_limit_bytes: what it may fill of that; 0: unknown.
    """

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    workspace_bytes: float
    limit_bytes: float
    logits_bytes: float = 0.0
    buffers_bytes: float = 0.0
    fragmentation_bytes: float = 0.0
    context_bytes: float = 0.0
    host_bytes: float = 0.0
    host_limit_bytes: float = 0.0

    @property
    def share(self) -> float:
        """Of what may be filled, on the device or in the host's memory, whichever is fuller."""
        host = self.host_bytes / self.host_limit_bytes if self.host_limit_bytes else 0.0
        return max(self.total_bytes / self.limit_bytes, host)

    @property
    def total_bytes(self) -> float:
        """The peak on the device."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.workspace_bytes
            + self.logits_bytes
            + self.buffers_bytes
            + self.fragmentation_bytes
            + self.context_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParts:
    """Where the time of one step goes on the slowest stage, in seconds; the parts sum to the step time.

    Attributes:
        offload_s: copies of activations to and from the host, as far as nothing hides them.
    """

    compute_s: float
    recompute_s: float
    tensor_communication_s: float
    pipeline_communication_s: float
    data_communication_s: float
    bubble_s: float
    optimizer_s: float
    offload_s: float = 0.0

    @property
    def total_s(self) -> float:
        """The step time."""
        return (
            self.compute_s
            + self.recompute_s
            + self.tensor_communication_s
            + self.pipeline_communication_s
            + self.data_communication_s
            + self.bubble_s
            + self.optimizer_s
            + self.offload_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one step will cost.

    Attributes:
        interval_s: low and high end of the step time.
        mfu: model FLOPs (no recomputation) over the peak of the devices used.
        memory: per stage, on the rank that holds most.
        provenance: pairs of input and `measured`, `fitted`, `data sheet`, `assumed` or `emulated`.
        computing_s: of a step in which a rank runs kernels, on average over all; 0: not known.
    """

    step_time_s: float
    interval_s: tuple[float, float]
    tokens_per_s: float
    mfu: float
    parts: StepParts
    memory: tuple[StageMemory, ...]
    provenance: tuple[tuple[str, str], ...] = ()
    computing_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFrom:
    """Hashes of what a plan was made from (12 hex digits each), and the names for people."""

    model: str
    model_hash: str
    cluster: str
    cluster_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The plan that came second: what it is in words, its predicted step time, the term that beat it."""

    split: str
    step_time_s: float
    lost_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision.

    Attributes:
        stages: in pipeline order; together they hold every layer once.
        micro_batches: of one replica in one step (gradient accumulation included).
        schedule: name of a schedule of nebula.plan.schedule (`1f1b`, `fthenb`).
        engine: `serial`, `fleet` or `executor`: who can run it (legality.py decides).
        ranks: for each rank where it runs.
        sequence_parallel: whether norms and residuals are cut along the sequence inside tensor groups.
        because: the reason in one sentence.
        bound_s: a step time that no plan of the searched space can beat; 0 when unknown.
    """

    stages: tuple[Stage, ...]
    micro_batches: int
    schedule: str
    engine: str
    ranks: tuple[RankPlace, ...]
    job: Job
    made_from: MadeFrom
    sequence_parallel: bool = False
    prediction: Prediction | None = None
    because: str = ""
    runner_up: RunnerUp | None = None
    bound_s: float = 0.0

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)

    @property
    def homes(self) -> tuple[tuple[int, ...], ...]:
        """For each group of ranks, in the order of the pipeline, the indices of its stages: several where virtual."""
        found: dict[tuple[int, ...], list[int]] = {}
        for index, stage in enumerate(self.stages):
            found.setdefault(stage.ranks, []).append(index)
        return tuple(map(tuple, found.values()))

    @property
    def split(self) -> str:
        """The split in the field's words, for people: `data 2 · tensor 2 · pipeline 3 (20|21|22 layers) · ...`.

        Degrees and policies in which stages differ are told stage by stage: `recompute full|none|none`, rows in which
        replicas differ replica by replica.
        """
        first, devices = self.stages[0], len(self.homes)
        parts = [
            f"data {_each([s.data for s in self.stages])}",
            f"tensor {_each([s.tensor // s.context for s in self.stages])}",
        ]
        rows = [replica.micro_batch_rows for replica in first.replicas]
        if len(set(rows)) > 1:
            parts[0] += f" ({_counts(rows)} rows)"
        parts += ["sequence parallel"] * self.sequence_parallel
        context = f"context ({first.exchange})"
        parts += [f"{name} {n}" for name, n in ((context, first.context), ("expert", first.expert)) if n > 1]
        parts.append(f"pipeline {devices}")
        if len(self.stages) > 1:
            chunks = f" × {len(self.stages) // devices} virtual stages" if len(self.stages) > devices else ""
            parts[-1] += f"{chunks} ({_counts([s.layers[1] - s.layers[0] for s in self.stages])} layers)"
        if self.schedule not in ("1f1b", "fthenb") and devices > 1:
            parts.append(self.schedule)
        if first.sharding.stage:
            parts.append(f"sharding stage {first.sharding.stage} over {first.sharding.degree}")
        if any(stage.recompute != "none" for stage in self.stages):
            parts.append(f"recompute {_each([stage.recompute_words for stage in self.stages])}")
        if any(stage.offload != "none" for stage in self.stages):
            parts.append(f"offload {_each([stage.offload for stage in self.stages])}")
        parts.append(f"{self.micro_batches} micro-batch{'es' if self.micro_batches > 1 else ''}")
        return " · ".join(parts)


def _each(values: Sequence[object]) -> str:
    """What all stages have, or what each of them has."""
    return str(values[0]) if len(set(values)) == 1 else _counts(values)


def _counts(values: Sequence[object]) -> str:
    """What each stage has, layers for example; four or more equal neighbours are folded: `2|58×1|3`."""
    runs = [(n, len(list(same))) for n, same in groupby(values)]
    return "|".join(f"{many}×{n}" if many > 3 else "|".join([str(n)] * many) for n, many in runs)
