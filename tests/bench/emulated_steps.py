"""What each rank of the benchmark emulated runs: steps of the small ERNIE under one plan after another."""

import gc
import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from nebula.emulator import clock
from nebula.models import ernie, objectives
from nebula.models.config import masked_count
from nebula.models.data.masking import IGNORED
from nebula.models.presets import preset
from nebula.plan.files import load_plan
from nebula.runtime import start
from nebula.runtime.parallelize import parallelize

WARM, COUNTED = 2, 2


def run(plan, config, log_path=None):
    """Virtual seconds of a step, and this rank's peaks over the counted steps: of tensors, and of the allocator."""
    start.set_up(plan)
    before = int(paddle.device.memory_allocated())
    model = ernie.ErnieModel(config)
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), grad_clip=clip)
    step = parallelize(model, optimizer, objectives.loss, plan, tensor_split=ernie.tensor_split(config))
    ids = np.random.default_rng(0).integers(10, config.vocabulary, (plan.job.global_batch, 2, config.seq_len))
    labels = ids.copy()
    labels[:, 0, masked_count(config.seq_len) :] = IGNORED
    device = paddle.distributed.ParallelEnv().device_id
    for index in range(WARM + COUNTED):
        if index == WARM:
            paddle.device.reset_max_memory_allocated()
            clock.peak_bytes(device, reset=True)
            before_s = clock.virtual_seconds()
        if log_path is not None and index == WARM + COUNTED - 1:
            clock.record(True)
        step((ids, labels))
    took_s = (clock.virtual_seconds() - before_s) / COUNTED
    if log_path is not None:
        clock.record(False)
        log_path.write_text(
            json.dumps(
                [[e.kind.name, e.name, e.stream, e.start_s, e.end_s, e.moved_bytes, e.flops] for e in clock.drain()]
            )
        )
    return {
        "step_s": took_s,
        "allocated_bytes": int(paddle.device.max_memory_allocated()),
        "held_bytes": clock.peak_bytes(device),
        "before_bytes": before,
        "idle_bytes": int(paddle.device.memory_allocated()),
    }


def main():
    folder = Path(sys.argv[1])
    logged = set(sys.argv[2:])
    for path in sorted(folder.glob("plan.*.json")):
        rank = paddle.distributed.get_rank()
        log = path.with_suffix(f".log.{rank}") if path.name in logged or "all" in logged else None
        found = run(load_plan(path), preset("ernie-3.0-small"), log)
        path.with_suffix(f".measured.{paddle.distributed.get_rank()}").write_text(json.dumps(found))
        gc.collect()
        paddle.device.empty_cache()


main()
