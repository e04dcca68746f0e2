"""What each rank of the benchmarks on emulated devices runs: a few steps of a built-in model under one plan.

Arguments: the plan file, the preset, at other widths perhaps (tests.bench.shapes).
"""

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from nebula.emulator import clock
from nebula.models.config import masked_count
from nebula.models.data.masking import IGNORED
from nebula.models.families import family_of
from nebula.plan.files import load_plan
from nebula.runtime import start
from nebula.runtime.parallelize import parallelize
from tests.bench.shapes import config_of

WARM, COUNTED = 2, 2


def run(plan, config):
    """Virtual seconds of a step, and the most that tensors of this rank and its allocator held meanwhile."""
    start.set_up(plan)
    family = family_of(config)
    model = family.model(config)
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), grad_clip=clip)
    step = parallelize(model, optimizer, family.loss, plan, tensor_split=family.tensor_split)
    shape = (plan.job.global_batch, 2, config.seq_len)
    ids = np.random.default_rng(0).integers(10, config.vocabulary, shape)
    labels = ids.copy()
    labels[:, 0, masked_count(config.seq_len) :] = IGNORED
    if family.sequences == 1:
        ids, labels = ids[:, 1], labels[:, 1]
    for _ in range(WARM):
        step((ids, labels))
    device = start.device()
    paddle.device.reset_max_memory_allocated(device)
    clock.peak_bytes(paddle.distributed.ParallelEnv().device_id, reset=True)
    before_s = clock.virtual_seconds()
    for _ in range(COUNTED):
        step((ids, labels))
    return {
        "step_s": (clock.virtual_seconds() - before_s) / COUNTED,
        "tensors_bytes": int(paddle.device.max_memory_allocated(device)),
        "allocator_bytes": clock.peak_bytes(paddle.distributed.ParallelEnv().device_id),
        "idle_bytes": int(paddle.device.memory_allocated(device)),
    }


plan_path = Path(sys.argv[1])
found = run(load_plan(plan_path), config_of(sys.argv[2]))
plan_path.with_suffix(f".{paddle.distributed.get_rank()}").write_text(json.dumps(found))
