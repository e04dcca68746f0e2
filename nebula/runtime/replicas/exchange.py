"""One epoch's exchange: members hand each other sums of gradients, and agree that a step is done.

Each member adds up a slice of the gradient over all shards and hands it to the others. A step counts as done for all
once one has heard of all others that they have the whole sum: who has said so can finish it whatever happens next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nebula.runtime.hosts import Hosts
from nebula.runtime.replicas.members import Members
from nebula.runtime.replicas.tree import Array, Span, Sums


class Exchange:
    """What a member says to the others and hears of them in one epoch.

    A method raises RunFailed when a member is lost or the epoch is over; then the epoch is over for this member, and
    those who wait for it learn of that.

    Args:
        shards: of a global batch.
    """

    def __init__(self, hosts: Hosts, members: Members, shards: int) -> None:
        self._hosts, self.members, self._shards = hosts, members, shards
        self._numbers = members.numbers
        self._others = [number for number in self._numbers if number != hosts.rank]

    def end(self) -> None:
        """Nothing more is said in this epoch; may be called by another thread."""
        self._hosts.hang_up(self._lane(""))

    def told(self, value: Any) -> dict[int, Any]:
        """A plain value of each member."""
        found = self._hosts.gathered(value, self._numbers, self._lane("values"))
        return dict(zip(self._numbers, found, strict=True))

    def total(self, parts: Mapping[Span, Array]) -> Array:
        """The sum over all shards, the same bits on every member; together they must have all.

        Args:
            parts: sums of nodes of the tree that this member has.
        """
        size = next(iter(parts.values())).size if parts else 0
        size = max(self.told(size).values())
        cuts = np.linspace(0, size, len(self._numbers) + 1).astype(np.int64)
        slices = {number: slice(*cuts[i : i + 2]) for i, number in enumerate(self._numbers)}
        sends = [self._send(other, parts, slices[other]) for other in self._others]
        own = slices[self._hosts.rank]
        sums = Sums(self._shards)
        sums.put({span: array[own].copy() for span, array in parts.items()})
        for other in self._others:
            sums.put(self._received(other, own.stop - own.start))
        whole = np.empty(size, np.float32)
        whole[own] = sums.total()
        sends.append([self._hosts.send(other, whole[own], self._lane("totals")) for other in self._others])
        for other in self._others:
            self._hosts.receive(other, whole[slices[other]], self._lane("totals"))
        for send in (each for some in sends for each in some):
            send.result()
        return whole

    def agree(self) -> None:
        """Returns once every member has said that it has the sum; this one has."""
        self.told(True)

    def hand_over(self, takers: Sequence[int], arrays: Sequence[Array]) -> None:
        """Sends some members the state that they lack."""
        sends = [self._hosts.send(taker, array, self._lane("state")) for array in arrays for taker in takers]
        for send in sends:
            send.result()

    def take_over(self, giver: int) -> bytes:
        """The next array of a member's state."""
        return self._hosts.receive_bytes(giver, self._lane("state"))

    def _send(self, taker: int, parts: Mapping[Span, Array], which: slice) -> list[Any]:
        spans = np.array(sorted(parts), np.int64).reshape(-1, 2)
        lane = self._lane("sums")
        return [
            self._hosts.send(taker, spans, lane),
            *(self._hosts.send(taker, parts[span][which], lane) for span in sorted(parts)),
        ]

    def _received(self, giver: int, size: int) -> dict[Span, Array]:
        lane = self._lane("sums")
        spans = np.frombuffer(self._hosts.receive_bytes(giver, lane), np.int64).reshape(-1, 2)
        found = {}
        for first, last in spans.tolist():
            found[first, last] = np.empty(size, np.float32)
            self._hosts.receive(giver, found[first, last], lane)
        return found

    def _lane(self, name: str) -> str:
        return f"{self.members.epoch}/{name}"
