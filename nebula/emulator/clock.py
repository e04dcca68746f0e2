"""What does the emulated device of this process say of its time, its memory and its work?

For the process that runs on the device: the plug-in that Paddle has loaded is asked through ctypes. All times are
virtual seconds since the process's first work. Nothing is read from real clocks.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from nebula.emulator.build import LIBRARY_NAME
from nebula.errors import NebulaError

_BATCH = 4096


class NotEmulated(NebulaError):
    """This process has no emulated device."""


class DeviceFailed(NebulaError):
    """The device is gone, on command."""


class EventKind(Enum):
    """What kind of work an event is."""

    KERNEL = 0
    COPY = 1  # between host and device
    COLLECTIVE = 2
    MARK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """Something that took place on the device.

    Attributes:
        kind: kernel, copy, collective or mark.
        name: of the kernel or collective, or the mark's label.
        stream: its number, 0 for the null stream, -1 for the host.
        start_s: virtual seconds; a collective starts when this rank enters it, and so holds its wait for the others.
        end_s: virtual seconds; equal to start_s for a mark.
        moved_bytes: read and written in memory, or put on the wire by this rank.
        flops: of a product, 0 otherwise.
    """

    kind: EventKind
    name: str
    stream: int
    start_s: float
    end_s: float
    moved_bytes: float
    flops: float


def is_emulated() -> bool:
    """Whether this process was started with an emulated device."""
    return _library_path() is not None


def virtual_seconds() -> float:
    """The latest of this thread's time and of all streams: when everything issued so far is done."""
    return float(_plugin().nebula_emulator_virtual_seconds())


def begin_step(number: int) -> None:
    """A training step begins, counted from 0: what the table has for it happens, and the record of work tells it.

    Raises:
        DeviceFailed: the table has this rank's device fail now.
    """
    if _plugin().nebula_emulator_begin_step(number):
        raise DeviceFailed(f"the emulated device of this rank fails as step {number + 1} begins, as was asked")


def current_bytes(device: int) -> int:
    """Bytes that Paddle's allocator holds of a device now, its caches included."""
    return int(_plugin().nebula_emulator_current_bytes(device))


def peak_bytes(device: int, *, reset: bool = False) -> int:
    """The most bytes held of a device so far, or since the last reset; `reset` starts anew after the answer."""
    return int(_plugin().nebula_emulator_peak_bytes(device, int(reset)))


def record(on: bool) -> None:
    """Switches the log of events on or off; what it holds stays."""
    _plugin().nebula_emulator_record(int(on))


def mark(label: str) -> None:
    """Puts a labelled instant on the log: when the kernels that this thread has issued are done.

    Communication on other streams may still be going on. Up to 63 bytes of the label are kept.
    """
    _plugin().nebula_emulator_mark(label.encode())


def drain() -> list[KernelEvent]:
    """Takes all events off the log, in the order in which they were issued."""
    buffer = (_Event * _BATCH)()
    events: list[KernelEvent] = []
    while count := _plugin().nebula_emulator_drain(buffer, _BATCH):
        events.extend(_event(buffer[i]) for i in range(count))
    return events


class _Event(ctypes.Structure):
    """The plug-in's struct Event of log.h."""

    _fields_ = [
        ("start_s", ctypes.c_double),
        ("end_s", ctypes.c_double),
        ("bytes", ctypes.c_double),
        ("flops", ctypes.c_double),
        ("kind", ctypes.c_int),
        ("stream", ctypes.c_int),
        ("name", ctypes.c_char * 64),
    ]


def _event(raw: _Event) -> KernelEvent:
    return KernelEvent(
        kind=EventKind(raw.kind),
        name=raw.name.decode(errors="replace"),
        stream=raw.stream,
        start_s=raw.start_s,
        end_s=raw.end_s,
        moved_bytes=raw.bytes,
        flops=raw.flops,
    )


def _library_path() -> Path | None:
    root = os.environ.get("CUSTOM_DEVICE_ROOT")
    path = Path(root, LIBRARY_NAME) if root else None
    return path if path is not None and path.is_file() else None


@cache
def _plugin() -> ctypes.CDLL:
    path = _library_path()
    if path is None:
        raise NotEmulated("this process has no emulated device; start it with nebula.emulator.environment(table)")
    import paddle  # noqa: F401  (the plug-in's libraries come with it)

    plugin = ctypes.CDLL(str(path))
    plugin.nebula_emulator_virtual_seconds.restype = ctypes.c_double
    plugin.nebula_emulator_current_bytes.restype = ctypes.c_size_t
    plugin.nebula_emulator_peak_bytes.restype = ctypes.c_size_t
    plugin.nebula_emulator_record.restype = None
    plugin.nebula_emulator_mark.argtypes = [ctypes.c_char_p]
    plugin.nebula_emulator_mark.restype = None
    plugin.nebula_emulator_begin_step.argtypes = [ctypes.c_int]
    plugin.nebula_emulator_drain.restype = ctypes.c_long
    plugin.nebula_emulator_drain.argtypes = [ctypes.POINTER(_Event), ctypes.c_long]
    return plugin
