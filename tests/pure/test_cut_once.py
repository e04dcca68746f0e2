"""What fleet's search has cut serves the executor's: both engines cut blocks without experts alike."""

from __future__ import annotations

import pytest

from nebula.cost_model.chain import MOST_CUT, Chains
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.step import StepPricing
from nebula.errors import BadInput
from nebula.models.describe import graph, names
from nebula.plan.values import Job
from tests.pure.cost_samples import cluster

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
    knowing.know(taken)
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
