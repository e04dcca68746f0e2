"""The splits whose training must equal that of one serial process, by name and number of ranks. No paddle here."""

from dataclasses import replace
from itertools import pairwise

from nebula.plan.job import EXCHANGES
from nebula.plan.layout import FLEET, uniform_stages
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Sharding, Stage

EVEN, UNEVEN = (0, 3, 6), (0, 2, 6)
STAGES_OUTERMOST = ("pipeline", "data", "sharding", "tensor")
STAGES_INSIDE = ("data", "sharding", "pipeline", "tensor")


def plan(
    *,
    data=1,
    tensor=1,
    stages=(0, 6),
    sharding=0,
    degree=1,
    micro_batches=2,
    recompute="none",
    recompute_layers=0,
    rows=16,
    order=FLEET,
):
    """A plan for the toy chain of 6 elements, or another one when `stages` says so."""
    cut = Sharding(stage=sharding, degree=degree)
    ranks = data * tensor * (len(stages) - 1)
    alike = uniform_stages(
        boundaries=stages,
        data=data,
        tensor=tensor,
        sharding=cut,
        micro_batch_rows=rows // data // micro_batches,
        recompute=recompute,
        order=order,
    )
    return Plan(
        stages=tuple(replace(stage, recompute_layers=recompute_layers) for stage in alike),
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace("host/0", r) for r in range(ranks)),
        job=Job(global_batch=rows),
        made_from=MadeFrom(model="toy", model_hash="", cluster="", cluster_hash=""),
    )


TWO = {
    "data 2": {"data": 2},
    "data 2, full recompute": {"data": 2, "recompute": "full"},
    "data 2, selective recompute": {"data": 2, "recompute": "selective"},
    "tensor 2": {"tensor": 2},
    "tensor 2, selective recompute": {"tensor": 2, "recompute": "selective"},
    "pipeline 2": {"stages": EVEN},
    "pipeline 2 uneven": {"stages": UNEVEN, "micro_batches": 4},
    "pipeline 2 uneven, full recompute": {"stages": UNEVEN, "recompute": "full"},
    "pipeline 2 uneven, full recompute of a layer each": {"stages": UNEVEN, "recompute": "full", "recompute_layers": 1},
    "sharding stage 1": {"data": 2, "sharding": 1, "degree": 2},
    "sharding stage 2": {"data": 2, "sharding": 2, "degree": 2},
    "sharding stage 3": {"data": 2, "sharding": 3, "degree": 2},
}
FOUR = {
    "data 2 x tensor 2": {"data": 2, "tensor": 2},
    "data 2 x pipeline 2": {"data": 2, "stages": UNEVEN},
    "data 2 x pipeline 2, stages outermost": {"data": 2, "stages": UNEVEN, "order": STAGES_OUTERMOST},
    "tensor 2 x pipeline 2": {"tensor": 2, "stages": UNEVEN},
    "pipeline 4 uneven": {"stages": (0, 1, 3, 4, 6), "micro_batches": 4},
}
for stage in (1, 2, 3):
    FOUR[f"data 2 x sharding stage {stage}"] = {"data": 4, "sharding": stage, "degree": 2}
    FOUR[f"tensor 2 x sharding stage {stage}"] = {"data": 2, "tensor": 2, "sharding": stage, "degree": 2}
    FOUR[f"pipeline 2 x sharding stage {stage}"] = {"data": 2, "stages": UNEVEN, "sharding": stage, "degree": 2}
FOUR["pipeline 2 x sharding stage 1, stages inside"] = FOUR["pipeline 2 x sharding stage 1"] | {"order": STAGES_INSIDE}
EIGHT = {
    f"data 2 x tensor 2 x sharding stage {stage}": {"data": 4, "tensor": 2, "sharding": stage, "degree": 2}
    for stage in (1, 2, 3)
}
NAMED = TWO | FOUR | EIGHT


