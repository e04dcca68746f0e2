"""A plan made small enough to run here, and what the run showed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_samples import uniform
from schedule_samples import pipelines

from nebula.cost_model.simulate import Event, Timeline
from nebula.errors import BadInput
from nebula.models.decoders import check_layers
from nebula.models.presets import PRESETS, layered
from nebula.plan.executor_limits import UNDERWAY
from nebula.plan.layout import uniform_stages
from nebula.plan.legality import violations
from nebula.plan.schedule import SCHEDULES, chain_length, device_of
from nebula.plan.values import RankPlace, Replica, Sharding, Stage
from nebula.rehearsal.devices import emulated
from nebula.rehearsal.fold import MOST_RANKS, alone, folded, parts_of
from nebula.rehearsal.shape import Degrees, narrow
from nebula.rehearsal.verdict import Rehearsal, loss_difference, stage_rows
from nebula.rehearsal.walk import waiting
from nebula.runtime.executor.seats import orders
from tests.pure.cost_samples import cluster, device
from tests.pure.report_samples import prediction

SAMPLE = prediction(2, memory_gib=1.0)


@given(
    st.integers(1, 8),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 16),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_plan_of_few_stages_comes_down_to_what_a_host_runs(data, tensor, pipeline, micro_batches, sharded):
    sharding = Sharding(stage=1, degree=data) if sharded and data > 1 else Sharding()
    boundaries = tuple(range(pipeline + 1))
    plan = uniform(data=data, tensor=tensor, boundaries=boundaries, micro_batches=micro_batches, sharding=sharding)
    small = folded(plan)
    assert small.plan.world_size <= max(MOST_RANKS, 0)
    assert violations(small.plan, layers=pipeline, cluster=None) == ()
    assert [stage.layers for stage in small.plan.stages] == [stage.layers for stage in plan.stages]
    assert small.plan.schedule == plan.schedule
    assert set(small.plan.ranks) <= set(plan.ranks)
    same = small.plan.world_size == plan.world_size and small.plan.micro_batches == plan.micro_batches
    assert bool(small.left_out) != same


def test_what_is_folded_is_told():
    plan = uniform(data=24, tensor=8, boundaries=(0, 2, 4), micro_batches=80, sharding=Sharding(stage=1, degree=8))
    small = folded(plan)
    assert (small.plan.stages[0].data, small.plan.stages[0].tensor, small.plan.micro_batches) == (1, 8, 4)
    told = " ".join(small.left_out)
    for words in ("80 micro-batches were cut to 4", "of 24 replicas one ran", "sharding stage 1 over 8, were not cut"):
        assert words in told


def test_a_plan_of_many_stages_is_refused():
    with pytest.raises(BadInput, match="34 ranks, 17 when folded; a host rehearses at most 16"):
        folded(uniform(data=2, boundaries=tuple(range(18))))


def test_virtual_stages_stay_on_their_ranks_and_shares_of_a_sequence_and_experts_get_fewer():
    plan = uniform(data=4, tensor=8, boundaries=(0, 1, 2, 3, 4))
    held = [plan.stages[0].replicas, plan.stages[1].replicas]
    stages = tuple(
        replace(stage, replicas=held[index % 2], context=4, expert=16) for index, stage in enumerate(plan.stages)
    )
    ranks = plan.ranks[:64]
    whole = replace(
        plan, stages=renumbered(stages), ranks=ranks, schedule="interleaved", micro_batches=4, engine="executor"
    )
    small = folded(replace(whole, job=replace(whole.job, global_batch=16)))
    assert violations(small.plan, layers=4, cluster=None) == ()
    assert small.plan.world_size == 16
    assert small.plan.homes == ((0, 2), (1, 3))
    assert [(s.data, s.tensor, s.context, s.expert) for s in small.plan.stages] == [(1, 8, 4, 8)] * 4
    assert "expert 16 was cut to 8" in " ".join(small.left_out)


def renumbered(stages):
    """The stages with ranks counted from 0 over the groups that hold them."""
    order = {rank: i for i, rank in enumerate(dict.fromkeys(r for stage in stages for r in stage.ranks))}
    return tuple(
        replace(
            stage,
            replicas=tuple(replace(r, ranks=tuple(order[rank] for rank in r.ranks)) for r in stage.replicas),
        )
        for stage in stages
    )


def test_folding_keeps_what_a_stage_recomputes():
    plan = uniform(data=24, boundaries=(0, 3, 6))
    stages = tuple(replace(stage, recompute="full", recompute_layers=2) for stage in plan.stages)
    small = folded(replace(plan, stages=stages)).plan
    assert small.world_size < plan.world_size
    assert [(stage.recompute, stage.recompute_layers) for stage in small.stages] == [("full", 2)] * 2


def test_replicas_of_unlike_rows_are_not_folded():
    plan = uniform(data=24, boundaries=(0, 3, 6))
    stages = tuple(
        replace(stage, replicas=(*stage.replicas[:-1], replace(stage.replicas[-1], micro_batch_rows=9)))
        for stage in plan.stages
    )
    with pytest.raises(BadInput, match="48 ranks, 48 when folded"):
        folded(replace(plan, stages=stages))


def stage_of(layers, *replicas):
    """A stage of replicas, each (its ranks, its rows)."""
    held = tuple(Replica(ranks=r, tensor_shares=(1,) * len(r), micro_batch_rows=rows) for r, rows in replicas)
    return Stage(layers=layers, replicas=held)


def unlike(pairs):
    """So many times: two replicas of 3 and 1 rows, then a tensor group of 4."""
    first = [((2 * i + place,), rows) for i in range(pairs) for place, rows in ((0, 3), (1, 1))]
    second = [(tuple(range(2 * pairs + 4 * i, 2 * pairs + 4 * i + 4)), 4) for i in range(pairs)]
    return replace(
        uniform(data=6 * pairs),
        stages=(stage_of((0, 2), *first), stage_of((2, 4), *second)),
        micro_batches=4,
        engine="executor",
    )


def test_unlike_stages_are_folded_by_alike_parts():
    plan = unlike(8)
    assert parts_of(plan) == 8
    small = folded(plan)
    assert small.plan.world_size == 12
    assert small.plan.stages == unlike(2).stages
    assert small.plan.ranks == (*plan.ranks[:4], *plan.ranks[16:24])
    assert violations(small.plan, layers=4, cluster=None) == ()
    assert "of 8 alike parts of the replicas of every stage 2 ran" in " ".join(small.left_out)


def test_a_folded_plan_numbers_its_ranks_as_the_whole_one_does():
    sharding, order = Sharding(stage=1, degree=4), ("sharding", "data", "pipeline", "tensor")
    stages = uniform_stages(boundaries=(0, 2, 4), data=8, tensor=2, sharding=sharding, micro_batch_rows=2, order=order)
    plan = uniform(data=8, tensor=2, boundaries=(0, 2, 4), sharding=sharding, stages=stages)
    small = folded(plan).plan
    assert violations(small, layers=4, cluster=None) == ()
    assert [stage.ranks for stage in small.stages] == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert small.stages[0].sharding == Sharding(stage=1, degree=2)


def of_one_chain(shape):
    """Whether the executor has the schedule."""
    return SCHEDULES[shape[0]].chains == 1


@settings(deadline=None)
@given(pipelines(most_devices=4, most_micro_batches=50).filter(of_one_chain), st.integers(1, 3))
def test_no_rank_of_any_schedule_waits_for_ever(shape, width):
    plan = in_a_row(*shape, width)
    assert waiting(plan) == ""


def in_a_row(schedule, devices, micro_batches, chunks, width=1):
    """A pipeline of groups of `width` ranks with the virtual stages of a schedule of one chain."""
    count = chain_length(schedule, devices, chunks)
    homes = [device_of(schedule, v, devices, chunks) for v in range(count)]
    stages = [stage_of((v, v + 1), (tuple(range(h * width, (h + 1) * width)), 2)) for v, h in enumerate(homes)]
    many = uniform(data=devices * width)
    return replace(many, stages=tuple(stages), schedule=schedule, micro_batches=micro_batches, engine="executor")


def test_unlike_stages_and_plans_of_thousands_of_ranks_are_walked():
    assert waiting(unlike(3)) == ""
    assert waiting(uniform(data=24, tensor=8, boundaries=tuple(range(11)), micro_batches=80)) == ""


def test_a_rank_that_waits_for_ever_is_named():
    """The second stage wants the second micro-batch back before it has given the first its forward."""
    plan = uniform(boundaries=(0, 1, 2), micro_batches=2)
    first, second = (list(own) for own in orders(plan))
    swapped = [second[1], second[0], *second[2:]]
    assert waiting(plan, (first, second)) == ""
    assert waiting(plan, (first, swapped)) == "rank 0 at B of micro-batch 0 in stage 0 waits for ever"


def test_a_sender_whose_messages_nobody_takes_is_named():
    plan = replace(uniform(boundaries=(0, 1, 2), micro_batches=UNDERWAY + 2), schedule="fthenb")
    first, second = (list(own) for own in orders(plan))
    backward_first = sorted(second, key=lambda work: work[0])
    stuck = waiting(plan, (first, backward_first))
    assert stuck == "rank 0 at F of micro-batch 33 in stage 0 waits for ever: rank 1 takes nothing that it sends"


def test_the_serial_run_has_the_same_rows():
    plan = folded(uniform(data=2, boundaries=(0, 1, 4), micro_batches=3)).plan
    one = alone(plan)
    assert one.job.global_batch == one.stages[0].replicas[0].micro_batch_rows == plan.job.global_batch
    assert one.stages[0].layers == (0, 4)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("degrees", [[1], [2], [8], [3], [1, 2, 4]])
def test_a_narrow_model_divides_as_the_wide_one_does(name, degrees):
    wide = PRESETS[name]
    slim = narrow(wide, Degrees(tensor=tuple(degrees), context=(1,), expert=(1,)))
    for one, other in ((wide.universal, slim.universal), (wide.nlu, slim.nlu), (wide.nlg, slim.nlg)):
        assert one.layers == other.layers
        assert [one.heads % d == 0 for d in degrees] == [other.heads % d == 0 for d in degrees]
        assert all(other.ffn % d == 0 for d in degrees)
        assert other.hidden <= one.hidden
    assert slim.vocabulary % max(degrees) == 0
    assert slim.dropout == 0.0


@pytest.mark.parametrize("name", ["llama3-70b", "ernie-4.5-300b-a47b", "ernie-5.0-like-1t"])
@pytest.mark.parametrize(("tensor", "context", "expert"), [(1, 1, 1), (8, 1, 8), (2, 4, 16), (3, 2, 3)])
def test_a_narrow_decoder_divides_as_the_wide_one_does(name, tensor, context, expert):
    wide = layered(name)
    slim = narrow(wide, Degrees(tensor=(tensor,), context=(context,), expert=(expert,)))
    assert slim.layers == wide.layers
    assert [slim.has_experts(layer) for layer in range(slim.layers)] == [
        wide.has_experts(layer) for layer in range(wide.layers)
    ]
    for cut in (tensor, tensor * context):
        assert (slim.kv_heads % cut == 0) == (wide.kv_heads % cut == 0)
    assert (slim.experts.count % expert == 0) == (wide.experts.count % expert == 0)
    assert slim.seq_len % (2 * context * tensor) == 0
    assert slim.hidden < wide.hidden
    check_layers(slim)


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt3-175b", "ernie-4.5-21b-a3b"])
def test_decoders_without_layers_here_are_refused(name):
    with pytest.raises(BadInput, match="no Paddle layers here yet"):
        layered(name)


def test_emulated_devices_work_at_the_rate_of_the_jobs_precision():
    real = cluster(kind=device(emulated=False, peak_flops={"float32": 1e12, "bfloat16": 4e12}, multiprocessors=8))
    (group,) = emulated(real, "bf16").groups
    assert group.device.emulated
    assert group.device.peak("float32") == 4e12
    assert group.intra == real.groups[0].intra
    again = emulated(cluster(kind=device()), "fp32")
    assert again.groups[0].device == device()


def test_a_loss_that_is_missing_or_no_number_differs_without_end():
    assert loss_difference([1.0, 2.0], [1.0, 2.0]) == 0.0
    assert loss_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    for bad in ([1.0], [1.0, float("nan")], []):
        assert loss_difference(bad, [1.0, 2.0]) == float("inf")
    assert loss_difference([1.0, 2.0], [1.0, float("nan")]) == float("inf")


def test_a_plan_holds_where_its_loss_is_serial_and_its_memory_fits():
    good = Rehearsal(
        plan=uniform(),
        left_out=(),
        whole_ranks=1,
        whole_waits="",
        whole_memory=0.9,
        loss_difference=1e-7,
        predicted_s=1.02,
        measured_s=1.0,
        shared_s=0.9,
        rows=(),
    )
    assert good.holds
    assert good.error == pytest.approx(0.02)
    assert not replace(good, loss_difference=1e-3).holds
    assert not replace(good, whole_memory=1.1).holds
    assert not replace(good, whole_waits="rank 0 waits for ever").holds


def test_a_message_that_a_pass_waits_for_is_a_wait(tmp_path):
    plan = uniform(boundaries=(0, 1, 2))
    held = replace(SAMPLE.memory[0], weights_bytes=100.0)
    plan = replace(plan, prediction=replace(SAMPLE, memory=(held, held), step_time_s=10.0))
    for rank in (0, 1):
        spans = [{"start_s": 0.0, "end_s": 4.0}, {"start_s": 5.0, "end_s": 9.0}]
        events = [
            {"name": "recv from 0", "start_s": 0.0, "end_s": 1.0},
            {"name": "matmul", "start_s": 1.0, "end_s": 2.0},
        ]
        record = {"memory_bytes": 80 + rank, "step_s": 10.0, "spans": spans, "events": events}
        (tmp_path / f"timeline.{rank}.json").write_text(json.dumps(record))
    passes = [Event(stage=s, kind="F", micro_batch=0, start_s=0.0, end_s=6.0) for s in (0, 1)]
    sends = [Event(stage=0, kind="send", micro_batch=0, start_s=6.0, end_s=7.0)]
    first, second = stage_rows(plan, Timeline(events=(*passes, *sends)), tmp_path)
    assert (first.predicted_wait, first.measured_wait) == (pytest.approx(0.4), pytest.approx(0.3))
    assert (second.predicted_bytes, second.measured_bytes) == (held.total_bytes, 81)


def test_what_no_engine_can_do_on_the_devices_themselves_is_told():
    from nebula.cli.rehearsing import _unproved
    from tests.pure.test_plan_legality import CLUSTER

    plan = uniform(data=2)
    apart = replace(plan, ranks=(RankPlace("n/0", 0), RankPlace("m/0", 0)))
    (sentence,) = _unproved(apart, CLUSTER)
    assert "that four nodes can run it: devices of kinds gpu and npu" in sentence
    stages = replace(uniform(boundaries=(0, 1, 2)), ranks=apart.ranks)
    assert _unproved(stages, CLUSTER) == ()  # these exchange through their hosts
    assert _unproved(replace(plan, ranks=(RankPlace("n/0", 0), RankPlace("n/0", 1))), CLUSTER) == ()
