"""By what a search compares plans: the step time, or money, energy or days, within a deadline and a budget.

All of these grow with the step time of plans on as many devices, and energy with the time that devices compute too. So
a bound of the step time bounds the others: each has rates, by which it is no less than so much for each second.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import node_runs
from nebula.cluster.values import Cluster
from nebula.cost_model.economy import DAY_S, Outlook, Used, checkpoint_bytes, foreseen, outlook
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions
from nebula.plan.job import Objective
from nebula.plan.values import Job, Plan, Prediction, StepParts
from nebula.planner.pool import Pool

AIM = "step_time"
"""What is minimised where nobody says otherwise."""

INSTANT_S = 1e-9
"""A step so short that it is never longer than the interval between two saves."""

ROUNDING = 1e-9
"""Limits by rates allow for so much, and are held exactly where a plan is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What plans on so many devices come to at least.

    Attributes:
        step: for each second of a step.
        busy: for each second of a step in which a device computes, on average over all devices.
        limit_s: a step that takes longer breaks a limit.
    """

    step: float
    busy: float = 0.0
    limit_s: float = math.inf

    def least(self, step_s: float, busy_s: float) -> float:
        """The least that a step of so long, or longer, may come to; infinite where it breaks a limit."""
        return math.inf if step_s > self.limit_s else self.step * step_s + self.busy * busy_s

    def most_s(self, to_beat: float, busy_s: float) -> float:
        """A step that takes so long, or longer, does not come below `to_beat`."""
        if math.isinf(self.step):
            return 0.0
        return min(self.limit_s * (1.0 + ROUNDING), max(0.0, to_beat - self.busy * busy_s) / self.step)


class Scale(ABC):
    """By what plans are compared; less is better.

    Attributes:
        by_devices: whether of plans with the same step time those on fewer devices come to less.
    """

    by_devices: bool

    @abstractmethod
    def rates(self, ranks: int) -> Rates:
        """What plans on so many devices come to at least."""

    @abstractmethod
    def exact(self, devices: NDArray[np.int64], step_s: float, busy_s: float) -> float:
        """What a plan on those devices comes to; infinite where it breaks a limit."""

    @abstractmethod
    def refused(self, devices: int) -> str:
        """Why no plan on at most so many devices comes to anything, in words; empty where that is not known."""


class StepTime(Scale):
    """Seconds of a step, whatever the devices."""

    by_devices = False
    _rates = Rates(step=1.0)

    def rates(self, ranks: int) -> Rates:  # noqa: ARG002
        """One for each second."""
        return self._rates

    def exact(self, devices: NDArray[np.int64], step_s: float, busy_s: float) -> float:  # noqa: ARG002
        """The step time."""
        return step_s

    def refused(self, devices: int) -> str:  # noqa: ARG002
        """Every plan has a step time."""
        return ""


def by_step_time(pool: Pool) -> Scale:  # noqa: ARG001
    """The scale of step times, for any pool."""
    return StepTime()


Scaled = Callable[[Pool], Scale]
"""The scale of plans on the devices of a pool."""

VALUES: dict[str, Callable[[Outlook], float]] = {
    "cost": lambda ahead: ahead.money.per_million_tokens,
    "energy": lambda ahead: ahead.energy.per_million_tokens_j,
    "days": lambda ahead: ahead.days.with_failures,
}
"""What each aim but the step time minimises, of what a plan comes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a plan is asked for.

    Attributes:
        graph: the model.
        cluster: what may be used.
        job: the token budget, where days or limits are asked for.
        objective: what is minimised, under which limits.
        conditions: under which failures and energy are counted.
    """

    graph: DistributedGraph
    cluster: Cluster
    job: Job
    objective: Objective
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def of_step_times(self) -> Objective:
        """The objective without its aim and its limits."""
        return replace(self.objective, minimise=AIM, deadline_s=0.0, budget=0.0)

    def outlook(self, plan: Plan) -> Outlook:
        """What a plan with a prediction comes to."""
        return outlook(self.graph, self.cluster, plan, self.conditions)


class AimScale(Scale):
    """What an objective minimises, within its deadline and budget, as nebula.cost_model.economy counts it.

    Args:
        question: the aim and its limits.
        pool: the devices that plans use in order.

    Raises:
        BadInput: a price or a board power is not known.
    """

    by_devices = True

    def __init__(self, question: Question, pool: Pool) -> None:
        job, objective, conditions = question.job, question.objective, question.conditions
        graph, cluster = question.graph, question.cluster
        self._job, self._objective, self._under, self._pool = job, objective, conditions, pool
        self._saved_bytes = checkpoint_bytes(graph, job)
        kind = pool.device
        check_known(objective, () if kind.price_per_hour else (kind.name,), () if kind.power_w else (kind.name,))
        self._tokens = job.global_batch * graph.tokens_per_row
        runs = list(node_runs(cluster, pool.devices))
        numbers: dict[tuple[int, int], int] = {}
        owner = [numbers.setdefault((at.group, at.node), len(numbers)) for at, run in runs for _ in run]
        self._node = dict(zip(pool.devices, owner, strict=True))
        self._nodes = np.maximum.accumulate(np.array(owner)) + 1
        self._scattered = len(cluster.sites) > 1
        self._rates: dict[int, Rates] = {}
        at_best = replace(conditions.reliability, interval_s=0.0)
        never = replace(conditions.reliability, failures_per_device_hour=0.0, node_mtbf_s=0.0)
        self._at_best, self._never = replace(conditions, reliability=at_best), replace(conditions, reliability=never)

    def rates(self, ranks: int) -> Rates:
        """What plans on so many devices come to at least.

        All grow in proportion to the step where saves are as far apart as is best, and by more where a step is longer
        than that or the user decided. Work that is lost and done again, and its energy, grows from there on too; where
        the interval may be shorter, none is counted. Nor are failures where ranks may lie on several sites, since it
        is not known on how many nodes.
        """
        if ranks not in self._rates:
            nodes = min(ranks, int(self._nodes[-1])) if self._scattered else int(self._nodes[ranks - 1])
            under = self._never if self._scattered else self._at_best
            still = self._ahead(ranks, nodes, INSTANT_S, 0.0, under)
            work = self._never if self._under.reliability.interval_s else under
            limits = [_over(limit, value(still)) * INSTANT_S for limit, value in self._limits()]
            self._rates[ranks] = Rates(
                step=self._value(still, INSTANT_S) / INSTANT_S,
                busy=self._busy_rate(ranks, nodes, work),
                limit_s=min(limits, default=math.inf),
            )
        return self._rates[ranks]

    def exact(self, devices: NDArray[np.int64], step_s: float, busy_s: float) -> float:
        """What a plan on those devices comes to, as a report of it says; infinite where it breaks a limit."""
        nodes = len({self._node[device] for device in devices.tolist()})
        ahead = self._ahead(len(devices), nodes, step_s, busy_s, self._under)
        if any(value(ahead) > limit for limit, value in self._limits()):
            return math.inf
        return self._value(ahead, step_s)

    def refused(self, devices: int) -> str:
        """The limits, or failures that let no job end."""
        if self._objective.deadline_s or self._objective.budget:
            return "objective.limits: no plan keeps them"
        if math.isinf(self.rates(devices).step):
            return "no plan comes to an end: failures come faster than the job saves and restarts"
        return ""

    def _value(self, ahead: Outlook, step_s: float) -> float:
        aim = self._objective.minimise
        return VALUES[aim](ahead) if aim in VALUES else step_s

    def _busy_rate(self, ranks: int, nodes: int, under: Conditions) -> float:
        if self._objective.minimise != "energy":
            return 0.0
        idle, busy = (self._ahead(ranks, nodes, INSTANT_S, busy_s, under) for busy_s in (0.0, INSTANT_S))
        more = busy.energy.per_million_tokens_j - idle.energy.per_million_tokens_j
        return more / INSTANT_S if math.isfinite(more) else 0.0

    def _limits(self) -> list[tuple[float, Callable[[Outlook], float]]]:
        """The most that a plan may come to, and of what."""
        wanted = self._objective
        deadline = [(wanted.deadline_s / DAY_S, VALUES["days"])] if wanted.deadline_s else []
        return [*deadline, *([(wanted.budget, _budget)] if wanted.budget else [])]

    def _ahead(self, ranks: int, nodes: int, step_s: float, busy_s: float, under: Conditions) -> Outlook:
        """What steps of so long come to, of which devices compute so long."""
        parts = StepParts(
            compute_s=busy_s,
            recompute_s=0.0,
            tensor_communication_s=0.0,
            pipeline_communication_s=0.0,
            data_communication_s=0.0,
            bubble_s=step_s - busy_s,
            optimizer_s=0.0,
        )
        prediction = Prediction(
            step_time_s=step_s,
            interval_s=(step_s, step_s),
            tokens_per_s=self._tokens / step_s,
            mfu=0.0,
            parts=parts,
            memory=(),
        )
        return foreseen(self._saved_bytes, self._job, prediction, (Used(self._pool.device, ranks),), nodes, under)


def check_known(objective: Objective, unpriced: Sequence[str], unpowered: Sequence[str]) -> None:
    """Refuses an aim or a limit that needs a price or a board power that nobody gave.

    Args:
        objective: the aim and the limits.
        unpriced: device types without a price.
        unpowered: device types without a board power.

    Raises:
        BadInput: it is not known.
    """
    if (objective.minimise == "cost" or objective.budget) and unpriced:
        name = "objective.minimise=cost" if objective.minimise == "cost" else "objective.limits.budget"
        raise BadInput(f"{name}: {_listed(unpriced)} no price; give price_per_hour in the cluster file")
    if objective.minimise == "energy" and unpowered:
        told = f"{_listed(unpowered)} no board power"
        raise BadInput(f"objective.minimise=energy: {told}; give power in the cluster file")


def _listed(types: Sequence[str]) -> str:
    return f"{' and '.join(types)} {'has' if len(types) == 1 else 'have'}"


def _budget(ahead: Outlook) -> float:
    return ahead.money.budget


def _over(limit: float, value: float) -> float:
    return limit / value if value else math.inf
