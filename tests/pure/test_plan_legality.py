"""The legality table: legal plans pass, each broken law prints its equation, and engines say what they lack."""
# ruff: noqa: E501 (tables of mistakes, one a row)

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_samples import plans, uniform

from nebula.cluster.schema import load_cluster
from nebula.graph.rules.context import EXCHANGES
from nebula.plan import job
from nebula.plan.laws import expert_groups
from nebula.plan.legality import DEVICE_KINDS, RULES, executable, executable_on, violations
from nebula.plan.values import Job, RankPlace, Replica, Sharding

CLUSTER = load_cluster(
    {
        "name": "four nodes",
        "nodes": [
            {
                "name": "n",
                "count": 4,
                "device": "A100-80GB-SXM",
                "devices_per_node": 4,
                "intra": {"kind": "nvlink", "bandwidth": "300GB/s"},
                "nic": {"bandwidth": "200Gb/s"},
                "exclude": [3],
            },
            {"name": "m", "count": 1, "device": "Ascend-910B", "devices_per_node": 1, "nic": {"bandwidth": "200Gb/s"}},
        ],
    }
)
LEGAL = uniform(data=2, tensor=2, boundaries=(0, 1, 4))


def sentences(plan, *, layers=4, cluster=CLUSTER):
    return [v.sentence for v in violations(plan, layers=layers, cluster=cluster)]


def with_stage(plan, index, **changes):
    stages = list(plan.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(plan, stages=tuple(stages))


@settings(deadline=None)
@given(
    data=st.integers(1, 4),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 3),
    rows=st.integers(1, 3),
    micro_batches=st.integers(1, 4),
    sharded=st.integers(0, 3),
)
def test_every_uniform_plan_is_legal_and_runs_on_fleet(data, tensor, pipeline, rows, micro_batches, sharded):
    sharding = Sharding(stage=sharded, degree=data) if sharded and data > 1 else Sharding()
    boundaries = tuple(range(0, 4 * pipeline + 1, 4))
    plan = uniform(
        data=data, tensor=tensor, boundaries=boundaries, rows=rows, micro_batches=micro_batches, sharding=sharding
    )
    assert sentences(plan, layers=4 * pipeline, cluster=None) == []
    assert executable(plan, "emulated") == ("fleet", ())


