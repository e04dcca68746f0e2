"""A simulated job whose workers are replicas: one that fails begins anew while the others go on.

The policy is told so, as for a real one (nebula.elastic.policy.apart): there is one generation, and it says which
worker begins anew, which node comes in and which is put aside. Replicas keep no copies in memory: they have
each other; where nobody is left, training goes on from the disk.
"""

from __future__ import annotations

from dataclasses import replace

from nebula.elastic.goodput import Category, Moment
from nebula.elastic.policy import events
from nebula.elastic.policy.values import Action, Again, Phase, Start, Stop
from nebula.elastic.simulate.run import Run
from nebula.elastic.simulate.values import Mechanisms, Scenario


class ApartRun(Run):
    """One job of replicas; each node is one."""

    def __init__(self, scenario: Scenario, mechanisms: Mechanisms) -> None:
        super().__init__(scenario, replace(mechanisms, memory_copies=False, continuation=False))
        self.state = replace(self.state, apart=True)
        self._begins: dict[str, int] = {}
        self._frozen_s = 0.0

    def act(self, action: Action) -> None:
        """Carries out what concerns one node; the rest as for any job."""
        if isinstance(action, Again):
            self._begin_anew(action.node)
        elif isinstance(action, Start) and action.generation == self.begun:
            for node in action.members:
                self._begin_anew(node)
        elif not (isinstance(action, Stop) and action.node):
            super().act(action)

    def told(self) -> None:
        """Takes over who is a member now."""
        members = self.state.members
        if self.running and self.begun and members != self.training.members:
            self.training.sync(members)
            if self.training.share > 0:
                self.at_new_rate()

    def struck(self, name: str, heard_s: float) -> None:
        """A member is lost: the others stand still until they know, and go on without it."""
        training = self.training
        if not (self.running and training.going) or name in training.broken:
            return
        training.freeze(self.now_s)
        self.tell(events.Stepped(generation=self.state.generation, step=training.current))
        wait_s = heard_s + self.scenario.timings.gap_s
        self.later(wait_s, lambda: self._go_on(wait_s))

    def _go_on(self, waited_s: float) -> None:
        """Who is left finishes the step."""
        training = self.training
        if not self.running or training.going or training.share <= 0 or training.frozen_s == 0.0:
            return
        part = max(0.0, training.frozen_s - training.pace.at_s(training.current)) / training.pace.cost_s
        begun = training.frozen_s >= training.pace.begin_s
        training.begin(self.now_s, training.current)
        pace = training.pace
        training.pace = replace(pace, begin_s=self.now_s - (min(part, 1.0) if begun else 0.0) * pace.cost_s)
        if self.account.doing is Category.PRODUCTIVE:
            self.note(((Category.DETECTING, waited_s),), stepping=True)
        self.await_steps()

    def _begin_anew(self, node: str) -> None:
        """A worker begins; once it is ready it gets the state from another, or from the disk."""
        timings, training = self.scenario.timings, self.training
        training.broken.add(node)
        self._begins[node] = turn = self._begins.get(node, 0) + 1
        start_s = timings.warm_s if self.mechanisms.warm_spares else timings.cold_s

        def ready() -> None:
            if turn == self._begins[node] and self.running and training.has(node):
                self._come_in(node)

        self.later(start_s + timings.memory_load_s, ready)

    def _come_in(self, node: str) -> None:
        training = self.training
        alone = training.share <= 0
        training.broken.discard(node)
        if training.going and not alone:
            self.at_new_rate()
        elif alone:
            load_s = self.scenario.timings.disk_load_s if training.disk else 0.0
            self._frozen_s = min(training.frozen_s, self.now_s)
            training.begin(self.now_s + load_s, training.disk)
            self._restarted(load_s)

    def _restarted(self, load_s: float) -> None:
        """All of them were lost: the time since is that of a start."""
        since_s = self.now_s - self._frozen_s
        if self.account.doing is Category.PRODUCTIVE:
            ends = Moment(at_s=self.now_s, phase=Phase.STOPPING, before=((Category.STARTING, since_s),))
            self.account = self.account.after(ends)
            self.note()
        self.load_s = load_s
        self.await_steps()
