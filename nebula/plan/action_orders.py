"""In which order one device of a pipeline does its actions: a generator per published schedule.

Pure functions of the shape of a pipeline. What a chunk is and which schedules there are stands in schedule.py; how long
anything takes is not known here, so no order depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Action(NamedTuple):
    """One unit of a device's work on one of its chunks.

    `F` is a forward, `B` a whole backward; zero-bubble schedules split a backward into `I`, the gradients of the
    inputs, which the stage before waits for, and `W`, those of the weights, which nobody waits for.
    """

    kind: str
    micro_batch: int
    chunk: int = 0


class Shape(NamedTuple):
    """What an order depends on.

    Attributes:
        devices: in pipeline order.
        micro_batches: of one step.
        chunks: virtual stages on each device.
        group: how many micro-batches a device runs through one chunk before it turns to the next (`interleaved` alone).
    """

    devices: int
    micro_batches: int
    chunks: int = 1
    group: int = 1


def f_then_b(shape: Shape, device: int) -> Iterator[Action]:
    """All forwards, then all backwards (GPipe, Huang et al., arXiv 1811.06965, figure 2c)."""
    del device
    yield from (Action("F", i) for i in range(shape.micro_batches))
    yield from (Action("B", i) for i in range(shape.micro_batches))


def one_f_one_b(shape: Shape, device: int) -> Iterator[Action]:
    """PipeDream-Flush (Narayanan et al., arXiv 2006.09503, section 3.2): warm up, alternate, drain.

    Device d of p runs min(p - 1 - d, m) forwards first.

    Example:
        >>> [f"{a.kind}{a.micro_batch}" for a in one_f_one_b(Shape(2, 3), 0)]
        ['F0', 'F1', 'B0', 'F2', 'B1', 'B2']
    """
    forwards = [Action("F", i) for i in range(shape.micro_batches)]
    backwards = [Action("B", i) for i in range(shape.micro_batches)]
    return _alternate(forwards, backwards, shape.devices - 1 - device)


def interleaved(shape: Shape, device: int) -> Iterator[Action]:
    """Interleaved 1F1B (Narayanan et al., SC 2021, section 2.2.2, figure 4), as Megatron-core orders it.

    Groups of micro-batches go through the chunks in turn, forward from chunk 0 and backward from the last. Device d of
    p runs 2 (p - 1 - d) + (v - 1) group forwards first: (v - 1) group until the first backward can be, and two for
    each device behind, as a device does one forward and one backward in the time that a neighbour does.

    Example:
        >>> [f"{a.kind}{a.micro_batch}.{a.chunk}" for a in interleaved(Shape(2, 2, 2, 2), 1)]
        ['F0.0', 'F1.0', 'F0.1', 'B0.1', 'F1.1', 'B1.1', 'B0.0', 'B1.0']
    """
    p, m, v, group = shape
    groups = [range(first, min(first + group, m)) for first in range(0, m, group)]
    forwards = [Action("F", i, chunk) for own in groups for chunk in range(v) for i in own]
    backwards = [Action("B", i, chunk) for own in groups for chunk in reversed(range(v)) for i in own]
    return _alternate(forwards, backwards, 2 * (p - 1 - device) + (v - 1) * group)


def _alternate(forwards: list[Action], backwards: list[Action], warm: int) -> Iterator[Action]:
    """`warm` forwards, then a forward and a backward in turn, then the backwards that are left."""
    yield from forwards[:warm]
    for forward, backward in zip(forwards[warm:], backwards, strict=False):
        yield from (forward, backward)
    yield from backwards[max(len(forwards) - warm, 0) :]


def zero_bubble_h1(shape: Shape, device: int) -> Iterator[Action]:
    """ZB-H1 (Qi et al., arXiv 2401.10241, section 2.1): 1F1B whose last weight gradients fill the drain.

    Device d does the weight gradients of a micro-batch d micro-batches after its input gradients, so that every device
    holds the activations of p micro-batches, as the first one does under 1F1B.

    Example:
        >>> [f"{a.kind}{a.micro_batch}" for a in zero_bubble_h1(Shape(2, 3), 1)]
        ['F0', 'I0', 'F1', 'I1', 'W0', 'F2', 'I2', 'W1', 'W2']
    """
    p, m = shape.devices, shape.micro_batches
    warm = min(p - device, m)
    yield from (Action("F", i) for i in range(warm))
    for i in range(m):
        yield Action("I", i)
        if i >= device:
            yield Action("W", i - device)
        if warm + i < m:
            yield Action("F", warm + i)
    yield from (Action("W", i) for i in range(max(m - device, 0), m))


def zero_bubble_v(shape: Shape, device: int) -> Iterator[Action]:
    """ZB-V (Qi et al., arXiv 2401.10241, section 6; V-ZB of Qi et al., arXiv 2405.15362): up chunk 0, down chunk 1.

    First and last stage lie on device 0, weight gradients fill the waits, and at most 2 p chunks of activations are
    held, as much as the p stages that device 0 holds under 1F1B. The order is the closed one of PyTorch's
    ScheduleZBVZeroBubble: without bubbles where forward, input and weight gradients take the same time. It is meant for
    2 p - 1 micro-batches or more; with fewer, the actions of those that there are not are left out.
    """
    p, d, m = shape.devices, device, max(shape.micro_batches, 2 * shape.devices - 1)
    order = _Order(shape.micro_batches)
    order.add("F0", 2 * (p - d) - 1)
    order.add("F1 F0", d)
    order.add("F1 I1 W1", p - d)
    order.add("F0 I0 W0 F1 I1 W1", m - 2 * p + d + 1)
    order.add("I0 W0 F1 I1 W1", p - d - 1)
    order.add("I0 I1", d)
    order.add("I0 W0", p - d)
    order.add("W1", d)
    order.add("W0", d)
    return iter(order.actions)


def dual_pipe(shape: Shape, device: int) -> Iterator[Action]:
    """DualPipe (DeepSeek-V3, arXiv 2412.19437, section 3.2.1, figure 5): half of the micro-batches enter at each end.

    Chunk 0 of device d is stage d of the micro-batches that enter at device 0, chunk 1 stage p - 1 - d of those that
    enter at the last device, which are the later numbers. The order of the two directions is that of the published
    implementation. It runs a forward and the backward of the other direction as one, their communication hidden in each
    other's compute; here they follow each other on the device, which lets messages travel beside compute if they may.
    """
    p, m = shape.devices, shape.micro_batches
    entering = (m + 1) // 2, m // 2
    mirrored = device >= p // 2
    near = entering[1] if mirrored else entering[0]
    order = _Order(near, m - near)
    _both_ways(order, p // 2, min(device, p - 1 - device), max(entering[0], p))
    for kind, micro_batch, chunk in order.actions:
        real = 1 - chunk if mirrored else chunk
        yield Action(kind, micro_batch + real * entering[0], real)


def dual_pipe_v(shape: Shape, device: int) -> Iterator[Action]:
    """DualPipeV: one half of DualPipe, cut and folded, so that no stage is held twice.

    Placement as in `zero_bubble_v`; the order is DualPipe's of a device of the first half of 2 p.
    """
    p, m = shape.devices, shape.micro_batches
    order = _Order(m)
    _both_ways(order, p, device, max(m, 2 * p))
    return iter(order.actions)


def _both_ways(order: _Order, p: int, d: int, m: int) -> None:
    """Device d of p that hold a near chunk 0 and a far chunk 1 of each micro-batch; eight steps, m from 2 p on."""
    order.add("F0", 2 * (p - 1 - d))
    order.add("F0 F1", d + 1)
    order.add("I1 W F1", p - 1 - d)
    order.add("F0 B1 F1 B0", m - 2 * p + d + 1)
    order.add("B1 F1 B0", p - 1 - d)
    # the second half of the last d + 1 pairs splits its backwards, beginning with chunk 1 on odd and 0 on even devices
    whole = (d + 1) // 2
    order.add("B1 B0", whole)
    order.add("I1 I0" if d % 2 else "B1 I0", 1)
    order.add("I1 I0", d - whole)
    order.add("W I0", p - 1 - d)
    order.add("W", d + 1)


class _Order:
    """Actions in the order in which they are added; each kind takes the micro-batches of a chunk in order.

    Those from `limits[chunk]` on (one limit: of all chunks) are counted and left out.
    """

    def __init__(self, *limits: int) -> None:
        self.actions: list[Action] = []
        self._limits = limits
        self._next: dict[tuple[bool, int], int] = {}
        self._weights: list[Action] = []

    def add(self, words: str, times: int) -> None:
        """Adds the actions that words as `F0 I1 W1` name, kind and chunk, some times over; `W`: of the oldest `I`."""
        turn = [(word[0], word[1:]) for word in words.split()]
        limits = self._limits if len(self._limits) > 1 else (*self._limits, *self._limits)
        for _ in range(times):
            for kind, chunk in turn:
                action = self._weight(chunk) if kind == "W" else self._pass(kind, int(chunk))
                if action.micro_batch < limits[action.chunk]:
                    self.actions.append(action)

    def _pass(self, kind: str, chunk: int) -> Action:
        key = kind == "F", chunk
        action = Action(kind, self._next.get(key, 0), chunk)
        self._next[key] = action.micro_batch + 1
        if kind == "I":
            self._weights.append(Action("W", action.micro_batch, chunk))
        return action

    def _weight(self, chunk: str) -> Action:
        oldest = next(i for i, a in enumerate(self._weights) if not chunk or a.chunk == int(chunk))
        return self._weights.pop(oldest)
