"""How long a pipeline takes whose virtual stages take so long: exactly, and at least."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.step_parameters import StepParameters
from nebula.plan.schedule import device_of
from nebula.planner.explore.deal import Floats, Ints

WAITING = frozenset(("1f1b", "fthenb", "interleaved"))
"""Schedules in which a device waits while the last gradients pass those before it."""


class Placed(NamedTuple):
    """The durations of a way on its places.

    Attributes:
        forward_s, backward_s, weight_s: [virtual stages], with what messages keep a device busy.
        send_s, back_s: [virtual stages], messages to the next one and to the one before, beside that.
        homes: [virtual stages] the device of each.
        tail_s, update_s: [devices] data communication behind the passes, and the update.
        tied: the device of the last virtual stage, and what it takes to sum with the first the gradients of weights
            that both hold; the first and nothing where they hold none.
        waiting: by what factor a step is longer since its nodes wait for one another.
        host_s: of the step that the host spends alone.
    """

    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    send_s: Floats
    back_s: Floats
    homes: Ints
    tail_s: Floats
    update_s: Floats
    tied: tuple[int, float]
    waiting: float
    host_s: float

    def least_seconds(self, micro_batches: int, schedule: str) -> float:
        """No step is faster: a device works, and waits at the start, and at the end where W cannot fill the wait."""
        p = len(self.tail_s)
        ends_s = micro_batches * sums_at(self.homes, self.forward_s + self.backward_s, p)
        ends_s[1:] += (self.forward_s + self.send_s)[: p - 1].cumsum()
        if schedule in WAITING:
            # the first device is done when the last gradients have come to it
            passing_s = self.backward_s[: p - 1] + self.back_s[1:p]
            ends_s[0] = (ends_s + passing_back(passing_s, schedule)).max()
        return self._step_s(ends_s)

    def step_seconds(self, micro_batches: int, schedule: str) -> float:
        """The step."""
        chunks = len(self.homes) // len(self.tail_s)
        passes_s, sends_s = (self.forward_s, self.backward_s), (self.send_s, self.back_s)
        ends_s = last_backward_s(*passes_s, micro_batches, schedule, chunks, self.weight_s, *sends_s)
        return self._step_s(ends_s)

    def _step_s(self, ends_s: Floats) -> float:
        last, tied_s = self.tied
        if tied_s:
            ends_s = ends_s.copy()
            ends_s[[0, last]] = max(ends_s[0], ends_s[last]) + tied_s
        return self.waiting * float((ends_s + self.tail_s).max()) + float(self.update_s.max()) + self.host_s


def passing_back(backward_s: Floats, schedule: str) -> Floats:
    """[devices]: until the last gradient of each has come to the first, from when the device has done its work.

    Args:
        backward_s: of each device but the last, behind the message that it waits for.
        schedule: where weight gradients come last (not in WAITING), a device may have work left when it has sent all
            it sends: then nothing follows from its end for the first one.
    """
    back_s = prefix_sums(backward_s)
    if schedule not in WAITING:
        back_s[1:] = -np.inf
    return back_s


def waiting_factor(nodes: NDArray[np.int64], parameters: StepParameters) -> Floats:
    """By what factor a step over so many nodes is longer since they wait for one another."""
    factor: Floats = 1.0 + parameters.jitter * np.log2(np.maximum(1, nodes))
    return factor


@lru_cache(maxsize=1024)
def homes_of(schedule: str, devices: int, chunks: int) -> tuple[int, ...]:
    """The device of each virtual stage."""
    return tuple(device_of(schedule, stage, devices, chunks) for stage in range(devices * chunks))


def sums_at(homes: Ints, values: Floats, devices: int) -> Floats:
    """[devices]: the sum of [virtual stages] over those of each device."""
    found: Floats = np.bincount(homes, values, devices)  # type: ignore[assignment]
    return found


def prefix_sums(values: Floats) -> Floats:
    """[n + 1]: the sum of what comes before each."""
    return np.concatenate([[0.0], np.cumsum(values)])
