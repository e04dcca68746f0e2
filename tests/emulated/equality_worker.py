"""One rank: trains the toy under one plan after another and writes, per plan, the losses and the gathered weights.

Arguments: folder for the results, then cases `optimizer|plan name|twist`. One whose optimizer begins with `experts`
trains the toy that has them, with `masked` that whose masks come with the batch. A plan whose name begins with `@` is
read from <folder>/<name>.json, others are those of toy_plans. A twist is empty; a factor that scales the gradients of
rank 1; `unmended`: Paddle as it is, without nebula.runtime.paddle_faults; `loss scaler`: fp16's scaler around a
computation in fp32, which is what this device has; `infinite gradient`: that, and rank 1 meets an infinity in step
INFINITE.
"""

import inspect
import json
import os
import sys
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain
import toy_experts
import toy_masked
import toy_plans

from nebula.plan.files import load_plan
from nebula.runtime import paddle_faults, precision, start, weights
from nebula.runtime import parallelize as parallelizing
from nebula.runtime.executor import engine as executing
from nebula.runtime.parallelize import parallelize

STEPS, SCALED_STEPS, INFINITE = 20, 6, 2
TOYS = {"experts": toy_experts, "masked": toy_masked}


def train(plan, optimizer, twist=""):
    start.set_up(plan)
    kind = optimizer.partition(" ")[0]
    toy = TOYS.get(kind, toy_chain)
    model, optimizer = toy.build(optimizer.removeprefix(f"{kind} ") if kind in TOYS else optimizer)
    scaled = twist in ("loss scaler", "infinite gradient")
    for module in (parallelizing, executing):
        module.precision_of = scaled_fp32 if scaled else precision.precision_of
    step = parallelize(model, optimizer, toy.loss, plan)
    factors = [1.0] * STEPS
    if twist == "infinite gradient":
        factors[INFINITE] = float("inf")
    elif twist and not scaled:
        factors = [float(twist)] * STEPS
    now = scale_gradients(step) if step.place.rank == 1 and set(factors) != {1.0} else []
    losses = []
    for index in range(SCALED_STEPS if scaled else STEPS):
        now[:] = factors[index : index + 1]
        losses.append(step(toy.batch(index)).loss)
    return losses, weights.gather(step)


def scaled_fp32(_):
    return precision.Precision(scaler=paddle.amp.GradScaler(init_loss_scaling=1024.0, use_dynamic_loss_scaling=False))


def scale_gradients(step):
    """Returns a list whose one number gradients are multiplied by."""
    now = [1.0]
    for element in step.part.elements:
        for parameter in element.parameters():
            parameter.register_hook(lambda gradient: gradient * now[0])
    return now


def main(folder, cases):
    mended = vars(paddle_faults).copy()
    for case in cases:
        optimizer, name, twist = case.split("|")
        plan = load_plan(folder / f"{name}.json") if name.startswith("@") else toy_plans.named(name)
        for mend in (name for name, value in mended.items() if inspect.isfunction(value)):
            setattr(paddle_faults, mend, nothing if twist == "unmended" else mended[mend])
        losses, gathered = train(plan, optimizer, twist.replace("unmended", ""))
        if int(os.environ.get("PADDLE_TRAINER_ID", "0")) == 0:
            np.savez(folder / f"{case}.npz", **gathered)
            (folder / f"{case}.json").write_text(json.dumps(losses))


def nothing(*_):
    """Stands in for a work-around that is left out."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
