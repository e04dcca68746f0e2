"""Experts are dealt to ranks and their widths cut: where tokens travel, how many, and which parameters are experts'."""

from dataclasses import replace

import pytest
from decoder_samples import MIXED

from nebula.errors import BadInput
from nebula.graph.experts import expert_parallel, expert_parameters
from nebula.graph.local_block import local_block
from nebula.graph.rules import COLLECTIVE_KINDS, apply
from nebula.graph.values import Collective
from nebula.models.decoders import DECODER_SPLITS
from nebula.models.decoders_parts import Experts
from nebula.models.describe import decoder_graph

COPIES_BYTES = 16 * 2 * 32 * 2
"""Of all copies of all tokens: tokens, experts of each, hidden, bytes of bfloat16."""
WEIGHTS = frozenset(f"ffn.experts.{part}.weight" for part in ("gate", "up", "down"))


def layer(**experts):
    return decoder_graph("m", replace(MIXED, experts=replace(MIXED.experts, **experts)), "bfloat16").blocks[1]


def sent(block, *axes):
    """Kinds and bytes of the forward along the axes."""
    found = [w for op in block.operators for w in op.forward if isinstance(w, Collective) and w.axis in axes]
    return [(w.kind, w.bytes) for w in found]


def grouped(block):
    return [op for op in block.operators if op.kind == "grouped_matmul"]


def test_the_parameters_of_experts_are_those_of_grouped_products():
    assert expert_parameters(layer()) == WEIGHTS
    assert expert_parameters(local_block(layer(), tensor=2, splits=DECODER_SPLITS, sequence=True, expert=4)) == WEIGHTS
    assert expert_parameters(decoder_graph("m", replace(MIXED, experts=Experts()), "bfloat16").blocks[1]) == frozenset()


def test_each_tensor_rank_sends_its_own_tokens_under_sequence_parallelism():
    local = local_block(layer(), tensor=2, splits=DECODER_SPLITS, sequence=True, expert=4)
    assert sent(local, "expert") == [("all_to_all", COPIES_BYTES / 2)] * 2
    assert local.tensor("ffn.experts.up.weight").shape == (2, 32, 24)
    assert local.tensor("ffn.shared.up.weight").shape == (32, 12)
    assert WEIGHTS.isdisjoint(dict(local.gradient_sums))
    assert dict(local.gradient_sums)["ffn.router.weight"] == ("tensor",)


def test_ranks_that_cut_the_width_gather_tokens_and_scatter_results():
    local = local_block(layer(), tensor=2, splits=DECODER_SPLITS, sequence=True, expert=4, expert_tensor=2)
    there, back = ("all_to_all", COPIES_BYTES / 2), ("all_to_all", COPIES_BYTES / 2)
    width = [("all_gather", COPIES_BYTES), ("reduce_scatter", COPIES_BYTES)]
    assert sent(local, "expert", "expert_tensor") == [there, *width, back]
    assert local.tensor("ffn.experts.up.weight").shape == (2, 32, 12)
    assert local.tensor("ffn.experts.down.weight").shape == (2, 12, 32)


def test_a_tensor_group_with_the_same_tokens_sums_results_or_deals_tokens():
    summed = local_block(layer(), tensor=2, splits=DECODER_SPLITS, expert=4, expert_tensor=2)
    moved = [("all_to_all", COPIES_BYTES), ("all_reduce", COPIES_BYTES), ("all_to_all", COPIES_BYTES)]
    assert sent(summed, "expert", "expert_tensor") == moved
    dealt = local_block(layer(), tensor=2, splits=DECODER_SPLITS, expert=4)
    assert sent(dealt, "expert") == [("all_to_all", COPIES_BYTES / 2)] * 2
    assert ("all_gather", 16 * 32 * 2) in sent(dealt, "tensor")


def test_experts_keep_their_kernels():
    local = local_block(layer(), tensor=2, splits=DECODER_SPLITS, sequence=True, context=2, expert=4)
    kinds = [op.kind for op in local.operators if op.kind.startswith(("moe", "grouped", "topk", "all_to_all"))]
    there, back = ["topk", "moe_permute", "all_to_all", "moe_sort"], ["moe_sort", "all_to_all", "moe_unpermute"]
    assert kinds == [*there, *["grouped_matmul"] * 3, *back]
    single = expert_parallel(layer(), 8)
    assert "moe_sort" not in {op.kind for op in single.operators}


def test_the_busiest_rank_receives_works_on_and_keeps_more():
    even, skewed = (expert_parallel(layer(imbalance=i), 4) for i in (1.0, 1.5))
    assert sent(skewed, "expert") == [("all_to_all", 1.5 * COPIES_BYTES)] * 2
    assert [op.forward[0].flops for op in grouped(skewed)] == [1.5 * op.forward[0].flops for op in grouped(even)]
    between = [op.inputs[0] for op in grouped(even)]
    more = [op.inputs[0] for op in grouped(skewed)]
    assert [skewed.tensor(n).bytes for n in more] == [1.5 * even.tensor(n).bytes for n in between]
    assert skewed.tensor(skewed.outputs[0]) == even.tensor(even.outputs[0])


def test_what_no_expert_touches_keeps_its_work_as_if_worked_out_anew():
    dealt = expert_parallel(layer(), 2)
    bare = (
        op if op.kind in COLLECTIVE_KINDS else replace(op, forward=(), backward=(), saved=()) for op in dealt.operators
    )
    assert apply(replace(dealt, operators=tuple(bare))) == dealt


def test_degrees_that_do_not_divide_are_refused():
    with pytest.raises(BadInput, match="expert 3: 8 experts % 3 = 2"):
        expert_parallel(layer(), 3)
    with pytest.raises(BadInput, match="expert_tensor 5: 24 columns of an expert % 5 = 4"):
        expert_parallel(layer(), 2, expert_tensor=5)
    with pytest.raises(BadInput, match="expert_tensor 2 in a tensor group of 4 ranks that hold the same tokens"):
        local_block(layer(), tensor=4, splits=DECODER_SPLITS, expert_tensor=2)
