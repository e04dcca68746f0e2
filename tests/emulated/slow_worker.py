"""One rank: trains the toy while an agent would watch it, and writes its own work after each step, in virtual time."""

import json
import os
import sys
from pathlib import Path

import paddle.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
import toy_plans

from nebula.elastic.agent.crew import OWN
from nebula.emulator import clock
from nebula.runtime import start
from nebula.runtime.parallelize import parallelize
from nebula.runtime.progress import VARIABLE, Watched


def main(folder, steps):
    path = folder / f"progress.{os.environ['PADDLE_TRAINER_ID']}"
    watched, os.environ[VARIABLE] = Watched(path), str(path)
    plan = toy_plans.named("data 2")
    start.set_up(plan)
    model, optimizer = toy.build("momentum")
    step = parallelize(model, optimizer, toy.loss, plan)
    step.progress.keep(clock.virtual_seconds)
    work_s, took_s = [], []
    for index in range(steps):
        clock.begin_step(index)
        begun_s = clock.virtual_seconds()
        step(toy.batch(index))
        took_s.append(clock.virtual_seconds() - begun_s)
        work_s.append(sum(map(watched.spent_s, OWN)))
    (folder / f"work.{dist.get_rank()}.json").write_text(json.dumps({"work_s": work_s, "took_s": took_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
