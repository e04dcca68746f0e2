"""What a model is trained to do: restore the masked tokens, and predict the next token of the document.

Both are cross-entropies in nats. Every row holds the same number of targets, so a loss over many rows is the average of
the losses over any equal shares of them: micro-batches and data-parallel shards simply average.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from nebula.models.config import masked_count
from nebula.models.data.masking import IGNORED
from nebula.models.memory import WithMemory

CrossEntropy = Callable[[Tensor, Tensor], Tensor]
"""(logits [..., vocabulary], labels [...]) -> nats [...], 0 where the label is IGNORED."""


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats per position, 0 where the label is IGNORED."""
    nats = F.cross_entropy(logits, labels.unsqueeze(-1), ignore_index=IGNORED, reduction="none", axis=-1)
    return nats.squeeze(-1)


def task_losses(
    outputs: Tensor, labels: Tensor, cross_entropy: CrossEntropy = token_cross_entropy
) -> tuple[Tensor, Tensor]:
    """Knowledge-masked and document loss.

    Args:
        outputs: logits [rows, 2, S, vocabulary].
        labels: [rows, 2, S] int64, with round(0.15 S) targets in each masked half and S in each document half.
        cross_entropy: per position; tensor parallelism passes one that takes its share of the vocabulary.

    Returns:
        Two scalars: mean nats over the masked positions, mean nats over the document positions.
    """
    rows, _, length = labels.shape
    nats = cross_entropy(outputs, labels).sum(axis=[0, 2])
    return nats[0] / (rows * masked_count(length)), nats[1] / (rows * length)


def loss(outputs: Tensor, labels: Tensor, cross_entropy: CrossEntropy = token_cross_entropy) -> Tensor:
    """The training loss, a scalar: masked loss + document loss; shapes as in `task_losses`."""
    masked, document = task_losses(outputs, labels, cross_entropy)
    return masked + document


def next_token_loss(logits: Tensor, labels: Tensor, cross_entropy: CrossEntropy = token_cross_entropy) -> Tensor:
    """Mean nats per token of a causal model's logits [rows, S, vocabulary] against labels [rows, S] int64."""
    return cross_entropy(logits, labels).mean()


def document_nats(model: nn.Layer) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]:
    """What `evaluation.evaluate` asks of a model: (ids, labels) -> sum of nats, in evaluation mode, no gradient.

    A model with a recurrence memory reads the rows one after the other, as the segments of one document, from the start
    of which this function is made.
    """
    remembering = [layer for layer in model.sublayers() if isinstance(layer, WithMemory)]
    for layer in remembering:
        layer.forget_evaluation()

    def nats(ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> float:
        was_training, total = model.training, 0.0
        model.eval()
        size = 1 if remembering else len(ids)
        with paddle.no_grad():
            for first in range(0, len(ids), size):
                rows = slice(first, first + size)
                logits = model(paddle.to_tensor(ids[rows]))
                total += float(token_cross_entropy(logits, paddle.to_tensor(labels[rows])).sum())
        if was_training:
            model.train()
        return total

    return nats
