"""One rank of the partition test: cuts each block as the seed says, runs its part, and saves every tensor it holds."""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

sys.path.append(str(Path(__file__).parent.parent / "pure"))

from partition_cases import CASES, local_block, values_of

from nebula.graph.interpret import run_partitioned
from nebula.runtime.interpret import PaddleRanks


def main(folder: Path) -> None:
    device = paddle.get_device()
    dist.init_parallel_env()
    assert paddle.get_device().startswith("sim_npu"), f"runs on {device}"
    ranks = {}
    for seed in CASES:
        block, mesh = local_block(seed)
        if mesh not in ranks:
            ranks[mesh] = PaddleRanks(mesh)
        state = run_partitioned(block, values_of(seed), ranks[mesh])
        arrays = {name: state[name][dist.get_rank()] for name in state}
        np.savez(folder / f"{seed}.{dist.get_rank()}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
