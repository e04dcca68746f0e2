"""Plans for tests: legal uniform ones of given degrees, and a hypothesis strategy for whatever a plan can hold."""

from __future__ import annotations

from hypothesis import strategies as st

from nebula.plan.layout import uniform_stages
from nebula.plan.values import (
    Job,
    MadeFrom,
    Plan,
    Prediction,
    RankPlace,
    Replica,
    RunnerUp,
    Sharding,
    Stage,
    StageMemory,
    StepParts,
)

MADE_FROM = MadeFrom(model="small", model_hash="0123456789ab", cluster="four", cluster_hash="ba9876543210")


def uniform(*, data=1, tensor=1, boundaries=(0, 4), rows=2, micro_batches=2, sharding=Sharding(), **more) -> Plan:  # noqa: B008
    """A legal plan for the fleet engine on nodes `n/0`, `n/1`, ... of four devices."""
    pipeline = len(boundaries) - 1
    plan = {
        "stages": uniform_stages(
            boundaries=boundaries, data=data, tensor=tensor, sharding=sharding, micro_batch_rows=rows
        ),
        "micro_batches": micro_batches,
        "schedule": "1f1b",
        "engine": "fleet",
        "ranks": tuple(RankPlace(f"n/{r // 4}", r % 4) for r in range(data * tensor * pipeline)),
        "job": Job(global_batch=data * rows * micro_batches),
        "made_from": MADE_FROM,
    }
    return Plan(**{**plan, **more})


numbers = st.floats(0, 1e18)
whole = st.integers(0, 10**6)
text = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=20)


def _record(kind, fields):
    return st.builds(kind, **fields)


replicas = st.integers(1, 4).flatmap(
    lambda n: st.builds(
        Replica,
        ranks=st.tuples(*[whole] * n),
        tensor_shares=st.tuples(*[whole] * n),
        micro_batch_rows=whole,
    )
)
stages = st.builds(
    Stage,
    layers=st.tuples(whole, whole),
    replicas=st.lists(replicas, min_size=1, max_size=3).map(tuple),
    context=whole,
    expert=whole,
    sharding=st.builds(Sharding, stage=whole, degree=whole),
    recompute=text,
    offload=text,
    recompute_layers=whole,
)
parts = _record(StepParts, dict.fromkeys(StepParts.__dataclass_fields__, numbers))
memories = _record(StageMemory, dict.fromkeys(StageMemory.__dataclass_fields__, numbers))
predictions = st.builds(
    Prediction,
    step_time_s=numbers,
    interval_s=st.tuples(numbers, numbers),
    tokens_per_s=numbers,
    mfu=numbers,
    parts=parts,
    memory=st.lists(memories, max_size=2).map(tuple),
    provenance=st.lists(st.tuples(text, text), max_size=2).map(tuple),
)
plans = st.builds(
    Plan,
    stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
    micro_batches=whole,
    schedule=text,
    engine=text,
    ranks=st.lists(st.builds(RankPlace, text, whole), min_size=1, max_size=4).map(tuple),
    job=st.builds(Job, global_batch=whole, precision=text, optimizer=text, tokens=numbers, steps=whole),
    made_from=st.builds(MadeFrom, model=text, model_hash=text, cluster=text, cluster_hash=text),
    sequence_parallel=st.booleans(),
    prediction=st.none() | predictions,
    because=text,
    runner_up=st.none() | st.builds(RunnerUp, split=text, step_time_s=numbers, lost_by=text),
    bound_s=numbers,
)
