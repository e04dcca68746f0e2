"""Built-in models at other widths: a preset with what is changed, in one word that a command line can carry.

`ernie-3.0-small?hidden=128,heads=2,seq_len=32`: what is not named stays as the preset has it.
"""

from __future__ import annotations

from dataclasses import replace

from nebula.graph.values import DistributedGraph
from nebula.models.config import ErnieConfig
from nebula.models.decoders import DecoderConfig
from nebula.models.describe import decoder_graph, ernie_graph
from nebula.models.presets import trained

OF_EXPERTS = ("count", "top_k")


def word(preset: str, **changes: int) -> str:
    """The preset with some numbers changed, in one word."""
    told = ",".join(f"{key}={value}" for key, value in changes.items())
    return f"{preset}?{told}" if told else preset


def config_of(name: str) -> ErnieConfig | DecoderConfig:
    """What a word says: `hidden`, `heads`, `ffn` of modules, `seq_len`, `vocabulary`; `count`, `top_k` of experts."""
    preset, _, told = name.partition("?")
    changes = {key: int(value) for key, value in (pair.split("=") for pair in told.split(",") if pair)}
    config = trained(preset)
    if isinstance(config, DecoderConfig):
        experts = {key: changes.pop(key) for key in OF_EXPERTS if key in changes}
        if "heads" in changes:
            changes["kv_heads"] = changes["heads"]
        return replace(config, **changes, experts=replace(config.experts, **experts))
    inner = {key: changes.pop(key) for key in ("hidden", "heads", "ffn") if key in changes}
    modules = {part: replace(getattr(config, part), **inner) for part in ("universal", "nlu", "nlg")}
    return replace(config, **changes, **modules)


def graph_of(name: str) -> DistributedGraph:
    """The graph of what a word says, in float32."""
    config = config_of(name)
    make = decoder_graph if isinstance(config, DecoderConfig) else ernie_graph
    return make(name, config, "float32")
