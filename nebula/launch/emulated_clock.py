"""The clock of a rank's device: virtual time from the emulator where the process has one, else wall time."""

from __future__ import annotations

from collections.abc import Collection

import paddle

from nebula.emulator import DEVICE
from nebula.emulator import clock as emulator
from nebula.runtime.clock import Clock, Event, WallClock


class VirtualClock:
    """Time, memory and log of an emulated device."""

    name = "virtual"

    def __init__(self, device: str) -> None:
        self.device = device

    def seconds(self) -> float:
        """Virtual seconds at which all work issued so far is done."""
        return emulator.virtual_seconds()

    def peak_bytes(self) -> int:
        """The most that tensors have held."""
        return int(paddle.device.max_memory_allocated(self.device))

    def begin_step(self, number: int) -> None:
        """Tells the emulator, whose devices may be slow or fail in some steps."""
        emulator.begin_step(number)

    def record(self, on: bool) -> None:
        """Switches the emulator's log on or off."""
        emulator.record(on)

    def mark(self, label: str) -> None:
        """Puts a labelled instant on the log."""
        emulator.mark(label)

    def drain(self) -> list[Event]:
        """Takes the emulator's events."""
        return [
            Event(e.kind.name.lower(), e.name, e.stream, e.start_s, e.end_s, e.moved_bytes, e.flops)
            for e in emulator.drain()
        ]


class BesideCpus(WallClock):
    """Wall time on an emulated device whose virtual time does not know how long it waits for ranks on plain CPUs."""

    def begin_step(self, number: int) -> None:
        """Tells the emulator, whose devices may be slow or fail in some steps."""
        emulator.begin_step(number)


def clock_of(device: str, kinds: Collection[str] = ()) -> Clock:
    """The clock that fits a device in Paddle's words.

    Args:
        kinds: of all ranks' devices, where they differ.
    """
    if not device.startswith(DEVICE):
        return WallClock(device)
    return BesideCpus(device) if set(kinds) - {"emulated"} else VirtualClock(device)
