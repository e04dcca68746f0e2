"""Trains a small chain in steps of milliseconds, onto a disk that takes long to sync.

Arguments: steps; the seconds that the first sync of a process takes.
"""

import os
import sys
import time

import numpy as np
import paddle
from paddle import nn

import nebula

WIDTH = 64


def factory():
    """A chain of small layers."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)))


def slow_disk(takes_s, sync=os.fsync):
    """Has the first sync of this process take long, as a disk does that many write to."""

    def slowly(descriptor):
        os.fsync = sync
        time.sleep(takes_s)
        sync(descriptor)

    os.fsync = slowly


def main(steps, takes_s):
    """Trains, and saves where the job stops alone."""
    plan = nebula.init()
    paddle.seed(1)
    model = factory()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    step = nebula.parallelize(model, optimizer, nn.MSELoss(), plan)
    rows = np.random.default_rng(1).standard_normal((plan.job.global_batch, WIDTH)).astype(np.float32)
    with nebula.Checkpoints(step, "checkpoints", every=100_000, tell=lambda _: None) as checkpoints:
        first = checkpoints.resume()
        slow_disk(float(takes_s))
        for index in range(first, int(steps)):
            step((rows, np.roll(rows, 1, 1)))
            checkpoints.after(index + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
