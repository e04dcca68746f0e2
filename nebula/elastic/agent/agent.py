"""The agent of a node: one loop over what the controller says, what workers do, and time.

Messages and the ends of processes wake it at once; between them it looks at the workers' progress. All state belongs
to the loop's thread. It refuses what carries an older epoch or generation than it has seen.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nebula import __version__
from nebula.elastic.agent import environment
from nebula.elastic.agent.addresses import Ports
from nebula.elastic.agent.check import rates
from nebula.elastic.agent.copies import Copies
from nebula.elastic.agent.crew import Crew
from nebula.elastic.agent.faults import inject
from nebula.elastic.agent.hang import Patience
from nebula.elastic.agent.session import Lost, Session, Untrusted
from nebula.elastic.agent.worker import STACK_LINES, Order, Worker, ending
from nebula.elastic.chaos.values import Kind
from nebula.elastic.policy.blame import WAITING, Silence, culprit
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import whole
from nebula.errors import BadInput, NebulaError, RunFailed
from nebula.runtime.progress import STOPPED

LOOK_S = 0.05
"""How often the workers' progress is looked at."""
BOUNDARY_S = 20.0
"""How long workers may take to end at a step before they are ended."""
ALARM_S = 1.0
"""While a rank hangs the controller is told so again and again."""
DUMP_S = 0.3
"""How long workers get to write their stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What an agent is told about its node.

    Attributes:
        name: stable; the same when the agent starts anew.
        address: where other nodes reach it.
        logs: folder for the workers' logs; None: where the controller says.
        allows_faults: whether it does to itself and its workers what `nebula chaos` asks for.
        spares: whether processes stand by with Paddle imported.
        fitness: what was measured of its device; None: it was not tried.
        roll: environment by which a member of a group of replicas finds the others.
    """

    name: str
    slots: int
    address: str
    scratch: Path
    logs: Path | None = None
    spares: bool = True
    allows_faults: bool = False
    fitness: wire.Fitness | None = None
    patience: Patience = field(default_factory=Patience)
    roll: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Generation:
    """The generation whose workers the node runs, or ran last.

    Attributes:
        finished: slots whose workers ended well.
        asked_s: when its workers were asked to end at a step; 0: not.
        failed: what its first failure was told as.
        refilled: spares for the next generation were started.
        most_step: that one of its workers has done.
        alarmed_s: when the controller was told last that one hangs.
    """

    number: int = 0
    start: wire.Start = field(default_factory=wire.Start)
    running: bool = False
    stopping: bool = False
    finished: set[int] = field(default_factory=set)
    asked_s: float = 0.0
    failed: wire.Failed | None = None
    refilled: bool = False
    most_step: int = 0
    alarmed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The copies that a generation takes up lie ready, or `error` says why not."""

    start: wire.Start
    folder: Path | None
    error: str = ""


class Agent:
    """Runs until the job is over or it is told to leave."""

    def __init__(
        self, node: Node, copies: Copies, connect: Callable[..., Session], peer_port: int, say: Callable[[str], None]
    ) -> None:
        """Makes an agent that has not connected yet.

        Args:
            connect: makes its session, from a function that makes a Hello and one that hears.
            say: receives sentences for people.
        """
        self.node, self.copies, self.say, self.peer_port = node, copies, say, peer_port
        self.crew = Crew(node.slots, node.scratch, spares=node.spares)
        self.ports = Ports(node.address, node.slots + 1)
        self.epoch, self.heartbeat_s, self.memory_every = 0, 0.5, 1
        self.generation = Generation()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._workers: dict[int, Worker] = {}
        self._session = connect(self._hello, self.hear)
        self._said_s, self._known_s, self._connected = 0.0, [0.0][:0], False
        self._said = ""
        self._left: wire.Leave | None = None
        self._orders: Mapping[int, Order] = {}
        self._leaving, self._instance = "", int.from_bytes(os.urandom(6), "little")

    def hear(self, message: Any) -> None:
        """Takes a message from any thread."""
        self._inbox.put(message)
        os.eventfd_write(self._wake, 1)

    def leave(self, because: str) -> None:
        """Asks the controller to let this node go; may be called from a signal handler."""
        self._leaving = because
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Works until the controller says that it is over.

        Raises:
            BadInput: the controller refuses this agent.
            RunFailed: the job failed.
        """
        self._session.start()
        try:
            while self._left is None:
                self._turn()
        finally:
            self.crew.close()
            self.copies.close()
            self._session.close()
        if self._left.failed:
            raise RunFailed(self._left.because)
        self.say(self._left.because)

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll(LOOK_S * 1000):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif descriptor in self._workers:
                self._ended(self._workers.pop(descriptor), descriptor)
        while not self._inbox.empty():
            self._answer(self._inbox.get())
        if self._leaving and self._connected:
            self._session.send(leaving=wire.Leaving(because=self._leaving))
            self._leaving = ""
        self._look()

    # What the controller says

    def _answer(self, message: Any) -> None:
        if isinstance(message, Lost):
            if self._connected:
                self.say(f"the line to the controller broke ({message.why}); workers go on")
            self._connected = False
        elif isinstance(message, Untrusted):
            if not self.epoch:
                raise BadInput(message.why)
            self._say_once(message.why)
        elif isinstance(message, wire.Probed):
            self._session.send(probed=message)
        elif isinstance(message, Prepared):
            self._begin(message)
        else:
            kind = message.WhichOneof("kind")
            value = getattr(message, kind)
            if kind == "refusal":
                self._refused(value)
                return
            if value.epoch < self.epoch:
                self.say(f"refused {kind} of a controller of epoch {value.epoch}: epoch {self.epoch} leads")
                return
            self.epoch = value.epoch
            {
                "welcome": self._welcome,
                "start": self._start,
                "stop": self._stop,
                "leave": self._leave,
                "again": self._again,
                "probe": self._probe,
                "inject": self._inject,
                "beat": lambda _: None,
                "look": self._stand,
                "accuse": self._accused,
            }[kind](value)

    def _refused(self, refusal: wire.Refusal) -> None:
        """An expired certificate is not the end: somebody may renew it, and the session asks again until then."""
        sentence = f"the controller refuses this agent: {refusal.sentence}"
        if not (refusal.passing and self.epoch):
            raise BadInput(sentence)
        self._say_once(f"{sentence}; it asks again with the newest in its folder")

    def _probe(self, probe: wire.Probe) -> None:
        """Tries the ways to others in a thread of its own."""

        def try_them() -> None:
            found = list(rates(probe.peers, self.copies.dial))
            self.hear(wire.Probed(rates=found))

        threading.Thread(target=try_them, name="probe", daemon=True).start()

    def _say_once(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self.say(f"{sentence}; workers go on")

    def _hello(self) -> wire.Hello:
        generation = self.generation
        whole = generation.running and not generation.stopping and generation.failed is None
        return wire.Hello(
            protocol=VERSION,
            node=self.node.name,
            slots=self.node.slots,
            generation=generation.number if whole else 0,
            epoch=self.epoch,
            address=self.node.address,
            peer_port=self.peer_port,
            ports=self.ports.numbers,
            wall_s=time.time(),
            version=__version__,
            instance=self._instance,
            fitness=self.node.fitness,
        )

    def _welcome(self, welcome: wire.Welcome) -> None:
        self._connected, self.heartbeat_s, self.memory_every = True, welcome.heartbeat_s, welcome.memory_every
        self.say(f"{self.node.name} joined {welcome.job}; its controller has epoch {welcome.epoch}")
        self.crew.environment = environment.of_process(os.environ, welcome.environment, slots=self.node.slots)
        if not self.generation.running:
            self._fill(idle=False)
        generation = self.generation
        if generation.running and len(generation.finished) == len(self._orders_of(generation.start)):
            self._session.send(finished=wire.Finished(generation=generation.number))

    def _start(self, told: wire.Start) -> None:
        start = whole(told)
        rested = start.apart and start.generation == self.generation.number and not self.crew.ranks
        if start.generation <= self.generation.number and not rested:
            self.say(f"refused to start generation {start.generation}: {self.generation.number} is there already")
            return
        self._end_workers()
        self.generation = Generation(number=start.generation, start=start)
        threading.Thread(target=self._prepare, args=(start,), name="prepare", daemon=True).start()

    def _prepare(self, start: wire.Start) -> None:
        """Runs in a thread of its own."""
        try:
            folder = None
            if start.resume_step:
                folder = self.copies.prepare(start.generation, start.sources, everything=start.everything)
            self.hear(Prepared(start, folder))
        except (NebulaError, OSError) as error:
            self.hear(Prepared(start, None, str(error)))

    def _begin(self, prepared: Prepared) -> None:
        """Starts the workers of a generation, unless it was stopped meanwhile."""
        generation, start = self.generation, prepared.start
        if start.generation != generation.number or generation.stopping:
            return
        if prepared.error:
            self._session.send(refused=wire.Refused(generation=generation.number, cause=prepared.error))
            return
        self.ports.let_go()
        orders = environment.orders(
            start,
            self._orders_of(start),
            node=self.node,
            copies=self.copies.scratch if self.memory_every else None,
            memory_every=self.memory_every,
            resume=prepared.folder,
        )
        self._orders = orders
        self.crew.start(orders)
        generation.running = True
        self._watch()

    def _inject(self, asked: wire.Inject) -> None:
        if not self.node.allows_faults:
            self.say(f"refused to do {asked.fault}: this agent was started without --allow-faults")
            return
        self.say(f"a test asks for {asked.fault}")
        if asked.fault == Kind.TORN:
            self.crew.kill_ranks()
            self.copies.forget()
            return
        inject(asked, self.crew.ranks.get(asked.local), self._session, self.say)

    def _again(self, again: wire.Again) -> None:
        """Begins one worker anew, out of a spare if there is one."""
        slot = next((slot for slot, order in self._orders.items() if order.rank == again.rank), None)
        if again.generation != self.generation.number or self.generation.stopping or slot is None:
            return
        worker = self.crew.ranks.get(slot)
        if worker is not None:  # it hangs
            worker.kill()
            self._forget(worker)
        self.generation.failed, self.generation.refilled = None, False
        self.crew.start_again(slot, self._orders[slot])
        self._watch()

    def _orders_of(self, start: wire.Start) -> Sequence[wire.Rank]:
        return [rank for rank in start.ranks if rank.node == self.node.name]

    def _stop(self, stop: wire.Stop) -> None:
        generation = self.generation
        if stop.generation < generation.number:
            return
        if stop.dump and self.crew.ranks:
            self.crew.dump_stacks()
            time.sleep(DUMP_S)
        in_step = stop.generation == generation.number  # those of an older one wait for ranks that are gone
        if stop.at_step and in_step and self.crew.ranks and not generation.stopping:
            generation.asked_s = time.monotonic()
            self.crew.ask_to_stop(stop.at_step)
        else:
            self._end_workers()
        generation.stopping = True
        self._tell_stopped(stop.generation)

    def _end_workers(self) -> None:
        """Kills the workers of a generation and waits for it: it takes milliseconds."""
        self._known_s = self.crew.step_times()[-256:] or self._known_s
        self.generation.most_step = max(self.generation.most_step, self.crew.steps()[1])
        self.crew.kill_ranks()
        for worker in list(self.crew.ranks.values()):
            self._forget(worker)

    def _tell_stopped(self, generation: int) -> None:
        if self.crew.ranks:
            return
        stopped = wire.Stopped(
            generation=generation,
            copies=self.copies.held(),
            ports=self.ports.fresh(),
            most_step=self.generation.most_step,
        )
        self._session.send(stopped=stopped)

    def _leave(self, leave: wire.Leave) -> None:
        self._left = leave

    # What workers do

    def _fill(self, *, idle: bool) -> None:
        self.crew.fill(idle=idle)
        self._watch()

    def _watch(self) -> None:
        """Has the poll tell when a worker ends."""
        for worker in self.crew.workers:
            if worker.pidfd not in self._workers:
                self._workers[worker.pidfd] = worker
                self._poll.register(worker.pidfd, select.POLLIN)

    def _forget(self, worker: Worker) -> int:
        if self._workers.pop(worker.pidfd, None):
            self._poll.unregister(worker.pidfd)
        return self.crew.ended(worker)

    def _ended(self, worker: Worker, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        order, generation, seen_s = worker.order, self.generation, time.time()
        times = worker.watched.step_times()
        self._pass_on(worker.remarks())
        generation.most_step = max(generation.most_step, worker.watched.step if order else 0)
        short = worker.memory.why()
        code = self.crew.ended(worker)
        if order is None or order.generation != generation.number:
            return  # a spare; the next start or refill makes another
        self._known_s = [*times, *self._known_s][:256]
        if generation.stopping:
            self._tell_stopped(generation.number)
        elif code == 0:
            generation.finished.add(worker.slot)
            if len(generation.finished) == len(self._orders_of(generation.start)):
                self._session.send(finished=wire.Finished(generation=generation.number))
        elif code != STOPPED:
            lines = worker.last_lines()
            cause = ending(code) + (
                f": {lines[-1]}" if lines and code > 0 else short if code == -signal.SIGKILL else ""
            )
            self._fail(order.rank, "mistake" if code == BadInput.exit_code else "exit", cause, lines, seen_s)

    def _fail(self, rank: int, fault: str, cause: str, lines: Sequence[str], seen_s: float) -> None:
        failed = wire.Failed(
            generation=self.generation.number, rank=rank, fault=fault, cause=cause, last_lines=lines, seen_s=seen_s
        )
        self.generation.failed = self.generation.failed or failed
        self._session.send(failed=failed)

    def _look(self) -> None:
        """Looks at the workers' progress: passes it on, and notices a hang."""
        generation, now_s = self.generation, time.monotonic()
        least, most = self.crew.steps()
        if now_s - self._said_s >= self.heartbeat_s / 2:
            self._said_s = now_s
            self._tell_progress(least, most)
            self._session.look()
            if self._connected and self._session.renew():
                self.say("this node's certificate was renewed: the line to the controller is taken up again with it")
        if generation.asked_s and self.crew.ranks and now_s - generation.asked_s > BOUNDARY_S:
            self._end_workers()
            self._tell_stopped(generation.number)
        if not generation.running or generation.stopping or not self.crew.ranks:
            return
        if self._connected:
            self._pass_on(self.crew.remarks())
        silent = self.crew.silent(now_s, self.node.patience, self._known_s)
        if generation.start.apart:  # who waits for another is not to blame, wherever that one is
            silent = [one for one in silent if one.frozen or one.section not in WAITING]
        if silent and generation.failed is None:
            if generation.start.apart:
                self._hangs(culprit(silent))
            elif now_s - generation.alarmed_s > ALARM_S:
                generation.alarmed_s = now_s
                self._tell_standings(hangs=True)
        if most > generation.start.resume_step and not generation.refilled and self.crew.step_times():
            generation.refilled = True
            self._fill(idle=True)
        self.copies.pass_on(generation.start.neighbour)

    def _pass_on(self, remarks: Iterable[tuple[Order, str, str]]) -> None:
        """Sends what workers have said in words."""
        for order, kind, sentence in remarks:
            said = wire.Remark(generation=order.generation, rank=order.rank, kind=kind, sentence=sentence)
            self._session.send(remark=said)

    def _hangs(self, blamed: Silence) -> None:
        """Tells of a rank that hangs, with its stacks."""
        self.crew.dump_stacks()
        time.sleep(DUMP_S)
        hung = next(one for one in self.crew.ranks.values() if one.order and one.order.rank == blamed.rank)
        self._fail(blamed.rank, "hang", blamed.cause, hung.last_lines(STACK_LINES), time.time())

    def _stand(self, look: wire.Look) -> None:
        """Says how far each rank is: one hangs, on this node or on another."""
        if look.generation == self.generation.number:
            self._tell_standings(hangs=False)

    def _tell_standings(self, *, hangs: bool) -> None:
        ranks = [
            wire.Standing(
                rank=one.rank,
                step=one.step,
                section=one.section,
                silent_s=one.silent_s,
                frozen=one.frozen,
                parked=one.parked,
            )
            for one in self.crew.standings(time.monotonic())
        ]
        told = wire.Standings(generation=self.generation.number, ranks=ranks, hangs=hangs)
        self._session.send(standings=told)

    def _accused(self, accuse: wire.Accuse) -> None:
        """A rank of this node holds up all others."""
        if accuse.generation == self.generation.number and not self.generation.stopping:
            for one in self.crew.standings(time.monotonic()):
                if one.rank == accuse.rank:
                    self._hangs(one)

    def _tell_progress(self, least: int, most: int) -> None:
        times = self.crew.step_times()
        self._session.send(
            progress=wire.Progress(
                generation=self.generation.number,
                least_step=least,
                most_step=most,
                step_s=sum(times) / len(times) if times else 0.0,
                warm=self.crew.warm,
                section=self.crew.section(),
                saving_s=self.crew.saving_s(),
                written_bytes=self.crew.written_bytes(),
                paces=[wire.Pace(rank=rank, steps=steps, work_s=work_s) for rank, steps, work_s in self.crew.paces()],
            )
        )


def of_signal(agent: Agent) -> Mapping[signal.Signals, str]:
    """What a node is told before it is taken away, and how it is said."""
    told = {signal.SIGTERM: "its agent got SIGTERM", signal.SIGUSR1: "its agent got SIGUSR1, a notice of preemption"}
    for number, because in told.items():
        signal.signal(number, lambda *_, because=because: agent.leave(because))
    return told
