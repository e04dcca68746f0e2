"""Every number of equal stages with every schedule, as arrays: what the bounds of one pool are worked out over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from nebula.plan.schedule import device_of
from nebula.planner.explore.deal import Floats, Ints
from nebula.planner.explore.durations import WAITING, homes_of, sums_at
from nebula.planner.explore.space import Space


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pipelines whose stages lie on one pool.

    Attributes:
        schedules: [options] names.
        pipeline: [options] devices of a pipeline.
        chunks: [options] virtual stages of a device.
        least: [options] micro-batches that the schedule asks for.
        layers: of the model, the most virtual stages there can be.
        whole: whether micro-batches that wait for gradients of weights count as the others.
    """

    schedules: tuple[str, ...]
    pipeline: Ints
    chunks: Ints
    least: Ints
    layers: int
    whole: bool = True

    @cached_property
    def virtual(self) -> Ints:
        """[options] virtual stages."""
        return self.pipeline * self.chunks

    @cached_property
    def waits(self) -> NDArray[np.bool_]:
        """[options] whether devices wait while the last gradients come back."""
        return np.array([schedule in WAITING for schedule in self.schedules])

    @cached_property
    def homes(self) -> Ints:
        """[options, layers] the device of each virtual stage; behind the last ones `layers`."""
        found = np.full((len(self.schedules), self.layers), self.layers)
        for index, (schedule, p, chunks) in enumerate(zip(self.schedules, self.pipeline, self.chunks, strict=True)):
            found[index, : p * chunks] = [device_of(schedule, s, int(p), int(chunks)) for s in range(p * chunks)]
        return found

    @cached_property
    def flights(self) -> Ints:
        """[options, layers]: micro-batches that each virtual stage holds at once, at the fewest micro-batches.

        Of `interleaved` the first chunk may hold more where there are more (`more_flights`).
        """
        found = np.zeros((len(self.schedules), self.layers), dtype=np.int64)
        for index, (schedule, p, chunks) in enumerate(zip(self.schedules, self.pipeline, self.chunks, strict=True)):
            devices = np.arange(p)
            found[index, : p * chunks] = np.concatenate(
                _flights(schedule, int(p), int(chunks), devices, whole=self.whole)
            )
        return found

    def more_flights(self, which: Ints, micro_batches: Ints) -> Ints:
        """[which, layers]: what the first chunk of each device holds beyond `flights` at so many micro-batches."""
        p, devices = self.pipeline[which][:, None], np.arange(self.layers)
        more = _first_flights(p, devices, micro_batches[:, None]) - p
        found: Ints = np.where(self.interleaved[which][:, None] & (devices < p), more, 0)
        return found

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """[options] the schedules."""
        return np.array(self.schedules, dtype=np.str_)

    @cached_property
    def interleaved(self) -> NDArray[np.bool_]:
        """[options]."""
        return np.array([schedule == "interleaved" for schedule in self.schedules])

    def by_device(self, which: Ints, values: Floats) -> Floats:
        """[which, devices]: values [which, layers] of virtual stages summed over those of each device."""
        width = self.layers + 1
        places = self.homes[which] + width * np.arange(len(which))[:, None]
        summed = sums_at(places.reshape(-1), values.reshape(-1), width * len(which))
        return summed.reshape(len(which), width)[:, : self.layers]


def _flights(schedule: str, p: int, chunks: int, devices: Ints, *, whole: bool) -> list[Ints]:
    """By chunk, in the order of the virtual stages: micro-batches that it holds at once on each device."""
    if schedule == "1f1b" or (schedule == "zb-h1" and not whole):
        return [p - devices]
    if schedule == "zb-h1":
        return [np.full(p, p)]
    if schedule != "interleaved" and not whole:
        return [np.ones(p, dtype=np.int64)] * chunks
    if schedule == "interleaved":
        return [*[np.full(p, p)] * (chunks - 1), np.minimum(p, 2 * (p - devices) - 1)]
    first = 2 * p - devices - (schedule == "zb-v")
    # the second chunk runs back
    return [first, (devices + 1)[::-1]]


def flights(schedule: str, p: int, chunks: int, micro_batches: int, *, whole: bool) -> Ints:
    """[virtual stages]: micro-batches that each holds at once, or more where a group of `interleaved` is longer."""
    devices = np.arange(p)
    found: Ints = np.concatenate(_flights(schedule, p, chunks, devices, whole=whole))
    if schedule == "interleaved":
        found[:p] = _first_flights(np.full(p, p), devices, micro_batches)
    return found


@lru_cache(maxsize=4096)
def least_flights(schedule: str, p: int, chunks: int, micro_batches: int, *, whole: bool) -> Ints:
    """[devices]: micro-batches that a device holds at once of the virtual stage of which it holds fewest."""
    found = np.full(p, micro_batches)
    np.minimum.at(
        found, np.array(homes_of(schedule, p, chunks)), flights(schedule, p, chunks, micro_batches, whole=whole)
    )
    return found


def _first_flights(p: Ints, devices: Ints, micro_batches: Ints | int) -> Ints:
    """Micro-batches that the first chunk of a device of `interleaved` holds."""
    found: Ints = np.minimum(micro_batches, np.maximum(p, 2 * (p - devices) - 1))
    return found


def options_of(space: Space, most: int, *, whole: bool = True) -> Options:
    """The options of a space with up to so many stages; `whole` as of Options."""
    every = [
        (stages, schedule, chunks, least)
        for stages in range(1, min(most, space.layers) + 1)
        if space.allows(pipeline=stages)
        for schedule, chunks, least in space.every_schedule(stages)
    ]
    return Options(
        schedules=tuple(schedule for _, schedule, _, _ in every),
        pipeline=np.array([stages for stages, _, _, _ in every], dtype=np.int64),
        chunks=np.array([chunks for _, _, chunks, _ in every], dtype=np.int64),
        least=np.array([least for _, _, _, least in every], dtype=np.int64),
        layers=space.layers,
        whole=whole,
    )
