"""The schedule language: by name, what each device of a pipeline does in which order, and where each stage lies.

A device holds `chunks` virtual stages; the chain of a micro-batch passes through all of them, under `dualpipe` through
one of two chains. The simulator, the search, the memory model, the report and the engines read the same lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from nebula.errors import BadInput, closest, shown
from nebula.plan.action_orders import (
    Action,
    Shape,
    dual_pipe,
    dual_pipe_v,
    f_then_b,
    interleaved,
    one_f_one_b,
    zero_bubble_h1,
    zero_bubble_v,
)

ENOUGH = 4
"""Periods, and times the devices, after which an order grows with its micro-batches by periods of its steady state."""


def round_robin(chunk: int, place: int, devices: int) -> int:
    """Every chunk starts at device 0 again: place i of a chunk is device i."""
    del chunk, devices
    return place


def folded(chunk: int, place: int, devices: int) -> int:
    """The chain turns at the last device: place i of an odd chunk is device p - 1 - i."""
    return devices - 1 - place if chunk % 2 else place


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One schedule.

    Attributes:
        order: the actions of a device.
        chunks: the least and the most virtual stages on a device.
        place: which device has place i of a chunk (its own inverse).
        chains: ways through the virtual stages; 2 where micro-batches enter at both ends.
        passes: actions of a micro-batch on one virtual stage in the steady state.
        even: whether the devices must be even in number.
    """

    order: Callable[[Shape, int], Iterator[Action]]
    chunks: tuple[int, float] = (1, 1)
    place: Callable[[int, int, int], int] = round_robin
    chains: int = 1
    passes: int = 2
    even: bool = False


SCHEDULES = {
    "1f1b": Schedule(order=one_f_one_b),
    "fthenb": Schedule(order=f_then_b),
    "interleaved": Schedule(order=interleaved, chunks=(2, math.inf)),
    "zb-h1": Schedule(order=zero_bubble_h1, passes=3),
    "zb-v": Schedule(order=zero_bubble_v, chunks=(2, 2), place=folded, passes=3),
    "dualpipe": Schedule(order=dual_pipe, chunks=(2, 2), place=folded, chains=2, even=True),
    "dualpipe-v": Schedule(order=dual_pipe_v, chunks=(2, 2), place=folded),
}


@lru_cache(maxsize=len(SCHEDULES))
def splits_backward(schedule: str) -> bool:
    """Whether gradients of weights may come apart from those of inputs (`W`)."""
    chunks = int(SCHEDULES[schedule].chunks[0])
    return any(action.kind == "W" for own in actions(schedule, 2, 4, chunks) for action in own)


