"""Causal language models of the GPT and Llama families, as values and by name.

Sources: GPT-3 175B, Brown et al. 2020 (arXiv 2005.14165), table 2.1, its vocabulary of 50,257 padded to a multiple of
1,024 so that tensor ranks can share it; Llama 3 8B, 70B and 405B, Grattafiori et al. 2024 (arXiv 2407.21783),
table 3, with the vocabulary and the 8 key-value heads given there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nebula.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """A stack of equal causal layers between an embedding and a projection to the vocabulary.

    Attributes:
        style: `gpt` is layer norm, biases, GELU and learned positions; `llama` is RMS norm, no biases, SwiGLU, rotary
            positions.
        layers: how many.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads.
        ffn: inner width of the feed-forward part.
        vocabulary: entries of the tokenizer.
        seq_len: tokens of one row.
    """

    style: Literal["gpt", "llama"]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    seq_len: int

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise BadInput(
                f"hidden {self.hidden} % heads {self.heads} = {self.hidden % self.heads}, "
                f"heads % kv_heads {self.kv_heads} = {self.heads % self.kv_heads}: both must be 0"
            )
        if self.seq_len < 1:
            raise BadInput(f"seq_len {self.seq_len} is below 1")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


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
    ("attention.out", "row"),
    ("ffn.gate", "column"),
    ("ffn.up", "column"),
    ("ffn.down", "row"),
    ("projection", "vocabulary"),
)
"""How tensor parallelism cuts a decoder (Shoeybi et al. 2019, arXiv 1909.08053, section 3)."""
