"""When each micro-batch runs on each device of a pipeline, event by event, for any schedule of the schedule language.

A device does its actions in the order of the schedule, and an action waits until its input has arrived. How long an
action takes is the caller's knowledge; closed_form.py gives the ends alone, for many pipelines at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from nebula.plan.action_orders import Action
from nebula.plan.schedule import actions, chain_length, device_of, devices_of, virtual_stage_of


class Event(NamedTuple):
    """Something a device of the pipeline does.

    Attributes:
        stage: the place of the device in the pipeline.
        kind: `F`, `B`, `I`, `W` (as of Action), `send`, `sync` (gradients) or `update`.
        micro_batch: -1 for the last two.
        chunk: which of the device's virtual stages.
    """

    stage: int
    kind: str
    micro_batch: int
    start_s: float
    end_s: float
    chunk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What every device does in one step, in the order of the devices, then of time."""

    events: tuple[Event, ...]

    @property
    def end_s(self) -> float:
        """When the last event ends."""
        return max((e.end_s for e in self.events), default=0.0)

    def by_stage(self) -> list[tuple[Event, ...]]:
        """The events of every stage."""
        return [tuple(events) for _, events in groupby(self.events, key=lambda event: event.stage)]

    def of(self, stage: int) -> tuple[Event, ...]:
        """The events of one stage."""
        return tuple(e for e in self.events if e.stage == stage)


class Sends(Enum):
    """What a message keeps busy."""

    OCCUPY = "the sender: its stream is busy until the message has left"
    MEET = "the sender, which takes the input of a forward that comes next before it sends a gradient back"
    BESIDE = "the way from one device to another, on which messages queue; both compute meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Seconds of each action, one entry per virtual stage, numbered as `device_of` has them.

    Attributes:
        forward_s: compute (and communication inside the stage) of one forward.
        backward_s: the same of one whole backward, recomputation included.
        send_forward_s: sending the outputs to the next stage; 0 for the last, and where the next one is on the device.
        send_backward_s: sending gradients to the stage before; 0 for the first, and where that one is on the device.
        weight_s: the part of backward_s that `W` does, the rest being `I`; empty: `W` takes no time.
        sends: whether sending occupies the sender.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    send_forward_s: tuple[float, ...]
    send_backward_s: tuple[float, ...]
    weight_s: tuple[float, ...] = ()
    sends: Sends = Sends.OCCUPY

    def __post_init__(self) -> None:
        assert all(w <= b for w, b in zip(self.weight_s, self.backward_s, strict=False)), "W is a part of the backward"

    @property
    def stages(self) -> int:
        """Number of virtual stages."""
        return len(self.forward_s)

    def action_s(self, kind: str, virtual_stage: int) -> float:
        """Seconds of an action on a virtual stage, without sending."""
        if kind == "F":
            return self.forward_s[virtual_stage]
        weight_s = self.weight_s[virtual_stage] if self.weight_s else 0.0
        return {"B": self.backward_s[virtual_stage], "I": self.backward_s[virtual_stage] - weight_s, "W": weight_s}[
            kind
        ]


