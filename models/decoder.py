"""Decoders of the Llama family as Paddle layers, dense or with experts: embedding, layers, head, as a chain.

What a DecoderConfig says here is what describe_decoder.py writes down of it, so that the graph of such a model is
planned without tracing. Refuses what it has no layers for: other styles, latent attention, windows, tied weights.
"""

from __future__ import annotations

from types import MappingProxyType

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from nebula.models.attention import hidden_future, weight_attr
from nebula.models.decoders import LAYER_SPLITS, DecoderConfig, check_layers
from nebula.models.experts import GatedFeedForward, Mixture
from nebula.models.routing import UNBALANCED, Routing

ROTARY_BASE = 10_000.0
"""RoFormer, arXiv 2104.09864, section 3.2.2."""


class RootMeanSquareNorm(nn.Layer):
    """x / rms(x), scaled by a weight [width] (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + self.epsilon) * self.weight


class Embedding(nn.Layer):
    """ids [rows, S] int64 -> [rows, S, hidden]."""

    token_wise = True

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.hidden, weight_attr=weight_attr())

    def forward(self, ids: Tensor) -> Tensor:
        """Looks the tokens up."""
        return self.tokens(ids)


class CausalAttention(nn.Layer):
    """Grouped-query attention with rotary positions over [rows, S, hidden].

    Attributes:
        selective_recompute: methods whose inner activations (scores, weights) are worth computing twice.
        mixes_tokens: methods in which tokens meet, each with the one that scores them.
        num_heads, num_key_value_heads: of the rank.
    """

    selective_recompute = ("attend",)
    mixes_tokens = MappingProxyType({"attend": "scores"})

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.width, hidden = config.head_dim, config.hidden
        self.num_heads, self.num_key_value_heads = config.heads, config.kv_heads
        query, key = config.heads * self.width, config.kv_heads * self.width
        self.query, self.key, self.value = (
            nn.Linear(hidden, outputs, weight_attr=weight_attr(), bias_attr=False) for outputs in (query, key, key)
        )
        self.out = nn.Linear(query, hidden, weight_attr=weight_attr(residual_std(config)), bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes each token with those before it."""
        # heads are counted by what the projections return: a tensor group may have cut them
        query, key, value = (part(x).reshape([0, 0, -1, self.width]) for part in (self.query, self.key, self.value))
        return self.out(self.attend(query, key, value))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[rows, S, heads, width] and twice [rows, S, key heads, width] -> [rows, S, heads * width]."""
        weights = F.softmax(self.scores(query, key, queries=range(query.shape[1]), keys=range(key.shape[1])), axis=-1)
        value = _for_heads(value, query.shape[2]).transpose([0, 2, 1, 3])
        return paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([0, 0, -1])

    def scores(self, query: Tensor, key: Tensor, *, queries: range, keys: range) -> Tensor | None:
        """How much each query sees of each key, [rows, heads, queries, keys]; None where no query sees any.

        Args:
            query: [rows, q, heads, width], at the positions `queries`.
            key: [rows, k, key heads, width], at the positions `keys`.
            queries: a run of positions, as is `keys`.
            keys: those behind a query are hidden from it.
        """
        if keys.start >= queries.stop:
            return None
        key = _for_heads(_rotated(key, keys), query.shape[2])
        query = _rotated(query, queries) * self.width**-0.5
        scored = paddle.matmul(query.transpose([0, 2, 1, 3]), key.transpose([0, 2, 3, 1]))
        return scored if keys.stop <= queries.start + 1 else scored + hidden_future(queries, keys)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """[rows, S, key heads, width] -> [rows, S, heads, width], each key head for the queries that share it."""
    each = heads // x.shape[2]
    return x if each == 1 else paddle.repeat_interleave(x, each, axis=2)


def _rotated(x: Tensor, positions: range) -> Tensor:
    """[rows, S, heads, width] with pairs of a head's numbers turned by angles that grow with the position."""
    width = x.shape[-1]
    turns = ROTARY_BASE ** (paddle.arange(0, width, 2, dtype="float32") / -width)
    angles = paddle.arange(positions.start, positions.stop, dtype="float32").unsqueeze(1) * turns
    angles = paddle.concat([angles, angles], axis=-1).reshape([1, -1, 1, width])
    first, second = paddle.split(x, 2, axis=-1)
    turned = paddle.concat([-second, first], axis=-1)
    return x * paddle.cos(angles).astype(x.dtype) + turned * paddle.sin(angles).astype(x.dtype)


class DecoderLayer(nn.Layer):
    """Attention and feed-forward, each behind a norm and added to the residual stream [rows, S, hidden]."""

    token_wise = True

    def __init__(self, config: DecoderConfig, index: int, routing: Routing) -> None:
        super().__init__()
        hidden, std = config.hidden, residual_std(config)
        self.attention_norm, self.ffn_norm = RootMeanSquareNorm(hidden), RootMeanSquareNorm(hidden)
        self.attention = CausalAttention(config)
        if config.has_experts(index):
            self.ffn: nn.Layer = Mixture(hidden, config.experts, routing, std)
        else:
            self.ffn = GatedFeedForward(hidden, config.ffn, std)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Head(nn.Layer):
    """[rows, S, hidden] -> logits [rows, S, vocabulary]."""

    token_wise = True

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm = RootMeanSquareNorm(config.hidden)
        self.projection = nn.Linear(config.hidden, config.vocabulary, weight_attr=weight_attr(), bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores every vocabulary entry at every position."""
        return self.projection(self.norm(x))


class DecoderModel(nn.Layer):
    """The whole chain as one layer.

    Args:
        config: of style `llama`.
        routing: of its experts.

    Attributes:
        chain: embedding, layers, head.

    Raises:
        BadInput: the config asks for what has no layers here.
    """

    tensor_split = dict(LAYER_SPLITS)

    def __init__(self, config: DecoderConfig, routing: Routing = UNBALANCED) -> None:
        super().__init__()
        check_layers(config)
        self.config = config
        layers = [DecoderLayer(config, index, routing) for index in range(config.layers)]
        self.chain = nn.LayerList([Embedding(config), *layers, Head(config)])

    def forward(self, ids: Tensor) -> Tensor:
        """ids [rows, S] -> logits [rows, S, vocabulary]."""
        x = ids
        for element in self.chain:
            x = element(x)
        return x


def residual_std(config: DecoderConfig) -> float:
    """Deviation of the matrices that write to the residual stream: smaller the more of them add up (GPT-2)."""
    return float(0.02 / (2 * config.layers) ** 0.5)
