"""The layers of a causal language model written with the block builder, attention fused as frameworks run it."""

from __future__ import annotations

from dataclasses import dataclass

from nebula.graph.builder import BlockBuilder, described
from nebula.graph.values import Block
from nebula.models.decoders import DecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderBlocks:
    """Writes the blocks of one config.

    Attributes:
        config: the model.
        dtype: of parameters and activations.
    """

    config: DecoderConfig
    dtype: str

    @property
    def _biases(self) -> bool:
        return self.config.style == "gpt"

    def embedding(self) -> Block:
        """Ids [rows, S] -> [rows, S, hidden]."""

        def build(rows: int) -> Block:
            config = self.config
            b = BlockBuilder("Embedding", rows=rows, dtype=self.dtype, module="embedding")
            ids = b.input((rows, config.seq_len), "int64", needs_gradient=False)
            x = b.embedding("tokens", ids, config.vocabulary, config.hidden)
            if config.style == "gpt":
                places = b.operate(
                    "arange", (), b.like((config.seq_len,), "int64"), start=0, end=config.seq_len, step=1
                )
                x = b.binary("add", x, b.embedding("positions", places[0], config.seq_len, config.hidden))
            return b.build(x)

        return described(build)

    def layer(self) -> Block:
        """Attention and feed-forward, each behind a norm and added to the residual stream."""

        def build(rows: int) -> Block:
            config = self.config
            b = BlockBuilder("DecoderLayer", rows=rows, dtype=self.dtype, module="decoder")
            x = b.input((rows, config.seq_len, config.hidden))
            x = b.binary("add", x, self._attention(b, self._norm(b, "attention_norm", x)))
            x = b.binary("add", x, self._ffn(b, self._norm(b, "ffn_norm", x)))
            return b.build(x)

        return described(build)

    def head(self) -> Block:
        """The last norm, logits, and the mean cross-entropy of the labels [rows, S]."""

        def build(rows: int) -> Block:
            config = self.config
            b = BlockBuilder("Head", rows=rows, dtype=self.dtype, module="head")
            x = b.input((rows, config.seq_len, config.hidden))
            labels = b.input((rows, config.seq_len), "int64", needs_gradient=False)
            logits = b.linear("projection", self._norm(b, "norm", x), config.vocabulary, bias=False)
            column = b.operate("unsqueeze", (labels,), b.like((rows, config.seq_len, 1), "int64"), axes=(2,))[0]
            return b.build(b.reduce("mean", b.cross_entropy(logits, column), (0, 1, 2)))

        return described(build)

    def _norm(self, b: BlockBuilder, path: str, x: str) -> str:
        return b.layer_norm(path, x) if self.config.style == "gpt" else b.rms_norm(path, x)

    def _attention(self, b: BlockBuilder, x: str) -> str:
        config = self.config
        rows, length, _ = b.shape(x)
        with b.scope("attention"):
            widths = {"query": config.heads, "key": config.kv_heads, "value": config.kv_heads}
            query, key, value = (
                b.reshape(b.linear(path, x, n * config.head_dim, bias=self._biases), (rows, length, n, config.head_dim))
                for path, n in widths.items()
            )
            if config.style == "llama":
                angles = [b.operate("full", (), (1, length, 1, config.head_dim), value=0.0)[0] for _ in range(2)]
                query, key = b.operate("rope", (query, key, *angles), b.shape(query), b.shape(key))
            lse = b.like((rows, config.heads, length), "float32")
            out = b.operate("attention", (query, key, value), b.shape(query), lse, causal=True, absent=("mask",))[0]
            return b.linear("out", b.reshape(out, (rows, length, config.hidden)), config.hidden, bias=self._biases)

    def _ffn(self, b: BlockBuilder, x: str) -> str:
        config = self.config
        with b.scope("ffn"):
            if config.style == "gpt":
                inner = b.unary("gelu", b.linear("up", x, config.ffn), approximate=True)
            else:
                gate, up = (b.linear(path, x, config.ffn, bias=False) for path in ("gate", "up"))
                inner = b.operate("swiglu", (gate, up), b.shape(gate))[0]
            return b.linear("down", inner, config.hidden, bias=self._biases)
