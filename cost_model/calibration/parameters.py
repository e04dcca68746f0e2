"""The numbers that measured runs can refit: those of the step model, what a host takes, and what a device sustains.

A number is fitted on a scale on whose middle lies what is assumed of it: logarithms, or square roots where its
plausible range begins at 0. Types of one chip at one power (memory sizes of an A100) share one efficiency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

from nebula.cluster.catalogue import device_type, names
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.execution import DEFAULTS
from nebula.cost_model.step_parameters import DEFAULT, StepParameters, meanings
from nebula.errors import BadInput, closest

EFFICIENCY = ".product_efficiency"
"""Ends the name of a device's number: `A100-80GB-SXM.product_efficiency`."""

EFFICIENCY_RANGE = (0.2, 0.95)
HOST_RANGE_S = (3e-6, 60e-6)
HOST = "host_kernel_s"

GROUPS = ("step", "host", "devices")
"""Words that stand for several parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number that can be fitted.

    Attributes:
        name: unique among all.
        group: one of GROUPS.
        value: as the model has it now.
        prior: what is assumed of it where no row says anything.
        low: least plausible value.
        high: most plausible value.
        types: names of the device types whose efficiency it is.
    """

    name: str
    group: str
    value: float
    prior: float
    low: float
    high: float
    unit: str
    meaning: str
    types: tuple[str, ...] = ()

    @property
    def half(self) -> float:
        """Half of the plausible range on the fitted scale."""
        return (self._on(self.high) - self._on(self.low)) / 2.0

    def _on(self, value: float) -> float:
        return math.log(value) if self.low > 0 else math.sqrt(value)

    def scaled(self, value: float) -> float:
        """A value in halves of the range from what is assumed."""
        return (self._on(min(max(value, self.low), self.high)) - self._on(self.prior)) / self.half

    def at(self, scaled: float) -> float:
        """The value at so many halves of the range from what is assumed, kept in the range.

        Example:
            >>> p = Parameter(name="x", group="step", value=1.0, prior=2.0, low=1.0, high=4.0, unit="", meaning="")
            >>> round(p.at(0.5), 3), p.at(9.0), round(p.scaled(p.at(0.5)), 3)
            (2.828, 4.0, 0.5)
        """
        on = self._on(self.prior) + scaled * self.half
        value = math.exp(on) if self.low > 0 else max(on, 0.0) ** 2
        return min(max(value, self.low), self.high)


def middle(low: float, high: float) -> float:
    """The middle of a range on the fitted scale.

    Example:
        >>> middle(1.0, 4.0), middle(0.0, 4.0)
        (2.0, 1.0)
    """
    return math.sqrt(low * high) if low > 0 else high / 4.0


HELP = {
    "intra_share": "runs with tensor or data parallelism inside a node of NVLink or HCCS",
    "nic_share": "runs on several nodes whose data parallelism is not hidden",
    "pcie_share": "runs on devices that PCIe joins",
    "tcp_bytes_per_s": "runs on several nodes that Ethernet without RDMA or Omni-Path joins",
    "start_s": "runs of small layers with much tensor parallelism, whose messages are short",
    "contention": "runs that hide data parallelism behind the backward",
    "pipelined_share": "runs that hide collectives of the tensor group, beside the same without",
    "jitter": "one model on few and on many nodes",
    "step_host_s": "runs whose steps take less than a second",
    HOST: "runs of small layers, or of few rows a micro-batch",
}
"""Which rows tell a parameter from the others."""


def remedy(parameter: Parameter) -> str:
    """The rows that would determine a parameter."""
    if parameter.group == "devices":
        return f"runs on {' or '.join(parameter.types)} in which one device computes for long"
    return HELP.get(parameter.name.split(" ")[0], f"runs that differ in what {parameter.name} stands for")


def parameters(clusters: Iterable[Cluster]) -> tuple[Parameter, ...]:
    """All that runs on these clusters could determine."""
    return (*_step(), *_host(), *_devices(clusters))


def _step() -> Iterable[Parameter]:
    for name, meaning in meanings().items():
        low, high = meaning.low, meaning.high
        yield Parameter(
            name=name,
            group="step",
            value=getattr(DEFAULT, name),
            prior=middle(low, high),
            low=low,
            high=high,
            unit=meaning.unit,
            meaning=meaning.text,
        )


def host_features() -> tuple[str, ...]:
    """The defaults of Execution that say what a host takes to launch a kernel."""
    return tuple(name for name in DEFAULTS if name.startswith(HOST))


def _host() -> Iterable[Parameter]:
    low, high = HOST_RANGE_S
    for name in host_features():
        value, reason = DEFAULTS[name]
        yield Parameter(
            name=name,
            group="host",
            value=value,
            prior=middle(low, high),
            low=low,
            high=high,
            unit="s",
            meaning=f"of the host for one launch, where a run does not say: {reason}",
        )


def chip(device: DeviceType) -> tuple[object, ...]:
    """What types have in common that sustain the same share: peaks, multiprocessors, power."""
    return (device.kind, tuple(sorted(device.peak_flops.items())), device.multiprocessors, device.power_w)


def _devices(clusters: Iterable[Cluster]) -> Iterable[Parameter]:
    alike: dict[tuple[object, ...], dict[str, DeviceType]] = {}
    for cluster in clusters:
        for group in cluster.groups:
            if not group.device.emulated:
                alike.setdefault(chip(group.device), {})[group.device.name] = group.device
    for same in alike.values():
        types = sorted(same)
        low, high = EFFICIENCY_RANGE
        yield Parameter(
            name=f"{types[0]}{EFFICIENCY}",
            group="devices",
            value=same[types[0]].product_efficiency,
            prior=usual_share(same[types[0]]),
            low=low,
            high=high,
            unit="of peak",
            meaning="rate that large matrix products sustain",
            types=tuple(types),
        )


def usual_share(device: DeviceType) -> float:
    """What is assumed of a device that nobody measured: the median of the catalogue's other chips of its kind."""
    others = [device_type(name) for name in names()]
    kind = [d.product_efficiency for d in others if d.kind == device.kind and chip(d) != chip(device)]
    return median(kind or [d.product_efficiency for d in others])


def chosen(asked: Sequence[str], known: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The parameters of those names or groups; of all when none is asked for.

    Raises:
        BadInput: a name that does not exist.
    """
    if not asked:
        return tuple(known)
    found: dict[str, Parameter] = {}
    for name in asked:
        hits = [p for p in known if name in (p.name, p.group) or name in (f"{t}{EFFICIENCY}" for t in p.types)]
        if name == "devices" and not hits:
            raise BadInput("no run was on a device whose efficiency is unknown: emulated ones state theirs")
        if not hits:
            raise BadInput(f"no parameter {name!r}; {closest(name, (*GROUPS, *(p.name for p in known)))}")
        found |= {p.name: p for p in hits}
    return tuple(p for p in known if p.name in found)


def step_parameters(values: Mapping[str, float]) -> StepParameters:
    """Those of the step model among values by name; what is missing stays as it is."""
    own = {f.name for f in fields(StepParameters)}
    return StepParameters(**{f: values.get(f, getattr(DEFAULT, f)) for f in own})
