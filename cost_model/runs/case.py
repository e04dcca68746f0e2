"""A measured run as the values that the cost model takes: graph, cluster, plan and execution, and what was measured.

Ranks lie as Megatron lays them: tensor innermost, then context, data, and pipeline outermost. A row that cannot be
expressed gives a Refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from nebula.cluster.values import Cluster
from nebula.cost_model.execution import Execution
from nebula.cost_model.runs.hardware import cluster_of
from nebula.cost_model.runs.partition import Boundaries, boundaries
from nebula.cost_model.runs.read_execution import execution_of
from nebula.cost_model.runs.schema import Row
from nebula.errors import BadInput
from nebula.graph.local_block import local_block
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block, Collective, DistributedGraph, Operator
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Sharding, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The model of a row.

    Attributes:
        graph: an embedding, the layers and a head, whole, for one row of a batch.
        printed_parameters: as the source gives them; 0 when it does not.
    """

    graph: DistributedGraph
    printed_parameters: float = 0.0


Describe = Callable[[Row, Execution], Described]
"""Writes the model of a row as that execution computes it; BadInput where no model has such a shape."""

GIB, MIB = 2.0**30, 2.0**20

PEAKS = (
    ("peak_alloc_gib", GIB),
    ("peak_mem_allocated_mb", MIB),
    ("peak_mem_gib", GIB),
    ("peak_mem_mib", MIB),
    ("peak_mem_mb", MIB),
    ("peak_mem_gb", GIB),
)
"""Fields of measured memory, the most exact first. Tools that print MB or GB of device memory divide by powers of 1024
(torch.cuda, paddle.device, nvidia-smi)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the source measured; 0 where it did not.

    Attributes:
        step_s: one optimizer step.
        forward_s: forward of one layer and micro-batch.
        backward_s: its backward, recomputation included.
        layer_s: both.
        peak_bytes: of device memory on the rank that the source looked at.
    """

    step_s: float = 0.0
    forward_s: float = 0.0
    backward_s: float = 0.0
    layer_s: float = 0.0
    peak_bytes: float = 0.0

    @property
    def time_s(self) -> float:
        """The time that a prediction is held against."""
        return self.step_s or self.layer_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row, expressed.

    Attributes:
        row: what it was read from.
        graph: of the whole model; of one layer for `layer`, of one rank's share of it for `layer_shard`.
        plan: stages are virtual ones: with interleaving, stages i and i + pp have the same ranks. A replica's ranks are
            context times tensor, tensor fastest; those of one context group hold equal weights and share its sharding.
        expert_tensor: ranks over which the weights of one expert are cut.
        tied_elements: parameters that the graph has in its head and that are those of the embedding on the same rank.
        parameters: of the whole model, tied ones once; 0 where only a layer is described.
        printed_parameters: as the source gives them; 0 when it does not.
    """

    row: Row
    graph: DistributedGraph
    cluster: Cluster
    plan: Plan
    execution: Execution
    measured: Measurement
    expert_tensor: int = 1
    tied_elements: int = 0
    parameters: int = 0
    printed_parameters: float = 0.0

    @property
    def id(self) -> str:
        """The row's."""
        return self.row.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that cannot be expressed or predicted, and why."""

    row: Row
    reason: str


def case_of(row: Row, describe: Describe) -> Case | Refused:
    """The case of a row, or why there is none."""
    try:
        return _case(row, describe)
    except BadInput as error:
        return Refused(row=row, reason=str(error))


def _case(row: Row, describe: Describe) -> Case:
    measured = measurement_of(row)
    if not (measured.time_s or measured.peak_bytes):
        raise BadInput("neither a time nor a peak of memory was measured")
    execution = execution_of(row)
    cluster = cluster_of(row)
    model = describe(row, execution)
    return Case(
        row=row,
        graph=model.graph if row.is_step else _one_layer(row, model.graph),
        cluster=cluster,
        plan=plan_of(row, cluster, execution),
        execution=execution,
        measured=measured,
        expert_tensor=row.etp,
        tied_elements=model.graph.tied_elements if row.is_step and row.pp == 1 else 0,
        parameters=model.graph.parameter_count if row.is_step else 0,
        printed_parameters=model.printed_parameters,
    )


def measurement_of(row: Row) -> Measurement:
    """The measured figures in seconds and bytes; a step time that is not printed follows from tokens per second."""
    given = row.measured
    rate = given.tokens_per_s_per_device or row.derived.tokens_per_s_per_device
    step_s = given.step_time_s or 0.0
    if not step_s and given.tokens_per_s_per_device:
        step_s = row.batch * row.seq_len / (given.tokens_per_s_per_device * row.devices)
    if not step_s:
        step_s = row.derived.step_time_s or (row.batch * row.seq_len / (rate * row.devices) if rate else 0.0)
    forward_s, backward_s = (1e-3 * (ms or 0.0) for ms in (given.layer_fwd_ms, given.layer_bwd_ms))
    layer_s = 1e-3 * (given.layer_total_ms or 0.0) or (forward_s + backward_s if forward_s and backward_s else 0.0)
    peak = next((getattr(given, f) * unit for f, unit in PEAKS if getattr(given, f)), 0.0)
    if not row.is_step:
        return Measurement(
            forward_s=forward_s, backward_s=backward_s, layer_s=layer_s or forward_s or backward_s, peak_bytes=peak
        )
    return Measurement(step_s=step_s, peak_bytes=peak)


def plan_of(row: Row, cluster: Cluster, execution: Execution) -> Plan:
    """The row's split as a plan on the first devices of the cluster."""
    if row.kind == "layer_shard":
        row = row.model_copy(update={"tp": 1, "pp": 1, "vpp": 1, "dp": 1, "cp": 1, "ep": 1})
    cuts = boundaries(row) if row.is_step else (0, 1)
    world = row.tp * row.cp * row.dp * row.pp
    addresses = [cluster.address(rank) for rank in range(world)]
    return Plan(
        stages=_stages(row, cuts, execution.recompute.policy),
        micro_batches=row.batch // (row.micro_batch * row.dp) if row.is_step else 1,
        schedule=_schedule(row),
        engine="executor",
        ranks=tuple(RankPlace(f"{cluster.groups[a.group].name}/{a.node}", a.local) for a in addresses),
        job=Job(global_batch=row.batch, precision=execution.job_precision),
        made_from=MadeFrom(model=row.model, model_hash="", cluster=row.device, cluster_hash=""),
        sequence_parallel=row.sequence_parallel and row.tp > 1,
        because="measured by others",
    )


