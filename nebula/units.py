"""Quantities as people write them (`80GiB`, `200Gb/s`, `5us`) and the base SI numbers that everything computes with.

A plain number is in the base unit already. `b` is a bit and `B` a byte, in upper or lower case as written here; a
text whose unit is not of the asked kind is refused with the units that are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, DecimalException

from nebula.errors import BadInput, shown

_DECIMAL = {
    "": Decimal(1),
    "k": Decimal("1e3"),
    "K": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
}
_BINARY = {"Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50)}
_PREFIXES = {**_DECIMAL, **_BINARY}

_BYTES = {f"{p}B": f for p, f in _PREFIXES.items()}
_RATES = {
    **{f"{unit}/s": factor for unit, factor in _BYTES.items()},
    **{f"{p}b/s": f / 8 for p, f in _PREFIXES.items()},
    **{f"{p}bps": f / 8 for p, f in _DECIMAL.items()},
    **{f"{p}bit/s": f / 8 for p, f in _DECIMAL.items()},
}
_SECONDS = {
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_COUNTS = dict(_DECIMAL)

_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(\S*)\s*")


def parse_bytes(text: str | float) -> float:
    """Bytes of a size: `80GiB` (powers of 1024), `80GB` (powers of 1000) or a number of bytes.

    Example:
        >>> parse_bytes("2KiB")
        2048.0
    """
    return _parse(text, _BYTES, "a size", "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")


def parse_rate(text: str | float) -> float:
    """Bytes per second of a rate: `200Gb/s` counts bits, `300GB/s` bytes; a plain number is bytes per second.

    Example:
        >>> parse_rate("200Gb/s"), parse_rate("300GB/s")
        (25000000000.0, 300000000000.0)
    """
    return _parse(text, _RATES, "a rate", "Mb/s, Gb/s, Tb/s for bits; MB/s, GB/s, GiB/s, TB/s for bytes")


def parse_seconds(text: str | float) -> float:
    """Seconds of a duration: `5us`, `50ms`, `2min`, `30d` or a number of seconds.

    Example:
        >>> parse_seconds("2min")
        120.0
    """
    return _parse(text, _SECONDS, "a duration", "ns, us, ms, s, min, h, d")


def parse_quantity(text: str | float) -> float:
    """A pure number, also as text (`156e12`) or with a decimal prefix (`156T`).

    Example:
        >>> parse_quantity("156e12") == parse_quantity("156T")
        True
    """
    return _parse(text, _COUNTS, "a number", "none, or one of k, M, G, T, P, E")


def format_bytes(value: float) -> str:
    """A size with the largest binary unit that leaves at least 1.

    Example:
        >>> format_bytes(80 * 2**30)
        '80 GiB'
    """
    return _scaled(value, [("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0)])


def format_rate(bytes_per_s: float) -> str:
    """A rate in bytes.

    Example:
        >>> format_rate(25e9)
        '25 GB/s'
    """
    return _scaled(bytes_per_s, [("TB/s", 1e12), ("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)])


def format_seconds(value: float) -> str:
    """A duration with the unit that people would choose.

    Example:
        >>> format_seconds(0.0123), format_seconds(5400), format_seconds(2592000)
        ('12.3 ms', '1.5 h', '30 d')
    """
    units = [("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)]
    return _scaled(value, units)


def format_energy(joules: float) -> str:
    """An energy in watt-hours.

    Example:
        >>> format_energy(3.6e6), format_energy(449 * 3.6e9)
        ('1 kWh', '449 MWh')
    """
    return _scaled(joules, [("GWh", 3.6e12), ("MWh", 3.6e9), ("kWh", 3.6e6), ("Wh", 3.6e3), ("J", 1.0)])


def format_power(watts: float) -> str:
    """A power.

    Example:
        >>> format_power(28_160)
        '28.2 kW'
    """
    return _scaled(watts, [("GW", 1e9), ("MW", 1e6), ("kW", 1e3), ("W", 1.0)])


def format_count(value: float) -> str:
    """A number with a decimal prefix.

    Example:
        >>> format_count(260.9e9), format_count(40)
        ('261 G', '40')
    """
    return _scaled(value, [("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)])


def _parse(text: str | float, units: Mapping[str, Decimal], what: str, accepted: str) -> float:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise BadInput(f"{shown(text)} is not {what}; write a number with a unit: {accepted}")
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if isinstance(text, str) and match is None:
        raise BadInput(f"{shown(text)} is not {what}; write a number with a unit: {accepted}")
    number, unit = (match[1], match[2]) if match else (text, "")
    factor = Decimal(1) if unit == "" else units.get(unit)
    if factor is None:
        raise BadInput(f"{shown(text)} is not {what}: {_why(unit, units)}; units are {accepted}")
    value = _product(number, factor)
    if not math.isfinite(value):
        raise BadInput(f"{shown(text)} is not {what}: it must be finite")
    return value


def _product(number: str | float, factor: Decimal) -> float:
    """Number times factor in decimal arithmetic, so that 5us is the same number as 5e-6; infinite when too large."""
    try:
        return float(Decimal(number) * factor)
    except (DecimalException, OverflowError):
        return math.inf


def _why(unit: str, units: Mapping[str, Decimal]) -> str:
    """What is wrong with the unit: another kind of quantity, another case, or unknown."""
    others = {"a size": _BYTES, "a rate": _RATES, "a duration": _SECONDS}
    kind = next((name for name, known in others.items() if known is not units and unit in known), None)
    if kind:
        return f"the unit {unit!r} measures {kind}"
    unit = unit[:20]
    alike = [known for known in units if known.lower() == unit.lower()]
    return f"there is no unit {unit!r}" + (f" (did you mean {' or '.join(alike)}?)" if alike else "")


def _scaled(value: float, units: list[tuple[str, float]]) -> str:
    """Three significant digits before the largest unit that leaves at least 1."""
    size = abs(value)
    name, factor = next(((n, f) for n, f in units if float(f"{size / f:.3g}") >= 1), units[-1])
    number = float(f"{value / factor:.3g}")
    return f"{number:g} {name}".strip() if abs(number) < 1e6 else f"{number:.0f} {name}".strip()
