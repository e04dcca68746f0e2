"""The splits whose training must equal that of one serial process, by name and number of ranks. No paddle here."""

from nebula.plan.layout import FLEET, uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding

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
    rows=16,
    order=FLEET,
):
    """A plan for the toy chain of 6 elements, or another one when `stages` says so."""
    cut = Sharding(stage=sharding, degree=degree)
    ranks = data * tensor * (len(stages) - 1)
    return Plan(
        stages=uniform_stages(
            boundaries=stages,
            data=data,
            tensor=tensor,
            sharding=cut,
            micro_batch_rows=rows // data // micro_batches,
            recompute=recompute,
            order=order,
        ),
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace("host/0", r) for r in range(ranks)),
        job=Job(global_batch=rows),
        made_from=MadeFrom(model="toy", model_hash="", cluster="", cluster_hash=""),
    )


TWO = {
    "data 2": {"data": 2},
    "tensor 2": {"tensor": 2},
    "tensor 2, selective recompute": {"tensor": 2, "recompute": "selective"},
    "pipeline 2": {"stages": EVEN},
    "pipeline 2 uneven": {"stages": UNEVEN, "micro_batches": 4},
    "pipeline 2 uneven, full recompute": {"stages": UNEVEN, "recompute": "full"},
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
NAMED = TWO | FOUR
