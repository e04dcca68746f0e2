"""20 partitioned blocks on four emulated ranks: what the ranks hold, put together, is what the whole block computes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ranks import run_emulated

sys.path.append(str(Path(__file__).parent.parent / "pure"))

from partition_cases import CASES, local_block, values_of, whole_block

from nebula.graph.interpret import gather, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partition")
    run_emulated(4, Path(__file__).with_name("partition_worker.py"), [folder], folder)
    return folder


@pytest.mark.parametrize("seed", CASES)
def test_what_the_ranks_hold_is_the_whole_blocks_result(folder, seed):
    block, values = whole_block(seed), values_of(seed)
    serial = run(block, values)
    local, mesh = local_block(seed)
    held = [np.load(folder / f"{seed}.{rank}.npz") for rank in range(mesh.size)]
    for tensor in block.tensors:
        together = gather(local, tensor.name, {rank: arrays[tensor.name] for rank, arrays in enumerate(held)})
        np.testing.assert_allclose(together, serial[tensor.name], 1e-6, 1e-6, err_msg=tensor.name)


def test_the_cases_use_every_collective():
    kinds = {op.kind for seed in CASES for op in local_block(seed)[0].operators}
    assert {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "cross_entropy"} <= kinds