def unlike(*stages, micro_batches=4, schedule="1f1b", rows=16, sequence=False):
    """A plan of stages that may differ, each ((first, last) layer, replicas, then what may be left out).

    That is the recompute policy, the layers under it, and the degree of sharding stage 1. A replica: (ranks, rows).
    """
    made = tuple(
        Stage(
            layers=layers,
            replicas=tuple(
                Replica(ranks=ranks, tensor_shares=(1,) * len(ranks), micro_batch_rows=own) for ranks, own in replicas
            ),
            recompute=rest[0] if rest else "none",
            recompute_layers=rest[1] if len(rest) > 1 else 0,
            sharding=Sharding(stage=1, degree=rest[2]) if len(rest) > 2 else Sharding(),
        )
        for layers, replicas, *rest in stages
    )
    ranks = {rank for stage in made for rank in stage.ranks}
    return Plan(
        stages=made,
        micro_batches=micro_batches,
        schedule=schedule,
        engine="executor",
        sequence_parallel=sequence,
        ranks=tuple(RankPlace("host/0", r) for r in range(len(ranks))),
        job=Job(global_batch=rows),
        made_from=MadeFrom(model="toy", model_hash="", cluster="", cluster_hash=""),
    )


def virtual(schedule, *cuts, micro_batches=4, devices=2):
    """A pipeline of single ranks with virtual stages where the schedule puts them."""
    places = [device_of(schedule, v, devices, (len(cuts) - 1) // devices) for v in range(len(cuts) - 1)]
    rows = 16 // micro_batches
    stages = [(span, [((place,), rows)]) for span, place in zip(pairwise(cuts), places, strict=True)]
    return unlike(*stages, micro_batches=micro_batches, schedule=schedule)


A, B, C, D = (0,), (1,), (2,), (3,)
UNLIKE_TWO = {
    "rows 3 : 1": unlike(((0, 6), [(A, 3), (B, 1)])),
    "rows 3 : 1, sharding stage 1": unlike(((0, 6), [(A, 3), (B, 1)], "none", 0, 2)),
    "pipeline, 1f1b": unlike(((0, 2), [(A, 4)]), ((2, 6), [(B, 4)])),
    "pipeline, fthenb, recompute in one stage": unlike(
        ((0, 2), [(A, 4)], "full"), ((2, 6), [(B, 4)]), schedule="fthenb"
    ),
    "pipeline, fthenb, recompute of some layers": unlike(
        ((0, 4), [(A, 4)], "full", 2), ((4, 6), [(B, 4)], "selective", 1), schedule="fthenb"
    ),
    "pipeline, zb-h1": unlike(((0, 3), [(A, 4)]), ((3, 6), [(B, 4)]), schedule="zb-h1"),
    "virtual stages, interleaved": virtual("interleaved", 0, 1, 3, 4, 6),
    "virtual stages on one group, interleaved": unlike(
        *((span, [(A, 2), (B, 2)]) for span in pairwise((0, 1, 3, 4, 6))), schedule="interleaved"
    ),
    "virtual stages, zb-v": virtual("zb-v", 0, 2, 3, 5, 6),
    "virtual stages, dualpipe-v": virtual("dualpipe-v", 0, 1, 3, 5, 6),
}
UNLIKE_FOUR = {
    "rows 3 : 1, then tensor 2": unlike(((0, 2), [(A, 3), (B, 1)]), ((2, 6), [(C + D, 4)])),
    "rows 3 : 1, sharding stage 1, then tensor 2": unlike(
        ((0, 2), [(A, 3), (B, 1)], "none", 0, 2), ((2, 6), [(C + D, 4)])
    ),
    "4 replicas, sharding stage 1 over 2": unlike(
        ((0, 6), [(A, 1), (B, 2), (C, 3), (D, 2)], "none", 0, 2), micro_batches=2
    ),
    "tensor 2, then rows 1 : 3": unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C, 1), (D, 3)])),
    "1 rank, 1 rank, tensor 2, zb-h1": unlike(
        ((0, 1), [(A, 2)]), ((1, 3), [(B, 2)]), ((3, 6), [(C + D, 2)]), micro_batches=8, schedule="zb-h1"
    ),
    "tensor 2 beside single ranks in one stage": unlike(((0, 6), [(A + B, 5), (C, 1), (D, 2)]), micro_batches=2),
    "tensor 1, then 3 replicas of 2 : 1 : 1 rows": unlike(
        ((0, 4), [(A, 4)], "selective"), ((4, 6), [(B, 2), (C, 1), (D, 1)])
    ),
}
SEQUENCE_TWO = {
    "sequence, tensor 2": unlike(((0, 6), [(A + B, 8)]), micro_batches=2, sequence=True),
    "sequence, tensor 2, recompute of some layers": unlike(
        ((0, 6), [(A + B, 8)], "full", 3), micro_batches=2, sequence=True
    ),
}
SEQUENCE_FOUR = {
    "sequence, tensor 4": unlike(((0, 6), [(A + B + C + D, 8)]), micro_batches=2, sequence=True),
    "sequence, tensor 2, sharding stage 1": unlike(
        ((0, 6), [(A + B, 4), (C + D, 4)], "none", 0, 2), micro_batches=2, sequence=True
    ),
    "sequence, tensor 2, 2 stages": unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C + D, 4)]), sequence=True),
    "sequence, tensor 2, 2 stages, zb-h1": unlike(
        ((0, 3), [(A + B, 4)], "selective"), ((3, 6), [(C + D, 4)]), schedule="zb-h1", sequence=True
    ),
    "sequence, tensor 2, then rows 1 : 3": unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C, 1), (D, 3)]), sequence=True),
}


