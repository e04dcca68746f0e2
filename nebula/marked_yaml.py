"""Files that people write: YAML whose every key knows its line and column.

An error is one sentence that says what is wrong, where and what to do, above the line with a caret. JSON is read the
same way, being YAML. Whether the keys are the right ones asks validation.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nebula.errors import BadInput, closest

Keys = tuple[str | int, ...]
"""The way from the top of a document to one of its nodes: keys of mappings and indices of lists."""

_WIDTH = 110
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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

    def fault(self, way: Keys, sentence: str) -> BadInput:
        """The error that says `sentence` at the place of `way`."""
        mark = self.mark(way)
        return BadInput(f"{mark}: {sentence}{mark.caret}")


def read(path: Path) -> Document:
    """The document in a file.

    Raises:
        BadInput: the file is missing, unreadable or no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = closest(path.name, beside) if beside else f"the folder {path.parent} has no YAML file"
        raise BadInput(f"{path}: there is no such file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadInput(f"{path}: cannot be read: {reason}") from None
    return parse(text, str(path), path.parent)


def parse(text: str, source: str, folder: Path = Path()) -> Document:
    """The document in a text.

    Raises:
        BadInput: no YAML, or a key that stands twice in one mapping.
    """
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _syntax(error, text, source) from None
    lines = text.splitlines()
    first = Mark(source, 1, 0, 1, lines[0]) if lines else Mark(source, 0, 0, 0, "")
    if root is None:
        return Document(value=None, source=source, marks={(): first}, folder=folder)
    marks = {(): first} | {way: _mark(node, source, lines) for way, node in _walk(root, (), source, lines)}
    loader = _LOADER("")
    try:
        value = loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{source}: {error}") from None
    finally:
        loader.dispose()
    return Document(value=value, source=source, marks=marks, folder=folder)


def plain(value: Mapping[str, Any], source: str) -> Document:
    """A document of data that was never written as text."""
    return Document(value=value, source=source, marks={}, folder=Path())


def _walk(node: yaml.Node, way: Keys, source: str, lines: list[str]) -> Iterator[tuple[Keys, yaml.Node]]:
    """Every key (for mappings) and item (for lists) with the way to it."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str | int, yaml.Node] = {}
        for key, item in node.value:
            name = int(key.value) if key.tag.endswith(":int") and key.value.isdecimal() else str(key.value)
            if name in seen:
                mark = _mark(key, source, lines)
                first = seen[name].start_mark.line + 1
                raise BadInput(f"{mark}: the key {name!r} stands in line {first} already; keep one{mark.caret}")
            seen[name] = key
            yield (*way, name), key
            yield from _walk(item, (*way, name), source, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*way, index), item
            yield from _walk(item, (*way, index), source, lines)


def _mark(node: yaml.Node, source: str, lines: list[str]) -> Mark:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if isinstance(node, yaml.ScalarNode) and end.line == start.line else 1
    return Mark(source, start.line + 1, start.column, length, lines[start.line] if start.line < len(lines) else "")


def _syntax(error: yaml.YAMLError, text: str, source: str) -> BadInput:
    place = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if place is None:
        return BadInput(f"{source}: not YAML: {problem}")
    lines = text.splitlines()
    line = min(place.line, len(lines) - 1)
    mark = Mark(source, line + 1, place.column if line == place.line else 0, 1, lines[line])
    return BadInput(f"{mark}: not YAML: {problem}; look for a missing bracket, quote or indent{mark.caret}")


def spell(way: Keys) -> str:
    """The way as people write it.

    Example:
        >>> spell(("nodes", 0, "intra"))
        'nodes[0].intra'
    """
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in way).removeprefix(".")
