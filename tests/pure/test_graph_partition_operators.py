"""Every SPMD rule against its operator: cut at random, the ranks' results put together are the whole operator's."""

import random
from dataclasses import replace

import numpy as np
import pytest
from graph_cases import (
    assert_backward_equals,
    assert_forward_equals,
    operator_block,
    random_annotations,
    random_values,
)

from nebula.graph.interpret import run
from nebula.graph.spmd import signature_of
from nebula.graph.values import Operator, Role, Tensor

R, S, H = 4, 6, 12
QUERY, STATISTICS = (2, 2, 4, 2), (2, 4, 2)
CASES = {
    "matmul": operator_block("matmul", [(R, S, H), (H, 8)], [(R, S, 8)]),
    "matmul of heads": operator_block("matmul", [(R, 2, S, 4), (R, 2, 8, 4)], [(R, 2, S, 8)], transpose_y=True),
    "matmul turned": operator_block("matmul", [(H, S), (8, H)], [(S, 8)], transpose_x=True, transpose_y=True),
    "matmul broadcast": operator_block("matmul", [(R, 1, S, H), (2, H, 4)], [(R, 2, S, 4)]),
    "matmul with a vector": operator_block("matmul", [(R, H), (H,)], [(R,)]),
    "matmul of vectors": operator_block("matmul", [(H,), (H,)], [()]),
    "einsum": operator_block("einsum", [(2, S, 4, 3), (2, S, 8)], [(4, 2, 3, 8)], equation="gsec,gsh->egch"),
    "add": operator_block("add", [(R, S, H), (H,)], [(R, S, H)]),
    "add broadcast": operator_block("add", [(R, 1, H), (S, 1)], [(R, S, H)]),
    "multiply": operator_block("multiply", [(R, S), (R, S)], [(R, S)]),
    "swiglu": operator_block("swiglu", [(R, H), (R, H)], [(R, H)]),
    "swiglu fused": operator_block("swiglu", [(R, 2 * H)], [(R, H)]),
    "gelu": operator_block("gelu", [(R, H)], [(R, H)]),
    "softmax": operator_block("softmax", [(R, S, H)], [(R, S, H)], axis=1),
    "log_softmax": operator_block("log_softmax", [(R, H)], [(R, H)], axis=1),
    "cumsum": operator_block("cumsum", [(R, S)], [(R, S)], axis=1),
    "tril": operator_block("tril", [(2, S, S)], [(2, S, S)], diagonal=1),
    "layer_norm": operator_block(
        "layer_norm", [(2, 6, 4), (4,), (4,)], [(2, 6, 4), (2, 6), (2, 6)], parameters=(1, 2), begin_norm_axis=2
    ),
    "layer_norm, flat statistics": operator_block(
        "layer_norm", [(2, 6, 4), (4,)], [(2, 6, 4), (12,), (12,)], begin_norm_axis=2, absent=("bias",)
    ),
    "rms_norm": operator_block("rms_norm", [(2, 6, 4), (4,)], [(2, 6, 4), (2, 6)], begin_norm_axis=2),
    "sum": operator_block("sum", [(R, S, H)], [(R, H)], axes=(1,), keepdim=False),
    "mean": operator_block("mean", [(R, S, H)], [(R, 1, 1)], axes=(1, 2), keepdim=True),
    "mean of all": operator_block("mean", [(R, S)], [()], axes=(), keepdim=False),
    "max": operator_block("max", [(R, S, H)], [(R, H)], axes=(1,), keepdim=False),
    "logsumexp": operator_block("logsumexp", [(R, S, H)], [(R, S)], axes=(2,), keepdim=False),
    "topk": operator_block("topk", [(R, S, H)], [(R, S, 2), (R, S, 2)], integers=(1,), k=2, axis=2),
    "argmax": operator_block("argmax", [(R, S, H)], [(R, S)], integers=(0,), axis=2),
    "attention": operator_block("attention", [QUERY] * 3, [QUERY, STATISTICS]),
    "attention, causal": operator_block("attention", [QUERY] * 3, [QUERY, STATISTICS], causal=True),
    "attention of groups": operator_block("attention", [QUERY, (2, 3, 2, 2), (2, 3, 2, 2)], [QUERY, STATISTICS]),
    "attention, masked": operator_block("attention", [QUERY, QUERY, QUERY, (1, 1, 2, 2)], [QUERY, STATISTICS]),
    "rope": operator_block(
        "rope", [(2, 4, 4, 2), (2, 4, 2, 2), (1, 4, 1, 2), (1, 4, 1, 2)], [(2, 4, 4, 2), (2, 4, 2, 2)]
    ),
    "rope of queries": operator_block("rope", [QUERY, (2, 2), (2, 2)], [QUERY]),
    "conv2d": operator_block(
        "conv2d", [(2, 4, 3, 4), (4, 4, 2, 2)], [(2, 4, 2, 2)], parameters=(1,), strides=(2, 2), paddings=(1, 0, 0, 1)
    ),
    "conv2d of groups": operator_block("conv2d", [(2, 8, 2, 2), (4, 2, 2, 1)], [(2, 4, 1, 2)], groups=4),
    "batch_norm": operator_block(
        "batch_norm", [(2, 6, 3), *[(6,)] * 4], [(2, 6, 3), *[(6,)] * 4], parameters=(1, 2, 3, 4), momentum=0.9
    ),
    "group_norm": operator_block(
        "group_norm", [(2, 8, 3), (8,), (8,)], [(2, 8, 3), (2, 4), (2, 4)], parameters=(1, 2), groups=4
    ),
    "embedding": operator_block("embedding", [(R, S), (24, 8)], [(R, S, 8)], ids=(0,), parameters=(1,)),
    "cross_entropy": operator_block(
        "cross_entropy", [(2, 2, 12), (2, 2, 1)], [(2, 2, 12), (2, 2, 1)], ids=(1,), leaving=(1,), axis=2
    ),
    "cross_entropy, labels without a last dim": operator_block(
        "cross_entropy", [(R, 12), (R,)], [(R, 12), (R, 1)], ids=(1,), leaving=(1,), axis=1
    ),
    "reshape, heads": operator_block("reshape", [(R, S, H)], [(R, S, 4, 3)]),
    "reshape, fused": operator_block("reshape", [(R, 24)], [(R, 3, 4, 2)]),
    "reshape, merged": operator_block("reshape", [(R, S, 2, 4)], [(R * S, 8)]),
    "reshape, odd": operator_block("reshape", [(6, 4, 2)], [(8, 3, 2)]),
    "squeeze": operator_block("squeeze", [(R, 1, S)], [(R, S)], axes=(1,)),
    "transpose": operator_block("transpose", [(R, S, H)], [(H, R, S)], perm=(2, 0, 1)),
    "expand": operator_block("expand", [(S, 1)], [(R, S, H)]),
    "slice": operator_block("slice", [(R, H)], [(R, 4)], axes=(1,), starts=(4,), ends=(8,)),
    "slice, uneven": operator_block("slice", [(R, H)], [(R, 4)], axes=(1,), starts=(3,), ends=(7,)),
    "slice to a lower rank": operator_block(
        "slice", [(R, S, H)], [(R, H)], axes=(1,), starts=(2,), ends=(3,), decrease_axis=(1,)
    ),
    "split": operator_block("split", [(R, 24)], [(R, 8)] * 3, axis=1, sections=(8, 8, 8)),
    "split, uneven": operator_block("split", [(R, H)], [(R, 4), (R, 8)], axis=1, sections=(4, 8)),
    "unbind": operator_block("unbind", [(R, 3, H)], [(R, H)] * 3, axis=1),
    "concat": operator_block("concat", [(R, 4), (R, 4)], [(R, 8)], axis=1),
    "concat, uneven": operator_block("concat", [(R, 4), (R, 8)], [(R, H)], axis=1),
    "stack": operator_block("stack", [(R, H), (R, H)], [(R, 2, H)], axis=1),
    "gather": operator_block("gather", [(R, S, H), (8,)], [(R, 8, H)], ids=(1,), axis=1),
    "gather_nd": operator_block("gather_nd", [(R, S, H), (8, 2)], [(8, H)], ids=(1,)),
    "take_along_axis": operator_block("take_along_axis", [(R, S), (R, 2)], [(R, 2)], ids=(1,), axis=1),
    "scatter": operator_block("scatter", [(R, H), (2,), (2, H)], [(R, H)], ids=(1,), overwrite=False),
    "one_hot": operator_block("one_hot", [(R, S)], [(R, S, 4)], ids=(0,), num_classes=4),
    "where": operator_block("where", [(R, S), (R, S), (S,)], [(R, S)], ids=(0,)),
}
BELOW = {"embedding": 24, "cross_entropy": 12, "gather": S, "gather_nd": R, "one_hot": 4, "scatter": R}
FORWARD_ALONE = {"topk", "argmax", "one_hot", "where"}


