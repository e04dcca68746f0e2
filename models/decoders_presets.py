"""Decoders by name: which published figures they have, and which of ours fill the gaps.

Each constant names its source; multi-token prediction is left out everywhere. The length of a row is the one that the
bulk of pre-training had, not the longest context; `model.seq_len` changes it. `ernie-5.0-like-1t` is nobody's model.
"""

from __future__ import annotations

from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts, LatentAttention

GPT3_175B = DecoderConfig(
    style="gpt",
    layers=96,
    hidden=12_288,
    heads=96,
    kv_heads=96,
    ffn=49_152,
    vocabulary=51_200,
    seq_len=2048,
)
"""Brown et al. 2020 (arXiv 2005.14165), table 2.1; the vocabulary of 50,257 is padded to a multiple of 1,024, so that
tensor ranks can share it."""


def _llama3(layers: int, hidden: int, heads: int, ffn: int) -> DecoderConfig:
    """Grattafiori et al. 2024 (arXiv 2407.21783), table 3, with the vocabulary and 8 key-value heads given there."""
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


ERNIE_45_21B_A3B = DecoderConfig(
    style="llama",
    layers=28,
    hidden=2560,
    heads=20,
    kv_heads=4,
    ffn=12_288,
    vocabulary=103_424,
    seq_len=4096,
    experts=Experts(count=64, top_k=6, ffn=1536, shared=2, dense_layers=1),
    tied=True,
)
"""The text model of the ERNIE 4.5 technical report (Baidu 2025, table of models) with the widths of the config.json of
baidu/ERNIE-4.5-21B-A3B-Base-PT; rows as in PaddlePaddle/ERNIE, examples/pre-training/model_configs."""

ERNIE_45_300B_A47B = DecoderConfig(
    style="llama",
    layers=54,
    hidden=8192,
    heads=64,
    kv_heads=8,
    ffn=28_672,
    vocabulary=103_424,
    seq_len=4096,
    experts=Experts(count=64, top_k=8, ffn=3584, dense_layers=3),
)
"""As ERNIE_45_21B_A3B, from baidu/ERNIE-4.5-300B-A47B-Base-PT: no shared experts, and the projection has its own
weights."""

ERNIE_50_LIKE_1T = DecoderConfig(
    style="llama",
    layers=64,
    hidden=8192,
    heads=64,
    kv_heads=8,
    ffn=28_672,
    vocabulary=103_424,
    seq_len=4096,
    experts=Experts(count=256, top_k=8, ffn=2560, shared=1, dense_layers=3),
)
"""Made up here: ERNIE-4.5-300B-A47B with finer experts, four times as many and one shared, sized to 1.0e12 parameters,
of which a token meets 5 %. Baidu has not published the shape of ERNIE 5.0, and this is none of its figures."""

DEEPSEEK_V3 = DecoderConfig(
    style="llama",
    layers=61,
    hidden=7168,
    heads=128,
    kv_heads=128,
    ffn=18_432,
    vocabulary=129_280,
    seq_len=4096,
    latent=LatentAttention(query_rank=1536, key_value_rank=512, plain=128, rotary=64, value=128),
    experts=Experts(count=256, top_k=8, ffn=2048, shared=1, dense_layers=3),
)
"""DeepSeek-V3 technical report (arXiv 2412.19437), section 4.2; the dense width and the vocabulary are those of the
config.json of deepseek-ai/DeepSeek-V3."""

QWEN3_235B_A22B = DecoderConfig(
    style="llama",
    layers=94,
    hidden=4096,
    heads=64,
    kv_heads=4,
    ffn=12_288,
    vocabulary=151_936,
    seq_len=4096,
    head_width=128,
    query_key_norm=True,
    experts=Experts(count=128, top_k=8, ffn=1536),
)
"""Qwen3 technical report (arXiv 2505.09388), tables 1 and 2 and section 3.2, with the widths of the config.json of
Qwen/Qwen3-235B-A22B; every layer has experts, so that `ffn` is not used."""

ERNIE_45_SMALL = DecoderConfig(
    style="llama",
    layers=4,
    hidden=256,
    heads=4,
    kv_heads=4,
    ffn=512,
    vocabulary=8192,
    seq_len=128,
    fused_attention=False,
    fused_norms=False,
    experts=Experts(count=8, top_k=2, ffn=256, shared=1, dense_layers=1),
)
"""Made up here in the manner of ERNIE 4.5, so small that it trains on a laptop; its layers stand in decoder.py."""

DECODERS: dict[str, DecoderConfig] = {
    "gpt3-175b": GPT3_175B,
    "llama3-8b": _llama3(32, 4096, 32, 14_336),
    "llama3-70b": _llama3(80, 8192, 64, 28_672),
    "llama3-405b": _llama3(126, 16_384, 128, 53_248),
    "ernie-4.5-small": ERNIE_45_SMALL,
    "ernie-4.5-21b-a3b": ERNIE_45_21B_A3B,
    "ernie-4.5-300b-a47b": ERNIE_45_300B_A47B,
    "ernie-5.0-like-1t": ERNIE_50_LIKE_1T,
    "deepseek-v3": DEEPSEEK_V3,
    "qwen3-235b-a22b": QWEN3_235B_A22B,
}
"""All of them, as `model.preset` names them."""
