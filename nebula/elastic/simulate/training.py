"""What nodes hold of a training: steps done, copies in memory, checkpoints on disk, and who trains how fast.

It knows no policy and no queue; whoever does tells it who trains, who is lost and what time it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nebula.elastic.simulate.pace import Pace
from nebula.elastic.simulate.values import Mechanisms, Scenario


class Training:
    """The steps of one job.

    Attributes:
        members: nodes of the generation that runs, in the order of their ranks.
        keepers: the members of the last generation that did a step: who holds the state.
        broken: nodes that hold no state any longer or not yet, although they may be members.
        gone: nodes that were lost since the keepers did a step: their memory is, too.
        slow: by which factor nodes are slower.
        frozen_s: when steps ceased; infinite while they go on.
        reached: the most steps that were ever done; `current` those of the state that nodes hold; `disk` those of the
            newest checkpoint.
    """

    def __init__(self, scenario: Scenario, mechanisms: Mechanisms) -> None:
        self.scenario, self.mechanisms = scenario, mechanisms
        self.pace = Pace(begin_s=math.inf, step=0, cost_s=1.0, saving_s=0.0, last=scenario.steps)
        self.members: tuple[str, ...] = ()
        self.keepers: tuple[str, ...] = ()
        self._here: frozenset[str] = frozenset()
        self.broken: set[str] = set()
        self.gone: set[str] = set()
        self.slow: dict[str, float] = {}
        self.frozen_s = 0.0
        self.reached = self.current = self.disk = 0

    def has(self, node: str) -> bool:
        """Whether it is a member."""
        return node in self._here

    @property
    def going(self) -> bool:
        """Whether steps are done, or will be once the pace begins."""
        return self.frozen_s == math.inf

    @property
    def share(self) -> float:
        """Of the wanted nodes, those that train."""
        idle = sum(node in self._here for node in self.broken)
        return (len(self.members) - idle) / self.scenario.bounds.most

    @property
    def rate(self) -> float:
        """Of steps, in proportion to that of all wanted nodes; all wait for the slowest one."""
        return self.share / max((factor for node, factor in self.slow.items() if node in self._here), default=1.0)

    def costs(self) -> tuple[float, float]:
        """Seconds of a step and of its part of saves."""
        timings, scenario = self.scenario.timings, self.scenario
        memory_s = timings.memory_save_s / scenario.memory_every if self.mechanisms.memory_copies else 0.0
        saving_s = memory_s + timings.save_s / scenario.save_every
        return scenario.step_s / self.rate + saving_s, saving_s

    def count(self, now_s: float) -> None:
        """Takes into account what is done by now."""
        at_s = min(now_s, self.frozen_s)
        self.current = self.pace.done(at_s)
        self.reached = max(self.reached, self.current)
        durable_s = self.scenario.timings.durable_s
        self.disk = max(self.disk, self.pace.durable(at_s, self.scenario.save_every, durable_s))

    def freeze(self, now_s: float) -> None:
        """No step is done from now on."""
        if self.going:
            self.frozen_s = now_s
            self.count(now_s)

    def since_step_s(self, now_s: float) -> float:
        """How long ago the last step was done."""
        return max(0.0, now_s - self.pace.at_s(self.pace.done(min(now_s, self.frozen_s))))

    def intact(self) -> bool:
        """Whether a replica is left whole, so that it can go on without the others."""
        size, away = self.scenario.replica_nodes, self.broken | self.gone
        if not self.mechanisms.continuation or len(self.keepers) < size:
            return False
        if size == 1:
            return len(away.intersection(self.keepers)) < len(self.keepers)
        return any(len(group) == size and away.isdisjoint(group) for group in self._replicas())

    def _replicas(self) -> Iterator[tuple[str, ...]]:
        """The keepers that hold a replica together."""
        size = self.scenario.replica_nodes
        return (self.keepers[first : first + size] for first in range(0, len(self.keepers), size))

    def in_memory(self) -> bool:
        """Whether every part of the state is on the node that wrote it, or on its neighbour."""
        if not self.mechanisms.memory_copies or not self.keepers:
            return False
        if not self.gone:
            return True
        pairs = zip(self.keepers, (*self.keepers[1:], self.keepers[0]), strict=True)
        return not any(node in self.gone and after in self.gone for node, after in pairs)

    def taken_up(self, *, goes_on: bool, clean: bool) -> tuple[float, int]:
        """How long the next generation loads, and the step that it takes up.

        Args:
            goes_on: a replica is intact.
            clean: the last generation ended at a step and kept that.
        """
        timings, every = self.scenario.timings, self.scenario.memory_every
        kept = self.current if clean else max(self.pace.step, self.current // every * every)
        if goes_on:
            return timings.memory_load_s, self.current
        if self.in_memory() and kept >= self.disk:
            return timings.memory_load_s, kept
        return (timings.disk_load_s if self.disk else 0.0), self.disk

    def join(self, members: Sequence[str], *, goes_on: bool) -> None:
        """A generation of these nodes; where a replica goes on, the others come in later."""
        self.members, self._here = tuple(members), frozenset(members)
        away, kept = self.broken | self.gone, frozenset(self.keepers)
        halves = {node for group in self._replicas() if not away.isdisjoint(group) for node in group}
        self.broken = {node for node in members if node in halves or node not in kept} if goes_on else set()

    def sync(self, members: Sequence[str]) -> None:
        """Other members of the same generation."""
        self.members, self._here = tuple(members), frozenset(members)
        self.broken &= self._here

    def begin(self, begin_s: float, step: int) -> None:
        """Steps follow from then on."""
        cost_s, saving_s = self.costs()
        self.frozen_s = math.inf
        self.pace = Pace(begin_s=begin_s, step=step, cost_s=cost_s, saving_s=saving_s, last=self.scenario.steps)

    def stepped(self) -> None:
        """The first new step of a generation is done: its members hold the state."""
        self.keepers, self.gone = self.members, set()

    def at_new_rate(self, now_s: float) -> None:
        """Members became faster or slower."""
        if now_s > self.pace.begin_s:
            self.count(now_s)
            self.pace = self.pace.changed(now_s, *self.costs())
        else:
            self.begin(self.pace.begin_s, self.pace.step)
