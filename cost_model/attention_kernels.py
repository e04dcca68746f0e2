"""How long fused attention takes on a device whose multiprocessors are known, from its scores.

A block of queries passes over its keys: two products per score and one exponential (FlashAttention, arXiv 2205.14135),
in the backward five products and more pointwise work. Blocks are dealt to the multiprocessors; under a causal mask
they differ in length. Which kernel it is, is a generation of FlashAttention.
"""

from __future__ import annotations

from nebula.cluster.values import DeviceType
from nebula.cost_model.kernel_parameters import (
    ATTENTION_SHARE,
    BACKWARD_SHARE,
    BACKWARD_SOFTMAX,
    STARTUP_KEYS,
)
from nebula.graph.values import Scores

BLOCK = 128
"""Queries of one block."""

FIRST_SHARE = 0.5
"""What the first generation reaches of the second, which halved its time (FlashAttention-2, arXiv 2307.08691)."""

WIDTH_STEP = 32
"""Heads are padded to a multiple of it."""

BACKWARD_STARTUP = 4.0
"""What a block of the backward costs beyond its keys, over one of the forward: outputs times gradients first, and three
gradients last."""

FLOPS_PER_SCORE = {False: 4.0, True: 10.0}
"""By direction, for each element of a head: two products forward, five backward, two operations each."""


def attention_seconds(scores: Scores, peak: float, device: DeviceType, generation: int, *, backward: bool) -> float:
    """Seconds of fused attention, its launches apart.

    Args:
        scores: their shape.
        peak: FLOP/s of the dtype.
        device: with multiprocessors.
        generation: of FlashAttention: 1, 2 or 3.
        backward: whether it is the backward.
    """
    units = float(device.multiprocessors)
    blocks = scores.batch * -(-scores.queries // BLOCK)
    causal = scores.most > scores.seen
    startup = STARTUP_KEYS.value * (BACKWARD_STARTUP if backward else 1.0)
    mean = scores.seen + (BLOCK / 2 if causal else 0.0) + startup
    # under a causal mask the last block may be one of the longest
    whole = max(blocks / units, 1.0) * (scores.most + startup)
    # a mask never makes more work, however its blocks fall on the multiprocessors
    keys = min(whole, max(blocks / units * mean + (scores.most if causal else 0), scores.most + startup))
    rows = min(BLOCK, scores.queries)
    tiled_s = keys * rows * units * _score_seconds(scores.width, peak, device, generation, backward=backward)
    flops = FLOPS_PER_SCORE[backward] * scores.batch * scores.queries * scores.seen * scores.width
    return max(tiled_s, flops / (peak * device.product_efficiency))


def _score_seconds(width: int, peak: float, device: DeviceType, generation: int, *, backward: bool) -> float:
    """Seconds of one score on the whole device: its products and its exponential, which do not overlap wholly."""
    padded = -(-width // WIDTH_STEP) * WIDTH_STEP
    rate = peak * ATTENTION_SHARE.value * _generation_share(device, generation)
    softmax = BACKWARD_SOFTMAX.value if backward else 1.0
    flops = FLOPS_PER_SCORE[backward] * padded
    return flops / (rate * (BACKWARD_SHARE.value if backward else 1.0)) + softmax / device.exponentials


def _generation_share(device: DeviceType, generation: int) -> float:
    """Of the rate of a kernel written for the device: the third generation is, the others are as far as it is old."""
    if generation >= 3:
        return 1.0
    return device.older_kernel_share * (FIRST_SHARE if generation == 1 else 1.0)
