"""Accelerators as their drivers tell them: the output of nvidia-smi and npu-smi turned into a device type and a link.

A product that the catalogue does not know gets assumed figures with a warning; the driver's memory always counts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nebula.cluster import catalogue
from nebula.cluster.sections import INTRA_LATENCY_S
from nebula.cluster.values import DeviceType, Link
from nebula.errors import Suspicious, shown
from nebula.validation import LONGEST_NAME

Run = Callable[[Sequence[str]], str]

NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,pcie.link.gen.max", "--format=csv,noheader,nounits")
NVIDIA_LINKS = ("nvidia-smi", "topo", "-m")
NPU_QUERY = ("npu-smi", "info")

NVLINK_BYTES_PER_S = 25e9
"""One NVLink of generations 2 to 4 per direction (NVIDIA data sheets)."""

NVLINK5_BYTES_PER_S = 50e9
"""One NVLink of generation 5 per direction (NVIDIA Blackwell data sheet)."""

PCIE_BYTES_PER_S = {3: 12e9, 4: 24e9, 5: 48e9, 6: 96e9}
"""What a x16 slot of a generation attains in one direction: about three quarters of its signalling rate, assumed."""

HCCS_BYTES_PER_S = {"Ascend-910": 90e9, "Ascend-910B": 196e9}
"""Of one NPU per direction: 3 ports of 240 Gb/s (Huawei, Hot Chips 31); half of the 392 GB/s that reports print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Devices of this node: how many, of what type, how joined, and who said so."""

    count: int
    device: DeviceType
    link: Link
    source: str


def gpus(run: Run) -> Found | None:
    """NVIDIA GPUs of this node, those of the most frequent product; None without a driver."""
    rows = [[field.strip() for field in line.split(",")] for line in run(NVIDIA_QUERY).splitlines()]
    rows = [row for row in rows if len(row) == 3]
    if not rows:
        return None
    name, memory, generation = _most_frequent(rows, "nvidia-smi")
    count = sum(row[0] == name for row in rows)
    device = _device(name, "gpu", float(memory) * 2**20 if memory.isdecimal() else 0.0, "nvidia-smi")
    link = _nvlink(run, device) if count > 1 else None
    rate = PCIE_BYTES_PER_S.get(int(generation) if generation.isdecimal() else 4, PCIE_BYTES_PER_S[4])
    pcie = Link(kind="pcie", bytes_per_s=rate, latency_s=INTRA_LATENCY_S)
    return Found(count=count, device=device, link=link or pcie, source="nvidia-smi")


def npus(run: Run) -> Found | None:
    """Ascend NPUs of this node; None without a driver."""
    text = run(NPU_QUERY)
    # a device's first row: | 0     910B2               | OK            | 93.6        44                0    / 0  |
    rows = [[m[1]] for m in re.finditer(r"^\|\s*\d+\s+(\S+)\s*\|\s*(?:OK|Warning|Alarm)\s*\|", text, re.MULTILINE)]
    if not rows:
        return None
    (name,) = _most_frequent(rows, "npu-smi")
    # its second row ends with used and total HBM: | 0     | 0000:C1:00.0  | 0     0    / 0     3162 / 65536 |
    memory = re.search(r"/\s*(\d{4,})\s*\|\s*$", text, re.MULTILINE)
    device = _device(name, "npu", float(memory[1]) * 2**20 if memory else 0.0, "npu-smi")
    rate = HCCS_BYTES_PER_S.get(device.name.partition(" ")[0], HCCS_BYTES_PER_S["Ascend-910"])
    link = Link(kind="hccs", bytes_per_s=rate, latency_s=INTRA_LATENCY_S)
    return Found(count=sum(row[0] == name for row in rows), device=device, link=link, source="npu-smi")


def _most_frequent(rows: list[list[str]], tool: str) -> list[str]:
    names = [row[0] for row in rows]
    most = max(names, key=names.count)
    if len(set(names)) > 1:
        others = ", ".join(sorted(set(names) - {most}))
        said = f"{tool}: this node has devices of several kinds; {most} is taken, {others} left out"
        warnings.warn(said, Suspicious, stacklevel=4)
    return next(row for row in rows if row[0] == most)


def printable(name: str, instead: str) -> str:
    """A name that a cluster file can hold; `instead` where nothing is left."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:LONGEST_NAME] or instead


def _device(product: str, kind: str, memory_bytes: float, tool: str) -> DeviceType:
    """The catalogue's type, with the driver's memory where that differs by more than a percent."""
    known = catalogue.of_product(product)
    if known is None:
        base = catalogue.device_type({"gpu": "A100-40GB-SXM", "npu": "Ascend-910B"}[kind])
        said = f"the catalogue has no {shown(product)}; figures of {base.name} are assumed, put its own into the file"
        warnings.warn(f"{tool}: {said}", Suspicious, stacklevel=4)
        sources = {field: f"assumed, as {base.name}" for field, _ in base.sources}
        sources["memory_bytes"] = tool if memory_bytes else sources["memory_bytes"]
        memory = memory_bytes or base.memory_bytes
        return replace(
            base, name=printable(product, tool), memory_bytes=memory, price_per_hour=0.0, sources=tuple(sources.items())
        )
    if not memory_bytes or abs(memory_bytes / known.memory_bytes - 1) < 0.01:
        return known
    sources = {**dict(known.sources), "memory_bytes": tool}
    name = f"{known.name} {memory_bytes / 2**30:.0f}GiB"
    return replace(known, name=name, memory_bytes=memory_bytes, sources=tuple(sources.items()))


def _nvlink(run: Run, device: DeviceType) -> Link | None:
    """The NVLink between GPUs when every pair has one (`NV18` in the matrix that the driver prints), else None."""
    text = re.sub(r"\x1b\[[\d;]*m", "", run(NVIDIA_LINKS))
    rows = [line.split() for line in text.splitlines() if re.match(r"GPU\d+\s", line)]
    width = len(rows)
    pairs = [cell for row in rows for cell in row[1 : width + 1] if cell != "X"]
    bonded = [int(cell[2:]) for cell in pairs if re.fullmatch(r"NV\d+", cell)]
    if not bonded or len(bonded) < len(pairs):
        return None
    blackwell = device.name.startswith(("B200", "GB200", "GB300"))
    rate = min(bonded) * (NVLINK5_BYTES_PER_S if blackwell else NVLINK_BYTES_PER_S)
    return Link(kind="nvswitch" if min(bonded) > 4 else "nvlink", bytes_per_s=rate, latency_s=INTRA_LATENCY_S)
