"""What the controller does with an answer of the policy: stops, starts and releases nodes, tells when all stopped."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nebula.elastic.chaos.tear import tear
from nebula.elastic.controller.crowd import Line
from nebula.elastic.controller.departures import Departures
from nebula.elastic.controller.plans import ranks
from nebula.elastic.controller.recovery import Recovery
from nebula.elastic.controller.restore import Restorable, newest
from nebula.elastic.controller.starts import of_generation, of_replicas
from nebula.elastic.goodput import seconds_between_failures
from nebula.elastic.policy import events
from nebula.elastic.policy.values import Action, Again, End, Phase, Release, Start, Stop
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput, NebulaError
from nebula.plan.files import dumps as plan_text
from nebula.plan.values import Plan
from nebula.runtime.progress import MTBF

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain

TOLD_S = 1.0
"""Until then all agents have been told of a stop, beyond the pace at which they report."""


class Deeds:
    """Carries out the actions of decisions; runs on the controller's event loop.

    Attributes:
        plan: under which the newest generation began.
        departures: nodes that leave.
        members_expected: told how many members a group of replicas is to have.
    """

    def __init__(self, brain: Brain) -> None:
        self._brain, self.plan = brain, brain.plans.base
        self.members_expected: Callable[[int], None] = lambda count: None  # noqa: ARG005
        self._awaited: set[str] = set()
        self.departures = Departures(brain, lambda node: self._release(node, f"{node} may go", failed=False))
        self._found: Restorable | None = None
        self._untrusted: set[tuple[int, int]] = set()

    def carry_out(self, action: Action) -> None:
        """Does what a decision asks for."""
        brain, epoch = self._brain, self._brain.lease.token
        if isinstance(action, Stop) and action.node:
            self._tell(action.node, stop=wire.Stop(epoch=epoch, generation=action.generation))
        elif isinstance(action, Again):
            again = wire.Again(epoch=epoch, generation=brain.state.generation, rank=action.rank)
            self._tell(action.node, again=again)
        elif isinstance(action, Stop):
            self.stop(action)
        elif isinstance(action, Start):
            if len(action.members) == len(brain.state.members):
                done = brain.recovery.before if brain.recovery else 0
                brain.steps.begin(max(done, brain.state.step), -1)
            brain.spawn(self._start(action))
        elif isinstance(action, Release):
            self.departures.leave(action.node)
        elif isinstance(action, End):
            for node in list(brain.crowd.lines):
                self._release(node, brain.state.why, failed=action.failed)
            brain.over.set()

    # A generation ends

    def stop(self, action: Stop) -> None:
        """Stops every node that is connected: one that is no member may hold copies, too."""
        brain = self._brain
        if brain.recovery is None:
            brain.recovery = Recovery(seen_s=time.time())
        on_disk = not brain.settings.memory_every or brain.crowd.unkept(brain.state.members)
        at_step = self._boundary(action, on_disk=on_disk) if action.at_boundary else 0
        self._awaited = set(brain.crowd.lines)
        stop = wire.Stop(
            epoch=brain.lease.token,
            generation=action.generation,
            at_step=at_step,
            dump=action.dump,
            on_disk=on_disk,
        )
        for line in brain.crowd.lines.values():
            line.tell(wire.ToAgent(stop=stop))
        if not self._awaited:
            asyncio.get_running_loop().call_soon(self._all_stopped)

    def _boundary(self, action: Stop, *, on_disk: bool) -> int:
        """The step at which workers end; 0: at once, for none has trained yet.

        Copies in memory are of every rank's latest steps, so that one that hears late does no harm. On the disk all
        have to save the same step, and are given the time to hear of it before.
        """
        brain = self._brain
        _, most = brain.crowd.steps(brain.state.members, action.generation)
        step_s = brain.crowd.step_s(brain.state.members)
        if not most or brain.state.apart or not on_disk or not step_s:
            return most + 2 if most else 0
        return most + 2 + math.ceil((brain.settings.pace_s + TOLD_S) / step_s)

    def joined(self, node: str, line: Line) -> None:
        """An agent has come; while a generation ends it has to stop, too."""
        state = self._brain.state
        if state.phase is Phase.STOPPING and node not in self._awaited:
            self._awaited.add(node)
            line.tell(wire.ToAgent(stop=wire.Stop(epoch=self._brain.lease.token, generation=state.generation)))

    def stopped(self, node: str) -> None:
        """The workers of a node have ended, or it is gone."""
        if node in self._awaited:
            self._awaited.discard(node)
            self._all_stopped()

    def _all_stopped(self) -> None:
        brain = self._brain
        if not self._awaited and brain.state.phase is Phase.STOPPING:
            if brain.recovery:
                brain.recovery.mark("stopped", time.time())
            brain.tell(events.Stopped(generation=brain.state.generation), "stopped")

    # A generation begins

    def distrust(self, generation: int) -> None:
        """The copies from which a generation could not begin are not taken up again: older ones are, or the disk."""
        if self._found and generation == self._brain.state.generation:
            self._untrusted.add((self._found.generation, self._found.step))

    async def _start(self, action: Start) -> None:
        """Finds a plan for the members and has them begin; planning does not hold up anything else."""
        brain = self._brain
        try:
            plan = await asyncio.to_thread(brain.plans.of, brain.attendance.seats(action.members))
        except NebulaError as error:
            brain.tell(events.Refused(generation=action.generation, cause=str(error), planless=True), "refused")
            return
        try:
            if brain.state.generation == action.generation and brain.state.phase is Phase.RUNNING:
                self._begin(action, plan)
        except NebulaError as error:
            brain.tell(events.Refused(generation=action.generation, cause=str(error)), "refused")

    def _begin(self, action: Start, plan: Plan) -> None:
        brain, lines = self._brain, self._brain.crowd.lines
        if brain.state.apart:
            self._begin_apart(action, plan)
            return
        found = newest(brain.crowd.copies(), self._untrusted) if brain.settings.memory_every else None
        if found and found.step < self.departures.safe_step:
            found = None  # those who have left had a newer step, which is on the disk
        self._found = found
        if missing := [node for node in action.members if node not in lines]:
            raise BadInput(f"{', '.join(missing)} left while the plan was made")
        names = dict(zip(brain.attendance.seats(action.members), action.members, strict=True))
        placed = ranks(plan, names, brain.crowd.hellos(), brain.settings.select)
        same, self.plan = plan == self.plan, plan
        brain.pulse.begin(placed, own_work=_waits_for_nobody(plan))
        if brain.recovery:
            brain.recovery.mark("planned", time.time())
        if found and brain.steps.beginning:
            brain.steps.beginning.resumed = found.step
        told = (
            f"from memory at step {found.step}" if found else "from the newest checkpoint on the disk, if there is one"
        )
        brain.note("started", f"{len(placed)} ranks begin under {plan.split}, {told}")
        common = self._common(action, plan)
        for node, start in of_generation(common, action.members, placed, lines, found, same=same):
            self._tell(node, start=start)

    def _begin_apart(self, action: Start, plan: Plan) -> None:
        """Has the workers of some nodes begin as members of the group; they find the others by themselves."""
        state, lines = self._brain.state, self._brain.crowd.lines
        self.plan = plan
        self.members_expected(sum(lines[node].hello.slots for node in state.members if node in lines))
        common, select = self._common(action, plan), self._brain.settings.select
        for node, start in of_replicas(common, action.members, state.numbers, lines, select):
            self._tell(node, start=start)

    def _common(self, action: Start, plan: Plan) -> dict[str, Any]:
        """What all nodes are told alike."""
        return {
            "epoch": self._brain.lease.token,
            "generation": action.generation,
            "plan_json": plan_text(plan),
            "words": self._brain.settings.words,
            "environment": self._rate(),
            "log_folder": self._brain.settings.log_folder,
        }

    def _rate(self) -> dict[str, str]:
        """How often the job fails, for the interval of checkpoints."""
        assumed_s = self._brain.settings.mtbf_s
        if not assumed_s:
            return {}
        mtbf_s = seconds_between_failures(assumed_s, self._brain.account(), self._brain.state.restarts)
        return {MTBF: f"{mtbf_s:.1f}"}

    # Nodes leave

    def _release(self, node: str, because: str, *, failed: bool) -> None:
        line = self._brain.crowd.lines.get(node)
        if line is not None:
            leave = wire.Leave(epoch=self._brain.lease.token, because=because, failed=failed)
            line.tell(wire.ToAgent(leave=leave))
            line.outbox.put_nowait(None)

    # A test asks

    def inject(self, asked: wire.InjectRequest) -> None:
        """Passes a fault that a test asks for on to an agent."""
        self._brain.note("injected", f"a test asks for {asked.fault} on {asked.node}")
        inject = wire.Inject(
            epoch=self._brain.lease.token,
            fault=asked.fault,
            local=asked.local,
            seconds=asked.seconds,
            weather=asked.weather,
        )
        self._tell(asked.node, inject=inject)

    def tear(self, asked: wire.InjectRequest) -> str:
        """Tears the newest checkpoint; all agents are told before any of them hears of what comes of it.

        Raises:
            BadInput: the job could not go on.
        """
        told = tear(self._brain.settings.checkpoints)
        self._brain.note("injected", f"a test asks for {asked.fault}: {told}")
        for node in sorted(self._brain.crowd.lines):
            self._tell(node, inject=wire.Inject(epoch=self._brain.lease.token, fault=asked.fault))
        return told

    def _tell(self, node: str, **kind: Any) -> None:
        if node in self._brain.crowd.lines:
            self._brain.crowd.lines[node].tell(wire.ToAgent(**kind))


def _waits_for_nobody(plan: Plan) -> bool:
    """Whether forward passes of a plan wait for no other rank, so that their time is the rank's own."""
    one, alone = plan.stages[0], len(plan.stages) == 1
    whole = alone and all(len(replica.ranks) == 1 for replica in one.replicas)
    return whole and one.context == one.expert == 1 and one.sharding.stage < 3
