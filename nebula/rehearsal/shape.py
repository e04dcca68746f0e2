"""The same model, narrow: as many layers of each kind, heads and experts that divide by the degrees as theirs do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import lcm

from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.decoders import DecoderConfig
from nebula.plan.values import Plan

HEAD_DIM, HEADS, TOKENS, VOCABULARY, EXPERTS = 8, 4, 64, 8192, 8
"""Of the narrow model: width of a head, the fewest heads, the tokens of a sequence, entries of the tokenizer, the
fewest experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """By what a plan cuts the layers of its stages: all degrees that occur."""

    tensor: tuple[int, ...]
    context: tuple[int, ...]
    expert: tuple[int, ...]


def degrees_of(plan: Plan) -> Degrees:
    """Those of a plan."""
    return Degrees(
        tensor=tuple(sorted({len(r.ranks) // stage.context for stage in plan.stages for r in stage.replicas})),
        context=tuple(sorted({stage.context for stage in plan.stages})),
        expert=tuple(sorted({stage.expert for stage in plan.stages})),
    )


def narrow(config: ErnieConfig | DecoderConfig, degrees: Degrees) -> ErnieConfig | DecoderConfig:
    """The config at reduced width, without dropout.

    What a degree does not divide of the wide model it does not divide of the narrow one: modules and experts of which
    that holds stay whole, or are refused.
    """
    return _ernie(config, degrees) if isinstance(config, ErnieConfig) else _decoder(config, degrees)


def _ernie(config: ErnieConfig, degrees: Degrees) -> ErnieConfig:
    tensor = degrees.tensor
    universal, nlu, nlg = (_heads(module.heads, tensor) for module in (config.universal, config.nlu, config.nlg))
    task_hidden, seq_len = HEAD_DIM * lcm(nlu, nlg), _tokens(config.seq_len, degrees)
    return replace(
        config,
        universal=_module(config.universal, universal, HEAD_DIM * universal, tensor),
        nlu=_module(config.nlu, nlu, task_hidden, tensor),
        nlg=_module(config.nlg, nlg, task_hidden, tensor),
        vocabulary=_multiple(VOCABULARY, tensor),
        seq_len=seq_len,
        memory_length=min(config.memory_length, seq_len // 4),
        max_distance=min(config.max_distance, seq_len),
        dropout=0.0,
    )


def _decoder(config: DecoderConfig, degrees: Degrees) -> DecoderConfig:
    # an exchange of positions for heads cuts them by both degrees
    cuts = sorted({t * c for t in degrees.tensor for c in degrees.context} | set(degrees.tensor))
    shared = _heads(config.kv_heads, cuts)
    heads = shared * min(2, config.heads // config.kv_heads)
    hidden, experts = HEAD_DIM * heads, config.experts
    if experts.count:
        count = _fewest(experts.count, min(EXPERTS, experts.count), degrees.expert)
        experts = replace(
            experts, count=count, top_k=min(experts.top_k, max(1, count // 4)), ffn=_multiple(2 * HEAD_DIM, cuts)
        )
    return replace(
        config,
        heads=heads,
        kv_heads=shared,
        hidden=hidden,
        head_width=0,
        ffn=_multiple(2 * hidden, cuts),
        vocabulary=_multiple(VOCABULARY, cuts),
        seq_len=_tokens(config.seq_len, degrees),
        experts=experts,
        fused_attention=False,
        dropout=0.0,
    )


def _tokens(most: int, degrees: Degrees) -> int:
    """Of a sequence: few, and dealt evenly to ranks that share it, two runs each."""
    each = 2 * lcm(*degrees.context) * lcm(*degrees.tensor) if max(degrees.context) > 1 else 1
    return min(most, _multiple(TOKENS, [each]))


def _heads(wide: int, degrees: Sequence[int]) -> int:
    """The fewest heads, of HEADS or more, that each degree divides if and only if it divides the wide model's."""
    return _fewest(wide, min(HEADS, wide), degrees)


def _fewest(wide: int, least: int, degrees: Sequence[int]) -> int:
    """The smallest number from `least` on that each degree divides if and only if it divides `wide`."""
    wanted = [wide % degree == 0 for degree in degrees]
    return next((n for n in range(least, wide) if [n % d == 0 for d in degrees] == wanted), wide)


def _module(module: ModuleConfig, heads: int, hidden: int, degrees: Iterable[int]) -> ModuleConfig:
    return replace(module, heads=heads, hidden=hidden, ffn=_multiple(2 * hidden, degrees))


def _multiple(size: int, degrees: Iterable[int]) -> int:
    """The smallest multiple of all degrees from a size on."""
    step = lcm(*degrees)
    return -(-size // step) * step