def timeline(durations: Durations, schedule: str, micro_batches: int, chunks: int = 1) -> Timeline:
    """Every event of one step's forwards and backwards, by simulation of the named schedule.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    devices = devices_of(schedule, durations.stages, chunks)
    lists = actions(schedule, devices, micro_batches, chunks)
    run = _Run(durations, schedule, devices, chunks)
    done, able = [0] * devices, list(range(devices))
    while able:
        device = able.pop()
        own = lists[device]
        while done[device] < len(own) and run.can(device, own[done[device]]):
            following = own[done[device] + 1] if done[device] + 1 < len(own) else None
            able += run.do(device, own[done[device]], following)
            done[device] += 1
    assert all(d == len(a) for d, a in zip(done, lists, strict=True)), f"{schedule} waits for itself"
    return Timeline(events=tuple(e for own in run.events for e in own))


class _Run:
    """The state of a simulation: when each device is free and which messages have arrived when."""

    def __init__(self, durations: Durations, schedule: str, devices: int, chunks: int) -> None:
        self.durations = durations
        self.events: list[list[Event]] = [[] for _ in range(devices)]
        self._free_s = [0.0] * devices
        self._due: dict[int, tuple[int, Action]] = {}
        self._way_free_s: dict[tuple[int, int], float] = {}
        self._arrival_s: dict[tuple[bool, int, int], float] = {}
        self._length = chain_length(schedule, devices, chunks)
        self._device = [device_of(schedule, v, devices, chunks) for v in range(durations.stages)]
        self._stage = [[virtual_stage_of(schedule, d, c, devices) for c in range(chunks)] for d in range(devices)]

    def can(self, device: int, action: Action) -> bool:
        """Whether what an action needs is there."""
        return self._ready_s(device, action) is not None

    def _ready_s(self, device: int, action: Action) -> float | None:
        stage = self._stage[device][action.chunk]
        if action.kind == "W" or (action.kind == "F" and stage % self._length == 0):
            return 0.0
        return self._arrival_s.get((action.kind == "F", stage, action.micro_batch))

    def do(self, device: int, action: Action, following: Action | None) -> list[int]:
        """Runs an action and its send; returns the devices that may go on because of it.

        Args:
            device: that runs it.
            action: whose input is there.
            following: what the device does next, if anything.
        """
        ready_s, stage = self._ready_s(device, action), self._stage[device][action.chunk]
        assert ready_s is not None
        told = []
        if device in self._due:
            due = self._due.pop(device)
            told.append(self._send(device, *due, max(self._free_s[device], ready_s)))
        start_s = max(self._free_s[device], ready_s)
        end_s = start_s + self.durations.action_s(action.kind, stage)
        self.events[device].append(Event(device, action.kind, action.micro_batch, start_s, end_s, action.chunk))
        self._free_s[device] = end_s
        if action.kind == "W":
            return told
        waits = self.durations.sends is Sends.MEET and action.kind != "F" and stage % self._length
        if waits and following is not None and following.kind == "F":
            self._due[device] = stage, action
            return told
        return [*told, self._send(device, stage, action, end_s)]

    def _send(self, device: int, stage: int, action: Action, end_s: float) -> int:
        """Sends what an action made to the stage that waits for it; returns that stage's device."""
        forward = action.kind == "F"
        if forward and (stage + 1) % self._length == 0:
            self._arrival_s[False, stage, action.micro_batch] = end_s
            return device
        if not forward and stage % self._length == 0:
            return device
        target, costs_s = (
            (stage + 1, self.durations.send_forward_s) if forward else (stage - 1, self.durations.send_backward_s)
        )
        way = device, self._device[target]
        occupies = self.durations.sends is not Sends.BESIDE
        leaves_s = end_s if occupies else max(end_s, self._way_free_s.get(way, 0.0))
        sent_s = self._way_free_s[way] = leaves_s + costs_s[stage]
        if sent_s > leaves_s:
            self.events[device].append(Event(device, "send", action.micro_batch, leaves_s, sent_s, action.chunk))
        if occupies:
            self._free_s[device] = sent_s
        self._arrival_s[forward, target, action.micro_batch] = sent_s
        return self._device[target]


def end_of(events: Sequence[Event]) -> float:
    """When a device has done all of them; messages beside compute may be the last to end."""
    return max(event.end_s for event in events)


def tail_events(passes: Sequence[Event], stage: int, sync_s: float, update_s: float) -> list[Event]:
    """Synchronization and update of a stage once its last backward is done and its messages have left."""
    start_s = end_of(passes)
    synced_s = start_s + sync_s
    sync = [Event(stage, "sync", -1, start_s, synced_s)] if sync_s else []
    return [*sync, Event(stage, "update", -1, synced_s, synced_s + update_s)]
