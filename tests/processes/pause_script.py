"""Trains a small chain and evaluates in between, longer than any step takes, on rank 0 alone.

Arguments: steps; the step behind which rank 0 pauses; for how long; the seconds that it asks for.
"""

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


def main(steps, behind, takes_s, at_most_s):
    """Trains; says how long rank 0 paused."""
    plan = nebula.init()
    paddle.seed(1)
    model = factory()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    step = nebula.parallelize(model, optimizer, nn.MSELoss(), plan)
    rows = np.random.default_rng(1).standard_normal((plan.job.global_batch, WIDTH)).astype(np.float32)
    with nebula.Checkpoints(step, "checkpoints", every=1000, tell=lambda _: None) as checkpoints:
        for index in range(checkpoints.resume(), int(steps)):
            step((rows, np.roll(rows, 1, 1)))
            checkpoints.after(index + 1)
            time.sleep(0.01)
            if index + 1 == int(behind) and step.place.rank == 0:
                with step.pause(at_most_s=float(at_most_s)):
                    time.sleep(float(takes_s))
                print("paused", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
