"""Files that people write: YAML whose every key knows its line and column.

An error is one sentence that says what is wrong, where and what to do, above the line with a caret. JSON is read the
same way, being YAML. Whether the keys are the right ones asks validation.py. Refused are tags (`!...`), keys that are
neither text nor whole numbers, and what is larger or deeper than any file of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nebula.errors import BadInput, closest, shown

Keys = tuple[str | int, ...]
"""The way from the top of a document to one of its nodes: keys of mappings and indices of lists."""

MOST_BYTES = 64 * 2**20
"""A larger file is not read."""

MOST_LEVELS = 50
"""Deeper nesting is refused before PyYAML meets it, whose composer calls itself in C for each level."""

MOST_REPEATS = 10_000
"""Values that a document may have through aliases (`*name`); ten short lines can ask for a billion."""

_INDEX = re.compile(r"[0-9]{1,15}")
_WIDTH = 110
_NUMBER_TAG, _MERGE_TAG = "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge"
_KEY_TAGS = ("tag:yaml.org,2002:str", _NUMBER_TAG, _MERGE_TAG)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The fast safe loader, to which dates and `=` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class Mark(NamedTuple):
    """A place in a text: its source, the line (from 1; 0 when there is none), the column (from 0), the line's text."""

    source: str
    line: int
    column: int
    length: int
    text: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column + 1}" if self.line else self.source

    @property
    def caret(self) -> str:
        """The line with a caret below the place, cut to a readable width; empty without a text."""
        if not self.text:
            return ""
        cut = max(0, self.column + self.length + 20 - _WIDTH)
        shown = ("…" + self.text[cut + 1 :]) if cut else self.text
        shown = shown if len(shown) <= _WIDTH else shown[: _WIDTH - 1] + "…"
        number = f"{self.line} | " if self.line else "  "
        return f"\n  {number}{shown}\n  {' ' * (len(number) + self.column - cut)}{'^' * max(1, self.length)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data (dicts, lists, scalars) with the places it was written at.

    Attributes:
        marks: places of keys, list items and (under the key's own way) the top; empty for data without a text.
        source: the file, for people.
        folder: what relative paths inside it are relative to.
    """

    value: Any
    source: str
    marks: Mapping[Keys, Mark]
    folder: Path

    def at(self, *way: str | int) -> Document:
        """The part of the document below `way`."""
        value = self.value
        for key in way:
            value = value[key]
        n = len(way)
        marks = {keys[n:]: mark for keys, mark in self.marks.items() if keys[:n] == way}
        return Document(value=value, source=self.source, marks=marks, folder=self.folder)

    def mark(self, way: Keys) -> Mark:
        """The place of the node, or of the nearest one above that has a place."""
        for n in range(len(way), -1, -1):
            if way[:n] in self.marks:
                return self.marks[way[:n]]
        return Mark(self.source, 0, 0, 0, "")

    def fault(self, way: Keys, sentence: str, error: type[BadInput] = BadInput) -> BadInput:
        """The error, of that type, that says `sentence` at the place of `way`."""
        return _fault(self.mark(way), sentence, error)


def read(path: Path) -> Document:
    """The document in a file.

    Raises:
        BadInput: the file is missing, unreadable or no YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = closest(path.name, beside) if beside else f"the folder {path.parent} has no YAML file"
        raise BadInput(f"{path}: there is no such file; {hint}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: cannot be read: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise BadInput(f"{path}: larger than {MOST_BYTES // 2**20} MiB, which no file of this kind is")
    return parse(text, str(path), path.parent)


def parse(text: str, source: str, folder: Path = Path()) -> Document:
    """The document in a text.

    Raises:
        BadInput: no YAML, a key that stands twice in one mapping, or something that this reader refuses.
    """
    lines = text.splitlines()
    try:
        _check_events(text, source, lines)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax(error, text, source) from None
    except UnicodeEncodeError:
        raise BadInput(f"{source}: not YAML: a character that is not Unicode; remove it") from None
    first = Mark(source, 1, 0, 1, lines[0]) if lines else Mark(source, 0, 0, 0, "")
    if root is None:
        return Document(value=None, source=source, marks={(): first}, folder=folder)
    walk = _Walk(source, lines)
    marks = {(): first} | {way: walk.mark(node) for way, node in walk.below(root, ())}
    return Document(value=_constructed(root, walk), source=source, marks=marks, folder=folder)


def plain(value: Mapping[str, Any], source: str) -> Document:
    """A document of data that was never written as text."""
    return Document(value=value, source=source, marks={}, folder=Path())


def _check_events(text: str, source: str, lines: list[str]) -> None:
    """Refuses tags and deep nesting, before anything calls itself for each level."""
    level = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            level -= 1
        elif isinstance(event, yaml.CollectionStartEvent):
            level += 1
        if level > MOST_LEVELS:
            raise _fault(_mark(event, source, lines), f"nested deeper than {MOST_LEVELS} levels; nothing here is")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _fault(_mark(event, source, lines), f"the tag {shown(tag)} has no meaning here; leave it out")


class _Walk:
    """Goes through the nodes of a document, with the way to each."""

    def __init__(self, source: str, lines: list[str]) -> None:
        self.source, self.lines = source, lines
        self.seen: set[int] = set()
        self.repeats = 0

    def below(self, node: yaml.Node, way: Keys) -> Iterator[tuple[Keys, yaml.Node]]:
        """Every key (for mappings) and item (for lists) below a node with the way to it."""
        self._count(node, way)
        if isinstance(node, yaml.MappingNode):
            seen: dict[str | int, yaml.Node] = {}
            for key, item in node.value:
                name = self._name(key)
                if name in seen:
                    first = seen[name].start_mark.line + 1
                    raise _fault(self.mark(key), f"the key {shown(name)} stands in line {first} already; keep one")
                seen[name] = key
                yield (*way, name), key
                yield from self.below(item, (*way, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                yield (*way, index), item
                yield from self.below(item, (*way, index))

    def mark(self, node: yaml.Node) -> Mark:
        """The place of a node."""
        return _mark(node, self.source, self.lines)

    def _count(self, node: yaml.Node, way: Keys) -> None:
        """Refuses documents that aliases blow up, and aliases inside of what they name."""
        self.repeats += id(node) in self.seen
        self.seen.add(id(node))
        if self.repeats > MOST_REPEATS or len(way) > MOST_LEVELS:
            much = (
                f"aliases (*name) repeat more than {MOST_REPEATS:,} values, or an alias stands inside of what it names"
            )
            raise _fault(self.mark(node), f"{much}; write out what is meant")

    def _name(self, key: yaml.Node) -> str | int:
        if key.tag not in _KEY_TAGS:
            raise _fault(self.mark(key), "a key must be text or a whole number; put it in quotes")
        return int(key.value) if key.tag == _NUMBER_TAG and _INDEX.fullmatch(key.value) else str(key.value)


def _constructed(root: yaml.Node, walk: _Walk) -> Any:
    """The plain data of a document."""
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, "\n".join(walk.lines), walk.source) from None
    except ValueError:
        # PyYAML does not say where: a number of thousands of digits
        raise BadInput(f"{walk.source}: a number has more digits than can be read; write a shorter one") from None
    finally:
        loader.dispose()


def _fault(mark: Mark, sentence: str, error: type[BadInput] = BadInput) -> BadInput:
    return error(f"{mark}: {sentence}{mark.caret}")


def _mark(node: Any, source: str, lines: list[str]) -> Mark:
    start, end = node.start_mark, node.end_mark
    scalar = isinstance(node, yaml.ScalarNode | yaml.ScalarEvent)
    length = end.column - start.column if scalar and end.line == start.line else 1
    return Mark(source, start.line + 1, start.column, length, lines[start.line] if start.line < len(lines) else "")


def _syntax(error: yaml.YAMLError, text: str, source: str) -> BadInput:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return BadInput(f"{source}:{line}: not YAML: a character (code {code}) that no text has; remove it")
    place = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    lines = text.splitlines()
    if place is None or not lines:
        return BadInput(f"{source}: not YAML: {problem}")
    line = min(place.line, len(lines) - 1)
    mark = Mark(source, line + 1, place.column if line == place.line else 0, 1, lines[line])
    indent = mark.text[: len(mark.text) - len(mark.text.lstrip())]
    if "nesting depth" in problem:
        # PyYAML 6.0.4 has a limit of its own, which it meets while it scans, before any event
        return _fault(mark, f"nested deeper than {MOST_LEVELS} levels; nothing here is")
    remedy = "indent with spaces, not tabs" if "\t" in indent else "look for a missing bracket, quote or indent"
    return _fault(mark, f"not YAML: {problem}; {remedy}")


def spell(way: Keys) -> str:
    """The way as people write it.

    Example:
        >>> spell(("nodes", 0, "intra"))
        'nodes[0].intra'
    """
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in way).removeprefix(".")
