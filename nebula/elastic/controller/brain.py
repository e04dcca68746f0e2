"""The controller's one thread of thought: events go to the policy, its answer to the store, then to the agents.

Runs on one event loop; nothing here is called from another thread. The state is in the store before anybody acts on it:
what asks for no act is written a moment later, together with what else has changed by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nebula.elastic.controller.attendance import Attendance
from nebula.elastic.controller.crowd import Crowd, Line
from nebula.elastic.controller.deeds import Deeds
from nebula.elastic.controller.group import Group
from nebula.elastic.controller.inquiry import Inquiry
from nebula.elastic.controller.journal import Happened, Journal, end_of_log
from nebula.elastic.controller.journal import loads as event_of
from nebula.elastic.controller.ledger import SAVING, Ledger
from nebula.elastic.controller.plans import Plans
from nebula.elastic.controller.pulse import Pulse
from nebula.elastic.controller.recovery import Recovery
from nebula.elastic.controller.settings import Settings
from nebula.elastic.controller.steps import Steps
from nebula.elastic.controller.watch import Watch, Watches
from nebula.elastic.goodput import Account, Category
from nebula.elastic.policy import JobState, decide, events
from nebula.elastic.policy.record import dumps, loads
from nebula.elastic.policy.values import Decision, Fault, Phase, Stop
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.store import Lease, Store
from nebula.elastic.telling import SILENT, Tell
from nebula.errors import NebulaError

STATE = "state"
"""Key of the store."""
STEPPING = ("begun", "stepping")
"""Kinds of events from which on new steps are done: of a job that begins, and after a recovery."""
REMARKS = ("unsaved", "damaged")
"""Kinds of events that ranks may cause in words."""
SOON_S = 0.05
"""What nobody acts on is written after so long; nodes that are lost so soon one after the other are told together."""
CAUSE_CHARACTERS = 1000
"""Of a sentence that an agent sends."""


class Brain:
    """Drives one job while its lease lasts.

    Attributes:
        attendance, pulse, deeds: who is there, how far they are, and what is done to them.
        inquiry: which rank hangs.
        group: the replicas, where workers are such.
        recovery: that is under way.
        over: set once this controller is to end; `broken` is the error that it ends with.
    """

    def __init__(self, settings: Settings, store: Store, lease: Lease, plans: Plans, say: Tell = SILENT) -> None:
        """Reads the job's state from the store, or begins one.

        Raises:
            BadInput: the store holds another version's state.
        """
        self.settings, self.store, self.lease, self.plans, self._say = settings, store, lease, plans, say
        self.crowd, self.over = Crowd(), asyncio.Event()
        self.broken: BaseException | None = None
        self.watch: Watch = Watches()
        self._versions: dict[str, int] = {}
        self._unwritten: dict[str, Callable[[], str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        happened = [entry.value for entry in store.list("event/").values()]
        self.journal = Journal(self._write, happened)
        self.ledger, self.steps = Ledger(map(event_of, happened)), Steps()
        self.recovery: Recovery | None = None
        kept = self.stored(STATE)
        self._returned = bool(kept)
        self.state, written_s = loads(kept) if kept else (_first_state(settings), 0.0)
        self._ahead_s = max(0.0, written_s - time.time())
        self._began_s = time.time() - time.monotonic()
        self.attendance, self.pulse, self.deeds = Attendance(self), Pulse(self), Deeds(self)
        self.inquiry, self.group = Inquiry(self, self._failed), Group(self)

    def stored(self, key: str) -> str:
        """What the store has under a key of this controller's own; empty: nothing."""
        there = self.store.get(key)
        self._versions[key] = there.version if there else 0
        return there.value if there else ""

    def kept(self, key: str, value: str) -> str:
        """What the store has under a key; `value` is put there if it has nothing."""
        there = self.stored(key)
        if not there:
            self._write(key, value)
        return there or value

    def now_s(self) -> float:
        """Seconds that never run back, also over a restart of the controller."""
        return self._began_s + time.monotonic() + self._ahead_s

    def begin(self) -> None:
        """Takes up the job."""
        if self._returned:
            self.tell(events.ControllerBack(), "controller")
            if self.state.phase is Phase.RUNNING and self.ledger.doing is not Category.PRODUCTIVE:
                self.steps.begin(self.state.step, -1)
            if self.state.phase is Phase.STOPPING:
                self.deeds.stop(Stop(generation=self.state.generation))
        self.attendance.watch()

    # Events in, decisions out

    def tell(
        self,
        event: events.Event,
        kind: str,
        *,
        last_lines: Sequence[str] = (),
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Asks the policy about an event, keeps its answer and carries it out."""
        decision = decide(self.now_s(), self.state, event, self.settings.limits)
        before, self.state = self.state, decision.state
        seconds = {**(seconds or {}), **self._went_into(before, decision)}
        if decision.because:
            node, rank = getattr(event, "node", ""), getattr(event, "rank", -1)
            self.note(kind, decision.because, last_lines=last_lines, seconds=seconds, node=node, rank=rank)
        if decision.actions or decision.because or self.state.phase is not before.phase:
            self.write_soon(STATE, lambda: dumps(self.state, now_s=self.now_s()))
        if decision.actions:
            self._write_all()
        for action in decision.actions:
            self.deeds.carry_out(action)
        self._wake_later()

    def _went_into(self, before: JobState, decision: Decision) -> Mapping[str, float]:
        """What the seconds since the last step went into, where a decision tells."""
        stops = [action for action in decision.actions if isinstance(action, Stop) and not action.node]
        since_s = self.steps.since_s(self.now_s())
        if stops and self.ledger.doing is Category.PRODUCTIVE:
            self.steps.boundary = stops[0].at_boundary
            return {} if stops[0].at_boundary else {Category.DETECTING.value: since_s}
        if before.phase is Phase.STOPPING and decision.state.phase is not Phase.STOPPING and self.steps.boundary:
            self.steps.boundary = False
            return {Category.STOPPING.value: since_s}
        return {}

    def account(self) -> Account:
        """Where the time of the job has gone, up to now."""
        return self.ledger.until(self.now_s(), self.steps.saving_s)

    def note(
        self,
        kind: str,
        because: str,
        *,
        last_lines: Sequence[str] = (),
        seconds: Mapping[str, float] | None = None,
        node: str = "",
        rank: int = -1,
        afresh: bool = False,
    ) -> None:
        """Puts an event into the journal."""
        saving_s = self.steps.take_saving_s()
        event = Happened(
            number=self.journal.last + 1,
            wall_s=self.now_s(),
            epoch=self.lease.token,
            generation=self.state.generation,
            step=self.state.step,
            kind=kind,
            because=because,
            last_lines=end_of_log(last_lines),
            seconds={**(seconds or {}), **({SAVING: saving_s} if saving_s else {})},
            phase=self.state.phase.value,
            stepping=kind in STEPPING or (self.state.phase is Phase.STOPPING and self.steps.boundary),
            share=self.group.share,
            afresh=afresh,
            node=node,
            rank=rank,
            trace=self.recovery.trace if self.recovery else "",
        )
        self.journal.add(event)
        self.ledger.add(event)
        self.watch.happened(event)
        self._told(event)
        self.spawn(self.journal.tell())

    def _told(self, event: Happened) -> None:
        """Tells people and logs of an event."""
        self._say(
            event.because,
            event=event.kind,
            ts=event.wall_s,
            generation=event.generation,
            step=event.step,
            run_id=f"{self.settings.name}-{event.epoch}",
            node=event.node or None,
            rank=event.rank if event.rank >= 0 else None,
            trace_id=event.trace or None,
            **({"last_lines": list(event.last_lines)} if event.last_lines else {}),
            **({"seconds": dict(event.seconds)} if event.seconds else {}),
        )

    def write_soon(self, key: str, text: Callable[[], str]) -> None:
        """Has the store keep what a function makes, before anybody acts and at the latest after SOON_S."""
        if not self._unwritten:
            asyncio.get_running_loop().call_later(SOON_S, self._write_late)
        self._unwritten[key] = text

    def _write_late(self) -> None:
        with suppress(NebulaError):  # it is kept as what this controller ends with
            self._write_all()

    def _write_all(self) -> None:
        while self._unwritten:
            key, text = self._unwritten.popitem()
            self._write(key, text())

    def _write(self, key: str, text: str) -> None:
        """Puts a text into the store; without it this controller does nothing further, and the next goes on."""
        try:
            version = self._versions.get(key, 0)
            self._versions[key] = self.store.put(key, text, expected=version, lease=self.lease)
        except NebulaError as error:
            self.broken = error
            self.over.set()
            raise

    def _wake_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self.state.wake_s() - self.now_s()
        if wait_s != float("inf"):
            again_s = self._ticked_s + SOON_S - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s, again_s) + 0.001, self._tick)

    def _tick(self) -> None:
        self._ticked_s = time.monotonic()
        lost = any(node.lost(self.now_s()) for node in self.state.nodes.values())
        self.tell(events.Tick(), "lost" if lost else "waited")

    def spawn(self, work: Any) -> None:
        """Has a coroutine run."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours ends the controller; the next one goes on from the store."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.broken = task.exception()
            self.over.set()

    # What agents say

    def heard(self, node: str, line: Line, message: wire.FromAgent) -> None:
        """Takes a message of an agent."""
        line.heard_s = time.monotonic()
        kind = message.WhichOneof("kind")
        if kind == "progress":
            self.pulse.told(line, message.progress)
        elif kind == "failed" and message.failed.fault == Fault.HANG and not self.state.apart:
            self.inquiry.failed(node, message.failed)
        elif kind == "failed":
            self._failed(node, message.failed)
        elif kind == "standings":
            self.inquiry.stand(node, message.standings)
        elif kind == "stopped":
            line.stopped(message.stopped)
            if self.recovery and message.stopped.generation == self.state.generation:
                self.recovery.before = max(self.recovery.before, message.stopped.most_step)
            self.deeds.stopped(node)
        elif kind == "finished":
            self.pulse.finished(node, message.finished.generation)
        elif kind == "refused":
            self.deeds.distrust(message.refused.generation)
            cause = f"{node}: {message.refused.cause[:CAUSE_CHARACTERS]}"
            self.tell(events.Refused(generation=message.refused.generation, cause=cause), "refused")
        elif kind == "probed":
            self.attendance.probed(node, message.probed)
        elif kind == "remark":
            self._remarked(node, message.remark)
        elif kind == "rescued":
            self.deeds.departures.rescued(node, message.rescued)
        elif kind == "leaving":
            self.tell(events.DrainAsked(node=node, cause=message.leaving.because), "drained")

    def _failed(self, node: str, failed: wire.Failed) -> None:
        current = failed.generation == self.state.generation and self.state.phase is Phase.RUNNING
        if current and not self.state.apart:
            self.recovery = Recovery(seen_s=failed.seen_s)
            self.recovery.mark("told", time.time())
        seconds = self.group.failed(node, failed) if current and self.state.apart else {}
        event = events.Failed(
            node=node,
            rank=failed.rank,
            generation=failed.generation,
            fault=Fault(failed.fault),
            cause=failed.cause[:CAUSE_CHARACTERS],
        )
        kind = "hang" if failed.fault == Fault.HANG else "failed"
        self.tell(event, kind, last_lines=failed.last_lines, seconds=seconds)

    def _remarked(self, node: str, said: wire.Remark) -> None:
        """A rank goes on and has something to say."""
        if said.kind in REMARKS and said.generation == self.state.generation:
            sentence = said.sentence[:CAUSE_CHARACTERS]
            self.note(said.kind, f"rank {said.rank} on {node}: {sentence}", node=node, rank=said.rank)


def _first_state(settings: Settings) -> JobState:
    return JobState(bounds=settings.bounds, apart=settings.shards > 0)
