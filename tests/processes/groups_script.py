"""One rank: meets the others, makes groups that overlap and follow each other, and sums over each."""

import json
import os
import sys
import time

import paddle
import paddle.distributed as dist

from nebula.runtime.meeting import meet

rank = int(os.environ["PADDLE_TRAINER_ID"])
time.sleep(0.3 * (rank == 0))  # the keeper of the store is the last to come
meet()
dist.init_parallel_env()
sums = []
for ranks in ([0, 2], [1, 3], [0, 1], [2, 3], [0, 1, 2, 3]) * 3:
    group = dist.new_group(ranks)
    if rank in ranks:
        value = paddle.to_tensor([float(rank)])
        dist.all_reduce(value, group=group)
        sums.append((ranks, float(value)))
with open(f"{sys.argv[1]}.{rank}", "w") as file:
    json.dump(sums, file)
