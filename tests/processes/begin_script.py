"""Trains a small chain; one rank ends once, and rank 0 then stands still before its first word to Nebula.

Arguments: steps; the folder in which it is noted what has happened.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

import nebula

WIDTH = 64


def factory():
    """A chain of small layers."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)))


def first(path):
    """Whether nobody has come here before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def main(steps, noted):
    """Trains."""
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    if rank == 0 and (noted / "ended").exists() and first(noted / "stood still"):
        time.sleep(10_000)
    plan = nebula.init()
    paddle.seed(1)
    model = factory()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    step = nebula.parallelize(model, optimizer, nn.MSELoss(), plan)
    rows = np.random.default_rng(1).standard_normal((plan.job.global_batch, WIDTH)).astype(np.float32)
    with nebula.Checkpoints(step, "checkpoints", every=1000, tell=lambda _: None) as checkpoints:
        for index in range(checkpoints.resume(), steps):
            step((rows, np.roll(rows, 1, 1)))
            checkpoints.after(index + 1)
            time.sleep(0.01)
            if rank == 1 and index == 100 and first(noted / "ended"):
                os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
