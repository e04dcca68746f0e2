"""The same ERNIE model, narrow: as many layers of each module, and heads that divide by the degrees as theirs do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import lcm

from nebula.models.config import ErnieConfig, ModuleConfig

HEAD_DIM, HEADS, TOKENS, VOCABULARY = 8, 4, 64, 8192
"""Of the narrow model: width of a head, the fewest heads, the most tokens of a sequence, entries of the tokenizer."""


def narrow(config: ErnieConfig, tensor: Iterable[int]) -> ErnieConfig:
    """The config at reduced width, without dropout.

    Args:
        tensor: all tensor degrees of the plan. A module whose heads a degree does not divide keeps that property, for
            such a module stays whole in its tensor groups.
    """
    degrees = sorted(set(tensor))
    universal, nlu, nlg = (_heads(module, degrees) for module in (config.universal, config.nlu, config.nlg))
    task_hidden, seq_len = HEAD_DIM * lcm(nlu, nlg), min(config.seq_len, TOKENS)
    return replace(
        config,
        universal=_module(config.universal, universal, HEAD_DIM * universal, degrees),
        nlu=_module(config.nlu, nlu, task_hidden, degrees),
        nlg=_module(config.nlg, nlg, task_hidden, degrees),
        vocabulary=_multiple(VOCABULARY, degrees),
        seq_len=seq_len,
        memory_length=min(config.memory_length, seq_len // 4),
        max_distance=min(config.max_distance, seq_len),
        dropout=0.0,
    )


def _heads(module: ModuleConfig, degrees: Iterable[int]) -> int:
    """The fewest heads, of HEADS or more, that each degree divides if and only if it divides the module's own."""
    degrees = list(degrees)
    wanted = [module.heads % degree == 0 for degree in degrees]
    return next(
        (n for n in range(min(HEADS, module.heads), module.heads) if [n % d == 0 for d in degrees] == wanted),
        module.heads,
    )


def _module(module: ModuleConfig, heads: int, hidden: int, degrees: Iterable[int]) -> ModuleConfig:
    return replace(module, heads=heads, hidden=hidden, ffn=_multiple(2 * hidden, degrees))


def _multiple(size: int, degrees: Iterable[int]) -> int:
    """The smallest multiple of all degrees from a size on."""
    step = lcm(*degrees)
    return -(-size // step) * step
