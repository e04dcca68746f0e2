"""The controller's one thread of thought: events go to the policy, its answer to the store, then to the agents.

Runs on one event loop; nothing here is called from another thread. The state is in the store before anybody acts on it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nebula.elastic.authority import can_be_renewed
from nebula.elastic.chaos.tear import tear
from nebula.elastic.controller.admission import Admission
from nebula.elastic.controller.crowd import Crowd, Line
from nebula.elastic.controller.journal import Happened, Journal
from nebula.elastic.controller.ledger import LOST, SAVING, Ledger
from nebula.elastic.controller.plans import Plans, ranks
from nebula.elastic.controller.recovery import Recovery
from nebula.elastic.controller.restore import newest
from nebula.elastic.controller.starts import of_generation, of_replicas
from nebula.elastic.controller.steps import Steps
from nebula.elastic.controller.watch import Watch, Watches
from nebula.elastic.goodput import Account, Category
from nebula.elastic.policy import JobState, Limits, decide, events
from nebula.elastic.policy.fitness import Unfit
from nebula.elastic.policy.record import dumps, loads
from nebula.elastic.policy.slow import Pace, Scores
from nebula.elastic.policy.values import Action, Again, Bounds, Decision, End, Fault, Phase, Release, Start, Stop
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.store import Lease, Store
from nebula.elastic.telling import SILENT, Tell
from nebula.errors import BadInput, NebulaError
from nebula.plan.files import dumps as plan_text
from nebula.plan.values import Plan
from nebula.runtime.progress import MTBF

STATE, SEATS = "state", "seats"
"""Keys of the store."""
STEPPING = ("begun", "stepping")
"""Kinds of events from which on new steps are done: of a job that begins, and after a recovery."""
REMARKS = ("unsaved", "damaged")
"""Kinds of events that ranks may cause in words."""
HOLD_S = 30.0
"""A node that leaves keeps its copies for the next generation until it steps, but no longer than this."""
SKEW_S = 60.0
"""A node's clock may differ from the controller's by so much before a warning is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a job is, and how patient its controller.

    Attributes:
        words: script and arguments of every worker.
        environment: of every worker.
        select: the environment that gives a rank its device.
        silence_s: an agent that says nothing for so long is cut off.
        allows_faults: whether `nebula chaos` is heard.
        memory_every: steps between two copies in memory; 0: none.
        mtbf_s: mean seconds between failures of the job, before any was seen; 0: nobody asks.
        shards: of a batch, where the workers are replicas that fail and join one by one; 0: they are not.
        checkpoints: folder of the built-in training's; `nebula chaos` tears one of them.
    """

    name: str
    bounds: Bounds
    words: Sequence[str]
    log_folder: str
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    select: Callable[[int, int], Mapping[str, str]] = lambda rank, device: {}  # noqa: ARG005
    heartbeat_s: float = 0.5
    silence_s: float = 3.0
    memory_every: int = 1
    allows_faults: bool = False
    mtbf_s: float = 0.0
    shards: int = 0
    checkpoints: Path = Path("checkpoints")


class Brain:
    """Drives one job while its lease lasts."""

    def __init__(self, settings: Settings, store: Store, lease: Lease, plans: Plans, say: Tell = SILENT) -> None:
        """Reads the job's state from the store, or begins one.

        Raises:
            BadInput: the store holds another version's state.
        """
        self.settings, self.store, self.lease, self.plans, self._say = settings, store, lease, plans, say
        self.crowd, self.plan, self.over = Crowd(), plans.base, asyncio.Event()
        self.journal = Journal(self._write, [entry.value for entry in store.list("event/").values()])
        self.ledger, self.steps = Ledger(self.journal.after(0)), Steps()
        kept, seats = store.get(STATE), store.get(SEATS)
        self.versions = {STATE: kept.version if kept else 0, SEATS: seats.version if seats else 0}
        self.seats: dict[str, str] = json.loads(seats.value) if seats else {}
        self.state, written_s = loads(kept.value) if kept else (_first_state(settings), 0.0)
        self._ahead_s = max(0.0, written_s - time.time())
        self._began_s = time.time() - time.monotonic()
        self._began_at_s = time.monotonic()
        self._awaited: set[str] = set()
        self._untrusted = 0
        self._recovery: Recovery | None = None
        self._returned = kept is not None
        self.broken: BaseException | None = None
        self._done: set[str] = set()
        self._working: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[str] = set()
        self.members_expected: Callable[[int], None] = lambda count: None  # noqa: ARG005
        self.watch: Watch = Watches()
        self._admission = Admission(settings.limits.slowness)
        self._scores, self._nodes_of = Scores(), dict[int, str]()

    def kept(self, key: str, value: str) -> str:
        """What the store has under a key; `value` is put there if it has nothing."""
        there = self.store.get(key)
        if there is None:
            self._write(key, value)
            return value
        return there.value

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
                self._stop(Stop(generation=self.state.generation))
        self._watch()

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
            self._write(STATE, dumps(self.state, now_s=self.now_s()))
        for action in decision.actions:
            self._carry_out(action)
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
            last_lines=tuple(last_lines),
            seconds={**(seconds or {}), **({SAVING: saving_s} if saving_s else {})},
            phase=self.state.phase.value,
            stepping=kind in STEPPING or (self.state.phase is Phase.STOPPING and self.steps.boundary),
            share=min(1.0, len(self.state.members) / self.state.bounds.most),
            node=node,
            rank=rank,
            trace=self._recovery.trace if self._recovery else "",
        )
        self.journal.add(event)
        self.ledger.add(event)
        self.watch.happened(event)
        self._told(event)
        self._spawn(self.journal.tell())

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

    def _write(self, key: str, text: str) -> None:
        """Puts a text into the store; without it this controller does nothing further, and the next goes on."""
        try:
            version = self.versions.get(key, 0)
            self.versions[key] = self.store.put(key, text, expected=version, lease=self.lease)
        except NebulaError as error:
            self.broken = error
            self.over.set()
            raise

    def _wake_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self.state.wake_s() - self.now_s()
        if wait_s != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s) + 0.001, self._tick)

    def _tick(self) -> None:
        lost = any(node.lost(self.now_s()) for node in self.state.nodes.values())
        self.tell(events.Tick(), "lost" if lost else "waited")

    def _watch(self) -> None:
        """Tells agents that the way to them is there, and cuts off those that say nothing, again and again."""
        for node in self.crowd.silent(time.monotonic() - self.settings.silence_s):
            self.gone(node, self.crowd.lines[node])
        for node, line in list(self.crowd.lines.items()):
            line.tell(wire.ToAgent(beat=wire.Beat(epoch=self.lease.token)))
            if why := line.refusal():
                line.tell(wire.ToAgent(refusal=wire.Refusal(sentence=why, passing=can_be_renewed(why))))
                self.note("refused", f"{node} is turned away: {why}")
                self.gone(node, line)
        asyncio.get_running_loop().call_later(self.settings.silence_s / 4, self._watch)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours ends the controller; the next one goes on from the store."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.broken = task.exception()
            self.over.set()

    # Agents

    def joined(self, hello: wire.Hello, refusal: Callable[[], str]) -> Line:
        """Takes an agent in.

        Args:
            refusal: tells later on whether it is still trusted.

        Raises:
            BadInput: it cannot be used; the sentence goes to it.
        """
        there = self.crowd.lines.get(hello.node)
        if there is not None and there.hello.instance != hello.instance:
            raise BadInput(f"another agent is connected as {hello.node}: give each node a name of its own with --name")
        if hello.epoch > self.lease.token:
            raise BadInput(
                f"it has seen epoch {hello.epoch}, this controller has {self.lease.token}: it is a stale one"
            )
        taken = {node: seat for node, seat in self.seats.items() if node == hello.node or node in self.state.nodes}
        self.seats = {**taken, hello.node: self.plans.seat(hello.node, hello.slots, taken)}
        self._write(SEATS, json.dumps(self.seats))
        if there is not None:
            there.outbox.put_nowait(None)
        line = Line(hello=hello, heard_s=time.monotonic(), refusal=refusal)
        self.crowd.lines[hello.node] = line
        welcome = wire.Welcome(
            protocol=VERSION,
            epoch=self.lease.token,
            job=self.settings.name,
            heartbeat_s=self.settings.heartbeat_s,
            environment=self.settings.environment,
            memory_every=self.settings.memory_every,
        )
        line.tell(wire.ToAgent(welcome=welcome))
        skew_s = hello.wall_s - time.time()
        if abs(skew_s) > SKEW_S:
            self.note("clock", f"the clock of {hello.node} is {skew_s:+.0f} s off: set it, or certificates will fail")
        joined = events.Joined(node=hello.node, slots=hello.slots, generation=hello.generation)
        self.tell(joined, "joined")
        self._unfit(self._admission.joined(hello))
        if peers := self._admission.peers(hello.node, {name: there.peer for name, there in self.crowd.lines.items()}):
            line.tell(wire.ToAgent(probe=wire.Probe(epoch=self.lease.token, peers=peers)))
        if self.state.phase is Phase.STOPPING and hello.node not in self._awaited:
            self._awaited.add(hello.node)
            line.tell(wire.ToAgent(stop=wire.Stop(epoch=self.lease.token, generation=self.state.generation)))
        return line

    def _unfit(self, found: Iterable[Unfit]) -> None:
        """Tells the policy of nodes that were found unfit."""
        for one in found:
            self.tell(events.Slow(node=one.node, factor=one.factor, cause=one.because), "slow")

    def gone(self, node: str, line: Line) -> None:
        """Notices that an agent's line has ended."""
        if self.crowd.lines.get(node) is not line:
            return
        del self.crowd.lines[node]
        self._admission.left(node)
        line.outbox.put_nowait(None)
        self.tell(events.Gone(node=node), "gone")
        self._one_stopped(node)

    def heard(self, node: str, line: Line, message: wire.FromAgent) -> None:
        """Takes a message of an agent."""
        line.heard_s = time.monotonic()
        kind = message.WhichOneof("kind")
        if kind == "progress":
            self._progress(line, message.progress)
        elif kind == "failed":
            self._failed(node, message.failed)
        elif kind == "stopped":
            line.stopped(message.stopped)
            if self._recovery and message.stopped.generation == self.state.generation:
                self._recovery.before = max(self._recovery.before, message.stopped.most_step)
            self._one_stopped(node)
        elif kind == "finished":
            self._finished(node, message.finished.generation)
        elif kind == "refused":
            self._untrusted = message.refused.generation
            cause = f"{node}: {message.refused.cause}"
            self.tell(events.Refused(generation=message.refused.generation, cause=cause), "refused")
        elif kind == "probed":
            self._unfit(self._admission.probed(node, message.probed))
        elif kind == "remark":
            self._remarked(node, message.remark)
        elif kind == "leaving":
            self.tell(events.DrainAsked(node=node, cause=message.leaving.because), "drained")

    def _failed(self, node: str, failed: wire.Failed) -> None:
        if failed.generation == self.state.generation and self.state.phase is Phase.RUNNING and not self.state.apart:
            self._recovery = Recovery(seen_s=failed.seen_s)
            self._recovery.mark("told", time.time())
        event = events.Failed(
            node=node,
            rank=failed.rank,
            generation=failed.generation,
            fault=Fault(failed.fault),
            cause=failed.cause,
        )
        self.tell(event, "hang" if failed.fault == Fault.HANG else "failed", last_lines=failed.last_lines)

    def _remarked(self, node: str, said: wire.Remark) -> None:
        """A rank goes on and has something to say."""
        if said.kind in REMARKS and said.generation == self.state.generation:
            self.note(said.kind, f"rank {said.rank} on {node}: {said.sentence}", node=node, rank=said.rank)

    def _progress(self, line: Line, progress: wire.Progress) -> None:
        line.progress = progress
        generation, now_s = self.state.generation, self.now_s()
        least, _ = self.crowd.steps(self._workers(), generation)
        if progress.generation != generation:
            return
        if more_s := self.steps.saved(line.hello.node, progress.saving_s):
            self.watch.saved(more_s)
        for tier, nbytes in self.steps.wrote(line.hello.node, progress.written_bytes).items():
            self.watch.wrote(tier, nbytes)
        self._score(progress)
        if least:
            self.watch.stepped(self.steps.did(now_s, least), self.crowd.step_s(self.state.members))
            self.tell(events.Stepped(generation=generation, step=least), "stepped")
        beginning = self.steps.beginning
        if beginning is None or self.state.phase is not Phase.RUNNING:
            return
        stepping = beginning.progressed(now_s, self.crowd.section(self._workers(), generation), least)
        if self._recovery:
            for stage in beginning.marks:
                self._recovery.mark(stage, time.time())
        if stepping:
            self._first_new_step(least)

    def _score(self, progress: wire.Progress) -> None:
        """Looks whether a node's own work takes longer than that of the others."""
        slowness = self.settings.limits.slowness
        for told in progress.paces:
            pace = Pace(steps=told.steps, work_s=told.work_s)
            self._scores = self._scores.told(progress.generation, told.rank, pace, slowness)
        found = self._scores.slow(self._nodes_of, slowness) if self._nodes_of else None
        if found and self.state.phase is Phase.RUNNING and self.steps.beginning is None:
            node, factor = found
            self._scores = self._scores.accuse(node)
            self.tell(events.Slow(node=node, factor=factor), "slow")

    def _first_new_step(self, step: int) -> None:
        """A generation has begun, or a recovery is over."""
        beginning, recovery = self.steps.beginning, self._recovery
        assert beginning is not None
        for node in sorted(self._leaving):
            self._let_go(node)
        seconds = {**beginning.seconds(self.now_s()), LOST: beginning.lost}
        self.steps.beginning = None
        if recovery is None:
            self.note("begun", f"training begins: step {step} is done", seconds=seconds)
            return
        recovery.mark("stepped", time.time())
        took, lost = recovery.seconds(), beginning.lost
        because = (
            f"training goes on after {took['all']:.2f} s; {lost} step{'s were' if lost != 1 else ' was'} done again"
        )
        self.note("stepping", because, seconds={**seconds, **took})
        self._recovery = None

    def _finished(self, node: str, generation: int) -> None:
        if generation != self.state.generation:
            return
        self._done = {*self._done, node} & set(self.state.members)
        if self.state.apart:
            self._look_whether_done()
        elif self._done == set(self._workers()):
            self.tell(events.Finished(generation=generation), "finished")

    def _workers(self) -> Sequence[str]:
        """The members that have ranks; all of them for a controller that was away and did not place the ranks."""
        return [node for node in self.state.members if node in self._working] or self.state.members

    def _look_whether_done(self) -> None:
        """Replicas are done once one is, and those that have done as many steps; newcomers have nothing to do."""
        told = {node: self.crowd.lines[node].progress for node in self.state.members if node in self.crowd.lines}
        last = max((progress.most_step for progress in told.values()), default=0)
        if self._done and all(node in self._done or one.most_step < last for node, one in told.items()):
            self.tell(events.Finished(generation=self.state.generation), "finished")

    def _one_stopped(self, node: str) -> None:
        if node in self._awaited:
            self._awaited.discard(node)
            self._all_stopped()

    def _all_stopped(self) -> None:
        if not self._awaited and self.state.phase is Phase.STOPPING:
            if self._recovery:
                self._recovery.mark("stopped", time.time())
            self.tell(events.Stopped(generation=self.state.generation), "stopped")

    # Actions

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Stop) and action.node:
            self._tell(action.node, stop=wire.Stop(epoch=self.lease.token, generation=action.generation))
        elif isinstance(action, Again):
            again = wire.Again(epoch=self.lease.token, generation=self.state.generation, rank=action.rank)
            self._tell(action.node, again=again)
        elif isinstance(action, Stop):
            self._stop(action)
        elif isinstance(action, Start):
            if len(action.members) == len(self.state.members):
                done = self._recovery.before if self._recovery else 0
                self.steps.begin(max(done, self.state.step), -1)
            self._spawn(self._start(action))
        elif isinstance(action, Release):
            self._leaving.add(action.node)
            hold_s = 0.0 if self._is_settled() else HOLD_S
            asyncio.get_running_loop().call_later(hold_s, self._let_go, action.node)
        elif isinstance(action, End):
            for node in list(self.crowd.lines):
                self._release(node, self.state.why, failed=action.failed)
            self.over.set()

    def _is_settled(self) -> bool:
        """Whether a generation steps, so that nobody needs the copies of a node that leaves."""
        return self.state.phase is Phase.RUNNING and self._recovery is None and self.steps.beginning is None

    def _let_go(self, node: str) -> None:
        """Releases a node that is to leave, once."""
        if node in self._leaving:
            self._leaving.discard(node)
            self._release(node, f"{node} may go", failed=False)

    def _rate(self) -> dict[str, str]:
        """How often the job fails, for the interval of checkpoints: what was assumed counts like one failure seen."""
        if not self.settings.mtbf_s:
            return {}
        watched_s = time.time() - self._began_s - self._began_at_s
        return {MTBF: f"{(self.settings.mtbf_s + watched_s) / (1 + self.state.restarts):.1f}"}

    def _tell(self, node: str, **kind: Any) -> None:
        if node in self.crowd.lines:
            self.crowd.lines[node].tell(wire.ToAgent(**kind))

    def _stop(self, action: Stop) -> None:
        """Stops every node that is connected: one that is no member may hold copies, too."""
        if self._recovery is None:
            self._recovery = Recovery(seen_s=time.time())
        _, most = self.crowd.steps(self.state.members, action.generation)
        at_step = most + 2 if action.at_boundary and most else 0
        self._awaited = set(self.crowd.lines)
        stop = wire.Stop(epoch=self.lease.token, generation=action.generation, at_step=at_step, dump=action.dump)
        for line in self.crowd.lines.values():
            line.tell(wire.ToAgent(stop=stop))
        if not self._awaited:
            asyncio.get_running_loop().call_soon(self._all_stopped)

    def inject(self, asked: wire.InjectRequest) -> None:
        """Passes a fault that a test asks for on to an agent."""
        self.note("injected", f"a test asks for {asked.fault} on {asked.node}")
        inject = wire.Inject(
            epoch=self.lease.token,
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
        told = tear(self.settings.checkpoints)
        self.note("injected", f"a test asks for {asked.fault}: {told}")
        for node in sorted(self.crowd.lines):
            self._tell(node, inject=wire.Inject(epoch=self.lease.token, fault=asked.fault))
        return told

    def _release(self, node: str, because: str, *, failed: bool) -> None:
        line = self.crowd.lines.get(node)
        if line is not None:
            leave = wire.Leave(epoch=self.lease.token, because=because, failed=failed)
            line.tell(wire.ToAgent(leave=leave))
            line.outbox.put_nowait(None)

    async def _start(self, action: Start) -> None:
        """Finds a plan for the members and has them begin; planning does not hold up anything else."""
        try:
            plan = await asyncio.to_thread(self.plans.of, [self.seats[node] for node in action.members])
            if self.state.generation == action.generation and self.state.phase is Phase.RUNNING:
                self._begin(action, plan)
        except NebulaError as error:
            self.tell(events.Refused(generation=action.generation, cause=str(error)), "refused")

    def _begin(self, action: Start, plan: Plan) -> None:
        if self.state.apart:
            self._begin_apart(action, plan)
            return
        found = newest(self.crowd.copies(), before=self._untrusted) if self.settings.memory_every else None
        names = {self.seats[node]: node for node in action.members}
        if missing := [node for node in action.members if node not in self.crowd.lines]:
            raise BadInput(f"{', '.join(missing)} left while the plan was made")
        placed = ranks(plan, names, self.crowd.hellos(), self.settings.select)
        same = plan == self.plan
        self.plan, self._done, self._working = plan, set(), frozenset(rank.node for rank in placed)
        self._nodes_of = {rank.rank: rank.node for rank in placed} if _waits_for_nobody(plan) else {}
        if self._recovery:
            self._recovery.mark("planned", time.time())
        if found and self.steps.beginning:
            self.steps.beginning.resumed = found.step
        told = (
            f"from memory at step {found.step}" if found else "from the newest checkpoint on the disk, if there is one"
        )
        self.note("started", f"{len(placed)} ranks begin under {plan.split}, {told}")
        common = self._common(action, plan)
        for node, start in of_generation(common, action.members, placed, self.crowd.lines, found, same=same):
            self._tell(node, start=start)

    def _begin_apart(self, action: Start, plan: Plan) -> None:
        """Has the workers of some nodes begin as members of the group; they find the others by themselves."""
        self.plan, lines = plan, self.crowd.lines
        self.members_expected(sum(lines[node].hello.slots for node in self.state.members if node in lines))
        common, select = self._common(action, plan), self.settings.select
        for node, start in of_replicas(common, action.members, self.state.numbers, lines, select):
            self._tell(node, start=start)

    def _common(self, action: Start, plan: Plan) -> dict[str, Any]:
        """What all nodes are told alike."""
        return {
            "epoch": self.lease.token,
            "generation": action.generation,
            "plan_json": plan_text(plan),
            "words": self.settings.words,
            "environment": self._rate(),
            "log_folder": self.settings.log_folder,
        }


def _waits_for_nobody(plan: Plan) -> bool:
    """Whether forward passes of a plan wait for no other rank, so that their time is the rank's own."""
    one, alone = plan.stages[0], len(plan.stages) == 1
    whole = alone and all(len(replica.ranks) == 1 for replica in one.replicas)
    return whole and one.context == one.expert == 1 and one.sharding.stage < 3


def _first_state(settings: Settings) -> JobState:
    return JobState(bounds=settings.bounds, apart=settings.shards > 0)
