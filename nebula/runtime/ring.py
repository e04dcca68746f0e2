"""Ring attention: keys and values of a context group travel around it, and each rank's queries meet them in turn.

Liu et al. 2023 (arXiv 2310.01889), algorithm 1; the softmax over blocks is that of Milakov and Gimelshein 2018 (arXiv
1805.02867). Kept are the inputs, the output and two numbers per query and head; the backward scores every block again,
and the gradients of keys and values travel with them. While one block is worked on the next is under way.

Finite scores, however negative, weigh as in a softmax over all keys: a query that a mask hides from all alike gets the
mean of them. One whose scores are all -inf gets zeros and passes no gradient on, where a softmax would be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

from nebula.runtime.sequence import Deal

BY_HEAD = [0, 2, 1, 3]
"""From [b, s, heads, d] to [b, heads, s, d], and back."""


class Ring(PyLayer):
    """Softmax attention of queries [b, s, heads, d] over the keys and values of all ranks -> [b, s, heads, width]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: paddle.Tensor,
        key: paddle.Tensor,
        value: paddle.Tensor,
        scores: Callable[..., Any],
        rest: Sequence[Any],
        deal: Deal,
    ) -> paddle.Tensor:
        """Args: `scores(query, key, *rest, queries=range, keys=range)`, as nebula.runtime.attention says."""
        blocks = Blocks(scores, rest, deal, query.shape[1])
        heads, queries = query.shape[2], blocks.chunks(query)
        sums = [Softmax(part, value.shape[3]) for part in queries]
        for source, held in blocks.around(key, value):
            keys, values = (blocks.chunks(tensor) for tensor in held)
            for mine, theirs in blocks.pairs():
                scored = blocks.scored(queries[mine], keys[theirs], source, mine, theirs)
                if scored is not None:
                    sums[mine].add(scored.astype("float32"), repeated(by_head(values[theirs]), heads))
        out = paddle.concat([each.mixed() for each in sums], axis=2).transpose(BY_HEAD).astype(query.dtype)
        statistics = paddle.concat([each.statistics() for each in sums], axis=2)
        ctx.save_for_backward(query, key, value, out, statistics)
        ctx.blocks, ctx.frozen = blocks, [tensor.stop_gradient for tensor in (query, key, value)]
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        """Gradients of queries, keys and values, None of frozen ones; those of what makes the scores go to it."""
        query, key, value, out, statistics = ctx.saved_tensor()
        blocks, heads = ctx.blocks, query.shape[2]
        gradients, sums = by_head(gradient), blocks.chunks(statistics, 2)
        deltas = blocks.chunks((gradients * by_head(out)).sum(axis=-1, keepdim=True), 2)
        given, queries = blocks.chunks(gradients, 2), blocks.chunks(query)
        of_queries = [paddle.zeros(part.shape) for part in queries]
        of_pairs = [paddle.zeros(key.shape), paddle.zeros(value.shape)]
        for source, held in blocks.around(key, value):
            keys, values = (blocks.chunks(tensor) for tensor in held)
            found = [[paddle.zeros(part.shape) for part in parts] for parts in (keys, values)]
            for mine, theirs in blocks.pairs():
                leaves = [leaf(queries[mine]), leaf(keys[theirs])]
                with paddle.set_grad_enabled(True):
                    scored = blocks.scored(*leaves, source, mine, theirs)
                if scored is None:
                    continue
                weights = weights_of(scored.detach().astype("float32"), sums[mine])
                found[1][theirs] += folded(paddle.matmul(weights, given[mine], transpose_x=True), value.shape[2])
                back = paddle.matmul(given[mine], repeated(by_head(values[theirs]), heads), transpose_y=True)
                paddle.autograd.backward([scored], [(weights * (back - deltas[mine])).astype(scored.dtype)])
                of_queries[mine] += grad_of(leaves[0])
                found[0][theirs] += grad_of(leaves[1])
            of_pairs = [total + paddle.concat(parts, axis=1) for total, parts in zip(of_pairs, found, strict=True)]
            of_pairs = blocks.turned(of_pairs)()
        returned = zip((paddle.concat(of_queries, axis=1), *of_pairs), (query, key, value), ctx.frozen, strict=True)
        return tuple(None if frozen else gradient.astype(tensor.dtype) for gradient, tensor, frozen in returned)


class Softmax:
    """The softmax of some queries over blocks of keys that come one after the other, in fp32."""

    def __init__(self, query: paddle.Tensor, width: int) -> None:
        b, s, heads, _ = query.shape
        self._greatest, self._sum = paddle.full([b, heads, s, 1], -math.inf), paddle.zeros([b, heads, s, 1])
        self._mixed = paddle.zeros([b, heads, s, width])

    def add(self, scored: paddle.Tensor, value: paddle.Tensor) -> None:
        """A block: scores [b, heads, queries, keys] and values [b, heads, keys, width]."""
        greatest = paddle.maximum(self._greatest, scored.max(axis=-1, keepdim=True))
        base = _finite(greatest)
        weights, earlier = paddle.exp(scored - base), paddle.exp(self._greatest - base)
        self._sum = self._sum * earlier + weights.sum(axis=-1, keepdim=True)
        self._mixed, self._greatest = self._mixed * earlier + paddle.matmul(weights, value), greatest

    def mixed(self) -> paddle.Tensor:
        """[b, heads, queries, width]."""
        return self._mixed / self._divisor()

    def statistics(self) -> paddle.Tensor:
        """[b, heads, queries, 2]: from scores to weights; in one number the sum would be lost beside a great score."""
        return paddle.concat([_finite(self._greatest), self._divisor()], axis=-1)

    def _divisor(self) -> paddle.Tensor:
        """The sum of weights; infinite where a query has seen nothing."""
        # not asked of the sum: the CPU's exp of -inf may be 1e-38
        return paddle.where(self._greatest == -math.inf, paddle.full_like(self._sum, math.inf), self._sum)


