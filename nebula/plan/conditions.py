"""Under which conditions a training runs: how often devices fail, what a restart and a save take, what power is used.

A user says them in the run file's sections `reliability` and `energy`; what is not said has a default, and `sources`
tells where each figure comes from. What follows from them is the question of nebula.cost_model.goodput and economy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nebula.errors import BadInput

SAVES = ("synchronous", "asynchronous")
LOST_NODES = ("continue", "wait")
DEVICE_STORAGE_BYTES_PER_S = 122e6
"""A device's part of the storage where none is given: 2 TB/s for 16,384 devices (Llama 3, arXiv:2407.21783, 3.3.1)."""

RAREST = 1e-30
"""Failures per second that no job sees: one in 10^22 years."""

GIVEN = "run file"
FAILURE_SOURCES = {
    "failures_per_device_hour": "assumed: Llama 3 405B, 419 unexpected interruptions in 54 days on 16,384 H100",
    "node_mtbf_s": "not given: failures are counted by device",
    "node_loss_share": "assumed: Llama 3 405B, about 78 % of interruptions confirmed or suspected hardware",
    "detect_s": "assumed: MegaScale (NSDI 2024), detected and diagnosed in under 10 minutes",
    "restart_s": "assumed: what MegaScale's 15 minutes to catch up leave for start and first step",
    "storage_bytes_per_s": "assumed: the 2 TB/s of Llama 3's storage over 16,384 devices",
    "saves": "assumed",
    "interval_s": "worked out: the interval of least expected time",
    "repair_s": "assumed",
    "lost_nodes": "assumed",
    "spares": "assumed",
}
POWER_SOURCES = {
    "idle_share": "assumed: devices that wait draw more than idle boards, which draw about 15 % of their limit",
    "pue": "assumed: as LLaMA's authors do (arXiv:2302.13971, section 6)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What fails, and what is lost when it does.

    Attributes:
        failures_per_device_hour: interruptions of the job for each device and hour. Default 1.97e-5 (one in 50,700
            hours): the 419 unexpected interruptions of Llama 3 405B in 54 days on 16,384 H100 (arXiv:2407.21783).
        node_mtbf_s: mean time between failures of one node, in place of the rate of a device; 0: not given.
        node_loss_share: share of failures that take a node away until it is repaired.
        detect_s: from a failure to the decision to restart.
        restart_s: from there to the first step, but for loading: reschedule, start processes, warm up.
        storage_bytes_per_s: at which the whole job writes and reads a checkpoint; 0: DEVICE_STORAGE_BYTES_PER_S for
            each device.
        saves: `synchronous`: training stands until a checkpoint is written; `asynchronous`: until it is copied to the
            memory of the hosts.
        interval_s: of work between two saves; 0: the best one.
        repair_s: until a lost node is back.
        lost_nodes: `continue`: training goes on at the rate of the nodes that are left; `wait`: until all are back.
        spares: nodes that stand by and take over at once; they are paid for too.
        sources: pairs of field and where it comes from.

    Raises:
        BadInput: a value is out of range.
    """

    failures_per_device_hour: float = 1.97e-5
    node_mtbf_s: float = 0.0
    node_loss_share: float = 0.78
    detect_s: float = 600.0
    restart_s: float = 300.0
    storage_bytes_per_s: float = 0.0
    saves: str = "synchronous"
    interval_s: float = 0.0
    repair_s: float = 86400.0
    lost_nodes: str = "continue"
    spares: int = 0
    sources: tuple[tuple[str, str], ...] = tuple(FAILURE_SOURCES.items())

    def __post_init__(self) -> None:
        for name, value in _numbers(self):
            _check(f"reliability.{name}", value, 0.0, 1.0 if name == "node_loss_share" else math.inf)
        for name, words in (("saves", SAVES), ("lost_nodes", LOST_NODES)):
            if getattr(self, name) not in words:
                raise BadInput(f"reliability.{name} must be {' or '.join(words)}, not {getattr(self, name)!r}")

    def failures_per_s(self, *, devices: int, nodes: int) -> float:
        """Failures per second of a job on so many devices of so many nodes; none where they are rarer than RAREST.

        Example:
            >>> 1 / Reliability().failures_per_s(devices=16_384, nodes=2_048) / 3600 > 3
            True
        """
        rate = nodes / self.node_mtbf_s if self.node_mtbf_s else devices * self.failures_per_device_hour / 3600
        return rate if rate > RAREST else 0.0

    def storage(self, devices: int) -> float:
        """Bytes per second at which so many devices write a checkpoint together."""
        return self.storage_bytes_per_s or devices * DEVICE_STORAGE_BYTES_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerUse:
    """How much of their board power devices draw, and what the site adds.

    Attributes:
        idle_share: of a device's board power while it computes nothing (communication, bubbles, saves, restarts).
        pue: power usage effectiveness: the site's energy over that of what it hosts.
        sources: pairs of field and where it comes from.

    Raises:
        BadInput: a value is out of range.
    """

    idle_share: float = 0.3
    pue: float = 1.1
    sources: tuple[tuple[str, str], ...] = tuple(POWER_SOURCES.items())

    def __post_init__(self) -> None:
        _check("energy.idle_share", self.idle_share, 0.0, 1.0)
        _check("energy.pue", self.pue, 1.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Both."""

    reliability: Reliability = field(default_factory=Reliability)
    power: PowerUse = field(default_factory=PowerUse)


def _numbers(value: Reliability) -> list[tuple[str, float]]:
    named: list[tuple[str, Any]] = [(name, getattr(value, name)) for name in FAILURE_SOURCES]
    return [(name, number) for name, number in named if not isinstance(number, str)]


def _check(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        bounds = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise BadInput(f"{name} must be {bounds}, not {value:g}")
