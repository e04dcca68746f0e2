"""What each rank of the benchmark alarms runs: thousands of short steps, with saves and pauses of its own in between.

Arguments: how many steps.
"""

import sys
import time

import numpy as np
import paddle
from paddle import nn

import nebula

SAVED, PAUSED, WIDTH = 1000, 700, 64
"""Steps between two saves, and between two pauses of a second, as short evaluations make them; width of all layers."""


def factory():
    """A chain of small layers."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)))


def main(steps):
    """Trains."""
    plan = nebula.init()
    paddle.seed(1)
    model = factory()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    step = nebula.parallelize(model, optimizer, nn.MSELoss(), plan)
    rows = np.random.default_rng(1).standard_normal((plan.job.global_batch, WIDTH)).astype(np.float32)
    with nebula.Checkpoints(step, "checkpoints", every=SAVED, tell=lambda _: None) as checkpoints:
        for index in range(checkpoints.resume(), steps):
            step((rows, np.roll(rows, 1, 1)))
            checkpoints.after(index + 1)
            if (index + 1) % PAUSED == 0:
                time.sleep(1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
