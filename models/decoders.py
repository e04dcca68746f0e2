"""What a causal language model of the GPT and Llama families is made of, as a value, and how ranks cut it.

Those with a name stand in decoders_presets.py; what a layer may hold beside dense, full attention in
decoders_parts.py. How the parts compute stands in describe_decoder.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nebula.errors import BadInput
from nebula.models.decoders_parts import DENSE, DIRECT, STYLES, Experts, LatentAttention, Style

BIASED = ("query key value", "out", "ffn")
"""Linears that families add biases to or not: the three of attention, the one behind it, those of a dense ffn."""


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
        fused_norms: whether norms, and the turns by positions, are one kernel each.
        dropout: probability after the softmax of unfused attention, after attention and after the feed-forward part.
        window: tokens back to which a token attends; 0: all.
        window_every: of so many layers in a row the first has the window, the others attend to everything.
        unwindowed: indices of further layers that attend to everything.
        query_key_norm: whether each head of queries and keys is normalised before its positions are added.
        biased: which linears add a bias although the style's do not: of BIASED.
        positions: entries of the table of learned positions; 0: as many as seq_len.
        latent: compressed queries, keys and values in place of kv_heads; DIRECT: none.
        experts: the feed-forward parts in place of a dense one; DENSE: none.
        tied: whether the projection uses the weights of the embedding.
        float_logits: whether logits are converted to float32 for the loss.
    """

    style: Literal["gpt", "llama", "nemotron", "gemma"]
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
    fused_norms: bool = True
    dropout: float = 0.0
    window: int = 0
    window_every: int = 1
    unwindowed: tuple[int, ...] = ()
    query_key_norm: bool = False
    biased: tuple[str, ...] = ()
    positions: int = 0
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
        if self.positions and self.seq_len > self.positions:
            raise BadInput(
                f"seq_len {self.seq_len} > {self.positions} learned positions: the model knows no place further on, "
                f"take {self.positions} tokens or fewer"
            )
        assert set(self.biased) <= set(BIASED)

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
        narrow = layer % self.window_every == 0 and layer not in self.unwindowed
        return self.window if narrow and self.window < self.seq_len else 0

    def has_experts(self, layer: int) -> bool:
        """Whether that layer's feed-forward part is a mixture."""
        first, others = self.experts.dense_layers, self.experts.dense_also
        return self.experts.count > 0 and layer >= first and layer not in others

    def adds_bias(self, part: str) -> bool:
        """Whether the linears of a part of BIASED add a bias."""
        return self.look.biases or part in self.biased


def check_layers(config: DecoderConfig) -> None:
    """Refuses a decoder that decoder.py has no Paddle layers for.

    Raises:
        BadInput: with what they lack.
    """
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
    ("ffn.experts", "experts"),
    ("ffn.shared.gate", "column"),
    ("ffn.shared.up", "column"),
    ("ffn.shared.down", "row"),
    ("projection", "vocabulary"),
)
"""How tensor parallelism cuts a decoder (Shoeybi et al. 2019, arXiv 1909.08053, section 3), and expert parallelism."""

LAYER_SPLITS: dict[str, str] = {**dict(DECODER_SPLITS), "attention": "counts"}
"""The same for the layers of decoder.py, whose attention counts its heads: a tensor degree that cuts through a head is
refused before anything is cut, as the graph does by the shapes of the heads."""
