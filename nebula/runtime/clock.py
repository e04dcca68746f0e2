"""What time a run keeps, and what it records of a step: wall time on real devices, virtual time on emulated ones."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import paddle
import psutil


class Event(NamedTuple):
    """A kernel, copy, collective or mark in a device's log; the times are the clock's."""

    kind: str
    name: str
    stream: int
    start_s: float
    end_s: float
    moved_bytes: float
    flops: float


class Clock(Protocol):
    """Time and log of one rank's device; used by one thread."""

    name: str
    """`virtual` or `wall`."""

    def seconds(self) -> float:
        """When all work issued so far is done; differences count, not the value."""

    def peak_bytes(self) -> int:
        """The most device memory that tensors have held so far."""

    def begin_step(self, number: int) -> None:
        """A training step begins, counted from 0."""

    def record(self, on: bool) -> None:
        """Switches the log of events on or off."""

    def mark(self, label: str) -> None:
        """Puts a labelled instant on the log."""

    def drain(self) -> list[Event]:
        """Takes the events off the log, in the order of issue."""


class WallClock:
    """The host's monotonic clock, read once the device has done its work; the log holds marks alone."""

    name = "wall"

    def __init__(self, device: str) -> None:
        self.device, self.recording = device, False
        self._events: list[Event] = []

    def seconds(self) -> float:
        """Seconds of the monotonic clock, which the processes of one host share."""
        if self.device != "cpu":
            paddle.device.synchronize(self.device)
        return time.perf_counter()

    def peak_bytes(self) -> int:
        """Peak of Paddle's allocator; on a CPU the memory that the process holds now."""
        if self.device == "cpu":
            return int(psutil.Process().memory_info().rss)
        return int(paddle.device.max_memory_allocated(self.device))

    def begin_step(self, number: int) -> None:
        """Real devices do not ask."""

    def record(self, on: bool) -> None:
        """Switches the marks on or off."""
        self.recording = on

    def mark(self, label: str) -> None:
        """Notes the time of a label."""
        if self.recording:
            now = self.seconds()
            self._events.append(Event("mark", label, -1, now, now, 0.0, 0.0))

    def drain(self) -> list[Event]:
        """Takes the marks."""
        events, self._events = self._events, []
        return events
