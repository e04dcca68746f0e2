"""What the layers of a decoder are made of beside their sizes: style, latent attention, mixture of experts.

Values alone; how the parts compute stands in describe_attention.py and describe_experts.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The choices that a family of models makes alike.

    Attributes:
        norm: `layer_norm` or `rms_norm`.
        biases: whether linears add a bias.
        gated: whether the feed-forward part multiplies its activation by a second projection.
        activation: kinds of operators one after the other; `swiglu` is activation and gate in one.
        rotary: whether positions rotate queries and keys; otherwise they are learned and added to the tokens.
    """

    norm: str
    biases: bool
    gated: bool
    activation: tuple[str, ...]
    rotary: bool


STYLES: dict[str, Style] = {
    "gpt": Style(norm="layer_norm", biases=True, gated=False, activation=("gelu",), rotary=False),
    "llama": Style(norm="rms_norm", biases=False, gated=True, activation=("swiglu",), rotary=True),
    "nemotron": Style(norm="layer_norm", biases=False, gated=False, activation=("relu", "square"), rotary=True),
    "gemma": Style(norm="rms_norm", biases=False, gated=True, activation=("gelu",), rotary=True),
}
"""GPT-3 (arXiv 2005.14165), Llama (arXiv 2302.13971), Nemotron-4 (arXiv 2402.16819, section 2.1) and Gemma
(arXiv 2403.08295, section 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Attributes:
        query_rank: width that queries are compressed to; 0: they are not.
        key_value_rank: width that keys and values are compressed to together; 0: no latent attention.
        plain: width of a query or key head without positions.
        rotary: width of its part with positions; that of the keys is shared by all heads.
        value: width of a value head.
    """

    query_rank: int = 0
    key_value_rank: int = 0
    plain: int = 0
    rotary: int = 0
    value: int = 0

    def __post_init__(self) -> None:
        if self.key_value_rank and min(self.plain, self.rotary, self.value) < 1:
            raise BadInput(
                f"latent attention with plain {self.plain}, rotary {self.rotary}, value {self.value}: "
                "each is the width of a head and must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of gated feed-forward parts (DeepSeekMoE, arXiv 2401.06066, section 3).

    Attributes:
        count: routed experts; 0: none.
        top_k: experts that see a token.
        ffn: inner width of one expert.
        shared: experts that see every token, run as one of shared times the width.
        dense_layers: layers at the start that have no experts.
        dense_also: indices of further layers without experts.
        imbalance: tokens of the busiest rank over the mean; 1 where the router is balanced by force.
    """

    count: int = 0
    top_k: int = 0
    ffn: int = 0
    shared: int = 0
    dense_layers: int = 0
    dense_also: tuple[int, ...] = ()
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        if self.count and not 1 <= self.top_k <= self.count:
            raise BadInput(f"top_k {self.top_k} of {self.count} experts: it must be between 1 and {self.count}")
        if self.imbalance < 1.0:
            raise BadInput(f"imbalance {self.imbalance:g}: the busiest rank has at least the mean, give 1 or more")


DIRECT = LatentAttention()
"""No compression."""

DENSE = Experts()
"""No mixture."""
