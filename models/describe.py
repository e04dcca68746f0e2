"""The distributed graph of a built-in model by name, written down rather than traced: no Paddle, milliseconds.

Answers for the ERNIE 3.0 family and for decoders, dense or with experts; the loss stands in the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nebula.errors import BadInput, closest
from nebula.graph.rows import with_rows
from nebula.graph.rules import is_float
from nebula.graph.values import DTYPE_BYTES, Block, DistributedGraph
from nebula.models.config import ErnieConfig
from nebula.models.decoders import DECODER_SPLITS, DecoderConfig
from nebula.models.decoders_presets import DECODERS
from nebula.models.describe_decoder import DecoderBlocks
from nebula.models.describe_ernie import ErnieBlocks
from nebula.models.presets import PRESETS
from nebula.models.splits import ERNIE_SPLITS


def names() -> tuple[str, ...]:
    """All presets that `graph` knows."""
    return (*PRESETS, *DECODERS)


def remembers(preset: str) -> bool:
    """Whether a preset keeps a recurrence memory between steps."""
    return preset in PRESETS and bool(PRESETS[preset].memory_length)


def graph(preset: str, *, seq_len: int | None = None, dtype: str = "bfloat16") -> DistributedGraph:
    """The graph of a preset for micro-batches of one row.

    Args:
        preset: one of `names()`.
        seq_len: tokens of a sequence in place of the preset's own.
        dtype: of parameters and activations.

    Raises:
        BadInput: no preset has that name, or the length or dtype does not fit.
    """
    if dtype not in DTYPE_BYTES or not is_float(dtype):
        raise BadInput(f"dtype {dtype!r} is no floating dtype: use float32, bfloat16 or float16")
    if preset in PRESETS:
        return ernie_graph(preset, _with_length(PRESETS[preset], seq_len), dtype)
    if preset in DECODERS:
        config = DECODERS[preset]
        return decoder_graph(preset, replace(config, seq_len=seq_len) if seq_len else config, dtype)
    raise BadInput(f"model preset {preset!r} is unknown: {closest(preset, names())}")


def _with_length(config: ErnieConfig, seq_len: int | None) -> ErnieConfig:
    """The config at another length; a memory longer than a sequence is cut to it."""
    if not seq_len:
        return config
    return replace(config, seq_len=seq_len, memory_length=min(config.memory_length, seq_len))


def shape_graph(name: str, config: ErnieConfig | DecoderConfig, dtype: str) -> DistributedGraph:
    """The graph of a config of either kind."""
    return ernie_graph(name, config, dtype) if isinstance(config, ErnieConfig) else decoder_graph(name, config, dtype)


def ernie_graph(name: str, config: ErnieConfig, dtype: str) -> DistributedGraph:
    """The chain of ernie.py with its loss: embedding, universal layers, entry, task layers, head."""
    make = ErnieBlocks(config=config, dtype=dtype)
    both = min(config.nlu.layers, config.nlg.layers)
    tasks = [make.task(0 if i < both else i) for i in sorted({0, both} & set(range(config.task_layers)))]
    chain = [
        ("embedding", make.embedding()),
        *[(f"universal.{i}", block) for block in [make.universal()] for i in range(config.universal.layers)],
        ("entry", make.entry()),
        *[(f"task.{i}", tasks[0 if i < both or both == 0 else 1]) for i in range(config.task_layers)],
        ("head", make.head()),
    ]
    return _chained(name, chain, 2 * config.seq_len, ERNIE_SPLITS)


def decoder_graph(name: str, config: DecoderConfig, dtype: str) -> DistributedGraph:
    """Embedding, layers, head; layers that are alike share one block."""
    make = DecoderBlocks(config=config, dtype=dtype)
    kinds = [(config.window_of(i), config.has_experts(i)) for i in range(config.layers)]
    layers = {kind: make.layer(kind[0], mixed=kind[1]) for kind in dict.fromkeys(kinds)}
    chain = [
        ("embedding", make.embedding()),
        *[(f"decoder.{i}", layers[kind]) for i, kind in enumerate(kinds)],
        ("head", make.head()),
    ]
    tied = config.vocabulary * config.hidden if config.tied else 0
    return _chained(name, chain, config.seq_len, DECODER_SPLITS, tied)


def _chained(
    name: str,
    chain: Sequence[tuple[str, Block]],
    tokens_per_row: int,
    splits: tuple[tuple[str, str], ...],
    tied_elements: int = 0,
) -> DistributedGraph:
    """The graph of named blocks in a row, equal ones (the same object) held once."""
    blocks = list({id(block): block for _, block in chain}.values())
    places = {id(block): i for i, block in enumerate(blocks)}
    folded = DistributedGraph(
        name=name,
        blocks=tuple(blocks),
        layers=tuple(places[id(block)] for _, block in chain),
        layer_names=tuple(layer for layer, _ in chain),
        rows=blocks[0].rows,
        tokens_per_row=tokens_per_row,
        splits=splits,
        tied_elements=tied_elements,
    )
    return with_rows(folded, 1)
