"""What each rank of the benchmark cpu_step runs: training steps of the small ERNIE on made-up tokens, each timed."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

import nebula
from nebula.models import ernie, objectives
from nebula.models.config import masked_count
from nebula.models.data.masking import IGNORED
from nebula.models.presets import preset

WARM = 3

plan = nebula.init()
config = preset("ernie-3.0-small")
model = ernie.ErnieModel(config)
clip = nn.ClipGradByGlobalNorm(1.0)
optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), grad_clip=clip)
step = nebula.parallelize(model, optimizer, objectives.loss, plan, tensor_split=ernie.tensor_split(config))
ids = np.random.default_rng(0).integers(10, config.vocabulary, (plan.job.global_batch, 2, config.seq_len))
labels = ids.copy()
labels[:, 0, masked_count(config.seq_len) :] = IGNORED

wall, own = [], []
for _ in range(WARM + int(sys.argv[2])):
    start, started = time.perf_counter(), time.process_time()
    step((ids, labels))
    wall.append(time.perf_counter() - start)
    own.append(time.process_time() - started)
if step.place.rank == 0:
    Path(sys.argv[1]).write_text(json.dumps({"wall_s": wall[WARM:], "own_s": own[WARM:]}))
