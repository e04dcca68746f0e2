"""What was decided for a training in phases: a plan for each, the switches between them, and what else was weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nebula.cost_model.economy import Outlook
from nebula.plan.job import Phase
from nebula.plan.values import Plan
from nebula.planner.moves import Moves
from nebula.planner.options import step_s
from nebula.planner.stretch import Tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The way from the plan of one phase to that of the next; by default there is nothing to do.

    Attributes:
        moves: what travels.
        restart_s: until processes run again.
        because: why it pays, in a sentence.
    """

    moves: Moves = field(default_factory=Moves)
    restart_s: float = 0.0
    because: str = ""

    @property
    def seconds(self) -> float:
        """In all."""
        return self.restart_s + self.moves.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A phase under a plan.

    Attributes:
        phase: what is trained.
        plan: with the phase's job and its prediction.
        outlook: what the phase comes to.
        steps: optimizer steps, whole or not.
        switch: the way from the plan before.
    """

    phase: Phase
    plan: Plan
    outlook: Outlook
    steps: float
    switch: Switch

    @property
    def row_tokens(self) -> int:
        """Tokens of a row, of all of its sequences."""
        return round(self.phase.tokens / (self.steps * self.phase.global_batch))

    @property
    def seconds(self) -> float:
        """Of the phase, failures counted, without the switch to it."""
        return Tried(plan=self.plan, outlook=self.outlook).seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Phased:
    """What was decided for all phases.

    Attributes:
        legs: the phases in order, each with its plan.
        one_plan: the same under the one plan that is best if none is switched; empty where none serves all phases.
        each_best: the same under the best plan of each phase, whatever the switches take.
        least_s: what no plans take less than, failures and switches apart.
        because: the reason in a sentence.
        interrupted: numbers of the phases whose search was, so that better plans may be there.
        seconds: how long planning took.
    """

    legs: tuple[Leg, ...]
    one_plan: tuple[Leg, ...]
    each_best: tuple[Leg, ...]
    least_s: float
    because: str
    interrupted: tuple[int, ...]
    seconds: float

    @property
    def gap(self) -> float:
        """How far the training without failures, switches counted, is above least_s, as a share of it."""
        taken_s = sum(leg.steps * step_s(leg.plan) + leg.switch.seconds for leg in self.legs)
        return taken_s / self.least_s - 1.0


def total_s(legs: Sequence[Leg]) -> float:
    """Seconds of phases and switches."""
    return sum(leg.seconds + leg.switch.seconds for leg in legs)
