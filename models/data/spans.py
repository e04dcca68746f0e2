"""Which tokens belong together: entities, phrases and words of a text, as units of whole tokens.

Entity names are found first, the longest that fits; the text between them is cut into words by jieba with THUOCL added
to its dictionary, because that dictionary by itself holds pieces such as 玄德曰 ("Xuande said") as one word. A unit
ends where a word and a token end together, so it cuts neither.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nebula.errors import BadInput
from nebula.models.data import corpus

LONGEST_UNIT = 8
"""Tokens; a longer unit (misaligned words and tokens) falls apart into its tokens."""


class Kind(enum.IntEnum):
    """What a unit is."""

    OTHER = 0
    WORD = 1
    PHRASE = 2
    ENTITY = 3


@functools.cache
def segmenter() -> Any:
    """jieba's tokenizer with THUOCL added.

    Raises:
        BadInput: jieba is not installed.
    """
    try:
        import jieba
    except ImportError as error:
        raise BadInput("knowledge masking needs jieba: run `pip install 'paddle-nebula[text]'`") from error
    jieba.setLogLevel("ERROR")
    cutter = jieba.Tokenizer()
    for word in sorted(corpus.phrases()):
        cutter.add_word(word)
    return cutter


def entity_spans(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    """Where names stand, left to right, the longest at each place, as [first, last) characters.

    >>> entity_spans("关云长曰云", {"云长", "关云长", "长曰"})
    [(0, 3)]
    """
    longest = max(map(len, names), default=0)
    found, at = [], 0
    while at < len(text):
        fits = (end for end in range(min(at + longest, len(text)), at + 1, -1) if text[at:end] in names)
        end = next(fits, at)
        found += [(at, end)] if end > at else []
        at = max(end, at + 1)
    return found


def words(text: str) -> list[str]:
    """The text cut into words; joined they are the text."""
    cutter, found, at = segmenter(), [], 0
    for first, last in (*entity_spans(text, corpus.entities()), (len(text), len(text))):
        found += [*cutter.cut(text[at:first], HMM=False), text[first:last]]
        at = last
    return [word for word in found if word]


def kind_of(word: str) -> Kind:
    """What a word is by the lexicons."""
    if word in corpus.entities():
        return Kind.ENTITY
    if word in corpus.phrases():
        return Kind.PHRASE
    return Kind.WORD if len(word) > 1 else Kind.OTHER


def units(token_ends: Sequence[int], cut: Iterable[str]) -> list[tuple[int, Kind]]:
    """Groups tokens into units.

    Args:
        token_ends: where each token ends, in characters, increasing.
        cut: the words of the same text, in order.

    Returns:
        Token count and kind of each unit; the counts add up to the tokens. A unit of several words has the highest of
        their kinds.

    >>> units([2, 3, 4, 6], ["关羽", "曰善", "不可"])
    [(1, <Kind.ENTITY: 3>), (2, <Kind.WORD: 1>), (1, <Kind.WORD: 1>)]
    """
    cut = list(cut)
    kind_at = dict(zip(itertools.accumulate(map(len, cut)), map(kind_of, cut), strict=True))
    found: list[tuple[int, Kind]] = []
    word_ends, seen, tokens, kind = iter(kind_at.items()), 0, 0, Kind.OTHER
    for end in token_ends:
        tokens += 1
        while seen < end:
            seen, word_kind = next(word_ends)
            kind = max(kind, word_kind)
        if seen == end:
            found += [(tokens, kind)] if tokens <= LONGEST_UNIT else [(1, Kind.OTHER)] * tokens
            tokens, kind = 0, Kind.OTHER
    return found + [(1, Kind.OTHER)] * tokens