def weights_of(scored: paddle.Tensor, statistics: paddle.Tensor) -> paddle.Tensor:
    """The weights of scores [b, heads, queries, keys], of which some are of other blocks of keys.

    Args:
        statistics: of Softmax once it has met all blocks.
    """
    greatest, total = paddle.split(statistics, 2, axis=-1)
    return paddle.exp(scored - greatest) / total


def _finite(greatest: paddle.Tensor) -> paddle.Tensor:
    """The greatest scores, 0 where there is none: -inf less itself would be NaN."""
    return paddle.where(greatest == -math.inf, paddle.zeros_like(greatest), greatest)


class Blocks:
    """What of the queries of this rank meets what of the keys of which rank, and where these are."""

    def __init__(self, scores: Callable[..., Any], rest: Sequence[Any], deal: Deal, length: int) -> None:
        self._scores, self._rest, self._deal, self._length = scores, rest, deal, length
        self._count, self._casting = 1 + deal.mirrored, casting_now()

    def chunks(self, tensor: paddle.Tensor, dim: int = 1) -> list[paddle.Tensor]:
        """The runs of positions of a rank's share."""
        return paddle.split(tensor, self._count, axis=dim) if self._count > 1 else [tensor]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Indices of a run of queries and one of keys."""
        return ((mine, theirs) for mine in range(self._count) for theirs in range(self._count))

    def scored(self, query: paddle.Tensor, key: paddle.Tensor, source: int, mine: int, theirs: int) -> Any:
        """The scores of a run of this rank's queries and one of the keys of rank `source`."""
        here = self._deal.positions(self._length, self._deal.group.rank)[mine]
        there = self._deal.positions(self._length, source)[theirs]
        with self._casting():
            return self._scores(query, key, *self._rest, queries=here, keys=there)

    def around(self, *own: paddle.Tensor) -> Iterator[tuple[int, Sequence[paddle.Tensor]]]:
        """For each rank, this one first, its index and its tensors, while the next ones are under way."""
        held: Sequence[paddle.Tensor] = own
        n, rank = self._deal.group.nranks, self._deal.group.rank
        for turn in range(n - 1):
            coming = self.turned(held)
            yield (rank - turn) % n, held
            held = coming()
        yield (rank + 1) % n, held

    def turned(self, tensors: Sequence[paddle.Tensor]) -> Callable[[], Sequence[paddle.Tensor]]:
        """Sends tensors to the next rank of the ring; what is returned waits for those of the one before."""
        group = self._deal.group
        if group.nranks == 1:
            return lambda: tensors
        after, before = (group.ranks[(group.rank + step) % group.nranks] for step in (1, -1))
        sent, came = [tensor.contiguous() for tensor in tensors], [paddle.empty_like(tensor) for tensor in tensors]
        sends = [dist.P2POp(dist.isend, tensor, after, group) for tensor in sent]
        tasks = dist.batch_isend_irecv([*sends, *(dist.P2POp(dist.irecv, tensor, before, group) for tensor in came)])

        def wait() -> Sequence[paddle.Tensor]:
            for task in tasks:
                task.wait()
            sent.clear()
            return came

        return wait


def by_head(tensor: paddle.Tensor) -> paddle.Tensor:
    """[b, s, heads, d] -> [b, heads, s, d] in fp32."""
    return tensor.astype("float32").transpose(BY_HEAD)


def repeated(value: paddle.Tensor, heads: int) -> paddle.Tensor:
    """[b, value heads, s, width] -> [b, heads, s, width]: each head of values serves as many heads of queries."""
    each = heads // value.shape[1]
    return value if each == 1 else paddle.repeat_interleave(value, each, axis=1)


def folded(gradient: paddle.Tensor, heads: int) -> paddle.Tensor:
    """The reverse for gradients, as [b, s, value heads, width]."""
    b, _, s, width = gradient.shape
    return gradient.reshape([b, heads, -1, s, width]).sum(axis=2).transpose(BY_HEAD)


def leaf(tensor: paddle.Tensor) -> paddle.Tensor:
    """The same numbers, whose gradient is asked for."""
    same = tensor.detach()
    same.stop_gradient = False
    return same


def grad_of(tensor: paddle.Tensor) -> Any:
    """Its gradient in fp32; 0 where it has none."""
    return 0.0 if tensor.grad is None else tensor.grad.astype("float32")


def casting_now() -> Callable[[], AbstractContextManager[None]]:
    """What makes later calls cast as paddle.amp does now: a backward pass runs outside of it."""
    tracer = paddle.base.framework._dygraph_tracer()
    levels = {paddle.base.core.AmpLevel.O1: "O1", paddle.base.core.AmpLevel.O2: "O2"}
    level, dtype = levels.get(tracer._amp_level), tracer._amp_dtype
    return nullcontext if level is None else lambda: paddle.amp.auto_cast(level=level, dtype=dtype)