def sharing(plan, context, exchange):
    """The plan whose stages share the sequence, each replica in so many tensor groups; 1: that stage does not."""
    degrees = context if isinstance(context, tuple) else (context,) * len(plan.stages)
    stages = zip(plan.stages, degrees, strict=True)
    return replace(plan, stages=tuple(replace(stage, context=n, exchange=exchange) for stage, n in stages))


PAIR = unlike(((0, 6), [(A + B, 8)]), micro_batches=2)
GROUP = unlike(((0, 6), [(A + B + C + D, 8)]), micro_batches=2)
CONTEXT_TWO = {f"context 2 by {way}": sharing(PAIR, 2, way) for way in EXCHANGES} | {
    f"context 2 by {way}, recompute of some layers": sharing(
        unlike(((0, 6), [(A + B, 8)], policy, 3), micro_batches=2), 2, way
    )
    for way, policy in zip(EXCHANGES, ("full", "selective", "selective"), strict=True)
}
CONTEXT_FOUR = {
    "context 4 by ring": sharing(GROUP, 4, "ring"),
    "context 4 by ulysses": sharing(GROUP, 4, "ulysses"),
    "context 2 by ring, tensor 2, sequence": replace(sharing(GROUP, 2, "ring"), sequence_parallel=True),
    "context 2 by ulysses, tensor 2": sharing(GROUP, 2, "ulysses"),
    "context 2 by gather, data 2, sharding stage 1": sharing(
        unlike(((0, 6), [(A + B, 4), (C + D, 4)], "none", 0, 2), micro_batches=2), 2, "gather"
    ),
    "context 2 by ulysses, data 2, sharding stage 1": sharing(
        unlike(((0, 6), [(A + B, 4), (C + D, 4)], "none", 0, 2), micro_batches=2), 2, "ulysses"
    ),
    "context 2 by ring, 2 stages, zb-h1": sharing(
        unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C + D, 4)]), schedule="zb-h1"), 2, "ring"
    ),
    "context 2 by ring, then tensor 2": sharing(unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C + D, 4)])), (2, 1), "ring"),
    "tensor 2, then context 2 by ulysses, sequence": replace(
        sharing(unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C + D, 4)])), (1, 2), "ulysses"), sequence_parallel=True
    ),
}
UNLIKE = UNLIKE_TWO | UNLIKE_FOUR


def dealt(base, *degrees):
    """The plan with the experts of each stage dealt over so many ranks."""
    stages = zip(base.stages, degrees, strict=True)
    return replace(base, stages=tuple(replace(stage, expert=degree) for stage, degree in stages))


def two_replicas(*schedule_and_cuts):
    """A pipeline with virtual stages of two replicas each, of 3 and 1 rows."""
    base = virtual(*schedule_and_cuts)
    pairs = {A: (A, B), B: (C, D)}
    stages = []
    for stage in base.stages:
        first, second = pairs[stage.ranks]
        made = unlike((stage.layers, [(first, 3), (second, 1)]))
        stages.append(made.stages[0])
    return replace(base, stages=tuple(stages), ranks=tuple(RankPlace("host/0", r) for r in range(4)))


