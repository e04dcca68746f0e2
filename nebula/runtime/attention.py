"""Attention whose tokens lie on the ranks of a context group: three ways to get what a rank lacks.

A layer names the methods in which tokens meet, and for each the one that scores them: `mixes_tokens = {"attend":
"scores"}`. `attend(query, key, value, *rest)` takes [b, s, heads, d] and returns [b, s, heads * d]: the values,
weighted by the softmax over keys of `scores(query, key, *rest, queries=range, keys=range)` [b, heads, queries, keys].
These are at the positions of the two ranges; `scores` may return None where no query sees any key.

- `ulysses`: positions are exchanged for heads and back (DeepSpeed-Ulysses, arXiv 2309.14509, section 3.1); `attend`
  itself runs, on all positions and a share of the heads.
- `gather`: every rank gathers all keys and values for its own queries (Llama 3, arXiv 2407.21783, section 3.3.2).
- `ring`: keys and values travel around (nebula.runtime.ring).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.autograd import PyLayer

from nebula.errors import BadInput
from nebula.runtime.attention_check import HEADS, POSITIONS, Mixing, checked_first, weighed
from nebula.runtime.ring import Ring
from nebula.runtime.sequence import Deal, GatherForParts, in_parts


def share_attention(element: nn.Layer, way: str, deal: Deal) -> None:
    """Makes the methods of an element in which tokens meet work on a rank's share of the positions, in place.

    Raises:
        BadInput: a layer does not say how it scores what its methods mix; in the first step, where a method does more
            than weigh by these scores.
    """
    for layer in element.sublayers(include_self=True):
        methods = getattr(layer, "mixes_tokens", {})
        for method in methods:
            told = f"{type(layer).__name__}.{method}"
            if way == "ulysses":
                setattr(layer, method, _by_heads(getattr(layer, method), told, deal.group))
                continue
            if not isinstance(methods, Mapping) or not methods[method]:
                raise BadInput(
                    f"context parallelism by {way}: {told} names no method that scores a run of queries and a run of "
                    f"keys; name it in `mixes_tokens = {{{method!r}: ...}}`, or use ulysses"
                )
            core, scores = _gathered if way == "gather" else _around, getattr(layer, methods[method])
            shared = core(scores, told, deal)
            own, ranks = getattr(layer, method), deal.group.nranks
            setattr(layer, method, checked_first(shared, own, scores, layer, f"{way}: {told}", ranks))


def _by_heads(attend: Mixing, told: str, group: Any) -> Mixing:
    def run(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        n, (b, s, _, _) = group.nranks, query.shape
        for what, tensor in (("query", query), ("key", key)):
            if tensor.shape[HEADS] % n:
                heads = tensor.shape[HEADS]
                raise BadInput(
                    f"{told}: {heads} {what} heads of a rank % context {n} = {heads % n}, not 0: ulysses exchanges "
                    "positions for heads; choose ring, gather or another context degree"
                )
        parts = [Exchange.apply(tensor, group, HEADS, POSITIONS) for tensor in (query, key, value)]
        mixed, heads = attend(*parts, *rest), query.shape[HEADS] // n
        width = value.shape[-1]
        if list(mixed.shape) != [b, s * n, heads * width]:
            raise BadInput(
                f"{told} returns {mixed.shape} for {heads} heads, not {[b, s * n, heads * width]}: does it use weights "
                "for each head that the model's tensor_split does not name by `heads`?"
            )
        back = Exchange.apply(mixed.reshape([b, s * n, heads, width]), group, POSITIONS, HEADS)
        return back.reshape([b, s, heads * n * width])

    return run


class Exchange(PyLayer):
    """Cuts one dim of [b, s, heads, d] over a group and joins another."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: Any, cut: int, join: int) -> paddle.Tensor:
        """Shorter along `cut` and longer along `join` by the ranks of the group."""
        ctx.of = group, cut, join
        return _exchanged(x, group, cut, join)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """The way back."""
        group, cut, join = ctx.of
        return _exchanged(gradient, group, join, cut)


def _exchanged(x: paddle.Tensor, group: Any, cut: int, join: int) -> paddle.Tensor:
    parts = in_parts(x, group.nranks, cut - x.ndim)
    came = paddle.empty_like(parts)
    dist.stream.alltoall_single(came, parts, group=group, use_calc_stream=True)
    shape = list(parts.shape[1:])
    shape[join] *= group.nranks
    return came.transpose([*range(1, join + 1), 0, *range(join + 1, x.ndim + 1)]).reshape(shape)


def _gathered(scores: Callable[..., paddle.Tensor], told: str, deal: Deal) -> Mixing:
    def run(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        s = query.shape[POSITIONS]
        (queries,) = deal.positions(s, deal.group.rank)
        key, value = (GatherForParts.apply(tensor, deal.group, POSITIONS - 4) for tensor in (key, value))
        scored = scores(query, key, *rest, queries=queries, keys=range(key.shape[POSITIONS]))
        if scored is None:
            raise BadInput(f"{told}: queries {queries} see no key at all")
        return weighed(scored, value)

    return run


def _around(scores: Callable[..., paddle.Tensor], told: str, deal: Deal) -> Mixing:
    def run(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        if any(isinstance(each, paddle.Tensor) and not each.stop_gradient for each in rest):
            raise BadInput(f"{told} takes a tensor beside query, key and value that needs a gradient; use gather")
        mixed = Ring.apply(query, key, value, scores, rest, deal)
        return mixed.reshape([*query.shape[:2], -1])

    return run
