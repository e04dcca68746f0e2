"""One rank: trains the toy under one plan after another and writes, per plan, the losses and the gathered weights.

Arguments: folder for the results, then cases `optimizer|plan name|factor`; the factor scales the gradients of rank 1.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
import toy_plans

from nebula.runtime import start, weights
from nebula.runtime.parallelize import parallelize

STEPS = 20


def train(plan, optimizer, factor=1.0):
    start.set_up(plan)
    model, optimizer = toy.build(optimizer)
    step = parallelize(model, optimizer, toy.loss, plan)
    if factor != 1.0 and step.place.rank == 1:
        for element in step.part.elements:
            for parameter in element.parameters():
                parameter.register_hook(lambda gradient: gradient * factor)
    losses = [step(toy.batch(index)).loss for index in range(STEPS)]
    return losses, weights.gather(step)


def main(folder, cases):
    for case in cases:
        optimizer, name, factor = case.split("|")
        plan = toy_plans.plan(**toy_plans.NAMED.get(name, {"micro_batches": 1}))
        losses, gathered = train(plan, optimizer, float(factor))
        if int(os.environ.get("PADDLE_TRAINER_ID", "0")) == 0:
            np.savez(folder / f"{case}.npz", **gathered)
            (folder / f"{case}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
