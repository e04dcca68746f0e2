"""Which tokens of a sequence are hidden for knowledge-masked language modelling, and what stands in their place.

Whole units (entities, phrases, words) are hidden, as in ERNIE (arXiv 1904.09223, section 3.2); the number of hidden
tokens is fixed, so that every row weighs the same in the loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nebula.models.config import masked_count
from nebula.models.data.spans import Kind
from nebula.models.data.tokenizer import FIRST_TEXT_ID, MASK

IGNORED = -100
"""Label of a position that is not predicted."""
KNOWLEDGE_SHARE = 0.5
"""Part of the hidden tokens that is drawn from entities and phrases first, as far as the sequence has them."""
KEEP, RANDOM = 0.1, 0.1
"""Units left as they are, and units replaced by random tokens; the rest shows [MASK] (BERT: 10, 10, 80 %)."""

Ints = npt.NDArray[np.integer]


def hidden_units(unit: Ints, kind: Ints, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    """Positions to hide, unit by unit, round(0.15 S) in all.

    Args:
        unit: [S] number of the unit of each token, non-decreasing.
        kind: [S] `Kind` of that unit.
        rng: decides.

    Returns:
        One array of positions per unit. If no remaining unit fits into what is left, the last one is a part of a unit.
    """
    left = masked_count(len(unit))
    starts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
    pieces = [np.arange(a, b) for a, b in zip(starts, np.r_[starts[1:], len(unit)], strict=True)]
    order = [int(i) for i in rng.permutation(len(pieces))]
    known = [i for i in order if kind[starts[i]] >= Kind.PHRASE]
    from_knowledge = round(KNOWLEDGE_SHARE * left)
    chosen: list[int] = []
    for candidates, floor in ((known, left - from_knowledge), (order, 0)):
        for i in candidates:
            if i not in chosen and len(pieces[i]) <= left - floor:
                chosen.append(i)
                left -= len(pieces[i])
    found = [pieces[i] for i in chosen]
    if left:
        rest = next(pieces[i] for i in order if i not in chosen)
        found.append(rest[:left])
    return found


def mask(
    tokens: Ints, unit: Ints, kind: Ints, vocabulary: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hides round(0.15 S) tokens of one sequence.

    Args:
        tokens: [S] ids.
        unit: [S] as in `hidden_units`, like `kind`.
        kind: [S].
        vocabulary: random replacements come from it, special ids apart.
        rng: decides.

    Returns:
        Input ids and labels, each [S]; labels are IGNORED where nothing is hidden.
    """
    ids = np.array(tokens, dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    for positions in hidden_units(unit, kind, rng):
        labels[positions] = tokens[positions]
        draw = rng.random()
        if draw < RANDOM:
            ids[positions] = rng.integers(FIRST_TEXT_ID, vocabulary, len(positions))
        elif draw >= RANDOM + KEEP:
            ids[positions] = MASK
    return ids, labels
