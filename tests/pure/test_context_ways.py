"""The plan says how ranks share a sequence, its price is that of the way, and a search writes down what it priced."""

from dataclasses import replace

import pytest

from nebula.cost_model.evaluate import evaluate
from nebula.models.describe import decoder_graph, graph
from nebula.plan.job import EXCHANGES, Objective
from nebula.plan.legality import executable
from nebula.plan.values import Job, Plan, RankPlace, Replica, Stage
from nebula.planner.explore.search import explore
from tests.pure.cost_samples import MADE_FROM, cluster, device
from tests.pure.decoder_samples import GROUPED

WRITTEN_OUT = graph("ernie-3.0-small", dtype="float32")
LONG = replace(GROUPED, kv_heads=4, seq_len=4096)
FUSED = decoder_graph("m", LONG, "float32")
ON = cluster(2, 2)


def plan(model, replicas, context, exchange="ring"):
    width = 4 // replicas
    held = tuple(
        Replica(
            ranks=tuple(range(i * width, (i + 1) * width)), tensor_shares=(1,) * width, micro_batch_rows=4 // replicas
        )
        for i in range(replicas)
    )
    layers = (0, len(model.layers))
    return Plan(
        stages=(Stage(layers=layers, replicas=held, context=context, exchange=exchange),),
        micro_batches=1,
        schedule="1f1b",
        engine="executor",
        ranks=tuple(RankPlace(f"n/{node}", place) for node in range(2) for place in range(2)),
        job=Job(global_batch=4),
        made_from=MADE_FROM,
    )


def exchanged_s(model, exchange):
    """Seconds of a step that attention waits for others."""
    return evaluate(model, ON, plan(model, 1, 4, exchange)).parts.tensor_communication_s


def test_every_way_has_its_price_where_attention_is_one_kernel():
    assert len({exchanged_s(FUSED, way) for way in EXCHANGES}) == 3


def test_a_ring_over_scores_that_are_written_out_scores_run_by_run():
    """In many small kernels, whose part shrinks as the sequence grows; what travels does so beside them."""
    assert exchanged_s(WRITTEN_OUT, "ring") < exchanged_s(WRITTEN_OUT, "gather")
    ratio = []
    for length in (64, 512):
        model = graph("ernie-3.0-small", seq_len=length, dtype="float32")
        ring, gather = (evaluate(model, ON, plan(model, 1, 4, way)).parts.compute_s for way in ("ring", "gather"))
        ratio.append(ring / gather)
    assert ratio[0] > 1.2
    assert ratio[1] < ratio[0]


def test_gradients_are_summed_over_all_ranks_at_once_however_replicas_and_sequences_are_shared():
    """On emulated devices in one flat ring, wherever the groups of each axis lie."""
    pairs, one = (evaluate(WRITTEN_OUT, ON, plan(WRITTEN_OUT, *degrees)).parts for degrees in ((2, 2), (1, 4)))
    assert pairs.data_communication_s == pytest.approx(one.data_communication_s)
    rings = cluster(2, 2, kind=device(emulated=False))
    assert evaluate(WRITTEN_OUT, rings, plan(WRITTEN_OUT, 2, 2)).parts.data_communication_s < pairs.data_communication_s


@pytest.mark.parametrize(
    ("model", "exchange"),
    [(decoder_graph("m", replace(LONG, fused_attention=False), "float32"), "gather"), (FUSED, "ring")],
)
def test_a_search_writes_down_the_way_that_it_priced(model, exchange):
    found = explore(model, ON, Job(global_batch=2), Objective(fixed={"context": 2, "data": 1, "pipeline": 1})).plan
    assert {(stage.context, stage.exchange) for stage in found.stages} == {(2, exchange)}
    assert found.prediction.step_time_s == pytest.approx(evaluate(model, ON, found).step_time_s)
    assert executable(found, "emulated").engine == "executor"
