"""Causal language models of the GPT and Llama families, as values and by name.

Sources: GPT-3 175B, Brown et al. 2020 (arXiv 2005.14165), table 2.1, its vocabulary of 50,257 padded to a multiple of
1,024 so that tensor ranks can share it; Llama 3 8B, 70B and 405B, Grattafiori et al. 2024 (arXiv 2407.21783),
table 3, with the vocabulary and the 8 key-value heads given there. What a layer may hold beside dense, full attention
stands in decoders_parts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nebula.errors import BadInput
from nebula.models.decoders_parts import DENSE, DIRECT, STYLES, Experts, LatentAttention, Style


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """A stack of layers between an embedding and a projection to the vocabulary.

    Attributes:
        style: a name of decoders_parts.STYLES: which norm, activation and positions, and whether linears add a bias.
        layers: how many.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads.
        ffn: inner width of the feed-forward part.
        vocabulary: entries of the tokenizer.
        seq_len: tokens of one row.
        head_width: width of one head where it is not hidden / heads; 0: it is.
        causal: whether a token attends to those before it alone.
        fused_attention: whether one kernel attends without writing the scores.
        dropout: probability after the softmax of unfused attention, after attention and after the feed-forward part.
        window: tokens back to which a token attends; 0: all.
        window_every: of so many layers in a row the first has the window, the others attend to everything.
        latent: compressed queries, keys and values in place of kv_heads; DIRECT: none.
        experts: the feed-forward parts in place of a dense one; DENSE: none.
        tied: whether the projection uses the weights of the embedding.
        float_logits: whether logits are converted to float32 for the loss.
    """

    style: Literal["gpt", "llama", "nemotron"]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    seq_len: int
    head_width: int = 0
    causal: bool = True
    fused_attention: bool = True
    dropout: float = 0.0
    window: int = 0
    window_every: int = 1
    latent: LatentAttention = DIRECT
    experts: Experts = DENSE
    tied: bool = False
    float_logits: bool = False

    def __post_init__(self) -> None:
        if (not self.head_width and self.hidden % self.heads) or self.heads % self.kv_heads:
            raise BadInput(
                f"hidden {self.hidden} % heads {self.heads} = {self.hidden % self.heads}, "
                f"heads % kv_heads {self.kv_heads} = {self.heads % self.kv_heads}: both must be 0"
            )
        if self.seq_len < 1:
            raise BadInput(f"seq_len {self.seq_len} is below 1")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.head_width or self.hidden // self.heads

    @property
    def look(self) -> Style:
        """What the style means."""
        return STYLES[self.style]

    def window_of(self, layer: int) -> int:
        """Tokens back to which that layer attends; 0: all."""
        return self.window if self.window < self.seq_len and layer % self.window_every == 0 else 0

    def has_experts(self, layer: int) -> bool:
        """Whether that layer's feed-forward part is a mixture."""
        return self.experts.count > 0 and layer >= self.experts.dense_layers


def _llama(layers: int, hidden: int, heads: int, ffn: int) -> DecoderConfig:
    return DecoderConfig(
        style="llama",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=8,
        ffn=ffn,
        vocabulary=128_256,
        seq_len=8192,
    )


DECODERS: dict[str, DecoderConfig] = {
    "gpt3-175b": DecoderConfig(
        style="gpt",
        layers=96,
        hidden=12_288,
        heads=96,
        kv_heads=96,
        ffn=49_152,
        vocabulary=51_200,
        seq_len=2048,
    ),
    "llama3-8b": _llama(32, 4096, 32, 14_336),
    "llama3-70b": _llama(80, 8192, 64, 28_672),
    "llama3-405b": _llama(126, 16_384, 128, 53_248),
}

DECODER_SPLITS: tuple[tuple[str, str], ...] = (
    ("tokens", "vocabulary"),
    ("attention.query", "column"),
    ("attention.key", "column"),
    ("attention.value", "column"),
    ("attention.query_up", "column"),
    ("attention.key_value_up", "column"),
    ("attention.out", "row"),
    ("ffn.gate", "column"),
    ("ffn.up", "column"),
    ("ffn.down", "row"),
    ("ffn.shared.gate", "column"),
    ("ffn.shared.up", "column"),
    ("ffn.shared.down", "row"),
    ("projection", "vocabulary"),
)
"""How tensor parallelism cuts a decoder (Shoeybi et al. 2019, arXiv 1909.08053, section 3)."""
