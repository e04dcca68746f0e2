"""Every number of the model that no data sheet prints, in one table: value, unit, plausible range, meaning, origin.

Efficiencies of device types follow it; they stand in the catalogue and do not count among the model's parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from nebula.cluster.catalogue import device_type, names
from nebula.cost_model.calibration.parameters import EFFICIENCY_RANGE, HOST_RANGE_S, host_features
from nebula.cost_model.execution import DEFAULTS
from nebula.cost_model.kernel_parameters import PARAMETERS
from nebula.cost_model.layer import BACKWARD_HOST
from nebula.cost_model.peak import COMMUNICATOR_BYTES, CONTEXT_BYTES, FRAGMENTATION
from nebula.cost_model.products import TOGETHER
from nebula.cost_model.step_parameters import DEFAULT, StepParameters, meanings

MEASURED, FITTED = "measured kernels", "fitted to runs"

LIMIT = 25
"""Parameters that the model may have, efficiencies of devices apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One row of the table.

    Attributes:
        part: of the model: `kernels`, `steps`, `host`, `memory` or `devices`.
        origin: `measured kernels`, `fitted to runs`, `assumed`, or the source in the catalogue.
    """

    part: str
    name: str
    value: float
    unit: str
    low: float
    high: float
    meaning: str
    origin: str

    @property
    def plausible(self) -> bool:
        """Whether the value lies in its range."""
        return self.low <= self.value <= self.high


def numbers() -> tuple[Number, ...]:
    """The parameters of the model."""
    return (*_kernels(), *_steps(), *_host(), *_memory())


def _kernels() -> Iterable[Number]:
    for name, p in PARAMETERS.items():
        low, high = p.range
        yield _number("kernels", name, p.value, p.unit, low, high, p.meaning, MEASURED)
    text = "rate that a device sustains while its whole node trains, over that of one alone"
    yield _number("kernels", "TOGETHER", TOGETHER, "of that alone", 0.85, 1.0, text, FITTED)


def _steps() -> Iterable[Number]:
    said = meanings()
    for f in fields(StepParameters):
        m = said[f.name]
        yield _number("steps", f.name, getattr(DEFAULT, f.name), m.unit, m.low, m.high, m.text, FITTED)


def _host() -> Iterable[Number]:
    low, high = HOST_RANGE_S
    for name in host_features():
        value, reason = DEFAULTS[name]
        yield _number("host", name, value, "s", low, high, f"of the host for one launch: {reason}", FITTED)
    text = "what a launch in a backward costs the host, over one in a forward"
    yield _number("host", "BACKWARD_HOST", BACKWARD_HOST, "of the forward's", 1.0, 3.0, text, MEASURED)


def _memory() -> Iterable[Number]:
    gib = 2.0**30
    lasting = "what the allocator holds beside tensors that last"
    yield _number("memory", "FRAGMENTATION", FRAGMENTATION, "of what lasts", 0.0, 0.5, lasting, FITTED)
    context = "driver, kernels and workspace of a process on a device"
    yield _number("memory", "CONTEXT_BYTES", CONTEXT_BYTES, "B", 0.4 * gib, 1.6 * gib, context, FITTED)
    buffers = "buffers of one communicator, outside of the allocator"
    yield _number("memory", "COMMUNICATOR_BYTES", COMMUNICATOR_BYTES, "B", 0.1 * gib, gib, buffers, FITTED)


def efficiencies() -> tuple[Number, ...]:
    """What the catalogue's devices attain."""
    low, high = EFFICIENCY_RANGE
    text = "rate that large matrix products sustain"
    types = [device_type(name) for name in names()]
    return tuple(
        _number("devices", d.name, d.product_efficiency, "of peak", low, high, text, _said(d.sources))
        for d in types
        if d.kind != "cpu"
    )


def _said(sources: Iterable[tuple[str, str]]) -> str:
    return dict(sources).get("product_efficiency", "assumed")


def _number(
    part: str, name: str, value: float, unit: str, low: float, high: float, meaning: str, origin: str
) -> Number:
    return Number(part=part, name=name, value=value, unit=unit, low=low, high=high, meaning=meaning, origin=origin)
