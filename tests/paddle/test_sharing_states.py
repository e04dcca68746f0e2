"""Who shares the states of the optimizer with whom, on the executor."""

from dataclasses import replace

from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Sharding, Stage
from nebula.runtime.executor.sharding import all_sharding_ranks, same_heads


def test_ranks_that_share_a_sequence_share_states_where_they_hold_the_same():
    held = tuple(
        Replica(ranks=tuple(range(4 * i, 4 * i + 4)), tensor_shares=(1,) * 4, micro_batch_rows=1) for i in range(2)
    )
    stage = Stage(layers=(0, 1), replicas=held, context=2, sharding=Sharding(stage=1, degree=2))
    plan = Plan(
        stages=(stage,),
        micro_batches=1,
        schedule="1f1b",
        engine="executor",
        ranks=tuple(RankPlace("n/0", i) for i in range(8)),
        job=Job(global_batch=2),
        made_from=MadeFrom(model="toy", model_hash="", cluster="", cluster_hash=""),
    )
    assert list(all_sharding_ranks(plan)) == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert same_heads(plan, (0, 2, 4, 6)) == ((0, 4), (2, 6))  # under Ulysses, of weights that are cut by heads
    alone = replace(plan, stages=(replace(stage, sharding=Sharding()),))
    assert list(all_sharding_ranks(alone)) == [(rank,) for rank in range(8)]
