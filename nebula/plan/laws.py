"""The laws that every plan keeps, as predicates of the legality table.

Each yields one sentence per violation, with the numbers of the equation, and says what to change where that is not
plain from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nebula.cluster.places import device_index
from nebula.errors import BadInput, closest, shown
from nebula.plan.job import EXCHANGES, OFFLOAD, OPTIMIZERS, PRECISIONS, RECOMPUTE
from nebula.plan.schedule import SCHEDULES
from nebula.plan.values import Plan, Stage

if TYPE_CHECKING:
    from nebula.plan.legality import Case


def engine(case: Case) -> Iterator[str]:
    """The engine is one that there is."""
    from nebula.plan.legality import ENGINES

    yield from _word("engine", case.plan.engine, ENGINES)


def schedule(case: Case) -> Iterator[str]:
    """The schedule is one of the schedule language."""
    yield from _word("schedule", case.plan.schedule, tuple(SCHEDULES))


def recompute(case: Case) -> Iterator[str]:
    """The recompute policies are known, and hold for layers that there are."""
    for policy in dict.fromkeys(stage.recompute for stage in case.plan.stages):
        yield from _word("recompute", policy, RECOMPUTE)
    for index, stage in enumerate(case.plan.stages):
        count, held = stage.recompute_layers, stage.layers[1] - stage.layers[0]
        if not 0 <= count <= max(held, 0):
            yield f"recompute_layers {count} in stage {index}: it holds {held} layers, and 0 means all of them"
        elif count and stage.recompute == RECOMPUTE[0]:
            yield f"recompute_layers {count} in stage {index}: its policy is none, so that no layer is computed again"


def offload(case: Case) -> Iterator[str]:
    """What is offloaded is known."""
    for what in dict.fromkeys(stage.offload for stage in case.plan.stages):
        yield from _word("offload", what, OFFLOAD)


def job(case: Case) -> Iterator[str]:
    """The job's words are known and its numbers possible."""
    asked = case.plan.job
    yield from _word("precision", asked.precision, PRECISIONS)
    yield from _word("optimizer", asked.optimizer, OPTIMIZERS)
    if asked.global_batch < 1:
        yield f"global_batch {asked.global_batch}: a step needs at least 1 row"
    if not 0 < asked.memory_fraction <= 1:
        yield f"memory_fraction {asked.memory_fraction:g} is not above 0 and at most 1"
    for name in ("tokens", "steps"):
        if getattr(asked, name) < 0:
            yield f"{name} {getattr(asked, name):g} is below 0"


def layers(case: Case) -> Iterator[str]:
    """Together the stages hold every layer once."""
    reached = 0
    for index, stage in enumerate(case.plan.stages):
        first, last = stage.layers
        if first != reached:
            what = "leaves out" if first > reached else "repeats"
            yield f"stage {index} begins at layer {first} where layer {reached} comes next: it {what} layers"
        if last <= first:
            yield f"stage {index} holds no layer: its layers are {first} to {last}"
        reached = last
    if reached != case.layers:
        yield f"the stages end at layer {reached}, the model has {case.layers} layers"


def product(case: Case) -> Iterator[str]:
    """The degrees multiply (or, for unlike stages, add up) to the ranks."""
    plan, stages, ranks = case.plan, case.plan.stages, case.plan.world_size
    first = stages[0]
    sizes = [len(held) for held in _held(plan)]
    if sum(sizes) == ranks:
        return
    if all(shape(stage) == shape(first) for stage in stages) and sizes[0] == first.data * first.tensor:
        equation = f"data {first.data} × tensor {first.tensor} × pipeline {len(stages)}"
        yield f"{equation} = {sum(sizes)} ≠ {ranks} ranks"
    else:
        terms = " + ".join(f"{size} in stage {index}" for index, size in enumerate(sizes))
        yield f"{terms} = {sum(sizes)} ≠ {ranks} ranks"


def _held(plan: Plan) -> list[tuple[int, ...]]:
    """The ranks of every stage; once, where the schedule has virtual stages that share them."""
    known = SCHEDULES.get(plan.schedule)
    each = [stage.ranks for stage in plan.stages]
    return list(dict.fromkeys(each)) if known and known.chunks[1] > 1 else each


def ranks(case: Case) -> Iterator[str]:
    """Every rank works in one stage, once."""
    plan = case.plan
    used = Counter(rank for held in _held(plan) for rank in held)
    several = sorted(rank for rank, count in used.items() if count > 1)
    beyond = sorted(rank for rank in used if not 0 <= rank < plan.world_size)
    idle = [rank for rank in range(plan.world_size) if rank not in used]
    if several:
        yield f"{_numbers('rank', several)} work{_s(several)} in {used[several[0]]} places; a rank has one"
    if beyond:
        yield f"{_numbers('rank', beyond)} {_are(beyond)} not among ranks 0 to {plan.world_size - 1} that have a place"
    if idle:
        yield f"{_numbers('rank', idle)} work{_s(idle)} in no stage"


