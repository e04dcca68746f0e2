"""How far a prediction can be trusted: the range of the step time, and where each input of it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.cluster.values import DeviceType

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


def provenance(devices: Sequence[DeviceType]) -> tuple[tuple[str, str], ...]:
    """Pairs of input and origin, for every device type that a plan uses."""
    return tuple((f"{d.name} {field}", origin(d, field)) for d in devices for field in INPUTS)


def interval(step_s: float, devices: Sequence[DeviceType]) -> tuple[float, float]:
    """Low and high end of a predicted step time."""
    # what a device attains is what matters: peaks are multiplied with it, and were when it was measured or fitted
    origins = [origin(device, "product_efficiency") for device in devices]
    weakest = max(origins, key=list(SPREAD).index)
    low, high = SPREAD[weakest]
    return step_s * low, step_s * high
