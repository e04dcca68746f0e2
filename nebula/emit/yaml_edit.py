"""Sets values in somebody's YAML (or JSON) file and leaves every other byte as it is: comments, order, line ends.

A key is looked for in the top mapping and in the sections right below it. Only values that stand on one line and
belong to one key are changed; anchors, aliases, block lists and folded text are refused, for a change there would
reach further than the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from nebula import marked_yaml
from nebula.emit.values import Config
from nebula.errors import BadInput, shown

Value = bool | int | str | None | list[str]


class Change(NamedTuple):
    """A key that got another value; `before` is empty where the key was not there."""

    key: str
    before: str
    after: str


class _Edit(NamedTuple):
    """Characters from `first` to `last` become `text`."""

    first: int
    last: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A key with its value node, and the mapping that holds it."""

    home: yaml.MappingNode
    key: yaml.Node
    value: yaml.Node

    @property
    def empty(self) -> bool:
        """Whether nothing stands behind the colon."""
        return bool(self.value.start_mark.index == self.value.end_mark.index)


def keys_of(config: Config) -> frozenset[str]:
    """The keys of the top mapping and of the sections below it.

    Raises:
        BadInput: the text is no YAML mapping.
    """
    return frozenset(key.value for home in _homes(config) for key, _ in home.value)


def set_values(config: Config, values: Mapping[str, Value]) -> tuple[str, tuple[Change, ...]]:
    """The text with these values, and what changed in it.

    Keys that are missing are added below the last of the given keys that is there; where none is, at the end.

    Raises:
        BadInput: the text is no YAML mapping, a key stands in two sections, or a value cannot be changed by itself.
    """
    homes = _homes(config)
    found = {key: _find(config, homes, key) for key in values}
    edits, changes = [], []
    for key, place in found.items():
        if place is None:
            changes.append(Change(key, "", _written(values[key], flow=False)))
        elif not _says(place.value, values[key]):
            edits.append(_replacement(config, key, place, values[key]))
            changes.append(Change(key, _slice(config, place), _written(values[key], flow=False)))
    missing = [key for key, place in found.items() if place is None]
    if missing:
        edits.append(_addition(config, homes, [place for place in found.values() if place], missing, values))
    text = config.text
    for edit in sorted(edits, reverse=True):
        text = text[: edit.first] + edit.text + text[edit.last :]
    return text, tuple(changes)


def lines(values: Mapping[str, Value]) -> str:
    """The values as YAML of its own, a line each."""
    return "".join(f"{key}: {_written(value, flow=False)}\n" for key, value in values.items())


def _homes(config: Config) -> list[yaml.MappingNode]:
    """The top mapping and its sections."""
    marked_yaml.parse(config.text, config.source)
    # the loader in C counts bytes where this one counts characters
    root = yaml.compose(config.text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise BadInput(f"{config.source}: holds no mapping of keys to values; name the trainer's config file")
    sections = [value for _, value in root.value if isinstance(value, yaml.MappingNode)]
    # one that an alias names too is left alone: a change would reach further than its line
    return [root, *(section for section in sections if sum(section is other for other in sections) == 1)]


def _find(config: Config, homes: Sequence[yaml.MappingNode], name: str) -> _Found | None:
    found = [_Found(home=home, key=k, value=v) for home in homes for k, v in home.value if k.value == name]
    if len(found) > 1:
        numbers = " and ".join(map(str, sorted(place.key.start_mark.line + 1 for place in found)))
        raise BadInput(f"{config.source}: the key {name} stands in lines {numbers}; keep one")
    return found[0] if found else None


def _says(node: yaml.Node, value: Value) -> bool:
    """Whether the value is there already."""
    loader = yaml.SafeLoader("")
    try:
        there = loader.construct_document(node)
    except yaml.YAMLError:
        return False
    finally:
        loader.dispose()
    # 0 and 1 stand for false and true, not the other way round
    return bool(there == value) and (isinstance(value, bool) or not isinstance(there, bool))


def _replacement(config: Config, key: str, place: _Found, value: Value) -> _Edit:
    start, end = place.value.start_mark, place.value.end_mark
    text = _slice(config, place)
    if start.index < place.key.end_mark.index:
        raise _refusal(config, key, place, "is an alias (*name)")
    if text.startswith("&"):
        raise _refusal(config, key, place, "has an anchor (&name)")
    if start.line != end.line:
        raise _refusal(config, key, place, "stands on several lines")
    written = _written(value, flow=bool(place.home.flow_style))
    return _Edit(start.index, end.index, f" {written}" if place.empty else written)


def _refusal(config: Config, key: str, place: _Found, why: str) -> BadInput:
    line = place.key.start_mark.line + 1
    return BadInput(f"{config.source}:{line}: the value of {key} {why}; write it as a value of its own on one line")


def _slice(config: Config, place: _Found) -> str:
    return config.text[place.value.start_mark.index : place.value.end_mark.index]


def _addition(
    config: Config,
    homes: Sequence[yaml.MappingNode],
    found: Sequence[_Found],
    missing: Sequence[str],
    values: Mapping[str, Value],
) -> _Edit:
    """The missing keys behind the last found one of the section that holds most of them."""
    home = max(homes, key=lambda h: sum(place.home is h for place in found)) if found else homes[0]
    inside = [place for place in found if place.home is home and _on_one_line(place)]
    last = max(inside, key=lambda place: place.key.start_mark.index, default=None)
    if home.flow_style:
        return _flow_addition(config, last, missing, values)
    newline = "\r\n" if "\r\n" in config.text else "\n"
    indent = " " * home.start_mark.column
    added = [f"{indent}{key}: {_written(values[key], flow=False)}" for key in missing]
    at = _line_end(config.text, last.value.end_mark.index if last else home.end_mark.index)
    before = "" if at == 0 or config.text[:at].endswith("\n") else newline
    return _Edit(at, at, before + newline.join(added) + newline)


def _on_one_line(place: _Found) -> bool:
    """Whether the entry begins and ends on one line, so that another may follow below it."""
    first, last = place.key.start_mark, place.value.end_mark
    return bool(first.line == last.line and place.value.start_mark.index >= place.key.end_mark.index)


def _line_end(text: str, index: int) -> int:
    """The start of the next line, or the end of the text."""
    if index and text[index - 1 : index] == "\n":
        return index
    at = text.find("\n", index)
    return len(text) if at < 0 else at + 1


def _flow_addition(
    config: Config,
    last: _Found | None,
    missing: Sequence[str],
    values: Mapping[str, Value],
) -> _Edit:
    if last is None:
        raise BadInput(f"{config.source}: holds none of the keys that a plan sets; name the trainer's config file")
    at = last.value.end_mark.index
    return _Edit(at, at, "".join(f", {json.dumps(key)}: {_written(values[key], flow=True)}" for key in missing))


def _written(value: Value, *, flow: bool) -> str:
    """A value as YAML; inside braces as JSON, which is YAML too."""
    if isinstance(value, str) and not flow:
        assert value.isidentifier(), shown(value)
        return value
    return json.dumps(value)
