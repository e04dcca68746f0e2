"""A sequence cut over a tensor group: what moves its shares, and Linear and Embedding layers that take or return them.

Sequence parallelism of Megatron-LM (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2): between the layers that
a tensor group cuts, each rank works on its share of the positions. A Linear cut by its outputs gathers its input, one
cut by its inputs sums its output and keeps a share. The sequence is dim -2 of [..., s, width]; shares are equal, in the
order of the ranks.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from nebula.errors import BadInput

_ZEROS = nn.initializer.Constant(0.0)


def all_gathered(x: paddle.Tensor, group: Any, dim: int = -2) -> paddle.Tensor:
    """The shares of all ranks of a group, joined along a dim."""
    joined = paddle.empty([group.nranks, *x.shape], dtype=x.dtype)
    dist.stream.all_gather(joined.reshape([-1, *x.shape[1:]]), x.contiguous(), group=group, use_calc_stream=True)
    shape, at = list(x.shape), x.ndim + dim
    shape[at] *= group.nranks
    return joined.transpose([*range(1, at + 1), 0, *range(at + 1, x.ndim + 1)]).reshape(shape)


def own_share(x: paddle.Tensor, group: Any, dim: int = -2) -> paddle.Tensor:
    """This rank's share of a tensor along a dim.

    Raises:
        BadInput: the dim does not divide by the ranks.
    """
    _check_divides(x, group.nranks, dim)
    size = x.shape[dim] // group.nranks
    return paddle.slice(x, [x.ndim + dim], [group.rank * size], [(group.rank + 1) * size]).contiguous()


def summed_share(x: paddle.Tensor, group: Any) -> paddle.Tensor:
    """This rank's share of the sum over a group, along dim -2."""
    _check_divides(x, group.nranks, -2)
    *rows, positions, width = x.shape
    share, n = [*rows, positions // group.nranks, width], len(rows)
    parts = x.reshape([*rows, group.nranks, -1, width]).transpose([n, *range(n), n + 1, n + 2]).contiguous()
    mine = paddle.empty(share, dtype=x.dtype)
    dist.stream.reduce_scatter(mine, parts, group=group, use_calc_stream=True)
    return mine


def _check_divides(x: paddle.Tensor, degree: int, dim: int) -> None:
    if x.ndim + dim < 0 or x.shape[dim] % degree:
        length = f"{x.shape[dim]} positions % {degree} = {x.shape[dim] % degree}, not 0" if x.ndim + dim >= 0 else ""
        told = f"a tensor of shape {x.shape} cannot be cut along its sequence (dim {dim}) over {degree} ranks"
        raise BadInput(f"{told}{length and ': ' + length}; choose a sequence length or a degree that fits")


class Scatter(PyLayer):
    """Keeps a rank's share of what all hold; its gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any, dim: int) -> paddle.Tensor:
        """[..., s, width] -> [..., s / ranks, width] where dim is -2."""
        ctx.of = group, dim
        return own_share(x, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """The reverse, as all ranks go on with the whole gradient."""
        return all_gathered(gradient, *ctx.of)


class Gather(PyLayer):
    """Joins the shares where all ranks go on alike: each keeps its share of the gradient, which all have."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any, dim: int) -> paddle.Tensor:
        """[..., s / ranks, width] -> [..., s, width] where dim is -2."""
        ctx.of = group, dim
        return all_gathered(x, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """This rank's share."""
        return own_share(gradient, *ctx.of)


class GatherForParts(PyLayer):
    """Joins the shares where each rank goes on with a part of the work: gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any) -> paddle.Tensor:
        """[..., s / ranks, width] -> [..., s, width]."""
        ctx.group = group
        return all_gathered(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """This rank's share of the sum."""
        return summed_share(gradient, ctx.group)


class SumAndScatter(PyLayer):
    """Sums what the ranks have and keeps a share of it."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any) -> paddle.Tensor:
        """[..., s, width] -> [..., s / ranks, width]."""
        ctx.group = group
        return summed_share(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """The gradient of every addend is that of the whole sum."""
        return all_gathered(gradient, ctx.group)


class ColumnLinear(nn.Layer):
    """A Linear cut by its outputs: [..., s / ranks, in] -> [..., s, out / ranks].

    Args:
        gathered: whether all outputs are returned, [..., s, out].
    """

    def __init__(self, inputs: int, outputs: int, has_bias: bool, group: Any, gathered: bool) -> None:
        super().__init__()
        self.group, self.gathered, self.linear = group, gathered, functional.linear
        width = outputs // group.nranks
        self.weight = self.create_parameter([inputs, width], default_initializer=_ZEROS)
        self.bias = self.create_parameter([width], is_bias=True) if has_bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Gathers the positions, and computes a share of the outputs."""
        from paddle.distributed.fleet.layers.mpu import mp_ops

        y = self.linear(GatherForParts.apply(x, self.group), self.weight, self.bias)
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