BROKEN = {
    "product": (replace(LEGAL, ranks=LEGAL.ranks[:4]), "data 2 × tensor 2 × pipeline 2 = 8 ≠ 4 ranks"),
    "batch": (
        replace(LEGAL, job=Job(global_batch=32)),
        "2 micro-batches × 2 replicas × 2 rows = 8 ≠ 32 rows of the global batch",
    ),
    "layers": (with_stage(LEGAL, 1, layers=(1, 3)), "the stages end at layer 3, the model has 4 layers"),
    "gap": (with_stage(LEGAL, 1, layers=(2, 4)), "stage 1 begins at layer 2 where layer 1 comes next: it leaves out layers"),
    "overlap": (with_stage(LEGAL, 1, layers=(0, 4)), "it repeats layers"),
    "no layer": (with_stage(LEGAL, 0, layers=(0, 0)), "stage 0 holds no layer"),
    "rank twice": (
        with_stage(LEGAL, 1, replicas=LEGAL.stages[0].replicas),
        "ranks 0, 1, 4 and 5 work in 2 places; a rank has one",
    ),
    "share": (
        with_stage(LEGAL, 0, replicas=(Replica(ranks=(0, 1), tensor_shares=(1,), micro_batch_rows=2), LEGAL.stages[0].replicas[1])),
        "replica 0 of stage 0 has 2 ranks and 1 tensor shares",
    ),
    "sharding": (uniform(data=4, sharding=Sharding(stage=1, degree=4), boundaries=(0, 4)), None),
    "sharding degree": (with_stage(uniform(data=4), 0, sharding=Sharding(stage=1, degree=3)), "data 4 ÷ sharding 3 is not whole"),
    "sharding stage": (with_stage(uniform(data=4), 0, sharding=Sharding(stage=4, degree=4)), "sharding stage 4 is none of 0, 1, 2, 3"),
    "sharding of one": (with_stage(uniform(data=4), 0, sharding=Sharding(stage=2, degree=1)), "sharding stage 2 over 1"),
    "sequence": (uniform(data=4, sequence_parallel=True), "sequence_parallel with tensor 1"),
    "engine": (replace(LEGAL, engine="fleat"), "engine 'fleat' does not exist; did you mean 'fleet'?"),
    "schedule": (replace(LEGAL, schedule="1f1"), "schedule '1f1' does not exist; did you mean '1f1b'?"),
    "recompute": (with_stage(LEGAL, 0, recompute="ful"), "did you mean 'full'?"),
    "offload": (with_stage(LEGAL, 0, offload="optimiser"), "did you mean 'optimizer'?"),
    "precision": (replace(LEGAL, job=Job(global_batch=8, precision="fp31")), "did you mean 'fp32'?"),
    "shared device": (replace(LEGAL, ranks=(RankPlace("n/0", 0),) * 8), "8 ranks share device 0 of node n/0"),
    "no such node": (replace(LEGAL, ranks=(RankPlace("n/9", 0), *LEGAL.ranks[1:])), "rank 0: group n of cluster four nodes has nodes n/0 to n/3"),
    "excluded": (replace(LEGAL, ranks=(*LEGAL.ranks[:7], RankPlace("n/3", 0))), "rank 7 is on node n/3, which is excluded"),
    "kinds": (replace(LEGAL, ranks=(*LEGAL.ranks[:7], RankPlace("m/0", 0))), "stage 1 spans devices of kinds gpu and npu"),
    "many": (uniform(data=32), "32 ranks > 17 devices of cluster four nodes"),
    "serial": (uniform(data=2, engine="serial"), "the engine serial runs 1 rank, the plan has 2"),
    "unlike stages": (with_stage(LEGAL, 1, replicas=LEGAL.stages[1].replicas[:1]), "fleet needs stages alike"),
    "unequal rows": (
        with_stage(LEGAL, 0, replicas=(replace(LEGAL.stages[0].replicas[0], micro_batch_rows=3), replace(LEGAL.stages[0].replicas[1], micro_batch_rows=1))),
        "fleet needs replicas that are equal",
    ),
    "unequal shares": (
        with_stage(LEGAL, 0, replicas=(replace(LEGAL.stages[0].replicas[0], tensor_shares=(2, 1)), LEGAL.stages[0].replicas[1])),
        "unequal tensor shares [2, 1]",
    ),
    "order": (
        with_stage(LEGAL, 0, replicas=(replace(LEGAL.stages[0].replicas[0], ranks=(1, 0)), LEGAL.stages[0].replicas[1])),
        "fleet puts [0, 1] there",
    ),
    "fleet's schedule": (replace(LEGAL, schedule="fthenb"), "fleet's pipeline runs 1f1b"),
}  # fmt: skip


