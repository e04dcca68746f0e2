"""Mixtures of experts as Paddle layers: a router, experts whose weights are stacked, shared experts, no token dropped.

All copies of tokens for one expert are one product. What a rank sums, it sums in one order, forward and backward, so
that a step can be repeated exactly. Who holds which experts is a matter of `Experts.exchange`, which expert parallelism
replaces; the layer alone holds all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from nebula.models.attention import weight_attr
from nebula.models.decoders_parts import Experts as Sizes
from nebula.models.routing import Counts, Routing, Trip, alone, moved, spans, together


class Exchange(Protocol):
    """How copies of tokens get to their experts and back; all ranks of a group call each method at the same point."""

    def trip(self, counts: Tensor) -> Trip:
        """What travels, from the copies [experts] int64 of this rank's tokens."""

    def there(self, x: Tensor, trip: Trip) -> Tensor:
        """Rows sorted by expert -> rows of this rank's experts, rank by rank."""

    def back(self, x: Tensor, trip: Trip) -> Tensor:
        """The way back."""


class Alone:
    """Holds all experts: nothing travels."""

    def trip(self, counts: Tensor) -> Trip:
        """All copies stay."""
        return alone(counts.numpy())

    def there(self, x: Tensor, trip: Trip) -> Tensor:
        """The same rows."""
        del trip
        return x

    def back(self, x: Tensor, trip: Trip) -> Tensor:
        """The same rows."""
        del trip
        return x


