"""The calibration file: what was measured of a device type and its link, in the terms of a cluster file.

A cluster file names one or several under `calibration`; their figures replace those of the device type they were
measured on, and say `measured`. What else a file holds (fits, raw figures) is for people and is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from nebula import marked_yaml
from nebula.cluster import fitted
from nebula.cluster.catalogue import DTYPES, FIELDS
from nebula.cluster.sections import Dtype, IntraSection, Number, Peak, Rate, Seconds, Share
from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup
from nebula.errors import closest
from nebula.marked_yaml import Document
from nebula.validation import Called, Name, Section, Whole, validated

MEASURED = (
    "memory_bandwidth",
    "kernel_time",
    "product_efficiency",
    "memory_efficiency",
    "half_product_flops",
)
"""Keys of a device type that a calibration states beside its peaks."""


class FiguresSection(Section):
    """The measured figures, all of them."""

    peak_flops: dict[Dtype, Peak] = Field(description="{fp32: 75e9}", min_length=1)
    memory_bandwidth: Rate = Field(description="10GB/s")
    kernel_time: Seconds = Field(description="5us")
    product_efficiency: Share = Field(description="1")
    memory_efficiency: Share = Field(description="0.4")
    half_product_flops: Number = Field(description="1e6")


class LinksSection(Section):
    """The measured links."""

    intra: IntraSection | None = None
    nic: IntraSection | None = None


class CalibrationSection(Section):
    """A calibration file."""

    device: Called = Field(description="the name of the device type, as a cluster file has it")
    source: Name = Field(description="measured, with what and when")
    processes: Whole = Field(description="how many measured at the same time")
    figures: FiguresSection = Field(description="{peak_flops: {fp32: 75e9}, ...}")
    links: LinksSection = LinksSection()
    made: dict[str, Any] = {}
    fits: dict[str, Any] = {}
    measured: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Measured figures of a device type.

    Attributes:
        device: name of the type.
        source: begins with `measured`.
        processes: how many devices were busy at the same time.
        peak_flops: by dtype, as in DeviceType.
        figures: fields of DeviceType and their values.
        intra: between two devices of a node; None where it was not measured.
        nic: a network card; None where no nodes were measured.
    """

    device: str
    source: str
    processes: int
    peak_flops: dict[str, float]
    figures: dict[str, float]
    intra: Link | None = None
    nic: Link | None = None

    def calibrated(self, device: DeviceType) -> DeviceType:
        """The type with the measured figures, each of which says where it comes from."""
        fields = ("peak_flops", *self.figures)
        sources = {**dict(device.sources), **dict.fromkeys(fields, self.source)}
        peaks = {**device.peak_flops, **self.peak_flops}
        return replace(device, peak_flops=peaks, sources=tuple(sources.items()), **self.figures)  # type: ignore[arg-type]

    def group(self, group: NodeGroup) -> NodeGroup:
        """A group of such devices with measured figures."""
        intra = self.intra if self.intra and group.devices_per_node > 1 else group.intra
        return replace(group, device=self.calibrated(group.device), intra=intra, nic=self.nic or group.nic)


def load_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        BadInput: what is wrong, with line and caret.
    """
    document = marked_yaml.read(path)
    section = validated(document, CalibrationSection)
    if not section.source.startswith("measured"):
        raise document.fault(("source",), "a calibration is measured: let its source begin with that word and say how")
    return Calibration(
        device=section.device,
        source=section.source,
        processes=section.processes,
        peak_flops={DTYPES[key]: value for key, value in section.figures.peak_flops.items()},
        figures={FIELDS[key][0]: getattr(section.figures, key) for key in MEASURED},
        intra=_link(section.links.intra),
        nic=_link(section.links.nic),
    )


def _link(section: IntraSection | None) -> Link | None:
    if section is None:
        return None
    return Link(kind=section.kind, bytes_per_s=section.bandwidth, latency_s=section.latency, attained=True)


def apply(document: Document, named: Sequence[str], cluster: Cluster) -> Cluster:
    """The cluster with the figures of the calibration files that its file names.

    Raises:
        BadInput: a file is missing or damaged, or was measured on a device that the cluster does not have.
    """
    for name in named:
        path = document.folder / name
        if not path.is_file():
            raise document.fault(
                ("calibration",),
                f"there is no calibration file {path}; a path is relative to the cluster file, and "
                f"`nebula profile -o {name}` writes one",
            )
        content = marked_yaml.read(path)
        if fitted.is_fitted(content):
            cluster = fitted.calibrated(cluster, fitted.read_fitted(content), document, name)
        else:
            cluster = calibrated(cluster, load_calibration(path), document, name)
    return cluster


def calibrated(cluster: Cluster, calibration: Calibration, document: Document, name: str) -> Cluster:
    """The cluster with one calibration's figures.

    Raises:
        BadInput: no group has that device, or a CPU was shared by another number of processes.
    """
    types = dict.fromkeys(group.device.name for group in cluster.groups)
    if calibration.device not in types:
        raise document.fault(
            ("calibration",),
            f"{name} was measured on {calibration.device!r}, which no node group has; "
            f"{closest(calibration.device, types)}",
        )
    hit = [group for group in cluster.groups if group.device.name == calibration.device]
    for group in hit:
        if group.device.kind == "cpu" and group.devices_per_node != calibration.processes:
            raise document.fault(
                ("calibration",),
                f"{name} was measured with {calibration.processes} processes sharing the CPU, a node of "
                f"{group.name} has {group.devices_per_node} devices; profile this cluster file",
            )
    groups = tuple(calibration.group(g) if g in hit else g for g in cluster.groups)
    return replace(cluster, groups=groups, origin=(*cluster.origin, ("calibration", calibration.source)))


def dump_calibration(calibration: Calibration, more: dict[str, Any]) -> str:
    """The text of a calibration file; load_calibration reads it back up to four digits of each figure.

    Args:
        more: `made`, `fits` and `measured`, for people.
    """
    back = {dtype: key for key, dtype in DTYPES.items()}
    fields = {FIELDS[key][0]: key for key in MEASURED}
    figures: dict[str, Any] = {"peak_flops": {back[d]: _short(v, "") for d, v in calibration.peak_flops.items()}}
    figures |= {
        fields[field]: _short(value, _UNITS.get(fields[field], "")) for field, value in calibration.figures.items()
    }
    document: dict[str, Any] = {
        "device": calibration.device,
        "source": calibration.source,
        "processes": calibration.processes,
        "figures": figures,
    }
    links = {name: _written(link) for name in ("intra", "nic") if (link := getattr(calibration, name))}
    if links:
        document["links"] = links
    return yaml.safe_dump({**document, **more}, sort_keys=False, width=120, allow_unicode=True)


def _written(link: Link) -> dict[str, Any]:
    return {
        "kind": link.kind,
        "bandwidth": _short(link.bytes_per_s, "B/s"),
        "latency": _short(link.latency_s, "s"),
    }


_UNITS = {"memory_bandwidth": "B/s", "kernel_time": "s"}

_PREFIXES = {
    "B/s": (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)),
    "s": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)),
}


def _short(value: float, unit: str) -> str | float:
    """Four digits, with a unit that people read where there is one.

    Example:
        >>> _short(9.8765e9, "B/s"), _short(4.21e-6, "s"), _short(75e9, "")
        ('9.877GB/s', '4.21us', 75000000000.0)
    """
    if not unit:
        return float(f"{value:.4g}")
    scaled = [(name, factor) for name, factor in _PREFIXES[unit] if value >= factor] or [_PREFIXES[unit][-1]]
    name, factor = scaled[0]
    return f"{value / factor:.4g}{name}"
