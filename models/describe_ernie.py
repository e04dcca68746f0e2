"""The ERNIE 3.0 layers of ernie.py written with the block builder: the same operators, without Paddle.

A test holds each block equal in parameters, FLOPs and kept bytes to the traced layer.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from nebula.graph.builder import BlockBuilder, described
from nebula.graph.values import Block
from nebula.models.config import ErnieConfig, ModuleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ErnieBlocks:
    """Writes the blocks of one config.

    Attributes:
        config: the model.
        dtype: of parameters and activations.
    """

    config: ErnieConfig
    dtype: str

    def embedding(self) -> Block:
        """Ids [rows, 2, S] -> [2 rows, S, hidden]."""

        def build(rows: int) -> Block:
            b = self._builder("TokenEmbedding", rows, "embedding")
            ids = b.input((rows, 2, self.config.seq_len), "int64", needs_gradient=False)
            ids = b.reshape(ids, (2 * rows, self.config.seq_len))
            x = b.embedding("tokens", ids, self.config.vocabulary, self.config.universal.hidden)
            return b.build(b.layer_norm("norm", x))

        return described(build)

    def universal(self) -> Block:
        """A layer of the universal module."""

        def build(rows: int) -> Block:
            module = self.config.universal
            b = self._builder("TransformerLayer", rows, "universal")
            x = b.input((2 * rows, self.config.seq_len, module.hidden))
            memory = self._memory(b, module)
            with self._wrapped(b):
                return b.build(self._layer(b, module, x, memory, "both"))

        return described(build)

    def entry(self) -> Block:
        """The projections into the task modules."""

        def build(rows: int) -> Block:
            wide, narrow = self.config.universal.hidden, self.config.nlu.hidden
            b = self._builder("TaskEntry", rows, "task entry")
            x = b.layer_norm("norm", b.input((2 * rows, self.config.seq_len, wide)))
            masked, document = _halves(b, x)
            masked = b.linear("nlu", masked, narrow, bias=self.config.biases)
            document = b.linear("nlg", document, narrow, bias=self.config.biases)
            return b.build(_join(b, masked, document))

        return described(build)

    def task(self, index: int) -> Block:
        """Layer `index` of the task modules, side by side."""

        def build(rows: int) -> Block:
            b = self._builder("TaskLayer", rows, "task")
            x = b.input((2 * rows, self.config.seq_len, self.config.nlu.hidden))
            memory = self._memory(b, self.config.nlg)
            with self._wrapped(b):
                masked, document = _halves(b, x)
                if index < self.config.nlg.layers:
                    with b.scope("nlg"):
                        document = self._layer(b, self.config.nlg, document, memory, "causal")
                if index < self.config.nlu.layers:
                    with b.scope("nlu"):
                        masked = self._layer(b, self.config.nlu, masked, "", "bidirectional")
                return b.build(_join(b, masked, document))

        return described(build)

    def head(self) -> Block:
        """Logits of both halves and the loss."""

        def build(rows: int) -> Block:
            config, width = self.config, self.config.nlu.hidden
            b = self._builder("TaskHead", rows, "head")
            x = b.input((2 * rows, config.seq_len, width))
            labels = b.input((rows, 2, config.seq_len), "int64", needs_gradient=False)
            masked, document = _halves(b, x)
            masked = b.unary("gelu", b.linear("nlu_transform", masked, width, bias=config.biases), approximate=False)
            masked = b.layer_norm("nlu_norm", masked)
            both = b.stack([masked, b.layer_norm("nlg_norm", document)], 1)
            logits = b.linear("projection", both, config.vocabulary, bias=config.biases)
            return b.build(self._loss(b, logits, labels, rows))

        return described(build)

    def _loss(self, b: BlockBuilder, logits: str, labels: str, rows: int) -> str:
        """Mean nats over the masked positions plus mean nats over the document positions."""
        length = self.config.seq_len
        column = b.operate("unsqueeze", (labels,), b.like((rows, 2, length, 1), "int64"), axes=(3,))[0]
        nats = b.operate("squeeze", (b.cross_entropy(logits, column),), (rows, 2, length), axes=(3,))[0]
        sums = b.reduce("sum", nats, (0, 2))
        terms = [
            b.scale(
                b.operate("slice", (sums,), (), axes=(0,), starts=(i,), ends=(i + 1,), decrease_axis=(0,))[0],
                1.0 / count,
            )
            for i, count in enumerate((self.config.masked_per_row, length))
        ]
        return b.binary("add", *terms)

    def _builder(self, name: str, rows: int, module: str) -> BlockBuilder:
        return BlockBuilder(name, rows=rows, dtype=self.dtype, module=module)

    def _memory(self, b: BlockBuilder, module: ModuleConfig) -> str:
        """The same layer's older output, held outside of the graph; empty without memory."""
        if not self.config.memory_length:
            return ""
        return b.operate("full", (), (b.rows, self.config.memory_length, module.hidden), value=0.0)[0]

    def _wrapped(self, b: BlockBuilder) -> AbstractContextManager[None]:
        """The path of a layer: one deeper where a memory is wrapped around it."""
        return b.scope("layer") if self.config.memory_length else nullcontext()

    def _layer(self, b: BlockBuilder, module: ModuleConfig, x: str, memory: str, sight: str) -> str:
        """Attention and feed-forward, each behind a layer norm and added to the residual stream."""
        older = b.layer_norm("attention_norm", memory) if memory else ""
        mixed = self._attention(b, module, b.layer_norm("attention_norm", x), older, sight)
        x = b.binary("add", x, b.dropout(mixed, self.config.dropout))
        inner = b.linear("ffn.up", b.layer_norm("ffn_norm", x), module.ffn, bias=self.config.biases)
        out = b.linear("ffn.down", b.unary("gelu", inner, approximate=False), module.hidden, bias=self.config.biases)
        return b.binary("add", x, b.dropout(out, self.config.dropout))

    def _attention(self, b: BlockBuilder, module: ModuleConfig, x: str, older: str, sight: str) -> str:
        with b.scope("attention"):
            query, key, value = self._project(b, module, x)
            if sight == "bidirectional":
                out = self._around(b, module, query, key, value)
            elif sight == "causal":
                out = self._back(b, module, query, key, value, older)
            else:
                pairs = [_halves(b, t) for t in (query, key, value)]
                masked, document = ([pair[i] for pair in pairs] for i in (0, 1))
                around = self._around(b, module, masked[0], masked[1], masked[2])
                back = self._back(b, module, document[0], document[1], document[2], older)
                out = _join(b, around, back)
            return b.linear("out", out, module.hidden, bias=self.config.biases)

    def _project(self, b: BlockBuilder, module: ModuleConfig, x: str) -> list[str]:
        """Query, key and value, each [batch, s, heads, head_dim]."""
        batch, length, _ = b.shape(x)
        qkv = b.linear("qkv", x, 3 * module.hidden, bias=self.config.biases)
        heads = b.reshape(qkv, (batch, length, module.heads, 3 * module.head_dim))
        return b.split(heads, (module.head_dim,) * 3, 3)

    def _around(self, b: BlockBuilder, module: ModuleConfig, query: str, key: str, value: str) -> str:
        bias = self._bias(b, module, b.shape(query)[1], 0)
        return _attend(b, query, key, value, bias)

    def _back(self, b: BlockBuilder, module: ModuleConfig, query: str, key: str, value: str, older: str) -> str:
        if older:
            _, old_key, old_value = self._project(b, module, older)
            key, value = b.concat([old_key, key], 1), b.concat([old_value, value], 1)
        queries, keys = b.shape(query)[1], b.shape(key)[1]
        bias = self._bias(b, module, queries, keys - queries)
        mask = b.operate("full", (), (queries, keys), value=-1e9)[0]
        return _attend(b, query, key, value, b.binary("add", bias, b.unary("triu", mask, diagonal=keys - queries + 1)))

    def _bias(self, b: BlockBuilder, module: ModuleConfig, queries: int, memory: int) -> str:
        """[heads, queries, memory + queries]: one learned number per head and clipped distance."""
        keys = memory + queries
        with b.scope("bias"):
            rows, columns = (
                b.operate("arange", (), b.like((n,), "int64"), start=start, end=keys, step=1)[0]
                for n, start in ((queries, memory), (keys, 0))
            )
            distance = b.binary("subtract", b.reshape(rows, (queries, 1)), b.reshape(columns, (1, keys)))
            limit = float(self.config.max_distance)
            index = b.scale(b.unary("clip", distance, min=-limit, max=limit), 1.0, limit)
            flat = b.reshape(index, (queries * keys,))
            weight = b.parameter("weight", (module.heads, 2 * self.config.max_distance + 1))
            picked = b.operate("index_select", (weight, flat), (module.heads, queries * keys), axis=1)[0]
            return b.reshape(picked, (module.heads, queries, keys))


def _attend(b: BlockBuilder, query: str, key: str, value: str, bias: str) -> str:
    """Softmax attention of [b, s, heads, d], all heads side by side -> [b, s, heads * d]."""
    batch, length, heads, width = b.shape(query)
    query, key, value = (b.transpose(t, (0, 2, 1, 3)) for t in (b.scale(query, width**-0.5), key, value))
    weights = b.softmax(b.binary("add", b.matmul(query, key, transpose_y=True), bias))
    context = b.transpose(b.matmul(weights, value), (0, 2, 1, 3))
    return b.reshape(context, (batch, length, heads * width))


def _halves(b: BlockBuilder, x: str) -> list[str]:
    """[2 rows, ...] -> the masked and the document half, each [rows, ...]."""
    lead, *rest = b.shape(x)
    return b.unbind(b.reshape(x, (lead // 2, 2, *rest)), 1)


def _join(b: BlockBuilder, masked: str, document: str) -> str:
    """Two halves [rows, ...] -> [2 rows, ...]."""
    lead, *rest = b.shape(masked)
    return b.reshape(b.stack([masked, document], 1), (2 * lead, *rest))
