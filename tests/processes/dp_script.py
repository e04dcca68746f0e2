"""A user's script: trains a small chain as the plan says, or as one process without a plan. Argument: result file."""

import json
import os
import signal
import sys
import time

import numpy as np
import paddle
from paddle import nn

import nebula

plan = nebula.init()
paddle.seed(3)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
if sys.argv[2:] == ["freeze"] and os.environ["PADDLE_TRAINER_ID"] == "1":
    model[0].weight.stop_gradient = True
if sys.argv[2:] == ["build"] and os.environ["PADDLE_TRAINER_ID"] == "1":
    model[0].weight.set_value(0.5 * model[0].weight)
if sys.argv[2:] == ["buffer"]:
    model[1].register_buffer("table", paddle.full([2], float(os.environ["PADDLE_TRAINER_ID"])))
optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.0))
step = nebula.parallelize(model, optimizer, nn.MSELoss(), plan)

rows = np.random.RandomState(0).randn(16, 9).astype("float32")
losses = []
for index in range(20):
    if len(sys.argv) > 2 and index == 3:
        if sys.argv[2] == "raise" and step.place.rank == 1:
            raise ValueError("the data of step 3 is broken")
        if sys.argv[2] == "die" and step.place.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "hang":
            print("hanging", flush=True)
            time.sleep(600)
    losses.append(step((rows[:, :8], rows[:, 8:])).loss)
if step.place.rank == 0:
    print("trained", flush=True)
    with open(sys.argv[1], "w") as file:
        json.dump(losses, file)
