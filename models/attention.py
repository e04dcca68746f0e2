"""How tokens attend to each other: bidirectional in the masked half, causal with memory in the document half.

Positions enter as a learned bias per head and clipped distance, because a memory has no absolute positions. Shapes are
read from the tensors, heads from what the projections return, so that the same code runs on a tensor-parallel share of
the heads.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from nebula.models.config import ErnieConfig, ModuleConfig

HIDDEN_SCORE = -1e9
"""Added to the score of a key that a query must not see; exp of it is 0 in every float type."""


class Sight(enum.Enum):
    """What the tokens of an attention layer's input may see."""

    BIDIRECTIONAL = "masked half: every token sees every token"
    CAUSAL = "document half: a token sees itself, what precedes it, and the memory"
    BOTH = "rows alternate: masked half, document half"


def weight_attr(std: float = 0.02) -> paddle.ParamAttr:
    """Initialization of every matrix: normal with deviation `std` (BERT, GPT-2)."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(mean=0.0, std=std))


def residual_std(module: ModuleConfig) -> float:
    """Deviation of the matrices that write to the residual stream: smaller the more of them add up (GPT-2)."""
    return float(0.02 / (2 * module.layers) ** 0.5)


def linear(inputs: int, outputs: int, config: ErnieConfig, std: float = 0.02) -> nn.Linear:
    """A matrix as the config wants it, with or without bias."""
    return nn.Linear(inputs, outputs, weight_attr=weight_attr(std), bias_attr=None if config.biases else False)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits [2 rows, ...] into the masked and the document halves, each [rows, ...]."""
    shape = x.shape
    masked, document = x.reshape([shape[0] // 2, 2, *shape[1:]]).unbind(axis=1)
    return masked, document


def join(masked: Tensor, document: Tensor) -> Tensor:
    """Puts two halves [rows, ...] back into one tensor [2 rows, ...], row by row."""
    shape = masked.shape
    return paddle.stack([masked, document], axis=1).reshape([2 * shape[0], *shape[1:]])


def falling_with_distance(heads: int, max_distance: int) -> npt.NDArray[np.float32]:
    """[heads, 2 max_distance + 1]: head i starts with -|distance| / 2^(i+1), as in ALiBi (arXiv 2108.12409, section 3).

    A start from which a short training finds the neighbouring tokens at once.
    """
    distance = np.abs(np.arange(-max_distance, max_distance + 1))
    slope = 0.5 ** np.minimum(np.arange(1, heads + 1), 8)
    start: npt.NDArray[np.float32] = (-slope[:, None] * distance[None, :]).astype(np.float32)
    return start


class RelativeBias(nn.Layer):
    """One learned number per head and distance between query and key, distances clipped to `max_distance`.

    The weight is [heads, 2 max_distance + 1]; a tensor-parallel rank holds a slice of its first dim.
    """

    def __init__(self, heads: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        start = nn.initializer.Assign(falling_with_distance(heads, max_distance))
        self.weight = self.create_parameter([heads, 2 * max_distance + 1], default_initializer=start)

    def forward(self, queries: range, keys: range) -> Tensor:
        """The bias [heads, queries, keys] of queries and keys at those positions."""
        query = paddle.arange(queries.start, queries.stop, dtype="int64").reshape([len(queries), 1])
        distance = query - paddle.arange(keys.start, keys.stop, dtype="int64").reshape([1, len(keys)])
        index = distance.clip(-self.max_distance, self.max_distance) + self.max_distance
        return paddle.index_select(self.weight, index.flatten(), axis=1).reshape([-1, len(queries), len(keys)])


def hidden_future(queries: range, keys: range) -> Tensor:
    """[queries, keys] at those positions: 0 where a causal query may look, HIDDEN_SCORE where it may not."""
    hidden = paddle.full([len(queries), len(keys)], HIDDEN_SCORE, dtype="float32")
    return paddle.triu(hidden, diagonal=queries.start - keys.start + 1)


def scored(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """The scores [b, heads, s, k] of queries [b, s, heads, d] and keys [b, k, heads, d], plus `bias` [heads, s, k]."""
    query, key = (t.transpose([0, 2, 1, 3]) for t in (query * query.shape[3] ** -0.5, key))
    return paddle.matmul(query, key, transpose_y=True) + bias


def weighted(scores: Tensor, value: Tensor) -> Tensor:
    """Softmax attention: scores [b, heads, s, k] and values [b, k, heads, d] -> [b, s, heads * d]."""
    context = paddle.matmul(F.softmax(scores, axis=-1), value.transpose([0, 2, 1, 3]))
    return context.transpose([0, 2, 1, 3]).reshape([0, 0, -1])


class Attention(nn.Layer):
    """Multi-head self-attention over [b, s, hidden].

    `qkv` returns, head by head, its query, key and value, so that a column split of it is a split by heads.

    Attributes:
        selective_recompute: methods whose inner activations (scores, weights) are worth computing twice.
        mixes_tokens: methods in which tokens meet, and which score them; outside each is worked on by itself.
    """

    selective_recompute = ("look_around", "look_back")
    mixes_tokens = {"look_around": "scores_around", "look_back": "scores_back"}

    def __init__(self, module: ModuleConfig, config: ErnieConfig, sight: Sight) -> None:
        super().__init__()
        self.head_dim = module.head_dim
        self.sight = sight
        self.qkv = linear(module.hidden, 3 * module.hidden, config)
        self.out = linear(module.hidden, module.hidden, config, std=residual_std(module))
        self.bias = RelativeBias(module.heads, config.max_distance)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each [b, s, heads, head_dim]."""
        heads = self.qkv(x).reshape([0, 0, -1, 3 * self.head_dim])
        query, key, value = paddle.split(heads, 3, axis=-1)
        return query, key, value

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Mixes the tokens of `x` [b, s, hidden]; `memory` [rows, m, hidden] is seen by the document half alone."""
        query, key, value = self.project(x)
        if self.sight is Sight.BIDIRECTIONAL:
            return self.out(self.look_around(query, key, value))
        if self.sight is Sight.CAUSAL:
            return self.out(self.look_back(query, key, value, memory))
        (masked_q, document_q), (masked_k, document_k) = halves(query), halves(key)
        masked_v, document_v = halves(value)
        masked = self.look_around(masked_q, masked_k, masked_v)
        return self.out(join(masked, self.look_back(document_q, document_k, document_v, memory)))

    def look_around(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every token sees every token."""
        every = range(query.shape[1])
        return weighted(self.scores_around(query, key, queries=every, keys=every), value)

    def look_back(self, query: Tensor, key: Tensor, value: Tensor, memory: Tensor | None) -> Tensor:
        """A token sees the memory, what precedes it, and itself."""
        length = 0
        if memory is not None:
            length = memory.shape[1]
            _, old_key, old_value = self.project(memory)
            key = paddle.concat([old_key, key], axis=1)
            value = paddle.concat([old_value, value], axis=1)
        keys = range(length + query.shape[1])
        return weighted(self.scores_back(query, key, queries=keys[length:], keys=keys), value)

    def scores_around(self, query: Tensor, key: Tensor, *, queries: range, keys: range) -> Tensor:
        """[b, heads, queries, keys] of some queries and some keys, which are at those positions."""
        return scored(query, key, self.bias(queries, keys))

    def scores_back(
        self, query: Tensor, key: Tensor, _memory: None = None, *, queries: range, keys: range
    ) -> Tensor | None:
        """The same where a token sees what precedes it; None if no query may see any key."""
        if queries.stop <= keys.start:
            return None
        return scored(query, key, self.bias(queries, keys) + hidden_future(queries, keys))
