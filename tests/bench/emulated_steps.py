"""What each rank of the benchmark emulated runs: steps of the small ERNIE under one plan after another."""

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


def run(plan, config):
    """Virtual seconds of a step."""
    start.set_up(plan)
    model = ernie.ErnieModel(config)
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), grad_clip=clip)
    step = parallelize(model, optimizer, objectives.loss, plan, tensor_split=ernie.tensor_split(config))
    ids = np.random.default_rng(0).integers(10, config.vocabulary, (plan.job.global_batch, 2, config.seq_len))
    labels = ids.copy()
    labels[:, 0, masked_count(config.seq_len) :] = IGNORED
    for index in range(WARM + COUNTED):
        if index == WARM:
            before_s = clock.virtual_seconds()
        step((ids, labels))
    return (clock.virtual_seconds() - before_s) / COUNTED


def main():
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("plan.*.json")):
        step_s = run(load_plan(path), preset("ernie-3.0-small"))
        if paddle.distributed.get_rank() == 0:
            path.with_suffix(".measured").write_text(json.dumps({"step_s": step_s}))


main()
