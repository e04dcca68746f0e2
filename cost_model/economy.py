"""What a plan comes to beyond a step: days to a token budget, device-hours, money and energy, failures counted.

From the prediction of a step and the conditions of the run (nebula.plan.conditions). Prices and board powers are those
of the device types; where one is unknown the figure is, too. Hosts, switches and storage are not in the energy.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.goodput import Exposure, Goodput, goodput
from nebula.cost_model.memory import state_bytes_per_parameter
from nebula.cost_model.repair import away
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions, Reliability
from nebula.plan.values import Job, Plan, Prediction

DAY_S = 86400.0
HOUR_S = 3600.0
LEAST_GOODPUT = 1e-6
"""A job that makes less progress in its time is taken never to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A save of weights and optimizer states.

    Attributes:
        total_bytes: of all ranks together; what replicas hold alike is written once.
        save_s: by which it holds training up.
        write_s: until it is written; as long as save_s for synchronous saves.
        load_s: until it is read back.
    """

    total_bytes: float
    save_s: float
    write_s: float
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """How long a token budget takes; zeros without a budget, infinite below LEAST_GOODPUT.

    Attributes:
        tokens: the budget.
        tokens_per_day: failures counted.
        with_failures: the expected days; `low` and `high` follow the interval of the step time.
        failures: expected in that time.
    """

    tokens: float
    tokens_per_day: float
    without_failures: float
    with_failures: float
    low: float
    high: float
    failures: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What devices cost, in the currency of their prices; all 0 while the price of a type is unknown.

    Attributes:
        per_hour: of all devices of the plan and of spare nodes, whether they work or not.
        per_step: and per_million_tokens, budget: failures counted.
        budget: of the whole token budget; 0 without one.
        budget_interval: its low and high end, after the interval of the step time.
        unknown: device types without a price.
        sources: pairs of a device type and where its price comes from.
    """

    per_hour: float
    per_step: float
    per_million_tokens: float
    budget: float
    budget_interval: tuple[float, float]
    unknown: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What devices draw, with what the site adds (PUE); all 0 while the power of a type is unknown.

    Attributes:
        training_w: of the whole site while training.
        per_step_j: and per_million_tokens_j, budget_j: failures counted.
        budget_interval_j: low and high end of budget_j, after the interval of the step time.
        busy_share: of a step in which a device computes, on average over all; on the busiest stage where a prediction
            does not know that.
        unknown: device types without a board power.
    """

    training_w: float
    per_step_j: float
    per_million_tokens_j: float
    budget_j: float
    budget_interval_j: tuple[float, float]
    busy_share: float
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """All of it.

    Attributes:
        device_hours: of the token budget, failures counted; 0 without a budget.
    """

    goodput: Goodput
    checkpoint: Checkpoint
    days: Days
    device_hours: float
    money: Money
    energy: Energy
    conditions: Conditions


class Used(NamedTuple):
    """How many devices of a type a plan uses."""

    device: DeviceType
    devices: int


def outlook(graph: DistributedGraph, cluster: Cluster, plan: Plan, conditions: Conditions | None = None) -> Outlook:
    """What a plan with a prediction comes to.

    Raises:
        BadInput: the optimizer is unknown.
    """
    assert plan.prediction is not None, "evaluate the plan first"
    nodes = len({place.node for place in plan.ranks})
    used, saved_bytes = devices_used(plan, cluster), checkpoint_bytes(graph, plan.job)
    return foreseen(saved_bytes, plan.job, plan.prediction, used, nodes, conditions or Conditions())


def foreseen(
    saved_bytes: float, job: Job, prediction: Prediction, used: tuple[Used, ...], nodes: int, under: Conditions
) -> Outlook:
    """What steps that are predicted so come to on so many devices of so many nodes.

    Args:
        saved_bytes: of a checkpoint.
        job: the token budget.
        prediction: of a step.
        used: the devices.
        nodes: that they are of.
        under: which conditions.
    """
    saved, devices = checkpoint(saved_bytes, used, under.reliability), sum(u.devices for u in used)
    time = goodput(exposure(under.reliability, saved, devices, nodes, prediction.step_time_s))
    paid = 1.0 + under.reliability.spares / nodes
    days = _days(prediction, job, time)
    return Outlook(
        goodput=time,
        checkpoint=saved,
        days=days,
        device_hours=days.with_failures * DAY_S / HOUR_S * devices * paid,
        money=_money(prediction, time, days, used, paid),
        energy=_energy(prediction, time, days, used, paid, under),
        conditions=under,
    )


def devices_used(plan: Plan, cluster: Cluster) -> tuple[Used, ...]:
    """The device types of a plan's ranks, in the cluster's order; groups of one type are counted together."""
    ranks = Counter(place.node.rpartition("/")[0] for place in plan.ranks)
    counts: dict[str, Used] = {}
    for group in cluster.groups:
        if ranks[group.name]:
            before = counts.get(group.device.name)
            counts[group.device.name] = Used(group.device, ranks[group.name] + (before.devices if before else 0))
    return tuple(counts.values())


def checkpoint_bytes(graph: DistributedGraph, job: Job) -> float:
    """Bytes of a save of weights and optimizer states.

    Raises:
        BadInput: the optimizer is unknown.
    """
    weights = sum(sum(t.bytes for t in graph.block_of(run.first).parameters) * run.layers for run in graph.runs)
    return weights + state_bytes_per_parameter(job) * graph.parameter_count


def checkpoint(total_bytes: float, used: tuple[Used, ...], under: Reliability) -> Checkpoint:
    """What a save takes: ranks write equal parts at the rate of the storage, after copying them to their hosts."""
    devices = sum(u.devices for u in used)
    write_s = total_bytes / under.storage(devices)
    copy_s = total_bytes / devices / min(u.device.host_bytes_per_s for u in used)
    return Checkpoint(
        total_bytes=total_bytes,
        save_s=copy_s if under.saves == "asynchronous" else write_s,
        write_s=write_s,
        load_s=write_s,
    )


def exposure(under: Reliability, saved: Checkpoint, devices: int, nodes: int, step_s: float) -> Exposure:
    """The job as failures see it."""
    rate, continues = under.failures_per_s(devices=devices, nodes=nodes), under.lost_nodes == "continue"
    lost = away(
        nodes=nodes,
        spares=under.spares,
        losses_per_s=rate * under.node_loss_share,
        repair_s=under.repair_s,
        continues=continues,
    )
    return Exposure(
        failures_per_s=rate,
        save_s=saved.save_s,
        durable_s=saved.write_s if under.saves == "asynchronous" else 0.0,
        restart_s=under.detect_s + under.restart_s + saved.load_s,
        least_interval_s=step_s,
        interval_s=under.interval_s,
        degraded=lost.degraded,
        planned_restarts_per_s=lost.uncovered_per_s if continues else 0.0,
        planned_restart_s=saved.write_s + under.restart_s + saved.load_s,
    )


def _stretch(time: Goodput) -> float:
    """Time with failures over time without."""
    return 1.0 / time.useful if time.useful >= LEAST_GOODPUT else math.inf


def _over(days: float, per_s: float) -> float:
    """A rate over so many days; 0 where the rate is not known, also for days without end."""
    return per_s * days * DAY_S if per_s else 0.0


def _days(prediction: Prediction, job: Job, time: Goodput) -> Days:
    without = job.tokens / prediction.tokens_per_s / DAY_S
    expected = without * _stretch(time) if without else 0.0
    low_s, high_s = prediction.interval_s
    return Days(
        tokens=job.tokens,
        tokens_per_day=prediction.tokens_per_s * DAY_S * time.useful,
        without_failures=without,
        with_failures=expected,
        low=expected * low_s / prediction.step_time_s,
        high=expected * high_s / prediction.step_time_s,
        failures=time.failures_per_s * expected * DAY_S,
    )


def _money(prediction: Prediction, time: Goodput, days: Days, used: tuple[Used, ...], paid: float) -> Money:
    unknown = tuple(u.device.name for u in used if not u.device.price_per_hour)
    per_hour = 0.0 if unknown else paid * sum(u.devices * u.device.price_per_hour for u in used)
    per_useful_s = per_hour * _stretch(time) / HOUR_S if per_hour else 0.0
    return Money(
        per_hour=per_hour,
        per_step=per_useful_s * prediction.step_time_s,
        per_million_tokens=per_useful_s * 1e6 / prediction.tokens_per_s,
        budget=_over(days.with_failures, per_hour / HOUR_S),
        budget_interval=(_over(days.low, per_hour / HOUR_S), _over(days.high, per_hour / HOUR_S)),
        unknown=unknown,
        sources=tuple((u.device.name, dict(u.device.sources).get("price_per_hour", "not said")) for u in used),
    )


def _energy(
    prediction: Prediction, time: Goodput, days: Days, used: tuple[Used, ...], paid: float, under: Conditions
) -> Energy:
    """Board power while computing, its idle share else; lost work is computed too, spares and repairs idle."""
    unknown = tuple(u.device.name for u in used if not u.device.power_w)
    boards_w = 0.0 if unknown else under.power.pue * sum(u.devices * u.device.power_w for u in used)
    parts, idle = prediction.parts, under.power.idle_share
    computing_s = prediction.computing_s or parts.compute_s + parts.recompute_s + parts.optimizer_s
    busy = computing_s / prediction.step_time_s
    at_work = idle + (1 - idle) * busy
    working = time.useful + time.lost_work
    mean_w = boards_w * (working * at_work + (1 - working + paid - 1) * idle)
    per_useful_s = mean_w * _stretch(time) if mean_w else 0.0
    return Energy(
        training_w=boards_w * (at_work + (paid - 1) * idle),
        per_step_j=per_useful_s * prediction.step_time_s,
        per_million_tokens_j=per_useful_s * 1e6 / prediction.tokens_per_s,
        budget_j=_over(days.with_failures, mean_w),
        budget_interval_j=(_over(days.low, mean_w), _over(days.high, mean_w)),
        busy_share=busy,
        unknown=unknown,
    )
