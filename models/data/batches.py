"""Batches as a function of (seed, step, row): any rank makes exactly its rows, in any order, on any layout.

Row r of a global batch of B rows reads the r-th B-th of the text as its document, one segment a step, so that a
recurrence memory always holds what precedes. Its masked sequence starts anywhere in the training text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nebula.errors import BadInput
from nebula.models.config import ErnieConfig
from nebula.models.data.encoded import EncodedCorpus, encoded_corpus
from nebula.models.data.masking import mask
from nebula.models.decoders import DecoderConfig

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The training data of one run.

    Attributes:
        corpus: the text as ids.
        seq_len: S.
        global_batch: rows of a whole step, B.
        seed: decides what is masked.
    """

    corpus: EncodedCorpus
    seq_len: int
    global_batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise BadInput(f"global_batch {self.global_batch}: a step needs at least one row")
        if self.stride <= self.seq_len:
            raise BadInput(
                f"{len(self.corpus.tokens)} tokens / global_batch {self.global_batch} = {self.stride} per row, "
                f"not above seq_len {self.seq_len}: use fewer rows or shorter sequences"
            )

    @property
    def stride(self) -> int:
        """Tokens between the documents of neighbouring rows."""
        return len(self.corpus.tokens) // self.global_batch

    def batch(self, step: int, rows: Sequence[int]) -> tuple[Ids, Ids]:
        """Input ids and labels of some rows of a step's global batch.

        Args:
            step: from 0.
            rows: of 0..global_batch.

        Returns:
            ids [rows, 2, S] and labels [rows, 2, S]: masked sequence, then document.
        """
        self._check(rows)
        pairs = [(self._masked(step, row), self._document(step, row)) for row in rows]
        shape = (len(rows), 2, self.seq_len)
        ids = np.array([[masked[0], document[0]] for masked, document in pairs], dtype=np.int64)
        labels = np.array([[masked[1], document[1]] for masked, document in pairs], dtype=np.int64)
        return ids.reshape(shape), labels.reshape(shape)

    def documents(self, step: int, rows: Sequence[int]) -> tuple[Ids, Ids]:
        """The documents of these rows alone: ids and labels, each [rows, S]."""
        self._check(rows)
        found = [self._document(step, row) for row in rows]
        ids, labels = (np.array([pair[i] for pair in found], dtype=np.int64) for i in (0, 1))
        return ids.reshape(-1, self.seq_len), labels.reshape(-1, self.seq_len)

    def _check(self, rows: Sequence[int]) -> None:
        if len(rows) and not 0 <= min(rows) <= max(rows) < self.global_batch:
            raise BadInput(f"rows {rows} are not within 0..{self.global_batch - 1}")

    def _masked(self, step: int, row: int) -> tuple[Ids, Ids]:
        """A sequence from anywhere, with entities, phrases and words hidden."""
        rng = np.random.default_rng([self.seed, step, row])
        start = int(rng.integers(0, len(self.corpus.tokens) - self.seq_len))
        here = slice(start, start + self.seq_len)
        source = self.corpus
        return mask(source.tokens[here], source.unit[here], source.kind[here], source.tokenizer.vocabulary, rng)

    def _document(self, step: int, row: int) -> tuple[Ids, Ids]:
        """The row's next segment, and the token that follows each of its tokens; at the end of the text it wraps."""
        start = row * self.stride + step * self.seq_len
        text = self.corpus.tokens.take(np.arange(start, start + self.seq_len + 1), mode="wrap").astype(np.int64)
        return text[:-1], text[1:]


def batches(config: ErnieConfig | DecoderConfig, *, global_batch: int, seed: int = 0) -> Batches:
    """The training data for a config, on the corpus of `data.corpus`; builds its cache on first use."""
    return Batches(
        corpus=encoded_corpus(config.vocabulary), seq_len=config.seq_len, global_batch=global_batch, seed=seed
    )