class Router(nn.Layer):
    """Scores of every expert for a token, and the choice of the best.

    Attributes:
        balance: [experts] int64, moves of `speed` that make up each expert's bias.
        load: copies that each expert got from this rank since the last `move`; a forward that is run again for its
            gradients counts once.
    """

    balance: Tensor

    def __init__(self, hidden: int, sizes: Sizes, routing: Routing) -> None:
        super().__init__()
        self.sizes, self.routing = sizes, routing
        self.weight = self.create_parameter([hidden, sizes.count], attr=weight_attr())
        self.register_buffer("balance", paddle.zeros([sizes.count], dtype="int64"))
        self.load: Counts = np.zeros(sizes.count, dtype=np.int64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [n, hidden] -> weights [n, top_k], and the experts chosen [n, top_k] int64."""
        logits = paddle.matmul(x, self.weight)
        scores = F.softmax(logits, axis=-1) if self.routing.score == "softmax" else F.sigmoid(logits)
        chosen = self.choice(scores)
        weights = paddle.take_along_axis(scores, chosen, axis=-1)
        if self.routing.normalised:
            weights = weights / weights.sum(axis=-1, keepdim=True)
        return weights, chosen

    @paddle.no_grad()
    def choice(self, scores: Tensor) -> Tensor:
        """The experts with the best biased scores of each token: [n, experts] -> [n, top_k] int64.

        In fp32 whatever the scores are in: a step of 0.001 vanishes beside a score of 0.5 in bf16.
        """
        exact = scores if scores.dtype == paddle.float32 else scores.astype("float32")
        # under amp an operator with an input in fp32 computes in it
        biased = exact + self.routing.speed * self.balance.astype("float32")
        return paddle.topk(biased, self.sizes.top_k, axis=-1)[1]

    def count(self, counts: Counts) -> None:
        """Adds to the load what a forward of training has sent to each expert."""
        # recomputation runs a forward without gradients first; evaluation moves nothing
        if self.training and paddle.is_grad_enabled():
            self.load = self.load + counts

    def move(self, load: Counts) -> None:
        """Moves the balance once, against the load of a global batch, and begins to count anew."""
        self.load = np.zeros_like(self.load)
        if self.routing.speed:
            self.balance.set_value(moved(self.balance.numpy(), load))


Defer = Callable[[Tensor, Callable[[], Tensor]], None]
"""Takes a weight and what makes its gradient, to be made and added later."""


class GroupedLinear(nn.Layer):
    """The linears of several experts as one: weight [experts, inputs, outputs], rows sorted by expert.

    Attributes:
        defer: where gradients of the weight go; None: they come with those of the rows.
    """

    def __init__(self, count: int, inputs: int, outputs: int, std: float = 0.02) -> None:
        super().__init__()
        self.defer: Defer | None = None
        self.weight = self.create_parameter([count, inputs, outputs], attr=weight_attr(std))

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Rows [n, inputs], of which `sizes` tells how many each expert has -> [n, outputs]."""
        weight = self.weight
        return _Grouped.apply(x if x.dtype == weight.dtype else x.astype(weight.dtype), weight, sizes, self.defer)


class Experts(nn.Layer):
    """Gated feed-forward parts, each with rows of its own.

    Attributes:
        exchange: how copies get to the ranks that hold their experts.
    """

    def __init__(self, hidden: int, sizes: Sizes, std: float = 0.02) -> None:
        super().__init__()
        self.gate = GroupedLinear(sizes.count, hidden, sizes.ffn)
        self.up = GroupedLinear(sizes.count, hidden, sizes.ffn)
        self.down = GroupedLinear(sizes.count, sizes.ffn, hidden, std)
        self.exchange: Exchange = Alone()

    def forward(self, x: Tensor, trip: Trip) -> Tensor:
        """Copies [n, hidden] sorted by expert -> what their experts make of them, in the same order."""
        x = self.exchange.there(x, trip)
        order = together(trip.arriving)
        mixed = len(trip.arriving) > 1 and trip.arriving.shape[1] > 1 and order.size > 0
        if mixed:
            there, back = paddle.to_tensor(order), paddle.to_tensor(np.argsort(order))
            x = _Permuted.apply(x, there, back)
        x = self.down(F.swiglu(self.gate(x, trip.by_expert), self.up(x, trip.by_expert)), trip.by_expert)
        if mixed:
            x = _Permuted.apply(x, back, there)
        return self.exchange.back(x, trip)


class GatedFeedForward(nn.Layer):
    """hidden -> ffn -> hidden with SwiGLU between (arXiv 2002.05202)."""

    def __init__(self, hidden: int, ffn: int, std: float = 0.02) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(inputs, outputs, weight_attr=weight_attr(deviation), bias_attr=False)
            for inputs, outputs, deviation in ((hidden, ffn, 0.02), (hidden, ffn, 0.02), (ffn, hidden, std))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same shape."""
        return self.down(F.swiglu(self.gate(x), self.up(x)))


class Mixture(nn.Layer):
    """Each token through its top_k experts, weighted, and through the shared ones.

    Args:
        sizes: experts, how many of them see a token, their width, shared ones.
        routing: how they are chosen.
        std: of the matrices that write to the residual stream.
    """

    def __init__(self, hidden: int, sizes: Sizes, routing: Routing, std: float = 0.02) -> None:
        super().__init__()
        self.router = Router(hidden, sizes, routing)
        self.experts = Experts(hidden, sizes, std)
        self.shared = GatedFeedForward(hidden, sizes.shared * sizes.ffn, std) if sizes.shared else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same shape."""
        tokens = x.reshape([-1, x.shape[-1]])
        weights, chosen = self.router(tokens)
        # sharding stage 3 hands what a sublayer returns through a PyLayer, after which choices would need gradients
        flat = chosen.detach().flatten()
        order = paddle.argsort(flat, stable=True)
        trip = self.experts.exchange.trip(paddle.bincount(flat, minlength=self.router.sizes.count))
        self.router.count(trip.counts)
        places = paddle.argsort(order)
        made = self.experts(_Sent.apply(tokens, order, places, chosen.shape[1]), trip)
        made = _Permuted.apply(made, places, order).reshape([*chosen.shape, x.shape[-1]])
        mixed = (made * weights.unsqueeze(-1).astype(made.dtype)).sum(axis=1)
        if self.shared is not None:
            mixed = mixed + self.shared(tokens)
        return mixed.reshape(x.shape)


class _Sent(PyLayer):
    """Copies of tokens sorted by expert; the gradients of a token's copies are added in the order of its choice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, places: Tensor, top_k: int) -> Tensor:
        """[n, hidden] -> [n top_k, hidden], copy i of it that of token order[i] // top_k."""
        ctx.places, ctx.top_k = places, top_k
        return paddle.gather(x, order // top_k)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient of the tokens."""
        copies = paddle.gather(gradient, ctx.places)
        return copies.reshape([-1, ctx.top_k, gradient.shape[-1]]).sum(axis=1)


class _Permuted(PyLayer):
    """Rows in another order, whose gradient is gathered too rather than scattered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """Row i is row order[i] of x; `back` is the inverse of `order`."""
        ctx.back = back
        return paddle.gather(x, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Rows where they came from."""
        return paddle.gather(gradient, ctx.back)


class _Grouped(PyLayer):
    """A product per expert that has rows; an expert without any has a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: Sequence[int], defer: Defer | None) -> Tensor:
        """[n, inputs], [experts, inputs, outputs] -> [n, outputs]."""
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.defer, ctx.frozen = sizes, defer, (x.stop_gradient, weight.stop_gradient)
        made = [paddle.matmul(x[first:last], weight[e]) for e, (first, last) in _busy(sizes)]
        return paddle.concat(made) if made else paddle.zeros([0, weight.shape[2]], dtype=weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and weight; None where one is frozen, or comes later."""
        (x, weight), (x_frozen, weight_frozen), sizes = ctx.saved_tensor(), ctx.frozen, ctx.sizes
        of_x = None if x_frozen else _of_rows(gradient, weight, sizes)
        if weight_frozen:
            return of_x, None
        if ctx.defer is None:
            return of_x, _of_weights(x, gradient, sizes)
        ctx.defer(weight, lambda: _of_weights(x, gradient, sizes))
        return of_x, None


def _of_rows(gradient: Tensor, weight: Tensor, sizes: Sequence[int]) -> Tensor:
    """The gradient of a grouped product's rows."""
    made = [paddle.matmul(gradient[first:last], weight[e], transpose_y=True) for e, (first, last) in _busy(sizes)]
    return paddle.concat(made) if made else paddle.zeros([0, weight.shape[1]], dtype=weight.dtype)


def _of_weights(x: Tensor, gradient: Tensor, sizes: Sequence[int]) -> Tensor:
    """The gradient of a grouped product's weights."""
    made = [paddle.zeros([x.shape[1], gradient.shape[1]], dtype=gradient.dtype)] * len(sizes)
    for e, (first, last) in _busy(sizes):
        made[e] = paddle.matmul(x[first:last], gradient[first:last], transpose_x=True)
    return paddle.stack(made)


def _busy(sizes: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """Experts that have rows, with the span of these."""
    return [(e, span) for e, span in enumerate(spans(sizes)) if span[0] < span[1]]
