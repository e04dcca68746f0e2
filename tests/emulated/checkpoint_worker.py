"""One rank: trains a toy under one plan after another, saves, resumes, and leaves what a test compares.

Arguments: folder, then jobs as JSON, see Job. Per job rank 0 writes NAME.json (losses, what was told, seconds that
saves took) and NAME.npz (weights gathered at the end); checkpoints go to the folder NAME, that of step HALF also to
NAME.half. The job `damaged` takes up NAME.half of its source with a flipped byte.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))
import toy_chain as toy
import toy_experts
import toy_plans
from paddle import nn

from nebula.errors import NebulaError
from nebula.models import ernie, objectives
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.memory import set_micro_batches
from nebula.runtime import parallelize as parallelizing
from nebula.runtime import precision, random_state, start, weights
from nebula.runtime.checkpoints import Checkpoints
from nebula.runtime.circles import from_all
from nebula.runtime.parallelize import parallelize

HALF = 2
MODULE = ModuleConfig(layers=1, hidden=32, heads=4, ffn=64)
REMEMBERING = ErnieConfig(
    universal=ModuleConfig(layers=2, hidden=32, heads=4, ffn=64),
    nlu=MODULE,
    nlg=MODULE,
    vocabulary=64,
    seq_len=8,
    memory_length=4,
    max_distance=4,
)


@dataclass(frozen=True)
class Job:
    """Trains from step `resumes` of the job `source`, or from nothing, to step `last`; saves after `saves`.

    `model` is `toy`, `dropping` (dropout within), `scaled` (loss scaler that grows), `remembering` (recurrence
    memory) or `experts`; a `wrong` job must be refused.
    """

    name: str
    plan: str
    last: int
    saves: tuple[int, ...] = ()
    source: str = ""
    resumes: int = 0
    model: str = "toy"
    optimizer: str = "adamw"
    asynchronous: bool = True
    wrong: bool = False


class Dropping(toy.Block):
    """A block that drops a tenth of what it returns."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, inputs):
        x, mask = super().forward(inputs)
        return self.dropout(x), mask


def build(job, plan):
    """Model, optimizer, loss and batches of a job."""
    if job.model == "experts":
        model, optimizer = toy_experts.build(job.optimizer)
        return model, optimizer, toy_experts.loss, toy.batch, None
    if job.model != "remembering":
        toy.Block = Dropping if job.model == "dropping" else Dropping.__base__
        model, optimizer = toy.build(job.optimizer)
        return model, optimizer, toy.loss, toy.batch, None
    paddle.seed(7)
    model = ernie.ErnieModel(REMEMBERING)
    set_micro_batches(model.chain, plan.micro_batches)
    rate = paddle.optimizer.lr.LambdaDecay(3e-3, lambda index: 1 / (1 + index))
    clip = nn.ClipGradByGlobalNorm(0.5)
    optimizer = paddle.optimizer.AdamW(rate, parameters=model.parameters(), epsilon=1e-6, grad_clip=clip)
    return model, optimizer, objectives.loss, ernie_batch, ernie.tensor_split(REMEMBERING)


def ernie_batch(step, rows=toy.ROWS):
    """Random ids; every row of a half has the same number of targets."""
    random = np.random.RandomState(step)
    ids = random.randint(0, REMEMBERING.vocabulary, (rows, 2, REMEMBERING.seq_len))
    labels = ids.copy()
    labels[:, 0, REMEMBERING.masked_per_row :] = -100
    return ids, labels


def run(folder, job):
    plan = toy_plans.named(job.plan)
    start.set_up(plan)
    model, optimizer, loss, batch, split = build(job, plan)
    parallelizing.precision_of = growing if job.model == "scaled" else precision.precision_of
    step = parallelize(model, optimizer, loss, plan, tensor_split=split)
    told, losses = [], []
    if job.name == "damaged" and step.place.rank == 0:
        damage(folder / f"{job.source}.half", folder / "damaged.half")
    name = "damaged" if job.name == "damaged" else job.source or "nothing"
    source = Checkpoints(step, folder / f"{name}.half", every=1, tell=told.append)
    if job.wrong:
        refuse(folder, job, source)
        return
    assert source.resume() == job.resumes
    if job.source and len(plan.stages) == plan.stages[0].data == plan.stages[0].context == 1:
        states = from_all(random_state._text(paddle.get_rng_state("cpu")[0]), plan.world_size)
        assert all(state == states[0] for state in states), "a tensor group draws apart on the host"
    options = {"asynchronous": job.asynchronous, "tell": told.append, "keep": 9, "every": 1}
    half = Checkpoints(step, folder / f"{job.name}.half", every=1, tell=str)
    with half, Checkpoints(step, folder / job.name, **options) as checkpoints:
        rate = optimizer._learning_rate
        for done in range(job.resumes + 1, job.last + 1):
            losses.append(step(batch(done - 1)).loss)
            if isinstance(rate, paddle.optimizer.lr.LRScheduler):
                rate.step()
            if done in job.saves:
                checkpoints.save(done, position={"done": done})
            if done == HALF:
                half.save(done, position={"half": done})
        if job.last in job.saves:
            checkpoints.save(job.last)
    gathered = weights.gather(step)
    if step.place.rank == 0:
        np.savez(folder / f"{job.name}.npz", **gathered)
        records = [asdict(record) for record in checkpoints.records]
        scaler = step.precision.scaler
        scale = float(scaler._scale) if scaler else 1.0
        answer = {"scale": scale, "losses": losses, "told": told, "saves": records, "position": source.position}
        (folder / f"{job.name}.json").write_text(json.dumps(answer))


def damage(source, target):
    """A copy with a flipped byte in the last file: in a random state, which no rank of another plan needs."""
    shutil.copytree(source, target)
    shard = sorted(target.glob("*/rank-*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-100] ^= 4
    shard.write_bytes(content)


def growing(_):
    """fp16's scaler around a computation in fp32; the scale doubles every other step."""
    return precision.Precision(scaler=paddle.amp.GradScaler(init_loss_scaling=8.0, incr_every_n_steps=2))


def refuse(folder, job, source):
    """Every rank must be told the same."""
    try:
        source.resume()
    except NebulaError as error:
        rank = os.environ.get("PADDLE_TRAINER_ID", "0")
        (folder / f"{job.name}.refused.{rank}").write_text(str(error))


def main(folder, jobs):
    for text in jobs:
        run(folder, Job(**json.loads(text)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
