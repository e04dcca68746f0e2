"""Several values for one key, as a sweep takes them: `job.global_batch=960,1920`, `devices=8,16,...,128`.

Commas inside of brackets and quotes belong to a value. Whether a value is a possible one asks the run file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from nebula.errors import LARGEST, BadInput, UnknownKey, closest, shown
from nebula.plan.run_file import RunSection

DEVICES = "devices"
"""The key that stands for the numbers of nodes of all groups."""

MOST_COMBINATIONS = 2_000
"""More combinations are taken for a mistake: the smallest searches take a tenth of a second."""

DOTS = ("...", "…")

_NUMBER = re.compile(r"[1-9][0-9]*")
_AXIS = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", re.DOTALL)
_OPENS, _CLOSES = "[{(", "]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One key and the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


Combination = tuple[tuple[str, str], ...]
"""A value for each key."""


def axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of a sweep.

    Raises:
        UnknownKey: no run file has such a top key; the text names the closest one.
        BadInput: a text is not of the form key=value,value, or a key stands twice.
    """
    found = tuple(_axis(text) for text in texts)
    keys = [axis.key for axis in found]
    for key in keys:
        if keys.count(key) > 1:
            raise BadInput(f"{key} stands twice; write its values behind one another: {key}=1,2")
    return found


def combinations(found: Sequence[Axis]) -> tuple[Combination, ...]:
    """Every value of each axis with every value of the others, the last axis fastest.

    Raises:
        BadInput: they are more than MOST_COMBINATIONS.
    """
    number = prod(len(axis.values) for axis in found)
    if number > MOST_COMBINATIONS:
        equation = " × ".join(str(len(axis.values)) for axis in found)
        raise BadInput(f"{equation} = {number:,} combinations are more than {MOST_COMBINATIONS:,}; leave values out")
    return tuple(
        tuple(zip((a.key for a in found), values, strict=True)) for values in product(*(a.values for a in found))
    )


def split_values(text: str) -> tuple[str, ...]:
    """The values between commas; those in brackets or quotes stay together.

    Example:
        >>> split_values("[a, b],[],'c,d'")
        ('[a, b]', '[]', "'c,d'")
    """
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in _OPENS) - (character in _CLOSES) if not quote else 0
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts)


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """Whole numbers with commas between; `...` goes on by the factor of the two numbers before it, up to the last.

    Three numbers with equal distances before the dots go on by that distance.

    Example:
        >>> whole_numbers("8,16,...,100", "sizes"), whole_numbers("10,20,30,...,50", "sizes")
        ((8, 16, 32, 64, 100), (10, 20, 30, 40, 50))

    Raises:
        BadInput: something else stands there.
    """
    numbers: list[int] = []
    words = split_values(text)
    for place, word in enumerate(words):
        if word in DOTS:
            last = words[place + 1] if place + 2 == len(words) else ""
            numbers += _between(numbers, _whole(last, name, text), name, text)
        else:
            numbers.append(_whole(word, name, text))
    return tuple(numbers)


def _whole(word: str, name: str, text: str) -> int:
    if not _NUMBER.fullmatch(word) or len(word) >= len(str(LARGEST)):
        raise BadInput(f"{name}: {shown(text)} must be whole numbers from 1 on, such as 8,16,32 or 8,16,...,128")
    return int(word)


def _between(before: Sequence[int], last: int, name: str, text: str) -> list[int]:
    """What the dots stand for: numbers above the last of `before` and below `last`."""
    if len(before) < 2 or before[-1] <= before[-2]:
        raise BadInput(f"{name}: {shown(text)}: two rising numbers must stand before the dots, such as 8,16,...,128")
    low, high = before[-2:]
    even = len(before) > 2 and high - low == low - before[-3]
    found: list[int] = []
    number = high
    while len(found) <= MOST_COMBINATIONS:
        number = number + high - low if even else number * high // low
        if number >= last:
            return found
        found.append(number)
    raise BadInput(f"{name}: {shown(text)}: the dots stand for more than {MOST_COMBINATIONS:,} numbers")


def _axis(text: str) -> Axis:
    match = _AXIS.fullmatch(text)
    if match is None:
        raise BadInput(f"{shown(text)}: write key=value,value with dots between keys, such as job.global_batch=64,128")
    key, values = match[1], match[2]
    known = (*RunSection.model_fields, DEVICES)
    if key.partition(".")[0] not in known:
        raise UnknownKey(
            f"{shown(text)}: unknown key {key.partition('.')[0]!r}; {closest(key.partition('.')[0], known)}"
        )
    if key == DEVICES or any(dots in split_values(values) for dots in DOTS):
        return Axis(key=key, values=tuple(map(str, whole_numbers(values, key))))
    return Axis(key=key, values=split_values(values))
