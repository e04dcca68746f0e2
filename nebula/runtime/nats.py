"""Cross-entropy from logits of which each tensor rank has its share, in place of a loss's own `cross_entropy`.

Refuses a loss whose own one computes something else, which would be lost without a word.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle.nn import functional

from nebula.errors import BadInput

IGNORED = -100
"""The label that counts nothing."""


def cross_entropy(
    logits: paddle.Tensor, labels: paddle.Tensor, ignore_index: int = IGNORED, group: Any = None
) -> paddle.Tensor:
    """Nats per position from logits of which each tensor rank holds its share of the vocabulary.

    Args:
        logits: [..., vocabulary / tensor degree].
        labels: [...] int64, over the whole vocabulary.
        group: the tensor group; None: that of fleet's hybrid topology.

    Returns:
        [...], 0 where the label is `ignore_index`.
    """
    from paddle.distributed.fleet.meta_parallel import ParallelCrossEntropy

    return ParallelCrossEntropy(mp_group=group, ignore_index=ignore_index)(logits, labels.unsqueeze(-1)).squeeze(-1)


def check(own: Any) -> None:
    """Refuses a loss whose own cross-entropy is not what takes its place.

    Args:
        own: the default of the loss's parameter `cross_entropy`; one that cannot be called is not looked at.

    Raises:
        BadInput: with the label for which the two differ.
    """
    if not callable(own):
        return
    size = 64
    logits = paddle.cos(paddle.arange(size * size, dtype="float32")).reshape([1, size, size])
    labels = paddle.arange(size).reshape([1, size])
    with paddle.no_grad():
        nats = functional.cross_entropy(logits, labels.unsqueeze(-1), reduction="none").squeeze(-1)
        found = own(logits, labels)
        if list(found.shape) != list(nats.shape):
            raise _unlike(f"returns {list(found.shape)} for labels {list(nats.shape)}, not the nats of each position")
        far = [int(i) for i in paddle.nonzero((found - nats).abs() > 1e-3)[:, 1]]
        if far:
            numbers = [f"{float(each[0, far[0]]):.4g}" for each in (found, nats)]
            raise _unlike(f"gives {numbers[0]} for label {far[0]} where there are {numbers[1]} nats")
        if _ignores(own, logits, -1):
            raise _unlike(f"leaves out the label -1, where the other leaves out {IGNORED}")


def _ignores(own: Any, logits: paddle.Tensor, label: int) -> bool:
    """Whether a label that is none of the vocabulary counts nothing."""
    try:
        return not bool(own(logits, paddle.full(logits.shape[:2], label, dtype="int64")).any())
    except Exception:  # it is no label to it
        return False


def _unlike(what: str) -> BadInput:
    return BadInput(
        "where the vocabulary is cut, the loss's `cross_entropy` is replaced by one that reads shares of the logits, "
        f"and its own one {what}: pass `ignore_index` where the loss calls it, or name the parameter otherwise to get "
        "whole logits"
    )
