"""Which device type a printed name means, and what a node with it usually has.

The catalogue's names, names as drivers print them and short forms (`V100-16GB`, `H100 SXM5 80GB`) are found; a device
that nobody knows is predicted as FALLBACK and said to be assumed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from nebula.cluster.catalogue import device_type, names, of_product
from nebula.cluster.values import DeviceType

FALLBACK = "A100-80GB-SXM"
"""What an unknown device is predicted as."""

USUAL_INTRA_BYTES_PER_S = (
    ("V100", 150e9),
    ("T4", 15.75e9),
    ("A100", 300e9),
    ("H100", 450e9),
    ("H200", 450e9),
    ("H800", 200e9),
    ("GB", 900e9),
    ("B200", 900e9),
    ("Ascend-910B", 196e9),
    ("Ascend-910", 45e9),
    ("Kunlun", 100e9),
)
"""Per device and direction, by the beginning of a catalogue name: NVLink as in links.py, H800's cut to 400 GB/s in both
directions; HCCS of the first Ascend 910 30 GB/s to each of three; Kunlun assumed."""

USUAL_NIC_BYTES_PER_S = (
    ("V100", 1.5625e9),
    ("T4", 1.5625e9),
    ("A100", 25e9),
    ("H", 50e9),
    ("GB300", 100e9),
    ("GB", 50e9),
    ("B200", 50e9),
    ("Ascend", 25e9),
)
"""Per device: the network of NVIDIA's reference nodes (DGX A100, H100, B200, NVL72), and of Atlas 900."""

FIRST_YEARS = (
    ("V100", 2017.5),
    ("T4", 2018.7),
    ("A100", 2020.4),
    ("H100", 2022.8),
    ("H800", 2023.2),
    ("H200", 2024.0),
    ("B200", 2024.9),
    ("GB", 2024.9),
    ("Ascend-910B", 2023.0),
    ("Ascend-910", 2019.7),
)
"""When a device could first be had, by the beginning of its name: software of an undated source is as old."""

PLAIN_INTRA_BYTES_PER_S = 31.5e9
PLAIN_NIC_BYTES_PER_S = 12.5e9


class Found(NamedTuple):
    """A device type, and whether the name was known."""

    device: DeviceType
    known: bool


def find_device(text: str) -> Found:
    """The device type that a text names."""
    bare = re.sub(r"\bnvidia\b|\btesla\b|\bhuawei\b", "", text, flags=re.I).strip().replace("_", "-")
    known = names()
    if any(bare.startswith(n) for n in known):
        return Found(device_type(bare), True)
    product = of_product(text)
    if product is not None:
        return Found(product, True)
    letters = _letters(bare)
    # a short form has the number of the model, or most of the name
    telling = len(letters) > 3 or re.search("[a-z].*[0-9]", letters)
    alike = [n for n in known if _letters(n).startswith(letters)] if telling else []
    # a longer text: the longest name that it begins with
    alike = alike or sorted((n for n in known if letters.startswith(_letters(n))), key=len)[-1:]
    if not alike:
        model, size = _model(bare)
        alike = [n for n in known if model and _model(n)[0] == model]
        alike.sort(key=lambda n: _model(n)[1] != size)
    if alike:
        return Found(device_type(alike[0]), True)
    memory = _model(bare)[1]
    device = device_type(FALLBACK)
    return Found(replace(device, memory_bytes=memory * 2**30) if memory else device, False)


def usual_intra(device: DeviceType) -> float:
    """Bytes per second and direction inside a node with that device."""
    return next((r for n, r in USUAL_INTRA_BYTES_PER_S if device.name.startswith(n)), PLAIN_INTRA_BYTES_PER_S)


def usual_nic(device: DeviceType) -> float:
    """Network bytes per second and direction of one device."""
    return next((r for n, r in USUAL_NIC_BYTES_PER_S if device.name.startswith(n)), PLAIN_NIC_BYTES_PER_S)


def first_year(text: str) -> float:
    """When the device that a text names could first be had; 2020 where it is not known."""
    name = find_device(text).device.name
    return next((year for n, year in FIRST_YEARS if name.startswith(n)), 2020.0)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _model(text: str) -> tuple[str, int]:
    """The letters before the first number with it, and the gigabytes: `h100 sxm5 80gb` -> (h100, 80)."""
    model = re.search(r"([a-z]+)[- ]?([0-9]+[a-z]?)\b", text.lower())
    size = re.search(r"([0-9]+)\s*gi?b", text.lower())
    return ("".join(model.groups()) if model else "", int(size[1]) if size else 0)
