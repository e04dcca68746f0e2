"""All that a report shows as one value: the plan and what it was made from, the search, and what was measured.

Nothing is computed here; absent parts are empty values, so a report of a hand-written plan has no search in it and a
report of a dry run no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nebula.plan.job import Objective

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster
    from nebula.cost_model.economy import Outlook
    from nebula.cost_model.memory_timeline import MemoryTimeline
    from nebula.cost_model.operations import OperationRow
    from nebula.cost_model.traffic_matrix import TrafficMatrix
    from nebula.graph.values import DistributedGraph
    from nebula.plan.values import Plan
    from nebula.planner.rejected import Rejection
    from nebula.planner.sensitivity import WhatIf
    from nebula.report.spans import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A candidate of the search that was costed.

    Attributes:
        parts_s: pairs of a part of the step and its seconds, in the order of StepParts; empty when unknown.
        memory_share: of the fullest device.
        lost_by: the term by which it lost to the chosen plan; empty for the chosen one.
    """

    split: str
    step_time_s: float
    memory_share: float
    parts_s: tuple[tuple[str, float], ...] = ()
    lost_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCost:
    """A plan by its step time and what a token costs.

    Attributes:
        split: of the plan.
        devices: that it uses.
        money: for a million tokens; 0 where a price is unknown.
        energy_j: for a million tokens; 0 where a board power is unknown.
        on_front: whether no other that is known beats it in both time and money (energy, where a price is unknown).
    """

    split: str
    devices: int
    step_time_s: float
    money: float
    energy_j: float
    on_front: bool = False

    @property
    def cost(self) -> float:
        """Money where prices are known, else energy; 0 where neither is."""
        return self.money or self.energy_j


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the planner went through.

    Attributes:
        candidates: how many were looked at, those cut included.
        contenders: the best that were costed, best first.
        cut: pairs of a rule and how many candidates it ruled out, most first.
        notes: what a reader should know, a sentence each.
        rejections: what each rule left out, with the change that would admit one of them; empty when not asked.
        time_costs: the contenders, and plans on fewer nodes where these were searched, the fastest first.
    """

    seconds: float = 0.0
    candidates: int = 0
    contenders: tuple[Contender, ...] = ()
    cut: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    time_costs: tuple[TimeCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step of a run as the trainer wrote it down; absent figures are 0."""

    step: int
    loss: float
    tokens: float
    predicted_s: float
    took_s: float
    memory_bytes: float
    mfu: float


def median_step(seconds: Sequence[float]) -> float:
    """The median of steps without the first two, which set things up; 0 without steps."""
    times = sorted(seconds[2:] or seconds)
    return times[len(times) // 2] if times else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run left behind.

    Attributes:
        run: name of the run, for people; empty when there was none.
        clock: `virtual` on the emulated device, else `wall`.
        spans: one step, rank by rank.
        evaluation: pairs of a figure's name and the figure.
    """

    run: str = ""
    clock: str = "wall"
    steps: tuple[Step, ...] = ()
    spans: tuple[Span, ...] = ()
    evaluation: tuple[tuple[str, float], ...] = ()

    @property
    def step_time_s(self) -> float:
        """Median time of a step, as `median_step` takes it."""
        return median_step([step.took_s for step in self.steps])


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a plan is started without a scheduler.

    Attributes:
        commands: pairs of a node and its command; empty where the plan cannot be started so.
        notes: what to know beforehand, or why there are no commands.
    """

    commands: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a report is about.

    Attributes:
        spans: the predicted timeline of one step, stage by stage.
        memory: what each device of the pipeline holds over the step; empty without a prediction.
        operations: the kinds of operators of the busiest stage; empty without a prediction.
        traffic: who sends how much to whom in a step; None without a prediction.
        outlook: days, goodput, money and energy; None without a prediction.
        what_ifs: the plan under other links, memory and nodes; empty when that was not asked.
        launch: how it is started.
        objective: what the plan was to minimise, and what bounded it.
        missing: what keeps every engine from executing the plan, a sentence each; empty when one can.
        versions: pairs of a program and its version.
    """

    plan: Plan
    graph: DistributedGraph
    cluster: Cluster
    spans: tuple[Span, ...] = ()
    memory: tuple[MemoryTimeline, ...] = ()
    operations: tuple[OperationRow, ...] = ()
    traffic: TrafficMatrix | None = None
    search: Search = field(default_factory=Search)
    measured: Measured = field(default_factory=Measured)
    outlook: Outlook | None = None
    what_ifs: tuple[WhatIf, ...] = ()
    launch: Launch = field(default_factory=Launch)
    objective: Objective = field(default_factory=Objective)
    missing: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def virtual(self) -> bool:
        """Whether the plan's devices are emulated, so that all times are virtual."""
        return any(group.device.emulated for group in self.cluster.groups)