EXPERT_TWO = {
    "context 2 by gather, expert 2": dealt(sharing(PAIR, 2, "gather"), 2),
    "expert 2, sharding stage 1": dealt(unlike(((0, 6), [(A, 3), (B, 1)], "none", 0, 2)), 2),
    "expert 2": dealt(unlike(((0, 6), [(A, 2), (B, 2)])), 2),
    "expert 2, rows 3 : 1": dealt(unlike(((0, 6), [(A, 3), (B, 1)])), 2),
    "expert 2, replicas not in the order of their ranks": dealt(unlike(((0, 6), [(B, 3), (A, 1)])), 2),
    "expert 2, rows 7 : 1, full recompute": dealt(unlike(((0, 6), [(A, 7), (B, 1)], "full"), micro_batches=2), 2),
    "pipeline, zb-h1, every rank with all experts": UNLIKE_TWO["pipeline, zb-h1"],
}
EXPERT_FOUR = {
    "context 2 by ring x data 2, expert 4": dealt(
        sharing(unlike(((0, 6), [(A + B, 3), (C + D, 1)], "full")), 2, "ring"), 4
    ),
    "context 2 by ulysses, tensor 2, sequence, expert 2": dealt(
        replace(sharing(GROUP, 2, "ulysses"), sequence_parallel=True), 2
    ),
    "sequence, tensor 2 x data 2, expert 4": dealt(
        unlike(((0, 6), [(A + B, 3), (C + D, 1)], "full"), sequence=True), 4
    ),
    "sequence, tensor 4, expert 2": dealt(unlike(((0, 6), [(A + B + C + D, 8)]), micro_batches=2, sequence=True), 2),
    "sequence, tensor 2, sharding stage 1, expert 2": dealt(
        unlike(((0, 6), [(A + B, 4), (C + D, 4)], "none", 0, 2), micro_batches=2, sequence=True), 2
    ),
    "sequence, tensor 2 and expert 2, then expert 2": dealt(
        unlike(((0, 3), [(A + B, 4)]), ((3, 6), [(C, 1), (D, 3)]), sequence=True), 2, 2
    ),
    "data 4, expert 2, sharding stage 1 over 4": dealt(
        unlike(((0, 6), [(A, 1), (B, 2), (C, 3), (D, 2)], "none", 0, 4), micro_batches=2), 2
    ),
    "data 4 not in order, expert 2, sharding stage 1 over 4": dealt(
        unlike(((0, 6), [(D, 1), (A, 2), (B, 3), (C, 2)], "none", 0, 4), micro_batches=2), 2
    ),
    "data 4, expert 2, sharding stage 1 over 2": dealt(
        unlike(((0, 6), [(A, 1), (B, 2), (C, 3), (D, 2)], "none", 0, 2), micro_batches=2), 2
    ),
    "data 4, expert 2": dealt(unlike(((0, 6), [(A, 1), (B, 1), (C, 1), (D, 1)])), 2),
    "rows 5 : 1 : 1 : 1, expert 4": dealt(unlike(((0, 6), [(A, 5), (B, 1), (C, 1), (D, 1)]), micro_batches=2), 4),
    "pipeline 2 x expert 2": dealt(unlike(((0, 3), [(A, 3), (B, 1)]), ((3, 6), [(C, 1), (D, 3)])), 2, 2),
    "pipeline 2 x expert 2, zb-h1, full recompute": dealt(
        unlike(((0, 3), [(A, 2), (B, 2)], "full"), ((3, 6), [(C, 1), (D, 3)]), schedule="zb-h1"), 2, 2
    ),
    "virtual stages x expert 2, interleaved": dealt(two_replicas("interleaved", 0, 1, 3, 4, 6), 2, 2, 2, 2),
    "expert 2, then tensor 2": dealt(unlike(((0, 3), [(A, 3), (B, 1)]), ((3, 6), [(C + D, 4)])), 2, 1),
}
EXPERT = EXPERT_TWO | EXPERT_FOUR
NAMED_PLANS = UNLIKE | SEQUENCE_TWO | SEQUENCE_FOUR | CONTEXT_TWO | CONTEXT_FOUR | EXPERT


def named(name):
    """The plan of a name; that of one serial process where there is none."""
    if name == "serial, 4 micro-batches":
        return plan(micro_batches=4)
    return NAMED_PLANS[name] if name in NAMED_PLANS else plan(**NAMED.get(name, {"micro_batches": 1}))
