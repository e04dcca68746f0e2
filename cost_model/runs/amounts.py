"""Bandwidths in texts as sources print them: `4x200Gb/s HDR IB = 800 Gb/s per node`, `NVLink4 900GB/s (NVSwitch)`.

Bits and bytes are told apart by the letter's case, one direction and both by the words beside the number. What cannot
be read is left to the caller; nothing is guessed here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_AMOUNT = re.compile(
    r"(?:(?P<count>[0-9]+)\s*[x×*]\s*)?"
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*"
    r"(?P<prefix>[KMGTkmgt])(?P<binary>i?)(?P<unit>bytes?|bits?|bE\b|[bB])(?:\s*/\s*s(?:ec)?\b|ps\b|\s+per\s+second\b)?"
)
_ONE_WAY = re.compile(
    r"per[- ]direction|uni-?directional|each (?:way|direction)|one[- ]way|effective|measured|bus ?bw", re.I
)
_BOTH_WAYS = re.compile(r"bi-?directional|both directions|duplex|aggregate|total", re.I)
_PER_DEVICE = re.compile(r"(?:per|/|each)\s*(?:gpu|npu|xpu|device|card|chip|accelerator|rank|die)\b", re.I)
_POWERS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


class Amount(NamedTuple):
    """A bandwidth as printed.

    Attributes:
        bytes_per_s: of one link.
        links: how many such links, when the text says so; else 1.
        bits: whether it was printed in bits.
        directions: `one`, `both` or ``, when the text does not say.
        per_device: whether the text says that each device has it.
    """

    bytes_per_s: float
    links: int
    bits: bool
    directions: str
    per_device: bool


def amounts(text: str) -> list[Amount]:
    """All bandwidths of a text, in order.

    Example:
        >>> [(a.links, a.bytes_per_s) for a in amounts("8x400Gb/s NDR IB per node")]
        [(8, 50000000000.0)]
        >>> amounts("NVLink3 (repo config 150 GB/s effective)")[0].directions
        'one'
    """
    directions = "one" if _ONE_WAY.search(text) else "both" if _BOTH_WAYS.search(text) else ""
    per_device = bool(_PER_DEVICE.search(text))
    found = []
    for match in _AMOUNT.finditer(text):
        after = text[match.end() : match.end() + 2]
        if after[:1].isalnum():
            continue
        unit = match["unit"]
        bits = unit in ("b", "bE") or unit.startswith("bit")
        base = (
            1024.0 ** ("kmgt".index(match["prefix"].lower()) + 1)
            if match["binary"]
            else _POWERS[match["prefix"].lower()]
        )
        rate = float(match["number"]) * base / (8 if bits else 1)
        found.append(Amount(rate, int(match["count"] or 1), bits, directions, per_device))
    return found


def part_for(text: str, words: tuple[str, ...]) -> str:
    """Of a text with an alternative for each kind of node (`NVLink2 (V100) / PCIe3 (T4)`), the one that is meant.

    Args:
        text: alternatives separated by ` / ` or `;`.
        words: what names the kind of node, most telling first.

    Example:
        >>> part_for("NVLink2 (V100) / PCIe3 (T4)", ("T4-16GB",))
        'PCIe3 (T4)'
    """
    parts = [p.strip() for p in re.split(r"\s+/\s+|\s*;\s*", text) if p.strip()]
    if len(parts) < 2:
        return text
    for word in words:
        names = [p for p in parts for name in re.findall(r"\(([^)]*)\)", p) if _same(name, word)]
        if names:
            rest = _AMOUNT.sub("", parts[-1]).split(")")[-1]
            return f"{names[0]} {rest}".strip() if names[0] != parts[-1] else names[0]
    return parts[0]


def _same(name: str, word: str) -> bool:
    """Whether one name is the beginning of the other, letters and digits alone."""
    a, b = (re.sub(r"[^a-z0-9]", "", t.lower()) for t in (name, word))
    return bool(a and b) and (a.startswith(b) or b.startswith(a))
