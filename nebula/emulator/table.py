"""What are the emulated devices and links like? The values, and the file through which the plug-in reads them.

The file is text, one device or link a line, words between spaces, so that the plug-in needs no parser's library.
Whoever launches translates a cluster into these values; nothing here knows clusters or plans.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from nebula.errors import BadInput

MOST_DEVICES = 64
LAST_STEP = 2**31 - 1
"""Of any training: the plug-in counts steps in 32 bits."""
_FIRST_LINE = "nebula-emulated-devices 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """One device.

    Attributes:
        memory_bytes: what Paddle can allocate on it.
        float32_flops_per_s: peak of matrix products and convolutions; other dtypes than the three count as float32.
        bfloat16_flops_per_s: the same for bfloat16.
        float16_flops_per_s: the same for float16.
        memory_bytes_per_s: bandwidth of its memory.
        kernel_s: fixed cost of one kernel.
        host_bytes_per_s: bandwidth of copies from and to the host.
    """

    memory_bytes: int
    float32_flops_per_s: float
    bfloat16_flops_per_s: float
    float16_flops_per_s: float
    memory_bytes_per_s: float
    kernel_s: float
    host_bytes_per_s: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least_is_zero = field.name == "kernel_s"
            if not math.isfinite(value) or value < 0 or (value == 0 and not least_is_zero):
                raise BadInput(f"an emulated device's {field.name} is {value}; give a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What carries bytes from one rank to another: a transfer of n bytes takes latency_s + n / bytes_per_s."""

    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bytes_per_s) and self.bytes_per_s > 0):
            raise BadInput(f"an emulated link's bytes_per_s is {self.bytes_per_s}; give a positive number")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise BadInput(f"an emulated link's latency_s is {self.latency_s}; give zero or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a rank's device on command.

    Attributes:
        first_step: of training, counted from 0.
        last_step: of the slowness.
        factor: by which its kernels take longer; 0: the device fails when `first_step` begins.
    """

    rank: int
    first_step: int
    last_step: int = LAST_STEP
    factor: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 0 or self.first_step < 0 or not (math.isfinite(self.factor) and self.factor >= 0):
            raise BadInput(f"a fault of rank {self.rank} in step {self.first_step} by {self.factor}: none below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLinks:
    """What the links of several pairs of ranks have in common; nebula.emulator.replay asks for it.

    Attributes:
        ports: bytes per second through each, of all that pass it together.
        through: from the first rank of a pair to the second: bytes per second of one message alone, and the indices
            of the ports that it passes.
    """

    ports: tuple[float, ...]
    through: Mapping[tuple[int, int], tuple[float, tuple[int, ...]]]


def uniform_links(ranks: int, link: Link) -> dict[tuple[int, int], Link]:
    """The same link between all ordered pairs of ranks."""
    return {(a, b): link for a in range(ranks) for b in range(ranks) if a != b}


def write_table(
    path: Path,
    devices: Sequence[EmulatedDevice],
    links: Mapping[tuple[int, int], Link],
    *,
    patience_s: float = 300.0,
    shared: SharedLinks | None = None,
    faults: Sequence[Fault] = (),
    plain: Sequence[int] = (),
) -> Path:
    """Writes the table that NEBULA_EMULATED_DEVICES names.

    Args:
        path: where to.
        devices: by local device id, as given to Paddle's launcher; rank r of a one-host launch runs on device r.
        links: from the first global rank of a pair to the second; a pair given one way only holds both ways.
        patience_s: how long, in real time, a rank waits for another before it reports the job as stuck.
        shared: what links have in common, for a replay.
        faults: of devices, on command.
        plain: ranks on the host's CPU beside the emulated devices; the plug-in leaves them alone.

    Returns:
        The path.

    Raises:
        BadInput: no device, too many, or a link of a rank to itself.
    """
    if not 0 < len(devices) <= MOST_DEVICES:
        raise BadInput(f"{len(devices)} emulated devices: give 1 to {MOST_DEVICES}")
    looped = [pair for pair in links if pair[0] == pair[1]]
    if looped:
        raise BadInput(f"rank {looped[0][0]} has an emulated link to itself; links join two ranks")
    both_ways = {(b, a): link for (a, b), link in links.items()} | dict(links)
    lines = [_FIRST_LINE, f"patience_s {patience_s!r}"]
    lines += [" ".join(["device", str(index), *_numbers(device)]) for index, device in enumerate(devices)]
    lines += [f"link {a} {b} {link.bytes_per_s!r} {link.latency_s!r}" for (a, b), link in sorted(both_ways.items())]
    if shared:
        lines += [f"port {index} {rate!r}" for index, rate in enumerate(shared.ports)]
        for (a, b), (alone, ports) in sorted(shared.through.items()):
            lines.append(" ".join(["through", str(a), str(b), repr(alone), *map(str, ports)]))
    lines += [f"fault {fault.rank} {fault.factor!r} {fault.first_step} {fault.last_step}" for fault in faults]
    lines += [f"plain {rank}" for rank in plain]
    partial = path.with_name(path.name + ".part")
    partial.write_text("\n".join(lines) + "\n", encoding="ascii")
    os.replace(partial, path)
    return path


def _numbers(device: EmulatedDevice) -> list[str]:
    """The fields in the order in which the plug-in reads them, exactly as Python holds them."""
    return [
        repr(int(getattr(device, f.name)) if f.name == "memory_bytes" else float(getattr(device, f.name)))
        for f in fields(device)
    ]
