"""What each rank of the benchmark alarms runs: thousands of short steps, with saves, waits and pauses in between.

Arguments: how many steps.
"""

import sys
import time

import numpy as np
import paddle
from paddle import nn

import nebula

SAVED, WAITED, PAUSED, WIDTH = 1000, 700, 2900, 64
"""Steps between two saves, between two waits of a second that nobody is told of, and between two long pauses of rank 0;
width of all layers."""


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
            if (index + 1) % WAITED == 0:
                time.sleep(1.0)
            if (index + 1) % PAUSED == 0 and step.place.rank == 0:
                with step.pause():
                    time.sleep(8.0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
