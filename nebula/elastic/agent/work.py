"""The workers of a node as the controller wants them: started, ended, begun anew, watched; what comes of them is told.

All state belongs to the thread of the agent's loop, which polls the ends of processes and calls `ended` and `look`.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from nebula.elastic.agent import environment, reports
from nebula.elastic.agent.addresses import Ports
from nebula.elastic.agent.copies import Copies
from nebula.elastic.agent.crew import Crew
from nebula.elastic.agent.node import Generation, Node, Prepared
from nebula.elastic.agent.worker import STACK_LINES, Order, Worker
from nebula.elastic.policy.blame import SILENT_S, STILL, WAITING, Silence, culprit
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import whole
from nebula.errors import NebulaError
from nebula.runtime.progress import STOPPED, Section

BOUNDARY_S = 20.0
"""How long workers may take to end once the step is due at which they are to; again after each word of a save."""
ALARM_S = 1.0
"""While a rank hangs the controller is told so again and again."""
BUSY_S = 1.0
"""A replica that is silent and busy for so long, whenever it is looked at, does not wait for another."""
DUMP_S = 0.3
"""How long workers get to write their stacks."""
BEGINS = 8
"""Of so many generations it is remembered how long they took to their first step."""
KNOWN = 256
"""Of so many steps the seconds are remembered, to judge the next generation by."""


class Work:
    """Runs the workers of one generation after the other."""

    def __init__(
        self,
        node: Node,
        copies: Copies,
        poll: select.poll,
        *,
        send: Callable[..., None],
        hear: Callable[[Any], None],
        say: Callable[[str], None],
    ) -> None:
        """Makes the work of a node that has none yet.

        Args:
            poll: is told the descriptors by which the ends of workers are heard.
            send: a message of a kind to the controller.
            hear: brings a message into the agent's loop from any thread.
            say: receives sentences for people.
        """
        self.node, self.copies, self.send, self.hear, self.say = node, copies, send, hear, say
        self.crew = Crew(node.slots, node.scratch, spares=node.spares)
        self.ports = Ports(node.address, node.slots + 1)
        self.memory_every = 1
        self.generation = Generation()
        self._poll, self._workers = poll, dict[int, Worker]()
        self._known_s = list[float]()
        self._begins_s = deque[float](maxlen=BEGINS)
        self._busy = dict[int, float]()
        self._orders: Mapping[int, Order] = {}

    @property
    def whole(self) -> int:
        """The generation whose workers go on; 0: they do not."""
        now = self.generation
        return now.number if now.running and not now.stopping and now.failed is None else 0

    def idle_copies(self) -> list[wire.Copy]:
        """The copies that the node holds; none while workers may write them."""
        return [] if self.crew.ranks else self.copies.held()

    # What the controller asks for

    def welcomed(self) -> None:
        """Has spares ready, and says again what the controller may not have heard."""
        if not self.generation.running:
            self._fill(idle=False)
        elif self._all_finished():
            self.send(finished=wire.Finished(generation=self.generation.number))

    def start(self, told: wire.Start) -> None:
        """Makes a generation ready, which begins once its copies lie there."""
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

    def begin(self, prepared: Prepared) -> None:
        """Starts the workers of a generation, unless it was stopped meanwhile."""
        generation, start = self.generation, prepared.start
        if start.generation != generation.number or generation.stopping:
            return
        if prepared.error:
            self.send(refused=wire.Refused(generation=generation.number, cause=prepared.error))
            return
        self.ports.let_go()
        self._orders = environment.orders(
            start,
            self._ranks_of(start),
            node=self.node,
            copies=self.copies.scratch if self.memory_every else None,
            memory_every=self.memory_every,
            resume=prepared.folder,
        )
        self.crew.start(self._orders)
        generation.running, generation.started_s = True, time.monotonic()
        self._watch()

    def again(self, again: wire.Again) -> None:
        """Begins one worker anew, out of a spare if there is one."""
        slot = next((slot for slot, order in self._orders.items() if order.rank == again.rank), None)
        if again.generation != self.generation.number or self.generation.stopping or slot is None:
            return
        worker = self.crew.ranks.get(slot)
        if worker is not None:  # it hangs
            worker.kill()
            self._forget(worker)
        self.generation.failed, self.generation.refilled, self.generation.started_s = None, False, time.monotonic()
        self.crew.start_again(slot, self._orders[slot])
        self._watch()

    def stop(self, stop: wire.Stop) -> None:
        """Ends the workers, at a step or at once."""
        generation = self.generation
        if stop.generation < generation.number:
            return
        if stop.dump and self.crew.ranks:
            self.crew.dump_stacks()
            time.sleep(DUMP_S)
        in_step = stop.generation == generation.number  # those of an older one wait for ranks that are gone
        if stop.at_step and in_step and self.crew.ranks and not generation.stopping:
            generation.due_s = time.monotonic() + self._until_s(stop.at_step)
            self.crew.ask_to_stop(stop.at_step, on_disk=stop.on_disk)
        else:
            self._end_workers()
        generation.stopping = True
        self._tell_stopped(stop.generation)

    def stand(self, look: wire.Look) -> None:
        """Says how far each rank is: one hangs, on this node or on another."""
        if look.generation == self.generation.number:
            self._tell_standings(hangs=False)

    def accused(self, accuse: wire.Accuse) -> None:
        """A rank of this node holds up all others."""
        if accuse.generation == self.generation.number and not self.generation.stopping:
            for one in self.crew.standings(time.monotonic(), self._begun_s):
                if one.rank == accuse.rank and one.silent_s >= STILL * SILENT_S:
                    self._hangs(one)
                elif one.rank == accuse.rank:
                    self._tell_standings(hangs=False)  # it goes on after all

    def rescue(self, told: wire.Rescue) -> None:
        """Writes copies as a checkpoint, in a thread of its own."""
        threading.Thread(target=self._rescue, args=(told,), name="rescue", daemon=True).start()

    def _rescue(self, told: wire.Rescue) -> None:
        try:
            self.hear(wire.Rescued(checkpoint=str(self.copies.rescue(told.generation, told.sources))))
        except (NebulaError, OSError) as error:
            self.hear(wire.Rescued(cause=str(error)))

    def tear(self) -> None:
        """Loses the workers and all copies in memory at once, as a test asks for."""
        self.crew.kill_ranks()
        self.copies.forget()

    # What workers do

    def owns(self, descriptor: int) -> bool:
        """Whether it tells of the end of one of the workers."""
        return descriptor in self._workers

    def ended(self, descriptor: int) -> None:
        """Takes in that a worker has ended."""
        worker, seen_s = self._workers.pop(descriptor), time.time()
        self._poll.unregister(descriptor)
        order, generation = worker.order, self.generation
        times = worker.watched.step_times()
        for remark in reports.remarks(worker.remarks()):
            self.send(remark=remark)
        generation.most_step = max(generation.most_step, worker.watched.step if order else 0)
        short = worker.memory.why()
        code = self.crew.ended(worker)
        if order is None or order.generation != generation.number:
            return  # a spare; the next start or refill makes another
        self._remember(times)
        if generation.stopping:
            self._tell_stopped(generation.number)
        elif code == 0:
            generation.finished.add(worker.slot)
            if self._all_finished():
                self.send(finished=wire.Finished(generation=generation.number))
        elif code != STOPPED:
            self._fail(reports.ended(worker, order, code, short, seen_s))

    def tell_progress(self) -> None:
        """Says how far the workers are."""
        self.send(progress=reports.progress(self.generation.number, self.crew))

    def look(self, *, connected: bool) -> None:
        """Looks at the workers' progress: passes on what they say, and notices a hang.

        Args:
            connected: whether somebody hears what is sent.
        """
        generation, now_s = self.generation, time.monotonic()
        due_s = generation.due_s and max(generation.due_s, self.crew.saves_s())
        if due_s and self.crew.ranks and now_s - due_s > BOUNDARY_S:
            self._end_workers()
            self._tell_stopped(generation.number)
        if not generation.running or generation.stopping or not self.crew.ranks:
            return
        for remark in reports.remarks(self.crew.remarks()) if connected else ():
            self.send(remark=remark)
        if generation.failed is None:
            self._look_for_hangs(now_s)
        if self.crew.steps()[1] > generation.start.resume_step and not generation.refilled and self.crew.step_times():
            generation.refilled = True
            self._begins_s.append(now_s - generation.started_s)
            self._fill(idle=True)
        self.copies.pass_on(generation.start.neighbour)

    @property
    def _begun_s(self) -> float:
        """Since when workers have had time to say a first word; 0 where it is not known that they ever say any.

        A replica may have to wait long for the others to let it in.
        """
        return self.generation.started_s if self._begins_s and not self.generation.start.apart else 0.0

    def _look_for_hangs(self, now_s: float) -> None:
        generation = self.generation
        silent = self.crew.silent(now_s, self.node.patience, self._known_s, self._begins_s, self._begun_s)
        if generation.start.apart:  # who waits for another is not to blame, wherever that one is
            self._busy = {one.rank: self._busy.get(one.rank, now_s) for one in silent if one.busy}
            loops = {rank for rank, since_s in self._busy.items() if now_s - since_s > BUSY_S}
            silent = [one for one in silent if one.frozen or one.section not in WAITING or one.rank in loops]
            if silent:
                self._hangs(culprit(silent))
        elif silent and now_s - generation.alarmed_s > ALARM_S:
            generation.alarmed_s = now_s
            self._tell_standings(hangs=True)

    def close(self) -> None:
        """Ends all workers and forgets all copies."""
        self.crew.close()
        self.copies.close()

    def _ranks_of(self, start: wire.Start) -> Sequence[wire.Rank]:
        return [rank for rank in start.ranks if rank.node == self.node.name]

    def _all_finished(self) -> bool:
        generation = self.generation
        return generation.running and len(generation.finished) == len(self._ranks_of(generation.start))

    def _fill(self, *, idle: bool) -> None:
        self.crew.fill(idle=idle)
        self._watch()

    def _watch(self) -> None:
        """Has the poll tell when a worker ends."""
        for worker in self.crew.workers:
            if worker.pidfd not in self._workers:
                self._workers[worker.pidfd] = worker
                self._poll.register(worker.pidfd, select.POLLIN)

    def _forget(self, worker: Worker) -> None:
        if self._workers.pop(worker.pidfd, None):
            self._poll.unregister(worker.pidfd)
        self.crew.ended(worker)

    def _until_s(self, step: int) -> float:
        """How long the workers may take to do a step, as far as that is known: twice as long as of late."""
        times = self.crew.step_times()
        return 2.0 * max(0, step - self.crew.steps()[0]) * (median(times) if times else 0.0)

    def _remember(self, times: Sequence[float]) -> None:
        """Keeps what steps took, but for those in which a rank hung: asked for its stacks, it may have gone on."""
        most_s = self.node.patience.seconds(Section.FORWARD, self._known_s)
        self._known_s = [*(took_s for took_s in times if took_s <= most_s), *self._known_s][:KNOWN]

    def _end_workers(self) -> None:
        """Kills the workers of a generation and waits for it: it takes milliseconds."""
        self._remember(self.crew.step_times())
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
        self.send(stopped=stopped)

    def _tell_standings(self, *, hangs: bool) -> None:
        standings = self.crew.standings(time.monotonic(), self._begun_s)
        self.send(standings=reports.standings(self.generation.number, standings, hangs=hangs))

    def _hangs(self, blamed: Silence) -> None:
        """Tells of a rank that hangs, with its stacks."""
        self.crew.dump_stacks()
        time.sleep(DUMP_S)
        hung = next(one for one in self.crew.ranks.values() if one.order and one.order.rank == blamed.rank)
        lines = hung.last_lines(STACK_LINES)
        self._fail(reports.failed(self.generation.number, blamed.rank, "hang", blamed.cause, lines, time.time()))

    def _fail(self, failed: wire.Failed) -> None:
        self.generation.failed = self.generation.failed or failed
        self.send(failed=failed)
