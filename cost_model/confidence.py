"""How far a prediction can be trusted: the range of the step time, and where each input of it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.execution import Execution
from nebula.cost_model.traffic import WITHOUT_RDMA

SPREAD = {
    "emulated": (0.95, 1.05),
    "measured": (0.9, 1.15),
    "fitted": (0.85, 1.2),
    "data sheet": (0.8, 1.4),
    "assumed": (0.8, 1.4),
}
"""Low and high end of the step time as multiples of the prediction, by the weakest input of the compute rate.

On 520 published runs nine in ten predictions of devices whose efficiency was fitted lie within 18 %; one constant
efficiency per device type misses a source that it was not fitted on by 25 % in the median, nearly always on the fast
side, so the range for other devices is wide and lies above the prediction.
"""

INPUTS = ("peak_flops", "memory_bytes_per_s", "product_efficiency", "memory_efficiency", "kernel_s")
"""Fields of a device type that decide how long compute takes."""


def origin(device: DeviceType, field: str) -> str:
    """`emulated`, `measured`, `fitted`, `data sheet` or `assumed`: where a field of a device type comes from."""
    if device.emulated:
        return "emulated"
    source = dict(device.sources).get(field, "")
    if not source or source.startswith("assumed"):
        return "assumed"
    return next((known for known in ("measured", "fitted") if source.startswith(known)), "data sheet")


def provenance(devices: Sequence[DeviceType], *, more: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Pairs of input and origin, for every device type that a plan uses; `more` are fields beside INPUTS."""
    return tuple((f"{d.name} {field}", origin(d, field)) for d in devices for field in (*INPUTS, *more))


def interval(step_s: float, devices: Sequence[DeviceType]) -> tuple[float, float]:
    """Low and high end of a predicted step time."""
    # what a device attains is what matters: peaks are multiplied with it, and were when it was measured or fitted
    origins = [origin(device, "product_efficiency") for device in devices]
    weakest = max(origins, key=list(SPREAD).index)
    low, high = SPREAD[weakest]
    return step_s * low, step_s * high


class Doubtful(NamedTuple):
    """Something that a prediction of a run rests on and that is not sure.

    Attributes:
        spread: by how much of it the step time may be off for this reason alone, in 80 to 90 of 100 runs.
        reason: in words.
    """

    spread: float
    reason: str


MODEL = Doubtful(0.09, "the model on a device whose rates were measured")
RATES = Doubtful(0.08, "what the device attains comes from a data sheet or is assumed")
UNKNOWN_DEVICE = Doubtful(0.5, "the device is not known and another one stands for it")
UNEQUAL_DEVICES = Doubtful(0.25, "several types of devices wait for one another")
SCORES = Doubtful(0.12, "attention writes its scores, by kernels that differ from stack to stack")
HOST_PATH = Doubtful(0.15, "nodes talk over a network without RDMA, whose rate depends on the host")
WAN = Doubtful(0.3, "sites talk over a WAN, whose rate changes")
LINKS = Doubtful(0.05, "the rate of a link was not printed")
ATTENTION = Doubtful(0.04, "the generation of the attention kernel is assumed")
OVERLAP = Doubtful(0.1, "which communication overlaps with compute is assumed")

SLOW_SIDE = 1.3
"""The high end lies so much further from the prediction than the low end: what a model leaves out takes time."""


def run_doubts(cluster: Cluster, execution: Execution) -> tuple[Doubtful, ...]:
    """What makes the predicted time of a run unsure, the largest first."""
    return tuple(sorted(_run_doubts(cluster, execution), reverse=True))


def _run_doubts(cluster: Cluster, execution: Execution) -> Iterator[Doubtful]:
    devices = {group.device.name: group.device for group in cluster.groups}.values()
    assumed = {name.split()[0] if name.startswith("device ") else name for name, o in cluster.origin if o == "assumed"}
    yield MODEL
    if any(origin(d, "product_efficiency") not in ("emulated", "measured", "fitted") for d in devices):
        yield RATES
    if "device" in assumed:
        yield UNKNOWN_DEVICE
    if len(devices) > 1:
        yield UNEQUAL_DEVICES
    if execution.attention == 0:
        yield SCORES
    if any(group.nic.kind in WITHOUT_RDMA for group in cluster.groups):
        yield HOST_PATH
    if cluster.wan is not None:
        yield WAN
    if any(name.endswith((" intra", " nic")) for name in assumed):
        yield LINKS
    if "attention" in execution.assumed:
        yield ATTENTION
    if "hidden" in execution.assumed:
        yield OVERLAP


def run_interval(step_s: float, cluster: Cluster, execution: Execution) -> tuple[float, float]:
    """Low and high end of the predicted time of a run, step or layer, in seconds.

    The doubts of `run_doubts` are taken as independent and add as squares. Their spreads are rounded; on 520 published
    runs the ends held the measured time of nearly nine in ten.

    Args:
        step_s: the prediction.
        cluster: with the origin of its facts, as `cluster_of` gives it.
        execution: with the fields that were assumed.
    """
    spread = math.sqrt(sum(doubt.spread**2 for doubt in _run_doubts(cluster, execution)))
    return step_s / (1.0 + spread), step_s * (1.0 + SLOW_SIDE * spread)
