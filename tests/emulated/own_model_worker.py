"""One rank: trains a model of own_models.py under one plan after another; writes losses and gathered weights.

Arguments: folder for the results, then cases `model|plan name|`.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))
import own_models
import toy_plans

from nebula.runtime import start, weights
from nebula.runtime.parallelize import parallelize

PLANS = {
    "data 2": {"data": 2, "micro_batches": 1},
    "tensor 2": {"tensor": 2},
    "pipeline 2": {"stages": (0, 2, 0), "micro_batches": 2},
    "data 2 x pipeline 2": {"data": 2, "stages": (0, 2, 0), "micro_batches": 1},
    "tensor 2 x pipeline 2": {"tensor": 2, "stages": (0, 3, 0), "micro_batches": 2},
}
LAYERS = {
    "causal": own_models.BLOCKS + 3,
    "fused": own_models.BLOCKS + 3,
    "classifier": own_models.BLOCKS + 2,
    "resnet": 10,
}


def plan_of(name, own, layers):
    if name in toy_plans.UNLIKE:
        return toy_plans.UNLIKE[name]  # of six layers, as the causal models have
    if name == "serial":
        return toy_plans.plan(micro_batches=own.serial_micro_batches, stages=(0, layers))
    split = PLANS[name]
    return toy_plans.plan(**{**split, "stages": (*split.get("stages", (0, 0))[:-1], layers)})


def train(own, plan):
    start.set_up(plan)
    paddle.seed(7)
    model = own.make()
    step = parallelize(model, own_models.optimizer_of(model, own.rate), own_models.loss, plan, chain=own.chain)
    losses = [step(own.batch(index)).loss for index in range(own.steps)]
    return losses, weights.gather(step)


def main(folder, cases, known=own_models.OWN, layers=LAYERS):
    for case in cases:
        name, plan_name, _ = case.split("|")
        losses, gathered = train(known[name], plan_of(plan_name, known[name], layers[name]))
        if int(os.environ.get("PADDLE_TRAINER_ID", "0")) == 0:
            np.savez(folder / f"{case}.npz", **gathered)
            (folder / f"{case}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
