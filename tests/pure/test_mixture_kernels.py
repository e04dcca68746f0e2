"""A mixture of experts is priced by the kernels that models/experts.py launches, as an emulated device records them."""

from collections import Counter
from dataclasses import replace

from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.layer import layer_cost
from nebula.cost_model.mixture_kernels import dispatched
from nebula.graph.experts import expert_parallel
from nebula.graph.values import Collective, Kernel
from nebula.models.describe import decoder_graph
from nebula.plan.values import Job, Plan, RankPlace, Replica, Stage
from tests.pure.cost_samples import MADE_FROM, cluster, device
from tests.pure.decoder_samples import MIXED

GRAPH = decoder_graph("d", replace(MIXED, fused_attention=False, fused_norms=False), "float32")
LAYER = GRAPH.blocks[1]


def counted(block, direction):
    mixture = [op for op in block.operators if op.kind in ("topk", "moe_permute", "moe_unpermute", "grouped_matmul")]
    return Counter(w.kind for op in mixture for w in getattr(op, direction) if isinstance(w, Kernel))


def test_the_router_chooses_in_nine_kernels_and_copies_are_sorted_in_six():
    assert counted(dispatched(LAYER), "forward") == {
        "cast": 1,
        "scale": 1,
        "add": 1,
        "topk": 1,
        "expand": 2,
        "take_along_axis": 1,
        "divide": 1,
        "argsort": 2,
        "bincount": 1,
        "full": 1,
        "floor_divide": 1,
        "gather": 2,
        "multiply": 1,
        "sum": 2,
        "grouped_matmul": 3,
    }


def test_gradients_of_each_expert_lie_beside_a_tensor_of_zeros():
    back = counted(dispatched(LAYER), "backward")
    assert back["full"] == 3
    assert back["grouped_matmul_grad"] == 6
    assert (back["sum_grad"], back["multiply_grad"], back["gather"], back["sum"]) == (2, 1, 2, 1)


def test_ranks_tell_each_other_how_many_copies_come():
    dealt = expert_parallel(LAYER, 4)
    sent = [w.bytes for op in dispatched(dealt).operators for w in op.forward if isinstance(w, Collective)]
    assert sent[0] == 8 * MIXED.experts.count
    assert len(sent) == 3


def test_a_dense_layer_stays_as_it_is():
    assert dispatched(GRAPH.blocks[0]) is GRAPH.blocks[0]


def test_fleet_joins_what_experts_made_too():
    """A kernel for each expert and one for all of them, three products forward and six backward."""
    slow = replace(device(), kernel_s=1.0)
    works = [w for op in dispatched(LAYER).operators for w in (*op.forward, *op.backward) if isinstance(w, Kernel)]
    experts = 9 * MIXED.experts.count + 9
    cost = layer_cost(LAYER, slow)
    assert round(cost.forward_s + cost.backward_s) == len(works) - 9 + experts


def test_ranks_with_the_same_tokens_add_no_gradients_of_experts():
    """Of two replicas of a tensor group of two; where the group shares the sequence all four ranks add theirs."""
    on = cluster(2, 2)
    held = tuple(Replica(ranks=(2 * i, 2 * i + 1), tensor_shares=(1, 1), micro_batch_rows=2) for i in range(2))
    same = Plan(
        stages=(Stage(layers=(0, len(GRAPH.layers)), replicas=held),),
        micro_batches=1,
        schedule="1f1b",
        engine="executor",
        ranks=tuple(RankPlace(f"n/{node}", place) for node in range(2) for place in range(2)),
        job=Job(global_batch=4),
        made_from=MADE_FROM,
    )
    apart = replace(same, sequence_parallel=True)
    own, shared = (evaluate(GRAPH, on, plan).parts.data_communication_s for plan in (same, apart))
    assert own < shared
