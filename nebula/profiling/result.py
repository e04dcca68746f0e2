"""From measurements to a calibration: the fitted figures of the device and its link, and what the file says beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nebula.cluster.calibration import Calibration, dump_calibration
from nebula.cluster.values import DeviceType, Link
from nebula.profiling.fit import (
    FITTED_COLLECTIVE,
    LinkFit,
    MemoryFit,
    ProductFit,
    fit_device,
    fit_link,
    fit_rate,
    link_residuals,
)
from nebula.profiling.measurements import Measurements, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a profile came to.

    Attributes:
        link: None for a device alone.
    """

    measured: Measurements
    products: ProductFit
    memory: MemoryFit
    link: LinkFit | None
    calibration: Calibration


def fitted(
    measured: Measurements, device: DeviceType, link_kind: str, *, source: str, nic: Link | None = None
) -> Profile:
    """The figures that fit the measurements.

    A CPU's peak is the attained rate itself. The peak of another device stays what its data sheet says, for the first
    dtype measured, and the efficiency is measured against it; other dtypes get the peak that gives them their rate.

    Args:
        device: the type as the cluster file has it.
        link_kind: what the file calls the link between two devices of a node.
        source: begins with `measured`.
        nic: a network card as it was measured; None where it was not.

    Raises:
        BadInput: too little was measured.
    """
    main = measured.products[0].dtype
    rows = [p for p in measured.products if p.dtype == main]
    kernel_s, copy = measured.kernel_s, measured.copy_bytes_per_s
    products, memory = fit_device(rows, measured.references, kernel_s=kernel_s)
    link = fit_link(measured.messages) if measured.messages else None
    sheet = device.kind != "cpu" and products.flops_per_s <= device.peak(main)
    efficiency = products.flops_per_s / device.peak(main) if sheet else 1.0
    rates = {main: products.flops_per_s, **_other_rates(measured, main, products.half_product_flops)}
    peaks = {dtype: rate / efficiency for dtype, rate in rates.items()}
    peak_bandwidth = copy if device.kind == "cpu" else device.memory_bytes_per_s
    bandwidth = max(peak_bandwidth, memory.bytes_per_s)
    calibration = Calibration(
        device=device.name,
        source=source,
        processes=measured.processes,
        peak_flops={dtype: float(f"{peak:.4g}") for dtype, peak in peaks.items()},
        figures={
            "memory_bytes_per_s": bandwidth,
            "kernel_s": kernel_s,
            "product_efficiency": efficiency,
            "memory_efficiency": memory.bytes_per_s / bandwidth,
            "half_product_flops": products.half_product_flops,
        },
        intra=Link(kind=link_kind, bytes_per_s=link.bytes_per_s, latency_s=link.latency_s, attained=True)
        if link
        else None,
        nic=nic,
    )
    return Profile(measured=measured, products=products, memory=memory, link=link, calibration=calibration)


def network_card(messages: Sequence[Message], card: Link, between: Link) -> Link:
    """A network card by messages between two nodes.

    Args:
        card: as the cluster file has it.
        between: the link that follows from it, of one device while all of its node talk; what was measured is to this
            as the card is to the file's.
    """
    found = fit_link(messages)
    return Link(
        kind=card.kind,
        bytes_per_s=card.bytes_per_s * found.bytes_per_s / between.bytes_per_s,
        latency_s=max(0.0, card.latency_s + found.latency_s - between.latency_s),
        attained=True,
    )


def _other_rates(measured: Measurements, main: str, half_product_flops: float) -> dict[str, float]:
    others = dict.fromkeys(p.dtype for p in measured.products if p.dtype != main)
    return {
        dtype: fit_rate(
            [p for p in measured.products if p.dtype == dtype],
            half_product_flops=half_product_flops,
            kernel_s=measured.kernel_s,
        )
        for dtype in others
    }


def fits(profile: Profile) -> dict[str, Any]:
    """How far each fit is from what it was made of."""
    found = {"products": profile.products.residuals, "training_steps": profile.memory.residuals}
    if profile.link:
        found["link"] = profile.link.residuals
        others = [m for m in profile.measured.messages if m.kind != FITTED_COLLECTIVE]
        found["other_collectives"] = link_residuals(profile.link, others)
    return {name: {k: _digits(v) for k, v in asdict(r).items()} for name, r in found.items()}


def document(profile: Profile, made: dict[str, Any]) -> str:
    """The text of the calibration file, raw figures included."""
    measured = profile.measured
    raw = {
        "copy_bytes_per_s": _digits(measured.copy_bytes_per_s),
        "products_s": {p.name: _digits(p.seconds) for p in measured.products},
        "kernels_bytes_per_s": {
            f"{m.kind} of {m.tensor_bytes / 2**20:g} MiB": _digits(m.moved_bytes / m.seconds)
            for m in measured.moves
            if m.seconds > 0  # a gradient that is a view takes no time on an emulated device
        },
        "training_steps_s": {r.name: _digits(r.seconds) for r in measured.references},
        "collectives_s": {m.name: _digits(m.seconds) for m in measured.messages},
    }
    return dump_calibration(profile.calibration, {"made": made, "fits": fits(profile), "measured": raw})


def _digits(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