def shares(case: Case) -> Iterator[str]:
    """Each rank of a replica has a share of the split tensors, and rows to work on."""
    for index, stage in enumerate(case.plan.stages):
        for place, replica in enumerate(stage.replicas):
            where = f"replica {place} of stage {index}"
            if len(replica.ranks) != len(replica.tensor_shares):
                yield f"{where} has {len(replica.ranks)} ranks and {len(replica.tensor_shares)} tensor shares"
            if min(replica.tensor_shares, default=1) < 1:
                yield f"{where} has a tensor share of {min(replica.tensor_shares)}; the least is 1"
            if replica.micro_batch_rows < 1:
                yield f"{where} has micro-batches of {replica.micro_batch_rows} rows; the least is 1"


def batch(case: Case) -> Iterator[str]:
    """Micro-batches times the rows of all replicas are the global batch, in every stage."""
    plan = case.plan
    asked, seen = plan.job.global_batch, set[str]()
    if plan.micro_batches < 1:
        yield f"{plan.micro_batches} micro-batches: there must be at least 1"
    for index, stage in enumerate(plan.stages):
        rows = [replica.micro_batch_rows for replica in stage.replicas]
        got = plan.micro_batches * sum(rows)
        even = f"{_count(len(rows), 'replica')} × {_count(rows[0], 'row')}"
        terms = even if len(set(rows)) == 1 else f"({' + '.join(map(str, rows))}) rows"
        equation = f"{_count(plan.micro_batches, 'micro-batch')} × {terms} = {got} ≠ {asked} rows of the global batch"
        if got != asked and equation not in seen:
            seen.add(equation)
            yield equation if index == 0 else f"stage {index}: {equation}"


def degrees(case: Case) -> Iterator[str]:
    """Context and expert degrees are at least 1; ranks that share a sequence are as many tensor groups."""
    for index, stage in enumerate(case.plan.stages):
        for name in ("context", "expert"):
            if getattr(stage, name) < 1:
                yield f"{name} {getattr(stage, name)} in stage {index}: the least is 1"
        yield from _word("exchange", stage.exchange, EXCHANGES)
        odd = [len(r.ranks) for r in stage.replicas if len(r.ranks) % max(1, stage.context)]
        if odd:
            told = f"{odd[0]} ranks % context {stage.context} = {odd[0] % stage.context}"
            yield f"a replica of stage {index} has {told}, not 0: its ranks are tensor groups that share the sequence"
        if stage.expert > 1 and len(stage.ranks) % stage.expert:
            left = f"{len(stage.ranks)} ranks % expert {stage.expert} = {len(stage.ranks) % stage.expert}, not 0"
            yield f"stage {index}: {left}; an expert group lies within one stage"


def sharding(case: Case) -> Iterator[str]:
    """Sharding has a stage that there is, and a degree that divides the replicas."""
    for value, data in dict.fromkeys((stage.sharding, stage.data) for stage in case.plan.stages):
        if value.stage not in range(4):
            yield f"sharding stage {value.stage} is none of 0, 1, 2, 3"
        if value.degree < 1 or data % value.degree:
            yield f"data {data} ÷ sharding {value.degree} is not whole: the degree must divide the replicas"
        elif (value.stage == 0) != (value.degree == 1):
            remedy = "stage 0 goes with degree 1, stages 1 to 3 with 2 or more"
            yield f"sharding stage {value.stage} over {value.degree}: {remedy}"


