"""The calibration file that `nebula calibrate` writes: shares of their peaks that device types attain in measured runs.

A cluster file names it under `calibration`, as one that `nebula profile` writes. Types that the cluster does not have
are passed over; parameters and errors that a file holds beside are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from nebula.cluster.sections import Share
from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import closest
from nebula.marked_yaml import Document
from nebula.validation import Called, Name, Section, validated


class FittedDevice(Section):
    """What runs tell of one device type."""

    product_efficiency: Share = Field(description="0.72")


class FittedSection(Section):
    """A file of `nebula calibrate`."""

    source: Name = Field(description="fitted to runs, to which and when")
    devices: dict[Called, FittedDevice] = Field(description="{A100-80GB-SXM: {product_efficiency: 0.72}}", min_length=1)
    made: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    errors: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Efficiencies by device type, and where they come from."""

    source: str
    shares: dict[str, float]

    def device(self, device: DeviceType) -> DeviceType:
        """The type with what was fitted to runs on it."""
        share = self.shares.get(device.name)
        if share is None:
            return device
        sources = {**dict(device.sources), "product_efficiency": self.source}
        return replace(device, product_efficiency=share, sources=tuple(sources.items()))


def is_fitted(document: Document) -> bool:
    """Whether a calibration file is one of several types."""
    return isinstance(document.value, Mapping) and "devices" in document.value


def read_fitted(document: Document) -> Fitted:
    """What a file holds for device types.

    Raises:
        BadInput: what is wrong, with line and caret.
    """
    section = validated(document, FittedSection)
    if not section.source.startswith("fitted"):
        raise document.fault(("source",), "let the source of what was fitted begin with `fitted` and say to what")
    shares = {name: entry.product_efficiency for name, entry in section.devices.items()}
    return Fitted(source=section.source, shares=shares)


def calibrated(cluster: Cluster, fitted: Fitted, document: Document, name: str) -> Cluster:
    """The cluster with what was fitted.

    Args:
        document: the cluster file.
        name: of the calibration file in it.

    Raises:
        BadInput: the cluster has none of its device types.
    """
    types = {group.device.name for group in cluster.groups}
    if not types & set(fitted.shares):
        known = next(iter(fitted.shares))
        raise document.fault(
            ("calibration",), f"{name} was fitted to runs on {', '.join(fitted.shares)}; {closest(known, types)}"
        )
    groups = tuple(replace(g, device=fitted.device(g.device)) for g in cluster.groups)
    return replace(cluster, groups=groups, origin=(*cluster.origin, ("calibration", fitted.source)))
