"""One rank: trains the toy under one plan after another and writes, per plan, the losses and the gathered weights.

Arguments: folder for the results, then cases `optimizer|plan name|fault`. A fault is empty, a factor that scales the
gradients of rank 1, or `unmended`: Paddle as it is, without nebula.runtime.paddle_faults.
"""

import inspect
import json
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
import toy_plans

from nebula.runtime import paddle_faults, start, weights
from nebula.runtime.parallelize import parallelize

STEPS = 20


def train(plan, optimizer, fault=""):
    start.set_up(plan)
    model, optimizer = toy.build(optimizer)
    step = parallelize(model, optimizer, toy.loss, plan)
    if fault and step.place.rank == 1:
        scale_gradients(step, float(fault))
    losses = [step(toy.batch(index)).loss for index in range(STEPS)]
    return losses, weights.gather(step)


def scale_gradients(step, factor):
    for element in step.part.elements:
        for parameter in element.parameters():
            parameter.register_hook(lambda gradient: gradient * factor)


def main(folder, cases):
    mended = vars(paddle_faults).copy()
    for case in cases:
        optimizer, name, fault = case.split("|")
        plan = toy_plans.plan(**toy_plans.NAMED.get(name, {"micro_batches": 1}))
        for mend in (name for name, value in mended.items() if inspect.isfunction(value)):
            setattr(paddle_faults, mend, nothing if fault == "unmended" else mended[mend])
        losses, gathered = train(plan, optimizer, fault.replace("unmended", ""))
        if int(os.environ.get("PADDLE_TRAINER_ID", "0")) == 0:
            np.savez(folder / f"{case}.npz", **gathered)
            (folder / f"{case}.json").write_text(json.dumps(losses))


def nothing(*_):
    """Stands in for a work-around that is left out."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
