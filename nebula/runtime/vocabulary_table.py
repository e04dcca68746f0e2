"""The last layer of a language model that holds its table itself, cut over a tensor group by the vocabulary."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput


def _logits(layer: nn.Layer, hidden: paddle.Tensor) -> paddle.Tensor:
    """hidden [..., width] times the layer's table [vocabulary, width], and its bias."""
    logits = paddle.matmul(hidden, layer.weight, transpose_y=True)
    bias = getattr(layer, "bias", None)
    return logits if bias is None else logits + bias


def check_product(layer: nn.Layer, name: str) -> None:
    """Refuses a layer that does anything but multiply with its table and add its bias.

    Args:
        layer: not cut yet.
        name: that the error tells.

    Raises:
        BadInput: it does more, or has no such table.
    """
    weight, told = getattr(layer, "weight", None), "it has no weight [vocabulary, width]"
    if isinstance(weight, paddle.Tensor) and weight.ndim == 2:
        with paddle.no_grad():
            hidden = weight[:1].unsqueeze(0)
            found, expected = layer(hidden), _logits(layer, hidden)
        if (
            isinstance(found, paddle.Tensor)
            and found.shape == expected.shape
            and bool(paddle.allclose(found, expected))
        ):
            return
        told = "it does more than multiply with its weight"
    raise BadInput(f"{name}: {type(layer).__name__} cannot be cut by 'vocabulary': {told}")


class VocabularyTable(nn.Layer):
    """A last layer that multiplies with a table [vocabulary, width] of its own, of which each rank has its rows.

    Args:
        layer: holds the rows; what it does itself about ranks is left out.
        gather: whether the logits of all ranks are returned.
    """

    def __init__(self, layer: nn.Layer, group: Any, gather: bool) -> None:
        super().__init__()
        self.layer, self._group, self._gather = layer, group, gather

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """[..., width] -> [..., vocabulary], or a rank's share of it."""
        from paddle.distributed import fleet
        from paddle.distributed.fleet.layers.mpu import mp_ops

        group = self._group or fleet.get_hybrid_communicate_group().get_model_parallel_group()
        logits = _logits(self.layer, mp_ops._c_identity(hidden, group=group))
        return mp_ops._c_concat(logits, group=group) if self._gather else logits