def _stages(row: Row, cuts: Boundaries, recompute: str) -> tuple[Stage, ...]:
    width = row.tp * row.cp
    sharding = sharding_of(row.zero, row.dp)

    def replicas(place: int) -> tuple[Replica, ...]:
        firsts = ((place * row.dp + index) * width for index in range(row.dp))
        return tuple(
            Replica(
                ranks=tuple(range(first, first + width)),
                tensor_shares=(1,) * width,
                micro_batch_rows=row.micro_batch,
            )
            for first in firsts
        )

    held = [replicas(place) for place in range(row.pp)]
    return tuple(
        Stage(
            layers=(cuts[stage], cuts[stage + 1]),
            replicas=held[stage % row.pp],
            context=row.cp,
            expert=row.ep,
            sharding=sharding,
            recompute=recompute,
        )
        for stage in range(len(cuts) - 1)
    )


def sharding_of(text: str, data: int) -> Sharding:
    """The sharding that a text as `2 (group-sharded stage2 over 4)` or `fsdp(3)` means.

    Example:
        >>> sharding_of("fsdp(3) over dp*cp", 8)
        Sharding(stage=3, degree=8)
    """
    lower = text.lower()
    stage = re.search(r"fsdp\s*\(?\s*([1-3])|^\s*([0-3])|(?:zero|stage)[- ]?([1-3])", lower)
    number = int(next(g for g in stage.groups() if g)) if stage else 3 if "fsdp" in lower else 0
    if number == 0 or data == 1:
        return Sharding()
    over = re.search(r"over\s+([0-9]+)", lower)
    degree = int(over[1]) if over else data
    return Sharding(stage=number, degree=degree if degree and data % degree == 0 else data)


def _schedule(row: Row) -> str:
    text = f"{row.overlap} {row.notes}".lower()
    if re.search(r"dualpipe|zero[- ]bubble|\bzb", text) and row.pp > 1:
        return "zb-v" if row.vpp == 2 else "zb-h1" if row.vpp == 1 else "interleaved"
    if row.vpp > 1:
        return "interleaved"
    return "fthenb" if "gpipe" in text else "1f1b"


def _one_layer(row: Row, graph: DistributedGraph) -> DistributedGraph:
    """A graph of the last layer of the chain alone; of one rank's share without its collectives for `layer_shard`."""
    block = graph.block_of(len(graph.layers) - 2)
    rows = graph.rows
    if row.kind == "layer_shard":
        # a block that was cut keeps its rows
        rows = row.micro_batch
        local = local_block(
            block_with_rows(block, rows),
            tensor=row.tp,
            splits=graph.splits,
            sequence=row.sequence_parallel,
            expert=row.ep,
            expert_tensor=row.etp,
        )
        block = without_collectives(local)
    return replace(graph, rows=rows, blocks=(block,), layers=(0,), layer_names=(graph.layer_names[-2],))


def without_collectives(block: Block) -> Block:
    """The block as it runs on a device that has no peers."""

    def quiet(operator: Operator) -> Operator:
        forward, backward = (
            tuple(w for w in work if not isinstance(w, Collective)) for work in (operator.forward, operator.backward)
        )
        return replace(operator, forward=forward, backward=backward)

    return replace(block, operators=tuple(quiet(op) for op in block.operators))
