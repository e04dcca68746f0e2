"""The layers of a causal language model written with the block builder: embedding, layers, head.

A layer is named by what tells it from its neighbours (window, mixture), so that equal ones are one block. Attention
stands in describe_attention.py, mixtures in describe_experts.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.graph.builder import BlockBuilder, described
from nebula.graph.values import Block
from nebula.models import describe_parts
from nebula.models.decoders import DecoderConfig
from nebula.models.describe_attention import attention, latent_attention
from nebula.models.describe_experts import feed_forward, mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderBlocks:
    """Writes the blocks of one config.

    Attributes:
        config: the model.
        dtype: of parameters and activations.
    """

    config: DecoderConfig
    dtype: str

    def embedding(self) -> Block:
        """Ids [rows, S] -> [rows, S, hidden]."""

        def build(rows: int) -> Block:
            config = self.config
            b = BlockBuilder("Embedding", rows=rows, dtype=self.dtype, module="embedding")
            ids = b.input((rows, config.seq_len), "int64", needs_gradient=False)
            x = b.embedding("tokens", ids, config.vocabulary, config.hidden)
            if not config.look.rotary:
                places = b.operate(
                    "arange", (), b.like((config.seq_len,), "int64"), start=0, end=config.seq_len, step=1
                )
                entries = config.positions or config.seq_len
                x = b.binary("add", x, b.embedding("positions", places[0], entries, config.hidden))
            return b.build(b.dropout(x, config.dropout))

        return described(build)

    def layer(self, window: int = 0, *, mixed: bool = False) -> Block:
        """Attention and feed-forward, each behind a norm and added to the residual stream.

        Args:
            window: tokens back to which it attends; 0: all.
            mixed: whether its feed-forward part is the mixture of experts.
        """

        def build(rows: int) -> Block:
            config = self.config
            b = BlockBuilder("ExpertLayer" if mixed else "DecoderLayer", rows=rows, dtype=self.dtype, module="decoder")
            x = b.input((rows, config.seq_len, config.hidden))
            x = self._added(b, x, self._attention(b, self._norm(b, "attention_norm", x), window))
            return b.build(self._added(b, x, self._ffn(b, self._norm(b, "ffn_norm", x), mixed)))

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
            return b.build(b.reduce("mean", self._loss(b, logits, column), (0, 1, 2)))

        return described(build)

    def _loss(self, b: BlockBuilder, logits: str, labels: str) -> str:
        """Nats of each label [rows, S, 1]; in float32 where the config says so."""
        if not self.config.float_logits or self.dtype == "float32":
            return b.cross_entropy(logits, labels)
        softmax = b.like(b.shape(logits), "float32")
        loss = b.like(b.shape(labels), "float32")
        wide = b.operate("cast", (logits,), softmax, dtype="float32")[0]
        return b.operate("cross_entropy", (wide, labels), softmax, loss, axis=2, soft_label=False)[1]

    def _norm(self, b: BlockBuilder, path: str, x: str) -> str:
        if self.config.look.norm == "layer_norm":
            return b.layer_norm(path, x)
        return b.rms_norm(path, x) if self.config.fused_norms else describe_parts.rms_norm(b, path, x)

    def _added(self, b: BlockBuilder, x: str, change: str) -> str:
        return b.binary("add", x, b.dropout(change, self.config.dropout))

    def _attention(self, b: BlockBuilder, x: str, window: int) -> str:
        with b.scope("attention"):
            if self.config.latent.key_value_rank:
                return latent_attention(b, self.config, x, window)
            return attention(b, self.config, x, window)

    def _ffn(self, b: BlockBuilder, x: str, mixed: bool) -> str:
        with b.scope("ffn"):
            if mixed:
                return mixture(b, self.config.experts, x)
            return feed_forward(b, self.config.look, x, self.config.ffn, biases=self.config.adds_bias("ffn"))