@pytest.mark.parametrize(("plan", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_law_prints_its_numbers(plan, sentence):
    found = sentences(plan)
    if sentence is None:
        assert found == []
    else:
        assert any(sentence in said for said in found), found


def test_numbers_that_no_job_and_no_degree_can_have():
    assert sentences(replace(LEGAL, job=replace(LEGAL.job, steps=-1, tokens=-2.0))) == [
        "tokens -2 is below 0",
        "steps -1 is below 0",
    ]
    assert "global_batch 0: a step needs at least 1 row" in sentences(
        replace(LEGAL, job=replace(LEGAL.job, global_batch=0))
    )
    stages = tuple(replace(stage, context=0) for stage in LEGAL.stages)
    assert "context 0 in stage 0: the least is 1" in sentences(replace(LEGAL, stages=stages))


def test_a_sentence_about_unlike_stages_names_what_differs():
    assert any("expert 2" in said for said in sentences(with_stage(LEGAL, 1, expert=2)))


def test_a_node_has_one_name():
    ranks = (RankPlace("n/00", 0), *LEGAL.ranks[1:])
    assert any("no 'n/00'" in said for said in sentences(replace(LEGAL, ranks=ranks)))


def test_what_plain_cpu_cannot_do():
    assert executable(uniform(data=4), "cpu") == ("fleet", ())
    assert executable(uniform(data=2, sharding=Sharding(stage=1, degree=2)), "cpu").engine == "fleet"
    for plan, word in (
        (uniform(tensor=2), "tensor 2"),
        (uniform(boundaries=(0, 1, 4)), "pipeline 2"),
        (uniform(data=2, sharding=Sharding(stage=2, degree=2)), "sharding stage 2"),
        (uniform(data=4, sharding=Sharding(stage=1, degree=4)), "sharding stage 1 over 4"),
    ):
        engine, missing = executable(plan, "cpu")
        assert engine is None
        assert word in missing[0]
        assert executable(plan, "emulated").engine == "fleet"


def test_reduced_precision_runs_where_paddle_has_kernels_for_it():
    plan = replace(LEGAL, job=replace(LEGAL.job, precision="bf16"))
    able = {kind: executable(plan, kind).engine for kind in DEVICE_KINDS}
    assert able == {"gpu": "fleet", "npu": "fleet", "xpu": "fleet", "cpu": None, "emulated": None}
    (sentence,) = executable(plan, "emulated").missing
    assert sentence.startswith("precision bf16: Paddle has no matrix product in bf16 on emulated devices")
    assert sentence.endswith("set job.precision=fp32")


def test_what_no_engine_runs_yet():
    for plan, word in (
        (
            with_stage(LEGAL, 0, offload="both"),
            "offload both: no engine keeps states or activations in the host's memory",
        ),
        (with_stage(LEGAL, 0, expert=2), "expert 2"),
    ):
        engine, missing = executable(plan, "gpu")
        assert engine is None
        assert any(word in said for said in missing), missing


def test_experts_are_dealt_within_a_stage_by_the_executor():
    plan = uniform(data=4, tensor=1, boundaries=(0, 1, 4))
    assert executable(with_stage(plan, 0, expert=2), "gpu").engine == "executor"
    ranks = plan.stages[1].ranks
    assert expert_groups(with_stage(plan, 1, expert=2).stages[1]) == [ranks[:2], ranks[2:]]
    crossed = replace(plan.stages[1], expert=2, replicas=tuple(plan.stages[1].replicas[i] for i in (3, 1, 2, 0)))
    assert expert_groups(crossed) == [(ranks[1], ranks[3]), (ranks[0], ranks[2])]
    told = sentences(with_stage(plan, 1, expert=3))
    assert "stage 1: 4 ranks % expert 3 = 1, not 0; an expert group lies within one stage" in told
    for broken, words in (
        (with_stage(LEGAL, 0, expert=2), "expert 2 with tensor 2 in stage 0: without sequence_parallel the ranks"),
        (with_stage(plan, 1, expert=4, sharding=Sharding(stage=2, degree=2)), "sharding stage 2 over 2: the executor"),
    ):
        engine, missing = executable(replace(broken, engine="executor"), "gpu")
        assert engine is None
        assert any(said.startswith(words) for said in missing), missing
    assert executable(replace(with_stage(LEGAL, 0, expert=4), sequence_parallel=True), "gpu").engine == "executor"
    on_fleet = executable(with_stage(LEGAL, 0, expert=2), "gpu").missing
    assert "expert 2: the engine executor alone runs expert parallelism" in on_fleet


def test_stages_that_differ_run_on_the_executor():
    plan = with_stage(LEGAL, 1, replicas=LEGAL.stages[1].replicas[:1])
    assert executable(plan, "gpu").engine == "executor"
    for broken, word in (
        (with_stage(plan, 0, sharding=Sharding(stage=2, degree=2)), "the executor shards optimizer states alone"),
        (with_shares(plan, (2, 1)), "unequal tensor shares [2, 1]"),
        (with_stage(plan, 0, offload="both"), "offload both: no engine keeps states or activations"),
        (replace(plan, schedule="dualpipe"), "lets micro-batches in at one end alone"),
        (replace(plan, schedule="zb-v"), "a device holds 2 of them"),
    ):
        engine, missing = executable(replace(broken, engine="executor"), "gpu")
        assert engine is None
        assert any(word in said for said in missing), missing


def test_virtual_stages_of_a_device_share_their_states_alike():
    stage = replace(uniform(data=2).stages[0], sharding=Sharding(stage=1, degree=2))
    stages = tuple(replace(stage, layers=(i, i + 1)) for i in range(4))
    plan = replace(uniform(data=2), stages=stages, schedule="interleaved", engine="executor")
    assert executable(plan, "npu").engine == "executor"
    engine, missing = executable(with_stage(plan, 2, sharding=Sharding()), "npu")
    assert engine is None
    assert "stages 0 and 3 share ranks, and have sharding stage 0 over 1 and stage 1 over 2: they need one" in missing


def test_a_sequence_cut_over_tensor_groups_runs_on_the_executor():
    plan = replace(LEGAL, sequence_parallel=True)
    assert executable(plan, "npu").engine == "executor"
    assert executable(plan, "cpu").engine is None


def test_a_sequence_that_replicas_share_runs_on_the_executor():
    plan = with_stage(with_stage(LEGAL, 0, context=2), 1, context=2)
    assert sentences(plan) == []
    assert executable(plan, "npu").engine == "executor"
    odd = with_stage(LEGAL, 0, context=3)
    assert "a replica of stage 0 has 2 ranks % context 3 = 2, not 0" in " ".join(sentences(odd))
    assert "exchange 'rign' does not exist; did you mean 'ring'" in " ".join(
        sentences(with_stage(plan, 0, exchange="rign"))
    )


def test_ways_of_sharing_a_sequence_are_those_that_the_graph_knows():
    assert tuple(EXCHANGES) == job.EXCHANGES


def with_shares(plan, shares):
    """The plan with unequal shares in the first replica of its second stage."""
    first, *others = plan.stages[1].replicas
    ranks = first.ranks[: len(shares)]
    return with_stage(plan, 1, replicas=(replace(first, ranks=ranks, tensor_shares=shares), *others))


def test_ranks_on_kinds_of_devices_that_share_no_communicator():
    plan = replace(uniform(data=2), ranks=(RankPlace("n/0", 0), RankPlace("m/0", 0)))
    engine, missing = executable_on(plan, CLUSTER)
    assert engine is None
    assert "kinds gpu and npu" in missing[0]
    alone = replace(plan, ranks=(RankPlace("n/0", 0), RankPlace("n/0", 1)))
    assert executable_on(alone, CLUSTER).engine == "fleet"


def test_virtual_stages_lie_where_the_schedule_puts_them():
    one, other = (Replica(ranks=(rank,), tensor_shares=(1,), micro_batch_rows=2) for rank in (0, 1))
    plan = uniform(boundaries=(0, 1, 2, 3, 4))
    stages = tuple(
        replace(stage, replicas=(held,)) for stage, held in zip(plan.stages, (one, one, other, other), strict=True)
    )
    plan = replace(plan, stages=stages, ranks=plan.ranks[:2], schedule="interleaved", engine="executor")
    assert "stage 1 lies on group 0 of ranks: schedule interleaved has it on 1" in sentences(plan, cluster=None)
    stages = tuple(replace(stage, replicas=(held,)) for stage, held in zip(stages, (one, other) * 2, strict=True))
    assert sentences(replace(plan, stages=stages), cluster=None) == []


def test_recompute_may_differ_between_stages():
    plan = with_stage(LEGAL, 0, recompute="full")
    assert sentences(plan) == []
    assert executable(plan, "gpu").engine == "fleet"


@settings(deadline=None, max_examples=30)
@given(plans, st.sampled_from(DEVICE_KINDS))
def test_every_rule_can_judge_every_plan(plan, kind):
    found = violations(plan, layers=4, cluster=CLUSTER)
    assert {v.rule for v in found} <= {rule.name for rule in RULES}
    engine, missing = executable(plan, kind)
    assert (engine is None) == bool(missing)
