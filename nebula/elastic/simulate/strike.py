"""What a fault does to a simulated job, and when the policy hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nebula.elastic.policy import events
from nebula.elastic.policy.values import Fault as Failure
from nebula.elastic.simulate.apart import ApartRun
from nebula.elastic.simulate.run import Outcome, Run
from nebula.elastic.simulate.values import Fault, Kind, Mechanisms, Scenario

TAKEN_AWAY_S = 60.0
"""After which a slow node that was put aside is taken away to be repaired."""


def played(scenario: Scenario, faults: Sequence[Fault], mechanisms: Mechanisms) -> Outcome:
    """How a job fares that meets these faults."""
    apart = mechanisms.continuation and mechanisms.restart and scenario.replica_nodes == 1
    run = ApartRun(scenario, mechanisms) if apart else Run(scenario, mechanisms)
    strikes = Strikes(run)
    for fault in faults:
        if fault.node < len(run.nodes):
            run.later(fault.at_s, partial(strikes.strike, fault))
    return run.play()


class Strikes:
    """Brings faults upon the nodes of a job."""

    def __init__(self, run: Run) -> None:
        self.run, self.away = run, set[str]()
        run.suspect = self.suspect

    def strike(self, fault: Fault) -> None:
        """A fault happens; one of a node that is away does not."""
        run, name = self.run, self.run.nodes[fault.node]
        if name in self.away:
            return
        trains = run.running and run.training.has(name)
        run.met += trains
        if fault.kind is Kind.NODE:
            self._lose(name, fault.repair_s)
        elif fault.kind is Kind.SLOW:
            self._slow_down(name, fault)
        elif trains:
            self._fail(name, hang=fault.kind is Kind.HANG)

    def _fail(self, name: str, *, hang: bool) -> None:
        """A worker ends or hangs; all others wait for it until that is seen."""
        run, timings, generation = self.run, self.run.scenario.timings, self.run.state.generation
        seen = hang and run.mechanisms.hang_detection
        wait_s = (timings.hang_s if seen else timings.hang_timeout_s) if hang else timings.exit_s
        cause = "made no progress" if seen else "waited in vain for a peer" if hang else "ended"
        run.struck(name, wait_s if hang else 0.0)
        run.training.broken.add(name)
        failed = events.Failed(
            node=name,
            rank=run.state.members.index(name),
            generation=generation,
            fault=Failure.HANG if seen else Failure.EXIT,
            cause=cause,
        )
        run.later(wait_s, lambda: run.tell(failed))

    def _lose(self, name: str, repair_s: float) -> None:
        """A node is gone, with all that its memory held."""
        run, timings = self.run, self.run.scenario.timings
        self.away.add(name)
        run.training.gone.add(name)
        run.training.slow.pop(name, None)
        if run.training.has(name):
            run.struck(name, timings.silence_s)
            run.training.broken.add(name)
            run.break_boundary(timings.silence_s)
        run.later(timings.silence_s, lambda: self._not_heard(name))
        run.later(repair_s, lambda: self._back(name))

    def _not_heard(self, name: str) -> None:
        if name in self.away:
            self.run.tell(events.Gone(node=name))
            self.run.wake(self.run.scenario.limits.grace_s)

    def _back(self, name: str) -> None:
        self.away.discard(name)
        self.run.tell(events.Joined(node=name, slots=1))

    def _slow_down(self, name: str, fault: Fault) -> None:
        run = self.run
        run.training.slow[name] = fault.factor
        if run.training.has(name):
            run.at_new_rate()
        self.suspect(name)
        run.later(fault.repair_s, lambda: self._repaired(name, fault.factor))

    def _repaired(self, name: str, factor: float) -> None:
        run = self.run
        if run.training.slow.get(name) != factor:
            return  # it was lost meanwhile
        del run.training.slow[name]
        if name in self.away:
            self._back(name)
        elif run.training.has(name):
            run.at_new_rate()

    def suspect(self, name: str) -> None:
        """Has a slow node found by its times, where that is looked for."""
        if self.run.mechanisms.slow_detection:
            self.run.later(self.run.scenario.timings.slow_s, lambda: self._found(name))

    def _found(self, name: str) -> None:
        run, factor = self.run, self.run.training.slow.get(name)
        if not factor or not (run.running and run.training.going and run.training.has(name)):
            return
        run.tell(events.Slow(node=name, factor=factor))
        if name in run.state.nodes and run.state.nodes[name].put_aside:
            run.later(TAKEN_AWAY_S, lambda: self._take_away(name))

    def _take_away(self, name: str) -> None:
        run = self.run
        if name in run.training.slow and name not in self.away and not run.training.has(name):
            self.away.add(name)
            run.tell(events.Gone(node=name))
            run.wake(run.scenario.limits.grace_s)
