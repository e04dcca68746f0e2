"""The numbers of the step model that no data sheet prints: what links attain, what overlap costs, what a host adds.

They hold for every cluster, model and stack; what differs between device types stands in the catalogue, what differs
between stacks in `Execution`. `nebula calibrate` refits them from measured runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from nebula.cluster.values import Cluster


class Meaning(NamedTuple):
    """What a parameter is.

    Attributes:
        unit: of its value.
        low: least plausible value.
        high: most plausible value.
        text: what it says about the world.
    """

    unit: str
    low: float
    high: float
    text: str


def _parameter(value: float, unit: str, low: float, high: float, text: str) -> Any:
    return field(default=value, metadata={"meaning": Meaning(unit, low, high, text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParameters:
    """One set of values; `meanings` says what each is."""

    intra_share: float = _parameter(
        0.75, "of the link", 0.5, 0.95, "rate that a collective attains on links inside a node"
    )
    nic_share: float = _parameter(0.7, "of the card", 0.4, 0.95, "rate that a collective attains through network cards")
    pcie_share: float = _parameter(
        0.175, "of the link", 0.15, 0.8, "rate that a collective attains over PCIe, through the host's memory"
    )
    tcp_bytes_per_s: float = _parameter(
        2.7e9,
        "B/s",
        1e9,
        6e9,
        "what a card attains through the host, without RDMA (Ethernet, Omni-Path), where it has more",
    )
    start_s: float = _parameter(
        100e-6,
        "s",
        5e-6,
        300e-6,
        "from the launch of a collective to its first byte, waiting for the slowest rank of a busy group included, "
        "beside the latencies of its links",
    )
    contention: float = _parameter(
        0.17, "of the shorter", 0.0, 0.5, "by how much kernels and collectives that run at once delay one another"
    )
    pipelined_share: float = _parameter(
        0.83, "of it", 0.3, 1.0, "part of a tensor group's collective that a stack hides behind the product beside it"
    )
    jitter: float = _parameter(
        0.0028, "per doubling", 0.0, 0.05, "what the slowest of the nodes that wait for each other adds, per doubling"
    )
    step_host_s: float = _parameter(
        5e-3, "s", 0.0, 0.1, "of a step that the host spends alone: data, schedule of the optimizer, logs"
    )


def meanings() -> dict[str, Meaning]:
    """By name what each parameter is."""
    return {f.name: f.metadata["meaning"] for f in fields(StepParameters)}


DEFAULT = StepParameters()

EMULATED = StepParameters(start_s=0.0, contention=0.0, jitter=0.0, step_host_s=0.0)
"""On emulated devices: collectives start at once, nothing disturbs anything, and no host takes time."""


def parameters_on(cluster: Cluster) -> StepParameters:
    """The values that hold on a cluster where nobody says otherwise."""
    return EMULATED if any(group.device.emulated for group in cluster.groups) else DEFAULT
