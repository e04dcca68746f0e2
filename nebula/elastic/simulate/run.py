"""One job from its first generation to its end: an event queue around the controller's policy.

The policy decides, as it does for a controller; here stands what carries its decisions out, and how long that takes.
What happens to nodes is told by nebula.elastic.simulate.strike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nebula.elastic.goodput import Account, Category, Moment, account
from nebula.elastic.policy import JobState, decide, events
from nebula.elastic.policy.values import Action, Bounds, NodeState, Phase, Start, Stop
from nebula.elastic.simulate.training import Training
from nebula.elastic.simulate.values import Mechanisms, Scenario

Before = Sequence[tuple[Category, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        done: it did all its steps before its deadline.
        account: where its time went, until its end or its deadline.
        met: faults that hit nodes that trained.
    """

    done: bool
    because: str
    account: Account
    steps: int
    restarts: int
    met: int


class Run:
    """One job under one set of mechanisms.

    Attributes:
        ended: why it ended although the policy would go on; empty while it has not.
        begun: the last generation that was begun.
        load_s: that it takes to read the state.
    """

    def __init__(self, scenario: Scenario, mechanisms: Mechanisms) -> None:
        self.scenario, self.mechanisms, self.now_s = scenario, mechanisms, 0.0
        most, unit = scenario.bounds.most, scenario.bounds.unit
        self.nodes = [f"n{number}" for number in range(scenario.nodes if mechanisms.spare_nodes else most)]
        self.state = JobState(
            bounds=scenario.bounds if mechanisms.elastic else Bounds(least=most, most=most, unit=unit),
            nodes={name: NodeState(number=number, slots=1) for number, name in enumerate(self.nodes)},
            numbers={name: number for number, name in enumerate(self.nodes)},
        )
        self.account, self.training = account(0.0, ()), Training(scenario, mechanisms)
        self.ended, self.met = "", 0
        self.suspect: Callable[[str], None] = lambda name: None  # noqa: ARG005
        self.begun, self.load_s = 0, 0.0
        self._clean, self._told, self._turn, self._number = True, 0, 0, 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def play(self) -> Outcome:
        """Plays it through."""
        self.tell(events.Tick())
        while self._queue and not self.over:
            at_s, _, happen = heapq.heappop(self._queue)
            self.now_s = min(at_s, self.scenario.deadline_s)
            if at_s > self.scenario.deadline_s:
                self.ended = f"not done by its deadline ({self.state.why})"
            else:
                happen()
        if self.training.going:
            self.training.count(self.now_s)
        self.note()
        return Outcome(
            done=self.state.phase is Phase.DONE,
            because=self.ended or self.state.why,
            account=self.account,
            steps=self.training.reached,
            restarts=self.state.restarts,
            met=self.met,
        )

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return bool(self.ended) or self.state.phase.over

    @property
    def running(self) -> bool:
        """Whether a generation runs, as far as the policy knows."""
        return self.state.phase is Phase.RUNNING

    def later(self, after_s: float, happen: Callable[[], None]) -> None:
        """Has something happen after so many seconds."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_s + max(0.0, after_s), self._number, happen))

    def tell(self, event: events.Event, before: Before = ()) -> None:
        """Asks the policy and carries out what it says."""
        decision = decide(self.now_s, self.state, event, self.scenario.limits)
        changed = (decision.state.phase, decision.state.generation) != (self.state.phase, self.state.generation)
        self.state = decision.state
        if changed:
            stops = [action for action in decision.actions if isinstance(action, Stop) and not action.node]
            boundary = any(stop.at_boundary for stop in stops) and self._stepping
            self.note(self._detecting() if stops and not boundary else before, stepping=boundary)
        for action in decision.actions:
            self.act(action)
        self.told()
        if changed and (wake_s := self.state.wake_s()) != math.inf:
            self.later(wake_s - self.now_s, lambda: self.tell(events.Tick()))

    def act(self, action: Action) -> None:
        """Carries out what the policy says."""
        if isinstance(action, Stop):
            self._stop(action)
        elif isinstance(action, Start):
            self._start(action)

    def told(self) -> None:
        """The policy was told something."""

    def struck(self, name: str, heard_s: float) -> None:
        """A member is lost, which others would hear of after so many seconds: no step is done from now on."""
        del name, heard_s
        if self.training.going and self.running:
            self.training.freeze(self.now_s)
            self.tell(events.Stepped(generation=self.state.generation, step=self.training.current))

    def wake(self, after_s: float) -> None:
        """Has the policy asked again."""
        self.later(after_s, lambda: self.tell(events.Tick()))

    @property
    def _stepping(self) -> bool:
        """Whether new steps are done now."""
        return self.training.going and self.account.doing is Category.PRODUCTIVE

    def _detecting(self) -> Before:
        """What the seconds since the last step went into, when a failure is told."""
        if self.account.doing is not Category.PRODUCTIVE:
            return ()
        return ((Category.DETECTING, self.training.since_step_s(self.now_s)),)

    def note(self, before: Before = (), *, stepping: bool = False, lost_steps: int = 0) -> None:
        """Has the account told."""
        training = self.training
        if training.going:
            training.count(self.now_s)
        saved, self._told = max(0, training.reached - self._told), training.reached
        moment = Moment(
            at_s=self.now_s,
            phase=self.state.phase,
            generation=self.state.generation,
            stepping=stepping,
            share=training.rate,
            before=before,
            saving_s=saved * training.pace.saving_s,
            lost_steps=lost_steps,
        )
        self.account = self.account.after(moment)

    # Generations

    def _stop(self, stop: Stop) -> None:
        if not self.mechanisms.restart and not stop.at_boundary:
            self.ended = f"{self.state.why}, and nothing begins it anew"
            return
        training = self.training
        self._clean = stop.at_boundary and self._stepping
        if not self._clean:
            training.freeze(self.now_s)
            self._stopped_after(0.0 if training.intact() else self.scenario.timings.stop_s)
            return
        step = min(training.pace.done(self.now_s) + 2, training.pace.last)
        self._stopped_after(self._save_at_boundary_s(), step=step)

    def _save_at_boundary_s(self) -> float:
        """How long it takes to keep a step and end, beyond the step."""
        timings = self.scenario.timings
        if self.training.intact():
            return 0.0
        return timings.stop_s + (0.0 if self.mechanisms.memory_copies else timings.save_s + timings.durable_s)

    def break_boundary(self, after_s: float) -> None:
        """The generation that was to end at a step cannot: a member is lost."""
        if self._clean and self.state.phase is Phase.STOPPING:
            self._clean = False
            self._stopped_after(after_s + self.scenario.timings.stop_s)

    def _stopped_after(self, stop_s: float, step: int | None = None) -> None:
        """Has the policy told that all have ended, after a step and the seconds beyond."""
        self._turn += 1
        turn, training = self._turn, self.training

        def stopped() -> None:
            if turn != self._turn:
                return
            before: Before = ()
            if step is not None:
                training.freeze(self.now_s - stop_s)
                training.disk = training.disk if self.mechanisms.memory_copies else training.current
                before = ((Category.STOPPING, stop_s),)
            self.tell(events.Stopped(generation=self.state.generation), before)

        until_s = training.pace.at_s(step) - self.now_s if step is not None else 0.0
        self.later(max(0.0, until_s) + stop_s, stopped)

    def _start(self, start: Start) -> None:
        self.begun = start.generation
        timings, training = self.scenario.timings, self.training
        goes_on = training.intact() and not training.broken.issuperset(set(training.keepers) & set(start.members))
        self.load_s, step = training.taken_up(goes_on=goes_on, clean=self._clean)
        warm = self.mechanisms.warm_spares and training.keepers
        ready_s = timings.plan_s + (timings.warm_s if warm else timings.cold_s) + self.load_s
        training.join(start.members, goes_on=goes_on)
        if goes_on:
            self.later(ready_s, lambda: self._whole(start.generation))
            ready_s, self.load_s = timings.gap_s, 0.0
        training.begin(self.now_s + ready_s, step)
        self.await_steps()
        for name in list(training.slow):
            self.suspect(name)

    def await_steps(self) -> None:
        """Has the first new step told, and the end of the training."""
        self._turn += 1
        turn, training = self._turn, self.training
        first = min(max(training.reached, training.pace.step) + 1, training.pace.last)

        def when(answer: Callable[[], None]) -> Callable[[], None]:
            return lambda: answer() if turn == self._turn and training.going and self.running else None

        self.later(training.pace.at_s(first) - self.now_s, when(lambda: self._stepped(first)))
        self.later(training.pace.at_s(training.pace.last) - self.now_s, when(self._finished))

    def _stepped(self, first: int) -> None:
        training = self.training
        if self.account.doing is not Category.PRODUCTIVE:
            lost, cost_s = max(0, training.reached - training.pace.step), training.pace.cost_s
            new = ((Category.PRODUCTIVE, cost_s), (Category.RECOMPUTING, (lost - 1) * cost_s)) if lost else ()
            training.count(self.now_s)
            self._told = training.reached
            before = (*new, (Category.STARTING, cost_s), (Category.RESTORING, self.load_s))
            self.note(before, stepping=True, lost_steps=lost)
            training.stepped()
        self.tell(events.Stepped(generation=self.state.generation, step=first))

    def _finished(self) -> None:
        self.tell(events.Finished(generation=self.state.generation))

    def _whole(self, generation: int) -> None:
        """Workers that were replaced while others went on are there again."""
        if generation == self.state.generation and self.running and self.training.going:
            self.training.broken.clear()
            self.at_new_rate()

    def at_new_rate(self) -> None:
        """Members became faster or slower."""
        if self.running and self.training.going:
            stepping = self._stepping
            self.training.at_new_rate(self.now_s)
            if stepping:
                self.note(stepping=True)
            self.await_steps()
