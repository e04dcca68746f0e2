"""How well a model predicts a chapter it never saw, beside what counting tokens alone would reach.

Both are nats per token over the same tokens: the document language model's, and the cross-entropy of the training
text's unigram with one added to every count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nebula.errors import BadInput
from nebula.models.data.corpus import HELD_OUT
from nebula.models.data.encoded import EncodedCorpus
from nebula.models.data.masking import IGNORED
from nebula.models.data.tokenizer import PAD

Ids = npt.NDArray[np.int64]
DocumentNats = Callable[[Ids, Ids], float]
"""(ids, labels), each [rows, 2, S] -> sum of the nats of all labels that are not IGNORED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One held-out chapter, predicted.

    Attributes:
        chapter: its number, from 1.
        tokens: how many were predicted.
        document_nats: nats per token of the document language model.
        unigram_nats: cross-entropy of the training unigram on the same tokens, nats per token.
    """

    chapter: int
    tokens: int
    document_nats: float
    unigram_nats: float

    @property
    def learned(self) -> bool:
        """Whether the model predicts better than token frequencies do."""
        return self.document_nats < self.unigram_nats

    def __str__(self) -> str:
        return (
            f"held-out chapter {self.chapter}, {self.tokens} tokens: document LM {self.document_nats:.3f} "
            f"nats per token, training unigram {self.unigram_nats:.3f}"
        )


def unigram_nats(training: npt.NDArray[np.integer], targets: npt.NDArray[np.integer], vocabulary: int) -> float:
    """Cross-entropy of `targets` under the token frequencies of `training`, one added to each, in nats per token.

    >>> round(unigram_nats(np.array([0, 0, 1]), np.array([0, 1]), 2), 4)  # -ln(3/5 * 2/5) / 2
    0.7136
    """
    counts = np.bincount(training, minlength=vocabulary) + 1
    return float(np.log(counts.sum()) - np.log(counts[targets]).mean())


def segments(tokens: npt.NDArray[np.integer], seq_len: int, rows: int) -> Iterator[tuple[Ids, Ids]]:
    """A text as batches of at most `rows` rows: ids and labels [rows, 2, S], document labels only.

    The masked half shows the same text without targets; the last segment is padded.
    """
    count = -(-(len(tokens) - 1) // seq_len)
    inputs = np.full((count, seq_len), PAD, dtype=np.int64)
    labels = np.full((count, seq_len), IGNORED, dtype=np.int64)
    inputs.ravel()[: len(tokens) - 1] = tokens[:-1]
    labels.ravel()[: len(tokens) - 1] = tokens[1:]
    for first in range(0, count, rows):
        ids, targets = inputs[first : first + rows], labels[first : first + rows]
        yield np.stack([ids, ids], axis=1), np.stack([np.full_like(targets, IGNORED), targets], axis=1)


def evaluate(
    document_nats: DocumentNats, corpus: EncodedCorpus, *, seq_len: int, chapter: int = HELD_OUT[1], rows: int = 8
) -> Evaluation:
    """Predicts one held-out chapter.

    Args:
        document_nats: the model, as `objectives.document_nats` makes it, or as a pipeline runs it.
        corpus: the text.
        seq_len: S.
        chapter: one of `data.corpus.HELD_OUT`.
        rows: rows of one call.

    Raises:
        BadInput: the chapter was trained on.
    """
    if chapter not in corpus.held_out:
        raise BadInput(f"chapter {chapter} is not held out: choose one of {', '.join(map(str, corpus.held_out))}")
    tokens = corpus.held_out[chapter]
    nats = sum(document_nats(ids, labels) for ids, labels in segments(tokens, seq_len, rows))
    return Evaluation(
        chapter=chapter,
        tokens=len(tokens) - 1,
        document_nats=nats / (len(tokens) - 1),
        unigram_nats=unigram_nats(corpus.tokens, tokens[1:], corpus.tokenizer.vocabulary),
    )