def sequence(case: Case) -> Iterator[str]:
    """Sequence parallelism lives inside tensor groups."""
    tensor = max(stage.tensor // max(1, stage.context) for stage in case.plan.stages)
    if case.plan.sequence_parallel and tensor == 1:
        yield "sequence_parallel with tensor 1: there is no tensor group to cut the sequence in"


def places(case: Case) -> Iterator[str]:
    """Every rank has a device of its own in the cluster."""
    cluster, plan = case.cluster, case.plan
    if len(set(plan.ranks)) < len(plan.ranks):
        place, count = Counter(plan.ranks).most_common(1)[0]
        yield f"{count} ranks share device {place.device} of node {place.node}; each needs its own"
    if cluster is None:
        return
    if plan.world_size > cluster.device_count:
        yield f"{plan.world_size} ranks > {cluster.device_count} devices of cluster {cluster.name}"
    for rank, place in enumerate(plan.ranks):
        try:
            device_index(cluster, place.node, place.device)
        except BadInput as error:
            yield f"rank {rank}: {error}"
            return


def excluded(case: Case) -> Iterator[str]:
    """No rank is on a node that must not be used."""
    if case.cluster is None:
        return
    out = {f"{group.name}/{node}" for group in case.cluster.groups for node in group.excluded}
    for node in dict.fromkeys(place.node for place in case.plan.ranks if place.node in out):
        on = [rank for rank, place in enumerate(case.plan.ranks) if place.node == node]
        yield f"{_numbers('rank', on)} {_are(on)} on node {node}, which is excluded; plan again"


def kinds(case: Case) -> Iterator[str]:
    """Ranks that share a communicator are on devices of one kind."""
    if case.cluster is None:
        return
    kind = {group.name: group.device.kind for group in case.cluster.groups}
    for index, stage in enumerate(case.plan.stages):
        on = [case.plan.ranks[r].node.rpartition("/")[0] for r in stage.ranks if 0 <= r < case.plan.world_size]
        found = sorted({kind[group] for group in on if group in kind})
        if len(found) > 1:
            yield f"stage {index} spans devices of kinds {' and '.join(found)}, which share no communicator"


def wan(case: Case) -> Iterator[str]:
    """What a layer waits for in every pass, and what gathers parameters, stays within one site of a WAN."""
    cluster = case.cluster
    if cluster is None or len(cluster.sites) < 2:
        return
    sites = {group: site.name for site in cluster.sites for group in site.groups}
    at = [sites.get(place.node.rpartition("/")[0], "") for place in case.plan.ranks]
    for index, stage in enumerate(case.plan.stages):
        for axis, groups in close_groups(stage):
            for group in groups:
                found = list(dict.fromkeys(at[rank] for rank in group if 0 <= rank < len(at)))
                if len(found) > 1:
                    told = f"{axis} group of stage {index} (ranks {group[0]} to {group[-1]}) spans "
                    yield told + WAN_CROSSED.format(" and ".join(found))
                    break


WAN_CROSSED = (
    "sites {}: only pipeline and data may cross a WAN, for tensor, context, expert and sharding groups exchange "
    "activations or parameters of every layer"
)
"""Why a group must not span sites, which are named in it."""


def close_groups(stage: Stage) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The groups of a stage that must not be far apart, by axis; those of one rank are left out."""
    degree = max(1, stage.sharding.degree)
    yield "tensor" if stage.context == 1 else "context", [r.ranks for r in stage.replicas if len(r.ranks) > 1]
    if stage.expert > 1:
        yield "expert", expert_groups(stage)
    if degree > 1:
        held = [stage.replicas[i : i + degree] for i in range(0, stage.data, degree)]
        yield "sharding", [tuple(rank for replica in group for rank in replica.ranks) for group in held]


def expert_groups(stage: Stage) -> list[tuple[int, ...]]:
    """The ranks that share the experts of a stage: as many as its degree, which follow each other."""
    return dealing_groups(stage.ranks, stage.expert)


def dealing_groups(ranks: Sequence[int], degree: int) -> list[tuple[int, ...]]:
    """Ranks of a stage in groups of those that follow each other, each ascending: so a communicator numbers them.

    Example:
        >>> dealing_groups((4, 0, 2, 6), 2)
        [(0, 4), (2, 6)]
    """
    return [tuple(sorted(ranks[i : i + degree])) for i in range(0, len(ranks), degree)]


def shape(stage: Stage) -> tuple[object, ...]:
    """What must be equal for stages to be alike: all but the layers and the recompute policy."""
    rows = stage.replicas[0].micro_batch_rows
    return (stage.data, stage.tensor, stage.sharding, stage.context, stage.exchange, stage.expert, rows)


def _word(what: str, word: str, known: tuple[str, ...]) -> Iterator[str]:
    if word not in known:
        yield f"{what} {shown(word)} does not exist; {closest(word, known)}"


def _count(number: int, what: str) -> str:
    plural = what + ("es" if what.endswith("ch") else "s")
    return f"{number} {what if number == 1 else plural}"


def _numbers(what: str, numbers: list[int]) -> str:
    """`rank 3`, `ranks 3 and 4`, `ranks 3, 4, 5 and 7 more`."""
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    if len(numbers) <= 4:
        return f"{what}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"{what}s {', '.join(map(str, numbers[:3]))} and {len(numbers) - 3} more"


def _s(numbers: list[int]) -> str:
    return "s" if len(numbers) == 1 else ""


def _are(numbers: list[int]) -> str:
    return "is" if len(numbers) == 1 else "are"
