"""Values of a cluster file that are legal and probably not meant: bits for bytes, two directions for one.

Each rule compares with what hardware of that kind has and warns with the remedy; nothing is refused or changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from nebula.cluster.values import Cluster, NodeGroup
from nebula.errors import Suspicious
from nebula.marked_yaml import Document, Keys
from nebula.units import format_rate

BOTH_DIRECTIONS = {600e9: "A100", 900e9: "H100", 1800e9: "B200"}
"""Bytes per second of NVLink as data sheets print it, both directions together, and whose it is."""


def warn(document: Document, cluster: Cluster) -> None:
    """Warn of every odd value with its place in the file."""
    for index, group in enumerate(cluster.groups):
        for way, sentence in _oddities(group, index):
            mark = document.mark(way)
            warnings.warn(f"{mark}: {sentence}{mark.caret}", Suspicious, stacklevel=3)
    if cluster.wan is not None and cluster.wan.latency_s > 1.0:
        mark = document.mark(("network", "wan", "rtt"))
        sentence = f"a round trip of {2 * cluster.wan.latency_s:g} s is long for a WAN; did you mean ms?"
        warnings.warn(f"{mark}: {sentence}{mark.caret}", Suspicious, stacklevel=3)


def _oddities(group: NodeGroup, index: int) -> Iterator[tuple[Keys, str]]:
    if group.device.emulated:
        return
    here: Keys = ("nodes", index)
    yield from (((*here, "intra", "bandwidth"), sentence) for sentence in _intra(group))
    yield from (((*here, "nic", "bandwidth"), sentence) for sentence in _nic(group))
    for part, link in (("intra", group.intra), ("nic", group.nic)):
        if link.latency_s > 1e-3:
            yield (
                (*here, part, "latency"),
                f"a latency of {link.latency_s:g} s within a cluster is long; did you mean us?",
            )
    peak = max(group.device.peak_flops.values())
    if group.device.kind != "cpu" and peak < 1e11:
        way = ("devices", group.device.name, "peak_flops")
        yield way, f"a peak of {peak:g} FLOP/s is below any accelerator; did you mean {peak:g}e12?"


def _intra(group: NodeGroup) -> Iterator[str]:
    rate, kind = group.intra.bytes_per_s, group.intra.kind.lower()
    nvlink = kind.startswith(("nvlink", "nvswitch"))
    if nvlink and group.devices_per_node > 1 and rate < 140e9:
        text = f"{rate * 8 / 1e9:g}Gb/s is {format_rate(rate)}, less than an NVSwitch or NVLink node of eight has"
        yield f"{text}; b is bits and B is bytes: did you mean {rate * 8 / 1e9:g}GB/s?"
    if nvlink and rate in BOTH_DIRECTIONS:
        text = (
            f"{format_rate(rate)} is what data sheets print for the {BOTH_DIRECTIONS[rate]}, both directions together"
        )
        yield f"{text}; a bandwidth here is per direction: did you mean {rate / 2e9:g}GB/s?"
    if kind.startswith("pcie") and rate > 130e9:
        yield f"{format_rate(rate)} is more than PCIe 6 x16 carries in one direction; did you mean Gb/s?"


def _nic(group: NodeGroup) -> Iterator[str]:
    rate = group.nic.bytes_per_s
    if rate > 100e9:
        text = f"one network card with {format_rate(rate)} is {rate * 8 / 1e9:g} Gb/s, more than any has"
        yield f"{text}; b is bits and B is bytes: did you mean {rate / 1e9:g}Gb/s?"
