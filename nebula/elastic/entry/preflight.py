"""The process that tries a node's device before the node joins: does it compute, copy, and give back what it got?

Prints one line of JSON on standard output. It uses Paddle's default device, as a worker would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

SIZE, PRODUCTS = 512, 20
COPY_BYTES = 64 * 2**20
PATTERNS = (0x00000000, 0xFFFFFFFF, 0x55555555, 0xAAAAAAAA)


def best_s(work: Callable[[], None], rounds: int) -> float:
    """The shortest of several: what others do on the machine lengthens some rounds, a slow device all."""
    took_s = []
    for _ in range(rounds):
        begin_s = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - begin_s)
    return min(took_s)


def main() -> None:
    """Tries, and prints what it found."""
    import numpy as np
    import paddle

    def wait() -> None:
        if paddle.device.get_device() != "cpu":
            paddle.device.synchronize()

    one = paddle.rand([SIZE, SIZE], dtype="float32")

    def product() -> None:
        paddle.matmul(one, one)
        wait()

    product()
    flops = 2.0 * SIZE**3 / best_s(product, PRODUCTS)
    wrong, copies_s = 0, []
    for pattern in PATTERNS:
        sent = np.full(COPY_BYTES // 4, pattern, np.uint32).view(np.int32)
        begin_s = time.perf_counter()
        there = paddle.to_tensor(sent)
        wait()
        back = there.numpy()
        copies_s.append(time.perf_counter() - begin_s)
        wrong += int((back.view(np.uint8) != sent.view(np.uint8)).sum())
    print(json.dumps({"flops": flops, "copy_bytes_per_s": 2 * COPY_BYTES / min(copies_s), "wrong_bytes": wrong}))


if __name__ == "__main__":
    main()
