"""Decoders small enough to cut in milliseconds: grouped-query attention, latent attention, a mixture of experts."""

from dataclasses import replace

from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts, LatentAttention

GROUPED = DecoderConfig(style="llama", layers=1, hidden=32, heads=4, kv_heads=2, ffn=64, vocabulary=48, seq_len=16)
LATENT = LatentAttention(query_rank=24, key_value_rank=16, plain=8, rotary=4, value=6)
MIXED = replace(GROUPED, kv_heads=4, experts=Experts(count=8, top_k=2, ffn=24, shared=1))