def test_an_unknown_kind_is_cut_by_rows_alone():
    x, y = (Tensor(name=n, shape=(4, 6), dtype="float32", per_row=(1, 0)) for n in "xy")
    weight = Tensor(name="w", shape=(6,), dtype="float32", role=Role.PARAMETER)
    operator = Operator(name="op", kind="never_heard_of", inputs=("x", "w"), outputs=("y",))
    signature = signature_of(operator, {t.name: t for t in (x, y, weight)})
    assert [signature.label_at(0, dim, 1, 2) is not None for dim in range(2)] == [True, False]
    assert not signature.inputs[1][0]
    still = replace(x, per_row=())
    assert signature_of(operator, {"x": still, "y": y, "w": weight}).labels == ()


@pytest.mark.parametrize("name", CASES)
def test_cut_operator_equals_whole(name):
    block = CASES[name]
    values = random_values(block, np.random.default_rng(0), BELOW.get(name.split(",")[0], 2))
    serial = run(block, values)
    for seed in range(8):
        annotations = random_annotations(random.Random(f"{name} {seed}"), block)
        assert_forward_equals(block, annotations, values, serial)


@pytest.mark.parametrize("name", [name for name in CASES if name not in FORWARD_ALONE])
def test_gradients_of_cut_operator_equal_whole(name):
    block = CASES[name]
    values = random_values(block, np.random.default_rng(0), BELOW.get(name.split(",")[0], 2))
    assert_backward_equals(block, random_annotations(random.Random(name), block), values)
