"""ERNIE 3.0 as Paddle layers: a chain of elements that a pipeline cuts anywhere, and the same chain as one model.

A sample is a pair: a knowledge-masked sequence and a document sequence. Each element takes one tensor and returns one,
rows leading. The order keeps borders thin: [2 rows, S, hidden] inside the universal module, then, because both task
modules project at once and advance side by side, [2 rows, S, task hidden], 16 times thinner in Titan; logits leave the
last element only. Each element is `token_wise`: outside of its attention it works on every token by itself, so that
ranks may share the sequence. The vocabulary projection is not tied to the embedding, which would bind the first stage
to the last.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from nebula.models.attention import Attention, Sight, halves, join, linear, residual_std, weight_attr
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.memory import WithMemory
from nebula.models.splits import ERNIE_SPLITS

MASKED, DOCUMENT = 0, 1
"""Index of the two sequences of a sample, in ids [rows, 2, S] and in logits [rows, 2, S, vocabulary]."""


EMBEDDING_STD = 0.002
"""A norm follows, so only the ratio of step to size counts: ten times smaller than 0.02 is a ten times larger learning
rate for the embedding, which sees each token rarely."""
HEAD_GAIN = 6.0
"""The norms before the vocabulary projection start with it, and the projection that much smaller: the same logits, and
a learning rate that many times larger for them."""


class TokenEmbedding(nn.Layer):
    """ids [rows, 2, S] -> [2 rows, S, hidden], normalized; positions enter in the attention."""

    token_wise = True

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        width = config.universal.hidden
        self.tokens = nn.Embedding(config.vocabulary, width, weight_attr=weight_attr(EMBEDDING_STD))
        self.norm = nn.LayerNorm(width, epsilon=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Looks the tokens up."""
        rows, _, length = x.shape
        return self.norm(self.tokens(x.reshape([2 * rows, length])))


class FeedForward(nn.Layer):
    """hidden -> ffn -> hidden with GELU between."""

    def __init__(self, module: ModuleConfig, config: ErnieConfig) -> None:
        super().__init__()
        self.up = linear(module.hidden, module.ffn, config)
        self.down = linear(module.ffn, module.hidden, config, std=residual_std(module))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the two matrices token by token."""
        return self.down(F.gelu(self.up(x)))


class TransformerLayer(nn.Layer):
    """Attention and feed-forward, each behind a layer norm and added to the residual stream."""

    token_wise = True

    def __init__(self, module: ModuleConfig, config: ErnieConfig, sight: Sight) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(module.hidden)
        self.attention = Attention(module, config, sight)
        self.ffn_norm = nn.LayerNorm(module.hidden)
        self.ffn = FeedForward(module, config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """[b, s, hidden] -> [b, s, hidden]; `memory` [rows, m, hidden] is the same layer's older output."""
        older = None if memory is None else self.attention_norm(memory)
        x = x + self.dropout(self.attention(self.attention_norm(x), older))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class TaskEntry(nn.Layer):
    """The universal module's last norm, then one projection per task module: [2 rows, S, hidden] -> task hidden."""

    token_wise = True

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        wide, narrow = config.universal.hidden, config.nlu.hidden
        self.norm = nn.LayerNorm(wide)
        self.nlu = linear(wide, narrow, config, std=wide**-0.5)
        self.nlg = linear(wide, narrow, config, std=wide**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Projects each half into its task module."""
        masked, document = halves(self.norm(x))
        return join(self.nlu(masked), self.nlg(document))


class TaskLayer(nn.Layer):
    """One layer of the NLU module on the masked half beside one of the NLG module on the document half."""

    token_wise = True

    def __init__(self, config: ErnieConfig, index: int) -> None:
        super().__init__()
        self.nlu = _layer_or_nothing(config.nlu, config, Sight.BIDIRECTIONAL, index)
        self.nlg = _layer_or_nothing(config.nlg, config, Sight.CAUSAL, index)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """[2 rows, S, task hidden] -> the same shape."""
        masked, document = halves(x)
        if isinstance(self.nlg, TransformerLayer):
            document = self.nlg(document, memory)
        return join(self.nlu(masked), document)


def _layer_or_nothing(module: ModuleConfig, config: ErnieConfig, sight: Sight, index: int) -> nn.Layer:
    """Layer `index` of a task module, or the identity once the module has no more layers."""
    return TransformerLayer(module, config, sight) if index < module.layers else nn.Identity()


class TaskHead(nn.Layer):
    """Logits of both halves: [2 rows, S, task hidden] -> [rows, 2, S, vocabulary].

    The masked half passes a dense transform first, as in BERT; both share the vocabulary projection.
    """

    token_wise = True

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        width = config.nlu.hidden
        self.nlu_transform = linear(width, width, config, std=width**-0.5)
        gain = paddle.ParamAttr(initializer=nn.initializer.Constant(HEAD_GAIN))
        self.nlu_norm = nn.LayerNorm(width, weight_attr=gain)
        self.nlg_norm = nn.LayerNorm(width, weight_attr=gain)
        self.projection = linear(width, config.vocabulary, config, std=0.02 / HEAD_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Scores every vocabulary entry at every position."""
        masked, document = halves(x)
        masked = self.nlu_norm(F.gelu(self.nlu_transform(masked)))
        return self.projection(paddle.stack([masked, self.nlg_norm(document)], axis=1))


def chain(config: ErnieConfig) -> list[nn.Layer]:
    """The model as a list: embedding, universal layers, task entry, task layers, head.

    Element i reads what element i-1 returns. The first takes ids [rows, 2, S] int64, the last returns logits
    [rows, 2, S, vocabulary]; all between exchange one tensor with 2 rows leading.
    """
    body: list[nn.Layer] = [
        TransformerLayer(config.universal, config, Sight.BOTH) for _ in range(config.universal.layers)
    ]
    tasks: list[nn.Layer] = [TaskLayer(config, index) for index in range(config.task_layers)]
    if config.memory_length:
        body = [WithMemory(layer, config.memory_length) for layer in body]
        tasks = [WithMemory(layer, config.memory_length) for layer in tasks]
    return [TokenEmbedding(config), *body, TaskEntry(config), *tasks, TaskHead(config)]


class ErnieModel(nn.Layer):
    """The whole chain as one layer.

    Attributes:
        chain: the elements, in order.
    """

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.config = config
        self.chain = nn.LayerList(chain(config))

    def forward(self, x: Tensor) -> Tensor:
        """ids [rows, 2, S] -> logits [rows, 2, S, vocabulary]."""
        for element in self.chain:
            x = element(x)
        return x


def tensor_split(config: ErnieConfig) -> dict[str, str]:  # noqa: ARG001 - one signature for every model family
    """How tensor parallelism cuts the sublayers of a chain element: ERNIE_SPLITS, which explains the kinds."""
    return dict(ERNIE_SPLITS)
