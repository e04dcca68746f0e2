"""Text to token ids and back: a SentencePiece model trained on the training chapters.

Training is deterministic (one thread, all text, fixed options), so that every machine gets the same ids. SentencePiece
(Apache-2.0, 2 MB, no dependencies) is what ERNIE's own multilingual tokenizers use.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from nebula.errors import BadInput

PAD, UNKNOWN, MASK, PARAGRAPH = 0, 1, 2, 3
"""Ids of padding, of a character that training never saw, of a masked token, of the end of a paragraph."""
FIRST_TEXT_ID = 4

OPTIONS: dict[str, Any] = {
    "model_type": "unigram",
    "character_coverage": 1.0,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "max_sentence_length": 1 << 16,
    "num_threads": 1,
    "pad_id": PAD,
    "unk_id": UNKNOWN,
    "bos_id": -1,
    "eos_id": -1,
    "control_symbols": ["[MASK]", "[PARAGRAPH]"],
    "minloglevel": 2,
}


def sentencepiece() -> Any:
    """The package.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import sentencepiece as package
    except ImportError as error:
        raise BadInput("the tokenizer needs sentencepiece: run `pip install 'paddle-nebula[text]'`") from error
    return package


def train(texts: Iterable[str], vocabulary: int) -> bytes:
    """A SentencePiece model of exactly `vocabulary` entries.

    Raises:
        BadInput: the text is too short for so many entries, or has more characters than that.
    """
    model = io.BytesIO()
    try:
        sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=vocabulary, **OPTIONS
        )
    except RuntimeError as error:
        raise BadInput(f"no tokenizer of {vocabulary} entries fits this text: {error}") from error
    return model.getvalue()


class Tokenizer:
    """A trained SentencePiece model."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece().SentencePieceProcessor(model_proto=model)

    @property
    def vocabulary(self) -> int:
        """How many entries, special ones included."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """The ids of a text without line breaks."""
        return list(self._processor.encode(text))

    def boundaries(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a text, and where each token ends, in characters.

        Nothing is normalized, so the surface pieces are as long as the text which they stand for.
        """
        pieces = self._processor.encode_as_pieces(text)
        return self.encode(text), list(itertools.accumulate(map(len, pieces)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; a paragraph's end becomes a line break, other special ids vanish."""
        text = ""
        run: list[int] = []
        for token in [*map(int, ids), PARAGRAPH]:
            if token == PARAGRAPH:
                text += self._processor.decode(run) + "\n"
                run = []
            elif token >= FIRST_TEXT_ID or token == UNKNOWN:
                run.append(token)
        return text[:-1]