def actions(schedule: str, devices: int, micro_batches: int, chunks: int = 1) -> tuple[tuple[Action, ...], ...]:
    """The actions of every device under a named schedule.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    shape = shape_of(schedule, devices, micro_batches, chunks)
    return tuple(tuple(SCHEDULES[schedule].order(shape, device)) for device in range(devices))


def device_of(schedule: str, virtual_stage: int, devices: int, chunks: int = 1) -> int:
    """The device that holds a virtual stage.

    Virtual stages are numbered along the chain; those of the second chain of `dualpipe` follow those of the first, so
    that virtual stages s and p + s are copies of stage s.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.

    Example:
        >>> [device_of("interleaved", v, 3, 2) for v in range(6)]
        [0, 1, 2, 0, 1, 2]
        >>> [device_of("zb-v", v, 3, 2) for v in range(6)]
        [0, 1, 2, 2, 1, 0]
    """
    check_chunks(schedule, devices, chunks)
    return SCHEDULES[schedule].place(virtual_stage // devices, virtual_stage % devices, devices)


def virtual_stage_of(schedule: str, device: int, chunk: int, devices: int) -> int:
    """The virtual stage that is a chunk of a device; the inverse of `device_of`."""
    return chunk * devices + SCHEDULES[schedule].place(chunk, device, devices)


def chain_length(schedule: str, devices: int, chunks: int = 1) -> int:
    """How many virtual stages a micro-batch passes forward."""
    return devices * chunks // SCHEDULES[schedule].chains


def devices_of(schedule: str, virtual_stages: int, chunks: int = 1) -> int:
    """How many devices a pipeline of virtual stages has.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    if chunks < 1 or virtual_stages % chunks:
        raise BadInput(
            f"schedule {schedule}: {virtual_stages} virtual stages / {chunks} chunks per device is not a whole number "
            "of devices; make the stages a multiple of the chunks"
        )
    check_chunks(schedule, virtual_stages // chunks, chunks)
    return virtual_stages // chunks


def check_chunks(schedule: str, devices: int, chunks: int) -> None:
    """Refuses a schedule that does not exist or that these devices and chunks cannot run.

    Raises:
        BadInput: with the equation and what to change.
    """
    if schedule not in SCHEDULES:
        raise BadInput(f"schedule {shown(schedule)} does not exist; {closest(schedule, SCHEDULES)}")
    known = SCHEDULES[schedule]
    least, most = known.chunks
    if not least <= chunks <= most:
        wanted = f"{least}" if least == most else f"{least} or more"
        instead = "interleaved or fewer stages" if most == 1 else "1f1b" if chunks == 1 else "interleaved"
        raise BadInput(
            f"schedule {schedule}: {devices} devices × chunks {chunks} = {devices * chunks} virtual stages, but a "
            f"device holds {wanted} of them; make it {wanted} × {devices} virtual stages or take {instead}"
        )
    if devices < 1:
        raise BadInput(f"schedule {schedule}: {devices} devices; a pipeline has at least 1")
    if known.even and devices % 2:
        raise BadInput(
            f"schedule {schedule}: device d holds stages d and {devices} - 1 - d, which {devices} devices cannot pair; "
            "take an even number of devices"
        )


def shape_of(schedule: str, devices: int, micro_batches: int, chunks: int = 1) -> Shape:
    """What the orders of a schedule depend on, the group of `interleaved` included.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    check_chunks(schedule, devices, chunks)
    if micro_batches < 1:
        raise BadInput(f"schedule {schedule}: {micro_batches} micro-batches; a step has at least 1")
    group = _group(devices, micro_batches) if schedule == "interleaved" else 1
    return Shape(devices, micro_batches, chunks, group)


def _group(devices: int, micro_batches: int) -> int:
    """Micro-batches that go through a chunk in a row: the fewest that Megatron-core takes.

    It asks for p to m of them, and that the rest m mod group, if there is one, keeps all devices busy: p or more.
    Fewer micro-batches than devices are one group.

    Example:
        >>> [_group(4, m) for m in (3, 4, 5, 8, 10, 13)]
        [3, 4, 5, 4, 5, 7]
    """
    groups = range(devices, micro_batches + 1)
    return next((g for g in groups if micro_batches % g == 0 or micro_batches % g >= devices), micro_batches)


def period(schedule: str, shape: Shape) -> tuple[int, int]:
    """After how many micro-batches the steady state repeats, and how many actions of a device that is."""
    known = SCHEDULES[schedule]
    micro_batches = shape.group * known.chains
    return micro_batches, micro_batches * known.passes * shape.chunks // known.chains


def shortened(shape: Shape, repeats: int, periods: int = ENOUGH) -> Shape:
    """The same pipeline with as many fewer micro-batches, in multiples of `repeats`, as leave some periods."""
    least = periods * (repeats + shape.devices)
    return shape._replace(micro_batches=shape.micro_batches - max(shape.micro_batches - least, 0) // repeats * repeats)


def in_flight(schedule: str, devices: int, device: int, micro_batches: int, chunks: int = 1) -> int:
    """Most activations alive together on a device, in units of one micro-batch on one chunk.

    Activations live from a forward to the end of its backward, `W` included.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.

    Example:
        >>> [in_flight("1f1b", 4, d, 8) for d in range(4)]
        [4, 3, 2, 1]
    """
    return sum(alive(schedule, devices, device, micro_batches, chunks))


def alive(schedule: str, devices: int, device: int, micro_batches: int, chunks: int = 1) -> tuple[int, ...]:
    """Micro-batches whose activations each chunk of a device holds, when the device first holds most.

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    return tuple(held for held, _ in _fullest(schedule, devices, device, micro_batches, chunks))


def waiting(schedule: str, devices: int, device: int, micro_batches: int, chunks: int = 1) -> tuple[int, ...]:
    """Of those how many wait for the gradients of weights alone; errors as of alive.

    Example:
        >>> [waiting("zb-h1", 4, d, 8) for d in range(4)]
        [(0,), (1,), (2,), (3,)]
    """
    return tuple(waits for _, waits in _fullest(schedule, devices, device, micro_batches, chunks))


def begun(schedule: str, devices: int, device: int, micro_batches: int, chunks: int = 1) -> tuple[tuple[int, ...], ...]:
    """For each chunk of a device the micro-batches that its chunks hold when the first backward of it begins.

    Errors as of alive.

    Example:
        >>> begun("interleaved", 2, 0, 2, chunks=2)
        ((2, 0), (2, 2))
    """
    return _begun(schedule, _short(schedule, devices, micro_batches, chunks), device)


@lru_cache(maxsize=4096)
def _begun(schedule: str, shape: Shape, device: int) -> tuple[tuple[int, ...], ...]:
    now = [0] * shape.chunks
    found: dict[int, tuple[int, ...]] = {}
    for action in SCHEDULES[schedule].order(shape, device):
        if action.kind in ("B", "I"):
            found.setdefault(action.chunk, tuple(now))
        now[action.chunk] += {"F": 1, "I": 0}.get(action.kind, -1)
    return tuple(found[chunk] for chunk in range(shape.chunks))


def _short(schedule: str, devices: int, micro_batches: int, chunks: int) -> Shape:
    """The shape with the fewest micro-batches that hold as many together."""
    shape = shape_of(schedule, devices, micro_batches, chunks)
    return shape if schedule == "fthenb" else shortened(shape, period(schedule, shape)[0])


def _fullest(schedule: str, devices: int, device: int, micro_batches: int, chunks: int) -> tuple[tuple[int, int], ...]:
    return _alive(schedule, _short(schedule, devices, micro_batches, chunks), device)


@lru_cache(maxsize=4096)
def _alive(schedule: str, shape: Shape, device: int) -> tuple[tuple[int, int], ...]:
    """For each chunk the micro-batches that it holds when the device first holds most, and those of them that wait."""
    now, waits = [0] * shape.chunks, [0] * shape.chunks
    most = tuple(zip(now, waits, strict=True))
    for action in SCHEDULES[schedule].order(shape, device):
        now[action.chunk] += {"F": 1, "I": 0}.get(action.kind, -1)
        waits[action.chunk] += {"I": 1, "W": -1}.get(action.kind, 0)
        if sum(now) > sum(held for held, _ in most):
            most = tuple(zip(now, waits, strict=True))
    return most
