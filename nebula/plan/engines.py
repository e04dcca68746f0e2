"""What each engine asks of a plan, and what it cannot do yet, as predicates of the legality table.

Each yields one sentence per violation, with the numbers. Limits of plain CPU were measured on PaddlePaddle 3.3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nebula.errors import BadInput
from nebula.plan.laws import shape
from nebula.plan.layout import FLEET, order_of, strides
from nebula.plan.schedule import SCHEDULES, device_of
from nebula.plan.values import Stage

if TYPE_CHECKING:
    from nebula.plan.legality import Case

GLOO_SHARDING_RANKS = 2
"""On how many CPU ranks sharding stage 1 was found exact."""


def one_rank(case: Case) -> Iterator[str]:
    """The serial engine runs one rank."""
    if case.plan.world_size != 1:
        yield f"the engine serial runs 1 rank, the plan has {case.plan.world_size}"


def alike(case: Case) -> Iterator[str]:
    """Fleet runs plans whose stages differ in their layers only, and whose replicas are equal."""
    first = case.plan.stages[0]
    for index, stage in enumerate(case.plan.stages):
        if shape(stage) != shape(first):
            yield f"stage {index} has {_told(stage)} where stage 0 has {_told(first)}: fleet needs stages alike"
        for place, replica in enumerate(stage.replicas):
            if len(replica.ranks) != stage.tensor or replica.micro_batch_rows != stage.replicas[0].micro_batch_rows:
                told = f"{len(replica.ranks)} ranks and {replica.micro_batch_rows} rows"
                yield f"replica {place} of stage {index} has {told}: fleet needs replicas that are equal"
            if len(set(replica.tensor_shares)) > 1:
                yield f"replica {place} of stage {index} has unequal tensor shares {list(replica.tensor_shares)}"


def fleet_order(case: Case) -> Iterator[str]:
    """Ranks are numbered along the axes of fleet's mesh, in one of the orders of nebula.plan.layout."""
    stages = case.plan.stages
    first = stages[0]
    degree = max(1, first.sharding.degree)
    if any(shape(stage) != shape(first) for stage in stages) or first.data % degree or order_of(stages):
        return
    mesh = {"data": first.data // degree, "pipeline": len(stages), "sharding": degree, "tensor": first.tensor}
    step = strides(FLEET, mesh)
    for index, stage in enumerate(stages):
        for place, replica in enumerate(stage.replicas):
            outer, shard = divmod(place, degree)
            start = outer * step["data"] + index * step["pipeline"] + shard * step["sharding"]
            order = tuple(range(start, start + len(replica.ranks)))
            if replica.ranks != order:
                told = f"replica {place} of stage {index} holds ranks {list(replica.ranks)}"
                yield f"{told}, fleet puts {list(order)} there: number them {', '.join(FLEET)}"
                return


def fleet_schedule(case: Case) -> Iterator[str]:
    """Fleet's pipeline runs 1F1B."""
    if len(case.plan.stages) > 1 and case.plan.schedule != "1f1b":
        yield f"schedule {case.plan.schedule}: fleet's pipeline runs 1f1b"


def no_context(case: Case) -> Iterator[str]:
    """Neither a serial process nor fleet shares a sequence."""
    degree = max(stage.context for stage in case.plan.stages)
    if degree > 1:
        yield f"context {degree}: the engine executor alone runs context parallelism"


def no_experts(case: Case) -> Iterator[str]:
    """Expert parallelism is the executor's."""
    degree = max(stage.expert for stage in case.plan.stages)
    if degree > 1:
        yield f"expert {degree}: the engine executor alone runs expert parallelism"


def one_context(case: Case) -> Iterator[str]:
    """The virtual stages of a device share the sequence alike."""
    for held in case.plan.homes:
        ways = {(case.plan.stages[i].context, case.plan.stages[i].exchange) for i in held}
        if len(ways) > 1:
            told = " and ".join(f"{degree} by {way}" for degree, way in sorted(ways))
            yield f"stages {held[0]} and {held[-1]} share ranks, and have context {told}: they need one"


def own_tokens(case: Case) -> Iterator[str]:
    """The executor deals experts to ranks that hold different tokens."""
    for index, stage in enumerate(case.plan.stages):
        width = max(len(replica.ranks) for replica in stage.replicas) // max(1, stage.context)
        if stage.expert > 1 and width > 1 and not case.plan.sequence_parallel:
            yield (
                f"expert {stage.expert} with tensor {width} in stage {index}: without sequence_parallel the ranks of a "
                "tensor group hold the same tokens; set it, or take tensor 1 there"
            )


def no_offload(case: Case) -> Iterator[str]:
    """Nothing is kept in the host's memory yet."""
    for what in dict.fromkeys(stage.offload for stage in case.plan.stages if stage.offload != "none"):
        yield f"offload {what}: no engine keeps states or activations in the host's memory yet"


def no_sequence(case: Case) -> Iterator[str]:
    """Fleet's own layers of sequence parallelism are not used: beside its pipeline they are silently wrong."""
    if case.plan.sequence_parallel:
        yield "sequence_parallel: the executor alone runs it"


def fp32(case: Case) -> Iterator[str]:
    """Paddle's CPU wheel has no matrix product in bf16 or fp16, and the emulated device computes with its kernels."""
    asked = case.plan.job.precision
    if asked != "fp32":
        where = "emulated devices, which compute with the CPU's kernels" if "emulated" in case.kinds else "the CPU"
        yield f"precision {asked}: Paddle has no matrix product in {asked} on {where}; set job.precision=fp32"


def data_only(case: Case) -> Iterator[str]:
    """Plain CPU with gloo serves data parallelism."""
    stages = case.plan.stages
    tensor = max(stage.tensor for stage in stages)
    if tensor > 1:
        yield f"tensor {tensor}: Paddle's tensor-parallel layers refuse the CPU; use the emulated device"
    if len(stages) > 1:
        yield f"pipeline {len(stages)}: pipelines do not run on the CPU; use the emulated device"


def gloo_sharding(case: Case) -> Iterator[str]:
    """On plain CPU sharding stage 1 is exact on two ranks; stages 2 and 3 are refused by Paddle."""
    first = case.plan.stages[0]
    stage, degree = first.sharding.stage, first.sharding.degree
    if stage > 1:
        yield f"sharding stage {stage}: Paddle refuses it on the CPU; use stage 1 or the emulated device"
    if stage == 1 and degree > GLOO_SHARDING_RANKS:
        yield f"sharding stage 1 over {degree}: on the CPU it is tested on {GLOO_SHARDING_RANKS} ranks alone"


def one_kind(case: Case) -> Iterator[str]:
    """The groups of fleet span all kinds of devices, and no library does."""
    if len(set(case.kinds)) > 1:
        yield f"devices of kinds {' and '.join(sorted(set(case.kinds)))}: fleet lets one library carry all messages"


def one_kind_a_stage(case: Case) -> Iterator[str]:
    """The ranks of a stage share a communicator, those of several exchange through their hosts."""
    for index, stage in enumerate(case.plan.stages if len(case.kinds) > 1 else ()):
        found = sorted({case.kind(rank) for rank in stage.ranks})
        if len(found) > 1:
            yield f"stage {index} spans devices of kinds {' and '.join(found)}, which share no communicator"


def pipelines_alone(case: Case) -> Iterator[str]:
    """Plain CPUs exchange through their hosts, which hand over what crosses borders and sum gradients alone."""
    if set(case.kinds) == {"cpu"}:
        yield "the engine executor on plain CPUs alone: nobody has measured it; use the emulated device"
    for index, stage in enumerate(case.plan.stages):
        if case.kind(stage.ranks[0]) == "cpu":
            degrees = {"tensor": stage.tensor, "context": stage.context, "expert": stage.expert}
            for axis, degree in degrees.items():
                if degree > 1:
                    yield f"{axis} {degree} of stage {index}: Paddle lacks its collectives on the CPU"


def states_alone(case: Case) -> Iterator[str]:
    """The executor shards the states of the optimizer, over replicas of one tensor degree."""
    for value in dict.fromkeys(stage.sharding for stage in case.plan.stages):
        if value.stage > 1:
            asked = f"sharding stage {value.stage} over {value.degree}"
            yield f"{asked}: the executor shards optimizer states alone; objective.fixed.sharding=1 asks for it"
    for index, stage in enumerate(case.plan.stages):
        widths = [len(replica.ranks) for replica in stage.replicas]
        if stage.sharding.stage and len(set(widths)) > 1:
            yield f"sharding in stage {index}: its replicas have {widths} ranks; those that share states need as many"
    for held in case.plan.homes:
        ways = sorted({(case.plan.stages[i].sharding.stage, case.plan.stages[i].sharding.degree) for i in held})
        if len(ways) > 1:
            told = " and ".join(f"stage {stage} over {degree}" for stage, degree in ways)
            yield f"stages {held[0]} and {held[-1]} share ranks, and have sharding {told}: they need one"


def even_shares(case: Case) -> Iterator[str]:
    """Paddle's tensor-parallel layers cut evenly, and number the ranks of a group in ascending order."""
    for index, stage in enumerate(case.plan.stages):
        for place, replica in enumerate(stage.replicas):
            where = f"replica {place} of stage {index}"
            if len(set(replica.tensor_shares)) > 1:
                yield f"{where} has unequal tensor shares {list(replica.tensor_shares)}: no engine cuts unevenly yet"
            if list(replica.ranks) != sorted(replica.ranks):
                yield f"{where} holds ranks {list(replica.ranks)}: the executor needs them in ascending order"


def one_chain(case: Case) -> Iterator[str]:
    """The executor sends micro-batches in at the first stage alone."""
    known = SCHEDULES.get(case.plan.schedule)
    if known and known.chains > 1:
        yield f"schedule {case.plan.schedule}: the executor lets micro-batches in at one end alone"


def virtual_in_place(case: Case) -> Iterator[str]:
    """Groups of ranks that hold several stages hold those that the schedule gives them."""
    if len(case.plan.homes) < len(case.plan.stages):
        yield from chunks_in_place(case)


def chunks_in_place(case: Case) -> Iterator[str]:
    """Virtual stages lie where the schedule puts them, with the same replicas on a device."""
    plan = case.plan
    homes = plan.homes
    chunks = len(homes[0])
    if any(len(held) != chunks for held in homes):
        counts = ", ".join(str(len(held)) for held in homes)
        yield f"the groups of ranks hold {counts} stages: schedules need as many on each"
        return
    try:
        placed = [device_of(plan.schedule, index, len(homes), chunks) for index in range(len(plan.stages))]
    except BadInput as error:
        yield str(error)
        return
    for device, held in enumerate(homes):
        first = plan.stages[held[0]]
        for index in held:
            if placed[index] != device:
                wanted = f"schedule {plan.schedule} has it on {placed[index]}"
                yield f"stage {index} lies on group {device} of ranks: {wanted}"
            if plan.stages[index].replicas != first.replicas:
                yield f"stages {held[0]} and {index} share ranks and not their replicas"


def _told(stage: Stage) -> str:
    parts = [f"data {stage.data}", f"tensor {stage.tensor}", f"{stage.replicas[0].micro_batch_rows} rows"]
    parts.append(f"sharding {stage.sharding.stage} over {stage.sharding.degree}")
    parts += [f"context {stage.context} by {stage.exchange}"] * (stage.context != 1)
    parts += [f"expert {stage.expert}"] * (stage.expert != 1)
    return ", ".join(parts)
