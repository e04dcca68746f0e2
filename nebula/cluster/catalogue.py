"""Real devices by name, with the source of each figure; the figures stand in catalogue.yaml.

A longer text that begins with a name means that type (`A100-80GB-SXM4` is an `A100-80GB-SXM`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from nebula.cluster.values import DeviceType
from nebula.errors import BadInput, closest
from nebula.units import parse_bytes, parse_quantity, parse_rate, parse_seconds

DTYPES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tfloat32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
    "fp4": "float4_e2m1fn",
    "int8": "int8",
}
"""Precisions as files write them, and the dtype that they mean."""

FIELDS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "memory": ("memory_bytes", parse_bytes),
    "memory_bandwidth": ("memory_bytes_per_s", parse_rate),
    "kernel_time": ("kernel_s", parse_seconds),
    "product_efficiency": ("product_efficiency", parse_quantity),
    "memory_efficiency": ("memory_efficiency", parse_quantity),
    "half_product_flops": ("half_product_flops", parse_quantity),
    "multiprocessors": ("multiprocessors", int),
    "exponential_rate": ("exponentials_per_s", parse_quantity),
    "older_kernel_share": ("older_kernel_share", parse_quantity),
    "unaligned_share": ("unaligned_share", parse_quantity),
    "host_bandwidth": ("host_bytes_per_s", parse_rate),
    "price_per_hour": ("price_per_hour", parse_quantity),
    "power": ("power_w", parse_quantity),
}
"""Keys of a device type in files: the field of DeviceType and how its text is read."""


def names() -> tuple[str, ...]:
    """The names of the catalogue, in its order."""
    return tuple(_catalogue())


def device_type(name: str) -> DeviceType:
    """The device type of that name, or of the longest catalogue name that the text begins with.

    Raises:
        BadInput: no catalogue name begins the text.
    """
    known = _catalogue()
    match = max((n for n in known if name.startswith(n)), key=len, default="")
    if not match:
        raise BadInput(f"the catalogue has no device {name!r}; {closest(name, known)}")
    return known[match]


def of_product(product: str) -> DeviceType | None:
    """The device type that a driver or Paddle calls so (`NVIDIA A100-SXM4-80GB`); None when it is not known."""
    bare = product.removeprefix("NVIDIA ").removeprefix("Tesla ")
    known = _catalogue()
    called = {**{name: name for name in known}, **_products()}
    match = max((n for n in called if bare.startswith(n)), key=len, default="")
    return known[called[match]] if match else None


@lru_cache(maxsize=1)
def _products() -> dict[str, str]:
    return {product: name for name, entry in _entries().items() for product in entry.get("products", ())}


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, DeviceType]:
    return {name: _device(name, entry) for name, entry in _entries().items()}


@lru_cache(maxsize=1)
def _entries() -> dict[str, Any]:
    path = Path(__file__).with_name("catalogue.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return entries


def _device(name: str, entry: dict[str, Any]) -> DeviceType:
    figures: dict[str, Any] = {field: parse(entry[key]) for key, (field, parse) in FIELDS.items() if key in entry}
    return DeviceType(
        name=name,
        kind=entry["kind"],
        peak_flops={DTYPES[key]: parse_quantity(value) for key, value in entry["peak_flops"].items()},
        sources=tuple(_sources(entry)),
        **figures,
    )


def _sources(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For each figure its own source, the entry's, or that it is assumed or unknown."""
    own = entry.get("sources", {})
    fields = {"peak_flops": "peak_flops", **{key: field for key, (field, _) in FIELDS.items()}}
    for key, field in fields.items():
        missing = "not public" if key in ("price_per_hour", "power") else "assumed"
        yield field, own.get(key, entry["source"] if key in entry else missing)
