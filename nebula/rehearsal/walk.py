"""Whether ranks of a plan would wait for each other for ever: what each does in a step, walked message by message.

No process runs here, so that plans of any size can be asked about. Only messages between stages are walked: ranks of
one stage do the same in the same order, so that none of their collectives waits for ever.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from nebula.plan.executor_limits import UNDERWAY
from nebula.plan.values import Plan
from nebula.rehearsal.fold import at_parts, parts_of
from nebula.runtime.executor.seats import Message, Seat, gives, orders, rows_of, takes

Work = tuple[str, int, int]
"""What a rank does (F; B, or I for inputs and W for weights), a micro-batch, a stage."""


def waiting(plan: Plan, by_home: Sequence[Sequence[Work]] = ()) -> str:
    """What keeps a step of the plan from its end, in a sentence; empty: every rank comes to it.

    Messages between two ranks are taken in the order in which they are sent, and a sender waits while more than
    UNDERWAY of its own, of one tensor each, are not taken. Parts of the plan that are alike and never meet are walked
    once.

    Args:
        plan: of any number of ranks.
        by_home: what the ranks of each group of the pipeline do; empty: what the plan's schedule says.
    """
    walk = _Walk(at_parts(plan, 1, parts_of(plan)), by_home or orders(plan))
    walk.run()
    return walk.stuck()


class _Walk:
    """One step: how far each rank has come, and what lies between them."""

    def __init__(self, plan: Plan, by_home: Sequence[Sequence[Work]]) -> None:
        self._plan = plan
        self._seats = {seat.rank: seat for seat in _seats(plan)}
        self._programs = {rank: by_home[seat.home] for rank, seat in self._seats.items()}
        self._done = dict.fromkeys(self._seats, 0)
        self._finished: dict[int, set[Work]] = defaultdict(set)
        self._on_its_way: dict[tuple[int, int], deque[Message]] = defaultdict(deque)
        self._arrived: dict[tuple[int, int], set[Message]] = defaultdict(set)
        self._full: dict[int, set[int]] = defaultdict(set)
        """rank -> to whom it sent more than may be on its way."""

    def run(self) -> None:
        """As far as it goes."""
        ready = deque(self._seats)
        while ready:
            rank = ready.popleft()
            ready.extend(self._on(rank))

    def stuck(self) -> str:
        """The first rank that did not come to its end, and what it waits for."""
        for rank, program in self._programs.items():
            if self._done[rank] < len(program):
                kind, micro_batch, stage = program[self._done[rank]]
                at = f"rank {rank} at {kind} of micro-batch {micro_batch} in stage {stage}"
                to = [f": rank {other} takes nothing that it sends" for other in sorted(self._full[rank])[:1]]
                return "".join((f"{at} waits for ever", *to))
        return ""

    def _on(self, rank: int) -> set[int]:
        """Takes a rank on until it has to wait; who may go on because of that."""
        woken: set[int] = set()
        program = self._programs[rank]
        while self._done[rank] < len(program) and self._sent(rank):
            work = program[self._done[rank]]
            if not self._has(rank, work, woken):
                break
            self._finished[rank].add((_message(work[0]), *work[1:]))
            self._done[rank] += 1
            self._send(rank, work, woken)
        return woken

    def _sent(self, rank: int) -> bool:
        """Whether all that it sent was taken, but for what may be on its way."""
        self._full[rank] = {to for to in self._full[rank] if len(self._on_its_way[rank, to]) > UNDERWAY}
        return not self._full[rank]

    def _has(self, rank: int, work: Work, woken: set[int]) -> bool:
        """Whether what it needs has come; takes what lies before that."""
        kind, micro_batch, stage = _message(work[0]), *work[1:]
        other = stage + (1 if kind == "B" else -1)
        if kind == "W":
            return ("B", micro_batch, stage) in self._finished[rank]
        if kind == "B" and ("F", micro_batch, stage) not in self._finished[rank]:
            return False
        if not 0 <= other < len(self._plan.stages):
            return True
        wanted = Message(kind, stage, micro_batch)
        peers = [share.peer for share in takes(self._plan.stages[other], self._seats[rank])]
        return all(self._came(rank, peer, wanted, (kind, micro_batch, other), woken) for peer in peers)

    def _came(self, rank: int, peer: int, wanted: Message, made: Work, woken: set[int]) -> bool:
        if peer == rank:
            return made in self._finished[rank]
        arrived, coming = self._arrived[peer, rank], self._on_its_way[peer, rank]
        while wanted not in arrived and coming:
            arrived.add(coming.popleft())
            woken.add(peer)
        return wanted in arrived

    def _send(self, rank: int, work: Work, woken: set[int]) -> None:
        kind, micro_batch, stage = _message(work[0]), *work[1:]
        to = stage + 1 if kind == "F" else stage - 1
        if kind == "W" or not 0 <= to < len(self._plan.stages):
            return
        seat = self._seats[rank]
        width = len(self._plan.stages[stage].replicas[seat.replica].ranks)
        for share in gives(seat, width, self._plan.stages[to]):
            if share.peer != rank:
                queue = self._on_its_way[rank, share.peer]
                queue.append(Message(kind, to, micro_batch))
                woken.add(share.peer)
                if len(queue) > UNDERWAY:
                    self._full[rank].add(share.peer)


def _seats(plan: Plan) -> Iterator[Seat]:
    """Every rank's place."""
    for home, stages in enumerate(plan.homes):
        stage = plan.stages[stages[0]]
        for index, (replica, rows) in enumerate(zip(stage.replicas, rows_of(stage), strict=True)):
            for place, rank in enumerate(replica.ranks):
                yield Seat(rank=rank, home=home, stages=stages, replica=index, place=place, rows=rows)


def _message(kind: str) -> str:
    """What a message that follows is of: gradients of inputs go on whether or not those of weights wait."""
    return "B" if kind == "I" else kind
