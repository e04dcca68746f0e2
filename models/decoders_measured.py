"""The decoder of a measured run: from the shape that a row prints to a config and its graph.

What a row does not print follows from what it does: a gated feed-forward part means the Llama family, grouped keys
without one Nemotron's, the rest GPT's; whether the projection is the embedding follows from the parameters printed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from nebula.cost_model.execution import Execution
from nebula.cost_model.runs.case import Described
from nebula.cost_model.runs.schema import Row
from nebula.graph.values import DistributedGraph
from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import DENSE, DIRECT, Experts, LatentAttention
from nebula.models.describe import decoder_graph

SOME_VOCABULARY = 1024
"""Entries where a row of one layer does not say; only its embedding and head depend on it."""


def described_run(row: Row, execution: Execution) -> Described:
    """The whole model of a row.

    Raises:
        BadInput: no decoder has such a shape.
    """
    config = config_of(row, execution)
    graph = _graph(row.model or "model", config, execution.compute_dtype)
    shared = config.vocabulary * config.hidden
    if is_tied(row, graph.parameter_count, shared):
        graph = _graph(row.model or "model", replace(config, tied=True), execution.compute_dtype)
    return Described(graph=graph, printed_parameters=printed_parameters(row))


@lru_cache(maxsize=256)
def _graph(name: str, config: DecoderConfig, dtype: str) -> DistributedGraph:
    return decoder_graph(name, config, dtype)


def config_of(row: Row, execution: Execution) -> DecoderConfig:
    """The config of a row as that execution computes it.

    Raises:
        BadInput: as described_run.
    """
    kv_heads = row.kv_heads or row.heads
    grouped = kv_heads < row.heads
    if row.tp % kv_heads == 0:
        # fewer key heads than ranks: each rank has a copy of one
        kv_heads = row.tp
    text = row.attention.lower()
    window = re.search(r"window[^0-9]*([0-9]+)", text)
    return DecoderConfig(
        style="llama" if row.gated_mlp else "nemotron" if grouped else "gpt",
        layers=row.layers,
        hidden=row.hidden,
        heads=row.heads,
        kv_heads=kv_heads,
        ffn=row.ffn_hidden,
        vocabulary=_padded(row.vocab or SOME_VOCABULARY, row.tp),
        seq_len=row.seq_len,
        head_width=row.head_dim or 0,
        causal=not re.search(r"bidirectional|encoder|bert|non-?causal", text),
        fused_attention=execution.attention > 0,
        dropout=execution.dropout,
        window=int(window[1]) if window else 0,
        window_every=2 if "alternat" in text else 1,
        latent=_latent(row.attention),
        experts=_experts(row),
        float_logits=execution.float_logits,
    )


def _padded(vocabulary: int, tensor: int) -> int:
    """Entries as Megatron pads them where ranks could not share them evenly: to a multiple of 128 on each rank."""
    each = 128 * tensor
    return vocabulary if vocabulary % tensor == 0 else -(-vocabulary // each) * each


def _latent(text: str) -> LatentAttention:
    """From a text as `MLA(q_lora 1536, kv_lora 512, nope 128, rope 64, v 128)`."""
    if "mla" not in text.lower():
        return DIRECT
    numbers = {name: int(n) for name, n in re.findall(r"([a-z_]+)\s*[=: ]\s*([0-9]+)", text.lower())}
    return LatentAttention(
        query_rank=numbers.get("q_lora", 0),
        key_value_rank=numbers.get("kv_lora", 512),
        plain=numbers.get("nope", 128),
        rotary=numbers.get("rope", 64),
        value=numbers.get("v", 128),
    )


def _experts(row: Row) -> Experts:
    if row.moe is None:
        return DENSE
    return Experts(
        count=row.moe.experts,
        top_k=row.moe.top_k,
        ffn=row.moe.moe_ffn,
        shared=row.moe.shared_experts,
        dense_layers=min(row.moe.dense_layers, row.layers),
        imbalance=row.moe.imbalance,
    )


def printed_parameters(row: Row) -> float:
    """The parameters that the source gives, as a count or in the model's name (`gpt-3.6b`); 0 when it gives none.

    A name says nothing of a model of which only some layers were run.
    """
    if row.param_count:
        return row.param_count
    trimmed = re.search(
        r"trimmed|proxy|one[- ]layer|\([0-9]+ layers\)", f"{row.model} {row.notes} {row.assumptions}", re.I
    )
    if trimmed or not row.is_step or row.moe:
        return 0.0
    named = re.search(r"(?<![0-9x.])([0-9]+(?:\.[0-9]+)?)\s*([mbt])(?![a-z0-9])", row.model, re.I)
    return float(named[1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[named[2].lower()] if named else 0.0


def is_tied(row: Row, whole: int, shared: int) -> bool:
    """Whether the projection to the vocabulary is the embedding: as the row says, its parameters tell, or GPT does.

    Args:
        row: the run.
        whole: parameters of its model when they are apart.
        shared: of the projection.
    """
    said = next((v for k, v in (row.model_extra or {}).items() if k.startswith("tie")), None)
    if said is not None:
        return bool(said)
    printed = printed_parameters(row)
    usual = not row.gated_mlp and (row.kv_heads or row.heads) == row.heads
    # a figure tells where the two counts differ by more than its own digits
    if printed and shared > 0.02 * whole:
        return abs(whole - shared - printed) < abs(whole - printed)
    return usual
