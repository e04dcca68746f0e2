"""Peaks of plans of the executor where tensors alone count: what emulated devices held of real steps, rank by rank."""

from itertools import pairwise

import pytest

from nebula.cost_model.activations import activations
from nebula.cost_model.eager import eager_execution
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.layer import attention_cores, attention_methods
from nebula.graph.rows import block_with_rows
from nebula.plan.schedule import actions, alive, begun, device_of, waiting
from nebula.plan.values import Job, Plan, RankPlace, Replica, Stage
from tests.bench.shapes import graph_of, word
from tests.pure.cost_samples import MADE_FROM, cluster, device

NARROW = word("ernie-3.0-small", hidden=128, heads=2, ffn=256, seq_len=64, vocabulary=4096)
SHORT = word("ernie-3.0-small", hidden=128, heads=2, ffn=1024, seq_len=32, vocabulary=4096)
WIDE = word("ernie-3.0-small", hidden=256, heads=8, ffn=1024, seq_len=128, vocabulary=4096)
FEW_HEADS = word("ernie-3.0-small", hidden=64, heads=2, ffn=1024, seq_len=128, vocabulary=2048)
DEEP = word("ernie-3.0-small", hidden=256, heads=4, ffn=512, seq_len=32, vocabulary=2048)
EXPERTS = word("ernie-4.5-small", hidden=256, heads=4, ffn=1024, seq_len=128, vocabulary=4096)
MIXED = word("ernie-4.5-small", hidden=128, heads=4, ffn=512, seq_len=64, vocabulary=4096)
SHARED = word("ernie-4.5-small", hidden=64, heads=2, ffn=1024, seq_len=128, vocabulary=2048)


def staged(schedule, cuts, micro_batches, rows, policies=(), width=1, chunks=1, expert=1, **more):
    """A pipeline of one tensor group a stage."""
    stages = tuple(
        Stage(
            layers=span,
            replicas=(
                Replica(
                    ranks=tuple(range(width * home, width * (home + 1))),
                    tensor_shares=(1,) * width,
                    micro_batch_rows=rows,
                ),
            ),
            recompute=policies[i] if policies else "none",
            expert=expert,
        )
        for i, span in enumerate(pairwise(cuts))
        for home in (device_of(schedule, i, (len(cuts) - 1) // chunks, chunks),)
    )
    return Plan(
        stages=stages,
        micro_batches=micro_batches,
        schedule=schedule,
        engine="executor",
        ranks=tuple(RankPlace("n/0", place) for place in range(width * len(stages) // chunks)),
        job=Job(global_batch=rows * micro_batches),
        made_from=MADE_FROM,
        **more,
    )


MEASURED = {
    "recomputed, split": (NARROW, staged("zb-h1", (0, 9, 11), 3, 6, ("full", "none")), (68_781_056, 64_101_376)),
    "waiting for gradients of weights": (
        MIXED,
        staged("zb-h1", (0, 2, 4, 6), 6, 2),
        (20_260_864, 46_248_448, 39_139_840),
    ),
    "one micro-batch": (
        SHORT,
        staged("fthenb", (0, 3, 8, 10, 11), 1, 1),
        (19_006_976, 21_982_720, 21_292_032, 9_791_488),
    ),
    "few micro-batches, split": (
        DEEP,
        staged("zb-h1", (0, 2, 3, 9, 11), 4, 2),
        (25_066_496, 16_448_512, 87_230_464, 39_394_304),
    ),
    "experts, one micro-batch": (
        EXPERTS,
        staged("fthenb", (0, 2, 3, 5, 6), 1, 1),
        (33_957_888, 37_399_040, 69_946_368, 19_404_288),
    ),
    "virtual stages that begin behind one another": (
        WIDE,
        staged("interleaved", (0, 1, 4, 5, 6, 7, 8, 9, 11), 6, 2, chunks=2),
        (100_794_880, 238_286_336, 144_611_840, 152_755_200),
    ),
    "heads that do not divide": (
        FEW_HEADS,
        staged("1f1b", (0, 11), 1, 2, width=4, sequence_parallel=True),
        (35_576_320,),
    ),
    "rotations run again": (
        SHARED,
        staged("1f1b", (0, 6), 1, 2, ("selective",), width=2, expert=2, sequence_parallel=True),
        (23_368_704,),
    ),
}
"""By what they show a model, a plan, and the bytes of tensors on the fullest rank of every stage."""


@pytest.mark.parametrize("case", MEASURED)
def test_peaks_are_those_of_emulated_devices(case):
    model, plan, wanted = MEASURED[case]
    memory = evaluate(graph_of(model), cluster(1, 4, kind=device(memory_bytes=4e9)), plan).memory
    assert [stage.total_bytes for stage in memory[: len(wanted)]] == pytest.approx(list(wanted), rel=0.025)


def test_those_that_wait_are_those_between_both_halves_of_a_backward():
    for device_index in range(4):
        held, waits, most = 0, 0, (0, 0)
        for action in actions("zb-h1", 4, 8, 1)[device_index]:
            held += {"F": 1, "I": 0}.get(action.kind, -1)
            waits += {"I": 1, "W": -1}.get(action.kind, 0)
            most = max(most, (held, waits), key=lambda pair: pair[0])
        numbers = ("zb-h1", 4, device_index, 8)
        assert (alive(*numbers), waiting(*numbers)) == ((most[0],), (most[1],))
    assert waiting("1f1b", 4, 0, 8) == (0,)
    assert begun("1f1b", 4, 1, 8) == ((3,),)


def test_rotations_are_run_again_with_the_core_and_values_are_not():
    block = next(b for b in graph_of(MIXED).blocks if attention_cores(b))
    core, method = ({op.name for op in found(block)} for found in (attention_cores, attention_methods))
    kinds = {op.kind for op in block.operators if op.name in method - core}
    assert {"cos", "sin", "concat"} <= kinds
    assert "matmul" not in kinds
    assert core < method


def test_while_gradients_come_what_was_kept_goes():
    """All of a layer and all of its gradients never lie there together."""
    graph = graph_of(SHORT)
    layer = block_with_rows(graph.blocks[graph.layers[5]], 2)
    found = activations(layer, eager_execution("float32", "adamw", (device(),)))
    made = sum(t.bytes for t in layer.parameters)
    assert max(found.kept, made) < found.early < found.kept + found.passing + made
