"""One rank: trains the toy under one plan after another and writes when each step began by the device's own clock."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
import toy_plans

from nebula.emulator import clock
from nebula.runtime import start
from nebula.runtime.parallelize import parallelize

STEPS = 3


def main(folder, names):
    begun = []

    def begin():
        clock.begin_step(len(begun))
        begun.append(clock.virtual_seconds())

    for name in names:
        plan = toy_plans.named(name)
        start.set_up(plan)
        model, optimizer = toy.build("momentum")
        step = parallelize(model, optimizer, toy.loss, plan)
        for index in range(STEPS):
            begin()
            step(toy.batch(index))
    exchange(dist.get_rank(), dist.get_world_size())
    begin()
    (folder / f"begun.{os.environ['PADDLE_TRAINER_ID']}.json").write_text(json.dumps(begun))


def exchange(rank, ranks):
    """Collectives that training does not use."""
    sizes = [1000 * (rank + 1)] * ranks
    out = paddle.empty([sum(1000 * (r + 1) for r in range(ranks))])
    whole = paddle.to_tensor(np.ones(sum(sizes), "float32"))
    dist.alltoall_single(out, whole, sizes, [1000 * (r + 1) for r in range(ranks)])
    dist.broadcast(paddle.ones([5000]), ranks - 1)
    dist.reduce(paddle.ones([7000]), 1)
    dist.stream.reduce_scatter(paddle.empty([500]), paddle.ones([500 * ranks]))


main(Path(sys.argv[1]), sys.argv[2:])
