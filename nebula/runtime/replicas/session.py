"""A member's part of a training whose members change: its shards of every step, and what it tells and hears of others.

Members join at the border between two steps; one that is lost in the middle of a step leaves its shards to the others,
who finish that step. No optimizer step is lost or done twice, and every row is seen once, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from nebula.errors import RunFailed
from nebula.runtime.hosts import Hosts
from nebula.runtime.replicas.exchange import Exchange
from nebula.runtime.replicas.members import Members, Roll
from nebula.runtime.replicas.tree import Array, Sums, dealt_again, shares


class Replica(Protocol):
    """What one member computes; used by one thread."""

    def gradient(self, step: int, shard: int) -> tuple[Array, Any]:
        """A shard's part of a step.

        Returns:
            Its share of the gradient of the step, and what the model will remember of its rows.
        """

    def apply(self, total: Array, memory: Mapping[int, Any]) -> None:
        """Does the optimizer step, the same on all members.

        Args:
            total: the gradient of the whole batch.
            memory: what the model remembers of the rows, by shard.
        """

    def state(self) -> list[Array]:
        """All that a member needs to go on, but for the number of the step."""

    def load(self, arrays: Sequence[bytes]) -> None:
        """Takes another member's state."""


class LeftOut(RunFailed):
    """Others count this member as lost. Exit code 4."""


@dataclass(slots=True)
class _Work:
    """What there is of the step at hand."""

    sums: Sums
    total: Array | None = None
    memory: dict[int, Any] = field(default_factory=dict)


class _Standing(NamedTuple):
    """What a member tells when it comes to an epoch.

    Attributes:
        step: optimizer steps that it has done.
        has_total: whether it has the gradient of the next.
        arrays: how many its state has.
    """

    step: int
    has_total: bool
    arrays: int


class Session:
    """One member of a training.

    Args:
        shards: into how many a global batch is parted, whoever is a member.
        step: optimizer steps that are done here.
    """

    def __init__(self, hosts: Hosts, roll: Roll, replica: Replica, *, shards: int, step: int = 0) -> None:
        self._hosts, self._roll, self._replica, self._shards = hosts, roll, replica, shards
        self.done = step
        self._work = _Work(Sums(shards))
        self._exchange: Exchange | None = None
        self._own: Sequence[int] = ()
        self._between = True
        self._guard = threading.Lock()

    @property
    def members(self) -> Members:
        """Who trains together now."""
        assert self._exchange is not None, "no step yet"
        return self._exchange.members

    @property
    def leads(self) -> bool:
        """Whether this member does what one does for all: it has the least number."""
        return self._hosts.rank == self.members.numbers[0]

    def heard(self, members: Members) -> None:
        """Members of a later epoch are known; another thread calls it.

        What this member waits for ends when one that it waits for is lost. Others join at the border of a step.
        """
        with self._guard:
            exchange = self._exchange
            if exchange is None or members.epoch <= exchange.members.epoch:
                return
            if self._between or not set(exchange.members.numbers) <= set(members.numbers):
                exchange.end()

    def step(self) -> None:
        """One optimizer step of all members; the first waits until this one is a member.

        Raises:
            LeftOut: the others go on without this member.
        """
        before = self.done
        while self.done == before:
            try:
                self._enter()
                if self.done == before:
                    self._finish()
            except LeftOut:
                raise
            except RunFailed as error:
                self._leave(str(error))

    def _enter(self) -> None:
        """Comes to one mind with the members of the newest epoch, if there is another than before."""
        newest = self._newest()
        if self._exchange is not None and newest.epoch <= self._exchange.members.epoch:
            return
        with self._guard:
            if self._exchange is not None:
                self._exchange.end()
            self._between = True
            self._exchange = Exchange(self._hosts, newest, self._shards)
        if self._roll.now().epoch > newest.epoch:  # nobody will end what was not there yet
            raise RunFailed(f"epoch {newest.epoch} is over")
        self._settle(self._exchange)
        with self._guard:
            self._between = False

    def _newest(self) -> Members:
        """The newest members, this one among them."""
        newest = self._roll.now()
        while self._hosts.rank not in newest.addresses:
            if self._exchange is not None:
                raise LeftOut(f"member {self._hosts.rank} is none any longer since epoch {newest.epoch}")
            self._roll.wait(newest.epoch + 1)
            newest = self._roll.now()
        return newest

    def _settle(self, exchange: Exchange) -> None:
        """All members get to the same step, newcomers get its state, and what is left of it is dealt."""
        members = exchange.members
        settled = members.settled or members.numbers[:1]
        fresh = [number for number in members.numbers if number not in settled]
        told = exchange.told(_Standing(self.done, self._work.total is not None, len(self._replica.state())))
        standings = [_Standing(*told[number]) for number in settled]
        step = _common_step(standings)
        if self._hosts.rank in settled and self.done < step:
            self._apply()
        self._work.total = None
        if self._hosts.rank == settled[0]:
            exchange.hand_over(fresh, self._replica.state())
        elif self._hosts.rank in fresh:
            self._replica.load([exchange.take_over(settled[0]) for _ in range(standings[0].arrays)])
            self.done, self._work = step, _Work(Sums(self._shards))
        self._deal(exchange)
        if members.fresh:
            self._roll.settled(members.epoch)

    def _deal(self, exchange: Exchange) -> None:
        """Deals the shards of the step at hand that nobody has."""
        held = exchange.told(sorted(set(range(self._shards)) - set(self._work.sums.lacking)))
        lacking = set(range(self._shards)).difference(*held.values())
        self._own = dealt_again(lacking, exchange.members.numbers)[self._hosts.rank]

    def _finish(self) -> None:
        """Does this member's shards, and the step with the others."""
        exchange, work = self._exchange, self._work
        assert exchange is not None
        for shard in self._own:
            if shard in work.sums.lacking:
                gradient, work.memory[shard] = self._replica.gradient(self.done, shard)
                work.sums.add(shard, gradient)
        total = exchange.total(work.sums.parts)
        remembered = exchange.told(work.memory)
        work.memory = {shard: one for each in remembered.values() for shard, one in each.items()}
        work.total = total
        newest = max(exchange.told(self._roll.now().epoch).values())
        self._apply()
        self._own = shares(self._shards, exchange.members.numbers)[self._hosts.rank]
        self._roll.wait(newest)  # so that all enter it before the next step

    def _apply(self) -> None:
        work = self._work
        assert work.total is not None, "whoever did a step had heard that all have its gradient"
        self._replica.apply(work.total, work.memory)
        self.done, self._work = self.done + 1, _Work(Sums(self._shards))

    def _leave(self, why: str) -> None:
        """Gives up the epoch, and waits for a later one."""
        assert self._exchange is not None
        self._exchange.end()
        epoch = self._exchange.members.epoch
        self._roll.broken(epoch, why)
        self._roll.wait(epoch + 1)


def _common_step(standings: Sequence[_Standing]) -> int:
    """How many steps all of them can have done: one more than the slowest where that has all it needs."""
    furthest = max(standing.step for standing in standings)
    return furthest + all(standing.step == furthest and standing.has_total for standing in standings)
