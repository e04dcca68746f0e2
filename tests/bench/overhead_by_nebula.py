"""The job of the benchmark overhead through Nebula: plain layers, a plan, and nebula.parallelize."""

import sys
from pathlib import Path

import overhead_job as job
from overhead_turns import take_turns
from paddle import nn

import nebula

SPLIT = {
    "tokens": "vocabulary",
    "qkv": "column",
    "out": "row",
    "up": "column",
    "down": "row",
    "projection": "vocabulary",
}


def main():
    plan = nebula.init()
    model = nn.Sequential(job.Tokens(), *(job.Block() for _ in range(job.BLOCKS)), job.Head())
    step = nebula.parallelize(model, job.optimizer(model), job.loss, plan, tensor_split=SPLIT)
    batch = job.batch()
    take_turns(lambda: step(batch).loss, Path(sys.argv[1]))


main()
