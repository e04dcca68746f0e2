"""Decoders of the Llama family as Paddle layers, dense or with experts: embedding, layers, head, as a chain.

What a DecoderConfig says here is what describe_decoder.py writes down of it, so that the graph of such a model is
planned without tracing. Refuses what it has no layers for: other styles, latent attention, windows, tied weights.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from nebula.errors import BadInput
from nebula.models.attention import hidden_future, weight_attr
from nebula.models.decoders import DECODER_SPLITS, DecoderConfig
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
    """

    selective_recompute = ("attend",)

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.width, hidden = config.head_dim, config.hidden
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
        cosine, sine = _angles(query.shape[1], self.width)
        query, key = (_rotated(part, cosine, sine) for part in (query, key))
        each = query.shape[2] // key.shape[2]
        if each > 1:
            key, value = (paddle.repeat_interleave(part, each, axis=2) for part in (key, value))
        query, key, value = (part.transpose([0, 2, 1, 3]) for part in (query * self.width**-0.5, key, value))
        scores = paddle.matmul(query, key, transpose_y=True) + hidden_future(
            range(query.shape[2]), range(query.shape[2])
        )
        return paddle.matmul(F.softmax(scores, axis=-1), value).transpose([0, 2, 1, 3]).reshape([0, 0, -1])


def _angles(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [1, S, 1, width] of the angles by which positions turn pairs of a head's numbers."""
    turns = ROTARY_BASE ** (paddle.arange(0, width, 2, dtype="float32") / -width)
    angles = paddle.arange(length, dtype="float32").unsqueeze(1) * turns
    angles = paddle.concat([angles, angles], axis=-1).reshape([1, length, 1, width])
    return paddle.cos(angles), paddle.sin(angles)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = paddle.split(x, 2, axis=-1)
    return x * cosine.astype(x.dtype) + paddle.concat([-second, first], axis=-1) * sine.astype(x.dtype)


class DecoderLayer(nn.Layer):
    """Attention and feed-forward, each behind a norm and added to the residual stream [rows, S, hidden]."""

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

    tensor_split = dict(DECODER_SPLITS)

    def __init__(self, config: DecoderConfig, routing: Routing = UNBALANCED) -> None:
        super().__init__()
        _check(config)
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


def _check(config: DecoderConfig) -> None:
    lacking = {
        f"style {config.style}": config.style != "llama",
        "latent attention": bool(config.latent.key_value_rank),
        "a window": bool(config.window),
        "norms of query and key heads": config.query_key_norm,
        f"biases of {', '.join(config.biased)}": bool(config.biased),
        "tied weights": config.tied,
        "dropout": bool(config.dropout),
        "attention that is not causal": not config.causal,
    }
    for what, asked in lacking.items():
        if asked:
            raise BadInput(f"decoder with {what}: it can be planned, and has no Paddle layers here yet")
