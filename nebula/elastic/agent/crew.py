"""The workers of a node: the ranks of a generation and the spares that stand by for the next.

Every slot has at most one rank and one spare. Methods return at once; that a worker has ended is heard by whoever polls
its pidfd.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nebula.elastic.agent.hang import Patience
from nebula.elastic.agent.worker import Order, Worker
from nebula.elastic.policy.blame import Silence
from nebula.runtime.progress import TIERS, Section

OWN = (Section.DATA, Section.FORWARD)
"""Sections in which a rank of a data-parallel job waits for nobody."""


class Crew:
    """The processes of a node.

    Attributes:
        ranks: slot -> its worker of the current generation, as long as it runs.
        spares: slot -> a worker that waits.
        environment: with which processes are started.
    """

    def __init__(self, slots: int, scratch: Path, *, spares: bool) -> None:
        self.slots, self.scratch, self.keeps_spares = slots, scratch, spares
        self.environment: Mapping[str, str] = dict(os.environ)
        self.ranks: dict[int, Worker] = {}
        self.spares: dict[int, Worker] = {}

    @property
    def workers(self) -> list[Worker]:
        """All of them."""
        return [*self.ranks.values(), *self.spares.values()]

    @property
    def warm(self) -> float:
        """The share of the slots that have a spare which is ready."""
        return sum(spare.warm for spare in self.spares.values()) / self.slots

    def fill(self, *, idle: bool) -> None:
        """Starts a spare in every slot that has none."""
        for slot in range(self.slots if self.keeps_spares else 0):
            if slot not in self.spares:
                self.spares[slot] = Worker(slot, self.environment, self.scratch, idle=idle)

    def start(self, orders: Mapping[int, Order]) -> None:
        """Gives orders to spares, or to new processes where there are none."""
        assert not self.ranks, "the generation before has not ended"
        for slot, order in orders.items():
            worker = self.spares.pop(slot, None) or Worker(slot, self.environment, self.scratch, idle=False)
            self.ranks[slot] = worker
            worker.run(order)

    def start_again(self, slot: int, order: Order) -> None:
        """Gives an order to the spare of one slot, or to a new process; the others go on."""
        assert slot not in self.ranks, f"the worker of slot {slot} has not ended"
        worker = self.spares.pop(slot, None) or Worker(slot, self.environment, self.scratch, idle=False)
        self.ranks[slot] = worker
        worker.run(order)

    def ended(self, worker: Worker) -> int:
        """Forgets a worker whose pidfd says that it has ended, and tells its exit code."""
        for kind in (self.ranks, self.spares):
            if kind.get(worker.slot) is worker:
                del kind[worker.slot]
        return worker.reap()

    def kill_ranks(self) -> None:
        """Ends the workers of the generation; each is heard of through its pidfd."""
        for worker in self.ranks.values():
            worker.kill()

    def dump_stacks(self) -> None:
        """Has the workers write the stacks of all their threads to their logs."""
        for worker in self.ranks.values():
            worker.signal(signal.SIGUSR1)

    def ask_to_stop(self, step: int, *, on_disk: bool) -> None:
        """Has the workers end after a step, once that is on the disk, if need be."""
        for worker in self.ranks.values():
            worker.watched.ask_to_stop(step, on_disk=on_disk)

    def unkept(self) -> bool:
        """Whether a worker had no room for its newest copy in memory."""
        return any(worker.watched.unkept for worker in self.ranks.values())

    def steps(self) -> tuple[int, int]:
        """The steps that all workers have done, and those that one of them has done."""
        done = [worker.watched.step for worker in self.ranks.values()] or [0]
        return min(done), max(done)

    def section(self) -> Section:
        """The earliest that one of the workers is in; what comes after DATA counts as DATA."""
        return min((min(worker.watched.section, Section.DATA) for worker in self.ranks.values()), default=Section.BEGIN)

    def saves_s(self) -> float:
        """When a worker said last that it saves, on the machine's monotonic clock; 0 where none does."""
        watched = [worker.watched for worker in self.ranks.values()]
        return max((one.changed_s for one in watched if one.section is Section.CHECKPOINT), default=0.0)

    def saving_s(self) -> float:
        """By how much saves have held up the slowest worker."""
        return max((worker.watched.spent_s(Section.CHECKPOINT) for worker in self.ranks.values()), default=0.0)

    def written_bytes(self) -> dict[str, int]:
        """Bytes of copies of all workers, by tier."""
        return {tier: sum(worker.watched.written_bytes(tier) for worker in self.ranks.values()) for tier in TIERS}

    def paces(self) -> list[tuple[int, int, float]]:
        """Of each rank: its steps, and the seconds of work in which it waited for no other."""
        return [
            (worker.order.rank, worker.watched.step, sum(map(worker.watched.spent_s, OWN)))
            for worker in self.ranks.values()
            if worker.order is not None
        ]

    def remarks(self) -> Iterator[tuple[Order, str, str]]:
        """What ranks have said in words since this was asked last: whose order, kind, sentence."""
        for worker in self.ranks.values():
            yield from worker.remarks()

    def step_times(self) -> list[float]:
        """Seconds of the latest steps of all workers."""
        return [took_s for worker in self.ranks.values() for took_s in worker.watched.step_times()]

    def standings(self, now_s: float, begun_s: float = 0.0) -> list[Silence]:
        """How far each rank is, and for how long it has said nothing.

        Args:
            now_s: of the machine's monotonic clock.
            begun_s: since when those are silent that have said nothing at all; 0: they are left out.
        """
        return [
            _standing(worker, now_s, worker.watched.changed_s or begun_s)
            for worker in self.ranks.values()
            if worker.watched.changed_s or begun_s
        ]

    def silent(
        self,
        now_s: float,
        patience: Patience,
        known_s: Sequence[float] = (),
        begins_s: Sequence[float] = (),
        begun_s: float = 0.0,
    ) -> list[Silence]:
        """The workers that hang, or wait for one that does.

        Args:
            now_s: of the machine's monotonic clock.
            known_s: seconds of steps from before, to judge by.
            begins_s: the same of begins.
            begun_s: as of `standings`.
        """
        times, found = [*known_s, *self.step_times()], []
        for worker in self.ranks.values():
            watched = worker.watched
            section, since_s = watched.section, watched.changed_s or begun_s
            began = [] if section < Section.DATA or not watched.step_times() else times
            if not since_s or now_s - since_s <= patience.early * patience.least_s:
                continue
            if now_s - since_s > patience.seconds(section, began, begins_s):
                found.append(_standing(worker, now_s, since_s))
        return found

    def close(self) -> None:
        """Ends all of them and waits for it."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            self.ended(worker)


def _standing(worker: Worker, now_s: float, since_s: float) -> Silence:
    assert worker.order is not None
    watched = worker.watched
    return Silence(
        rank=worker.order.rank,
        step=watched.step,
        section=watched.section,
        silent_s=now_s - since_s,
        frozen=worker.frozen,
        parked=worker.parked,
        busy=worker.busy,
    )
