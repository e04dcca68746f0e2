"""Linear and Embedding layers of a tensor group whose ranks take or return their shares of the sequence.

Sequence parallelism of Megatron-LM (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2): between the layers that
a tensor group cuts, each rank works on its share of the positions. A Linear cut by its outputs gathers its input, one
cut by its inputs sums its output and keeps a share.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from nebula.runtime.executor.weight_gradients import Later, add_gradients
from nebula.runtime.sequence import SumAndScatter, all_gathered, being_gathered, being_summed

_ZEROS = nn.initializer.Constant(0.0)


class GatheredLinear(PyLayer):
    """A Linear of positions that all ranks have a share of: it keeps this share, and gathers once more in its backward.

    There the gather runs beside the product that gives the gradient of its input, and the sum of that beside the
    product that gives the gradient of the weight (Megatron-LM: arXiv 2205.05198, section 4.2.2).
    """

    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: Any, group: Any, later: Later
    ) -> paddle.Tensor:
        """Shapes [..., s / ranks, in], [in, out], [out] -> [..., s, out]."""
        ctx.save_for_backward(x, weight, bias)
        ctx.group, ctx.later = group, later
        return functional.linear(all_gathered(x, group), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        """The gradients of this rank's share, of weight and of bias; the last two may wait in `later`."""
        x, weight, bias = ctx.saved_tensor()
        group, later, learns = ctx.group, ctx.later, not weight.stop_gradient
        inputs = being_gathered(x, group) if learns and not later.keeps else lambda: all_gathered(x, group)
        share = None
        if not x.stop_gradient:
            share = being_summed(paddle.matmul(gradient, weight, transpose_y=True), group)
        found: list[Any] = [None, None]
        if later.keeps:
            later.add(lambda: add_gradients(weight, bias, inputs, gradient))
        else:
            rows = gradient.reshape([-1, gradient.shape[-1]])
            if learns:
                found[0] = paddle.matmul(inputs().reshape([-1, weight.shape[0]]), rows, transpose_x=True)
            if bias is not None and not bias.stop_gradient:
                found[1] = rows.sum(axis=0)
        return (None if share is None else share(), *found[: 1 if bias is None else 2])


class ColumnLinear(nn.Layer):
    """A Linear cut by its outputs: [..., s / ranks, in] -> [..., s, out / ranks].

    Args:
        gathered: whether all outputs are returned, [..., s, out].

    Attributes:
        later: where its weight gradients wait, if a schedule lets them.
    """

    def __init__(self, inputs: int, outputs: int, has_bias: bool, group: Any, gathered: bool) -> None:
        super().__init__()
        self.group, self.gathered, self.later = group, gathered, Later()
        width = outputs // group.nranks
        self.weight = self.create_parameter([inputs, width], default_initializer=_ZEROS)
        self.bias = self.create_parameter([width], is_bias=True) if has_bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Gathers the positions, and computes a share of the outputs."""
        from paddle.distributed.fleet.layers.mpu import mp_ops

        # what is kept has the dtype of the product
        same = x if x.dtype == self.weight.dtype else x.astype(self.weight.dtype)
        y = GatheredLinear.apply(same, self.weight, self.bias, self.group, self.later)
        return mp_ops._c_concat(y, group=self.group) if self.gathered else y


class RowLinear(nn.Layer):
    """A Linear cut by its inputs: [..., s, in / ranks] -> [..., s / ranks, out]. Its bias is added to each share."""

    def __init__(self, inputs: int, outputs: int, has_bias: bool, group: Any) -> None:
        super().__init__()
        self.group, self.linear = group, functional.linear
        self.weight = self.create_parameter([inputs // group.nranks, outputs], default_initializer=_ZEROS)
        self.bias = self.create_parameter([outputs], is_bias=True) if has_bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Sums over the shares of the inputs, and keeps a share of the positions."""
        y = SumAndScatter.apply(self.linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias


class VocabularyEmbedding(nn.Layer):
    """An Embedding cut by its rows: ids [..., s] -> [..., s / ranks, width]."""

    def __init__(self, rows: int, width: int, group: Any) -> None:
        super().__init__()
        self.group, self.first = group, group.rank * rows // group.nranks
        self.weight = self.create_parameter([rows // group.nranks, width], default_initializer=_ZEROS)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Looks up the tokens that this rank has, and keeps a share of the positions."""
        from paddle.distributed.fleet.layers.mpu import mp_ops

        return SumAndScatter.apply(mp_ops._c_lookup_table(self.weight, x, self.first), self.group)
