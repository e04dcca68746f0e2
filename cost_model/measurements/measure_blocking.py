"""Measures what a host that waits for each kernel (CUDA_LAUNCH_BLOCKING=1) adds to a layer on one CUDA device.

Needs PyTorch with CUDA. Usage: python3 measure_blocking.py OUT.json. One tensor rank's share of a layer of GPT in
float16, scores written, forward and backward; each row once with the host ahead and once with it waiting: median
seconds of one layer, its kernels and the device time of these.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

CASES = ((14336, 8, 1), (14336, 8, 2), (14336, 8, 4), (14336, 4, 2), (3072, 8, 2), (3072, 8, 8))
"""Hidden size, tensor ranks, rows of a micro-batch."""

SEQUENCE, HEADS = 2048, 64
REPEATS, ROUNDS = 10, 7


def layer(hidden: int, tensor: int, rows: int):
    """A forward and a backward of a layer's share."""
    import torch
    from torch.nn import functional as F

    def weight(*shape: int):
        return (torch.randn(shape, device="cuda", dtype=torch.float16) * 0.01).requires_grad_()

    heads, width = HEADS // tensor, hidden // HEADS
    query_key_value, out = weight(3 * hidden // tensor, hidden), weight(hidden, hidden // tensor)
    up, down = weight(4 * hidden // tensor, hidden), weight(hidden, 4 * hidden // tensor)
    scales, shifts, biases = ([weight(hidden) for _ in range(2)] for _ in range(3))
    first_bias, up_bias = weight(3 * hidden // tensor), weight(4 * hidden // tensor)
    hides = torch.triu(torch.ones(SEQUENCE, SEQUENCE, device="cuda", dtype=torch.bool), 1)
    x = weight(SEQUENCE, rows, hidden)
    gradient = torch.randn_like(x)

    def run() -> None:
        y = F.linear(F.layer_norm(x, (hidden,), scales[0], shifts[0]), query_key_value, first_bias)
        query, key, value = y.view(SEQUENCE, rows, heads, 3 * width).permute(1, 2, 0, 3).split(width, -1)
        scores = (query @ key.transpose(-1, -2)) * width**-0.5
        shares = F.dropout(F.softmax(scores.masked_fill(hides, -1e4), -1), 0.1)
        attended = (shares @ value).permute(2, 0, 1, 3).reshape(SEQUENCE, rows, hidden // tensor)
        z = x + F.dropout(F.linear(attended, out) + biases[0], 0.1)
        inner = F.gelu(F.linear(F.layer_norm(z, (hidden,), scales[1], shifts[1]), up, up_bias))
        (z + F.dropout(F.linear(inner, down) + biases[1], 0.1)).backward(gradient)

    return run


def measured(hidden: int, tensor: int, rows: int) -> dict:
    """One case in this process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    run = layer(hidden, tensor, rows)
    times = []
    for turn in range(ROUNDS + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()
        # the first is a rehearsal
        times += [(time.perf_counter() - begin) / REPEATS] if turn else []
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    kernels = [e for e in profiled.events() if "CUDA" in str(e.device_type)]
    return {
        "hidden": hidden,
        "tensor": tensor,
        "rows": rows,
        "blocking": os.environ.get("CUDA_LAUNCH_BLOCKING") == "1",
        "s": sorted(times)[ROUNDS // 2],
        "kernels": len(kernels),
        "device_s": sum(e.device_time_total for e in kernels) * 1e-6,
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }


def main(out: str) -> None:
    """All cases, each in a process of its own: what launches do is settled when CUDA starts."""
    rows = []
    for case in CASES:
        for blocking in "01":
            command = [sys.executable, __file__, *map(str, case)]
            done = subprocess.run(
                command, env={**os.environ, "CUDA_LAUNCH_BLOCKING": blocking}, stdout=subprocess.PIPE, check=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    Path(out).write_text("[" + ",\n".join(map(json.dumps, rows)) + "]\n")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        print(json.dumps(measured(*map(int, sys.argv[1:]))))
