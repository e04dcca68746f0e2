"""A sequence that ranks share: how its positions are dealt, and what moves their shares forward and gradients back.

The sequence is dim -2 of [..., s, width] where nothing else is said; shares are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

from nebula.errors import BadInput


def all_gathered(x: paddle.Tensor, group: Any, dim: int = -2) -> paddle.Tensor:
    """What the ranks of a group have, joined along a dim."""
    joined = paddle.empty([group.nranks, *x.shape], dtype=x.dtype)
    dist.stream.all_gather(joined.reshape([-1, *x.shape[1:]]), x.contiguous(), group=group, use_calc_stream=True)
    return _side_by_side(joined, dim)


def being_gathered(x: paddle.Tensor, group: Any) -> Callable[[], paddle.Tensor]:
    """The same along dim -2 while the rank goes on; what is returned waits for it."""
    joined, own = paddle.empty([group.nranks, *x.shape], dtype=x.dtype), x.contiguous()
    task = dist.stream.all_gather(joined.reshape([-1, *x.shape[1:]]), own, group=group, sync_op=False)

    def wait() -> paddle.Tensor:
        task.wait()
        return _side_by_side(joined, -2)

    return wait


def _side_by_side(parts: paddle.Tensor, dim: int) -> paddle.Tensor:
    """[n, ...]: n parts, joined along a dim of each."""
    ndim, shape = parts.ndim - 1, list(parts.shape[1:])
    shape[dim] *= parts.shape[0]
    at = ndim + dim
    return parts.transpose([*range(1, at + 1), 0, *range(at + 1, ndim + 1)]).reshape(shape)


def in_parts(x: paddle.Tensor, parts: int, dim: int) -> paddle.Tensor:
    """[parts, ...]: equal parts of a tensor along a dim, one behind the other.

    Raises:
        BadInput: the dim does not divide by them.
    """
    check_divides(x, parts, dim)
    at, shape = x.ndim + dim, list(x.shape)
    shape[at : at + 1] = [parts, shape[at] // parts]
    return x.reshape(shape).transpose([at, *range(at), *range(at + 1, x.ndim + 1)]).contiguous()


def summed_share(x: paddle.Tensor, group: Any, dim: int = -2) -> paddle.Tensor:
    """This rank's share of the sum over a group, along a dim."""
    parts = in_parts(x, group.nranks, dim)
    share = paddle.empty(parts.shape[1:], dtype=x.dtype)
    dist.stream.reduce_scatter(share, parts, group=group, use_calc_stream=True)
    return share


def being_summed(x: paddle.Tensor, group: Any) -> Callable[[], paddle.Tensor]:
    """The same along dim -2 while the rank goes on; what is returned waits for it."""
    parts = in_parts(x, group.nranks, -2)
    share = paddle.empty(parts.shape[1:], dtype=x.dtype)
    task = dist.stream.reduce_scatter(share, parts, group=group, sync_op=False)

    held = [parts]  # until it has left

    def wait() -> paddle.Tensor:
        task.wait()
        held.clear()
        return share

    return wait


def check_divides(x: paddle.Tensor, parts: int, dim: int, why: str = "") -> None:
    """Refuses to cut a tensor along a dim that it lacks or that does not divide.

    Raises:
        BadInput: with its shape.
    """
    length = x.shape[dim] if x.ndim + dim >= 0 else 0
    if not length or length % parts:
        told = f": {length} positions % {parts} = {length % parts}, not 0" if length else ""
        where = f"a tensor of shape {list(x.shape)} cannot be cut along its sequence (dim {dim})"
        raise BadInput(f"{where} into {parts} equal parts{told}{why}; choose another sequence length or degree")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """How the positions of a sequence are dealt to the ranks of a group.

    Attributes:
        mirrored: rank i of n has chunks i and 2 n - 1 - i of 2 n, so that all have equal work under a causal mask
            (Llama 3, arXiv 2407.21783, section 3.3.2); otherwise equal runs in the order of the ranks.
    """

    group: Any
    mirrored: bool = False

    def positions(self, length: int, rank: int) -> tuple[range, ...]:
        """The runs of positions of a rank that has `length` of them, in its order."""
        if not self.mirrored:
            return (range(rank * length, (rank + 1) * length),)
        size = length // 2
        return tuple(range(i * size, (i + 1) * size) for i in (rank, 2 * self.group.nranks - 1 - rank))

    def own(self, x: paddle.Tensor, dim: int) -> paddle.Tensor:
        """This rank's share of a tensor along a dim."""
        runs_each = ", two runs for each rank of a ring" if self.mirrored else ""
        check_divides(x, self.group.nranks * (1 + self.mirrored), dim, runs_each)
        runs = self.positions(x.shape[dim] // self.group.nranks, self.group.rank)
        parts = [paddle.slice(x, [x.ndim + dim], [run.start], [run.stop]) for run in runs]
        return parts[0].contiguous() if len(parts) == 1 else paddle.concat(parts, axis=dim)

    def joined(self, x: paddle.Tensor, dim: int) -> paddle.Tensor:
        """The whole of what every rank has a share of."""
        whole = all_gathered(x, self.group, dim)
        if not self.mirrored:
            return whole
        chunks = paddle.split(whole, 2 * self.group.nranks, axis=dim)
        return paddle.concat(chunks[::2] + chunks[:0:-2], axis=dim)


class Scatter(PyLayer):
    """Keeps a rank's share of what all hold; its gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, deal: Deal, dim: int) -> paddle.Tensor:
        """[..., s, width] -> [..., s / ranks, width] where dim is -2."""
        ctx.deal, ctx.dim = deal, dim
        return deal.own(x, dim)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """The reverse, as all ranks go on with the whole gradient."""
        return ctx.deal.joined(gradient, ctx.dim)


class Gather(PyLayer):
    """Joins the shares where all ranks go on alike: each keeps its share of the gradient, which all have."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, deal: Deal, dim: int) -> paddle.Tensor:
        """[..., s / ranks, width] -> [..., s, width] where dim is -2."""
        ctx.deal, ctx.dim = deal, dim
        return deal.joined(x, dim)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """This rank's share."""
        return ctx.deal.own(gradient, ctx.dim)


class GatherForParts(PyLayer):
    """Joins the shares where each rank goes on with a part of the work: gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any, dim: int = -2) -> paddle.Tensor:
        """[..., s / ranks, width] -> [..., s, width] where dim is -2."""
        ctx.group, ctx.dim = group, dim
        return all_gathered(x, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """This rank's share of the sum."""
        return summed_share(gradient, ctx.group, ctx.dim)


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
