"""Links by what sources call them: generations of NVLink, PCIe and InfiniBand to bytes per second and direction.

A number in the text wins over the name, the name over what a node with that device usually has. Each answer says where
it comes from; a rate in bits that only makes sense in bytes is warned of.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from nebula.cluster.sections import INTRA_LATENCY_S, NIC_LATENCY_S, NO_LINK
from nebula.cluster.values import Link
from nebula.cost_model.runs.amounts import Amount, amounts
from nebula.errors import Suspicious
from nebula.units import format_rate

INTRA_BYTES_PER_S = (
    (r"nvlink\s*-?(?:gen)?\s*5|nvl\s?72|nvl\s?36", 900e9),
    (r"nvlink\s*-?(?:gen)?\s*4", 450e9),
    (r"nvlink\s*-?(?:gen)?\s*3", 300e9),
    (r"nvlink\s*-?(?:gen)?\s*2", 150e9),
    (r"nvlink\s*-?(?:gen)?\s*1", 80e9),
    (r"hccs", 196e9),
    (r"xgmi|infinity\s*fabric", 448e9),
    (r"pcie\s*-?(?:gen)?\s*6", 121e9),
    (r"pcie\s*-?(?:gen)?\s*5", 63e9),
    (r"pcie\s*-?(?:gen)?\s*4", 31.5e9),
    (r"pcie\s*-?(?:gen)?\s*3|pcie", 15.75e9),
)
"""Per device and direction: NVLink of P100, V100, A100, H100 and B200 (NVIDIA data sheets, halved), HCCS of eight
Ascend 910B (7 links of 28 GB/s), Infinity Fabric of MI300X (7 links of 64 GB/s), 16 lanes of PCIe."""

NIC_BYTES_PER_S = (
    (r"\bxdr\b", 100e9),
    (r"\bndr\b|connectx-?7", 50e9),
    (r"\bhdr\b|connectx-?6", 25e9),
    (r"\bedr\b|omni-?path|\bopa\b", 12.5e9),
    (r"slingshot", 25e9),
    (r"\bfdr\b", 7e9),
    (r"\befa\b", 12.5e9),
    (r"ethernet", 1.25e9),
)
"""One port of InfiniBand 4x by generation, Omni-Path 100, EFA, Slingshot 11, and Ethernet of 10 Gb/s
where nothing else is said."""

BOTH_WAYS = re.compile(r"nvlink|nvswitch|nvl\d|hccs|xgmi|infinity", re.I)
"""Links whose data sheets print both directions together."""

ETHERNET_LATENCY_S = 25e-6
"""Assumed latency of TCP over Ethernet; NIC_LATENCY_S holds where the text names RDMA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A link with where it comes from: `printed`, `name` (of a generation) or `assumed`."""

    link: Link
    count: int = 1
    origin: str


def intra_link(text: str, usual_bytes_per_s: float, where: str) -> Reading:
    """The link inside a node, per device and direction.

    Args:
        text: as the source printed it.
        usual_bytes_per_s: what a node with that device has when the text does not say.
        where: row and field, for a warning.
    """
    known = _named(text, INTRA_BYTES_PER_S)
    kind = _kind(text)
    usual = known or usual_bytes_per_s
    printed = next(iter(amounts(text)), None)
    attained = printed is not None and known and re.search(r"effective|measured|bus ?bw", text, re.I)
    if printed is None or attained:
        # what somebody attained is no property of the link, when its name tells that
        return Reading(
            link=Link(kind=kind, bytes_per_s=usual, latency_s=INTRA_LATENCY_S), origin="name" if known else "assumed"
        )
    total = printed.bytes_per_s * printed.links
    if printed.bits and total < usual / 2:
        number = f"{total * 8 / 1e9:g}"
        warnings.warn(
            f"{where}: {number} Gb/s is {format_rate(total)}, much less than such a link has; "
            f"b is bits and B is bytes: did you mean {number} GB/s?",
            Suspicious,
            stacklevel=2,
        )
    return Reading(
        link=Link(kind=kind, bytes_per_s=_one_way(printed, total, usual, text), latency_s=INTRA_LATENCY_S),
        origin="printed",
    )


def _one_way(printed: Amount, total: float, usual: float, text: str) -> float:
    """Bytes per second in one direction of a printed figure."""
    if printed.directions:
        return total if printed.directions == "one" else total / 2
    if not BOTH_WAYS.search(text):
        return total
    # between one direction and two, whichever is nearer to what such a link has
    return total / 2 if total > 1.4 * usual else total


def nics(text: str, devices_per_node: int, usual_bytes_per_s: float) -> Reading:
    """The network cards of one node.

    Args:
        text: as the source printed it; empty when it did not.
        devices_per_node: of one node.
        usual_bytes_per_s: per device, where the text says nothing.
    """
    latency_s = _nic_latency(text)
    printed = amounts(text)
    kind = network(text)
    if printed:
        first = printed[0]
        per_device = first.per_device and first.links == 1
        count = devices_per_node if per_device else first.links
        rate = first.bytes_per_s
        if count == 1 and re.search(r"per (?:node|server|host)", text, re.I) and rate > 60e9:
            # no card is as fast: the node has one per device
            count, rate = devices_per_node, rate / devices_per_node
        return Reading(link=Link(kind=kind, bytes_per_s=rate, latency_s=latency_s), count=count, origin="printed")
    named = _named(text, NIC_BYTES_PER_S)
    many = re.match(r"\s*([0-9]+)\s*[x×]", text)
    count = int(many[1]) if many else devices_per_node
    if named:
        count = 1 if kind == "ethernet" and not many else count
        return Reading(link=Link(kind=kind, bytes_per_s=named, latency_s=latency_s), count=count, origin="name")
    rate = usual_bytes_per_s
    return Reading(
        link=Link(kind=kind, bytes_per_s=rate, latency_s=latency_s), count=devices_per_node, origin="assumed"
    )


def alone() -> Reading:
    """No link: one device in a node, or one node."""
    return Reading(link=NO_LINK, origin="printed")


def _named(text: str, table: tuple[tuple[str, float], ...]) -> float:
    return next((rate for pattern, rate in table if re.search(pattern, text, re.I)), 0.0)


def _kind(text: str) -> str:
    names = ("nvswitch", "nvlink", "nvl72", "hccs", "pcie", "xgmi")
    found = next((n for n in names if n in text.lower()), "")
    return {"nvl72": "nvswitch", "": "link"}.get(found, found)


def network(text: str) -> str:
    """What a text calls the network between nodes; `network` when it does not say."""
    lower = text.lower()
    if "roce" in lower:
        return "roce"
    if re.search(r"\bib\b|infiniband|\b[fehnx]dr\b", lower):
        return "infiniband"
    if re.search(r"omni-?path|\bopa\b", lower):
        return "omni-path"
    return "ethernet" if re.search(r"ethernet|[0-9]gbe\b", lower) else "network"


def _nic_latency(text: str) -> float:
    return ETHERNET_LATENCY_S if network(text) == "ethernet" else NIC_LATENCY_S
