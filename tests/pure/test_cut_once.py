"""What fleet's search has cut serves the executor's: both engines cut blocks without experts alike."""

from __future__ import annotations

from math import prod

import pytest

from nebula.cost_model.chain import Chains
from nebula.cost_model.cut_blocks import CutBlocks
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.step import StepPricing
from nebula.errors import BadInput
from nebula.graph.stretched import MOST_CUT
from nebula.models.describe import graph, names
from nebula.plan.values import Job
from tests.pure.cost_samples import cluster
from tests.pure.test_graph_stretched import priced

ON = cluster(nodes=1, per_node=8)
JOB = Job(global_batch=8)


def pricing(model) -> StepPricing:
    return StepPricing(model, ON, paddle_execution(JOB, ON))


@pytest.mark.parametrize("preset", names())
def test_blocks_that_fleet_has_cut_are_those_that_the_executor_cuts(preset):
    model = graph(preset, dtype="bfloat16")
    chains, knowing, own = Chains(model), pricing(model), pricing(model)
    for index in range(len(model.blocks)):
        for rows, tensor in ((1, 1), (1, 2), (MOST_CUT, 2), (MOST_CUT + 1, 2)):
            try:
                chains.block(index, rows, tensor, False)
            except BadInput:
                continue
    taken = chains.exact_blocks()
    knowing.cuts.know(taken)
    assert len(taken) >= len(model.blocks)
    for index, rows, tensor in taken:
        degrees = (rows, tensor, 0, 1, 1, 1, 0)
        assert knowing.block(index, degrees) == own.block(index, degrees), (index, rows, tensor)


def test_what_is_stretched_is_no_cut():
    model = graph("llama3-8b", dtype="bfloat16")
    chains = Chains(model)
    for index in range(len(model.blocks)):
        chains.block(index, MOST_CUT + 1, 2, False)
    assert {rows for _, rows, _ in chains.exact_blocks()} <= {1, MOST_CUT}


WAYS = [
    (4, 0, 1, 1, 1, 0),
    (4, 1, 1, 4, 1, 0),
    (1, 0, 2, 2, 1, 0),
    (2, 1, 2, 4, 1, 1),
    (2, 0, 2, 1, 1, 2),
]
"""Degrees of tensor, sequence, context, experts, experts' tensors, and ways of exchange."""


@pytest.mark.parametrize("by_tensor", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("preset", names())
def test_a_block_that_is_stretched_costs_what_one_costs_that_is_cut(preset, way, by_tensor):
    model = graph(preset, dtype="bfloat16")
    cut, made = (CutBlocks(model, by_tensor=by_tensor, stretches=stretches) for stretches in (False, True))
    for index in range(len(model.blocks)):
        for rows in (3, 8):
            try:
                expected = cut.block(index, (rows, *way))
            except BadInput:
                with pytest.raises(BadInput):
                    made.block(index, (rows, *way))
                continue
            assert sized(made.block(index, (rows, *way))) == sized(expected)


def sized(block):
    """All that a price depends on, of tensors what they hold: exchanges of a sequence may fold dims in either way."""
    rows, tensors, operators = priced(block)
    return rows, [(name, prod(shape), dtype) for name, shape, dtype in tensors], operators
