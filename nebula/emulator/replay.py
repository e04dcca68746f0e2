"""When did everything take place if links are shared by who uses them? Found from the record of what the ranks did.

The device's own clocks give each pair of ranks a fixed share of the links, because a rank cannot know what others send
at the same time. Here the records of all ranks are merged into one graph of what waited for what, and its times follow
from a simulation of the network: the same from the same records, whatever the host did meanwhile. Where no link is
shared they are the clocks' own.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from nebula.emulator.network import Flow, Network
from nebula.emulator.table import Link, SharedLinks
from nebula.emulator.work import Act, Work
from nebula.errors import BadInput

_ALL_REDUCE, _BROADCAST, _REDUCE, _ALL_TO_ALL = 0, 3, 4, 5
"""Numbers of transport.h's Operation."""


@dataclass(slots=True, kw_only=True)
class _Node:
    """Something that begins when all before it has ended.

    Attributes:
        seconds: that it lasts; of a message, until it enters the network.
        waits: how many of those before it have not ended.
    """

    seconds: float = 0.0
    flow: Flow | None = None
    waits: int = 0
    after: list[int] = field(default_factory=list)


def step_starts(
    work: Sequence[Work], links: Mapping[tuple[int, int], Link], shared: SharedLinks | None
) -> list[dict[int, float]]:
    """For each rank when each training step began: number of the step -> virtual seconds.

    Args:
        work: of every rank.
        links: between all pairs of ranks.
        shared: what links have in common; None: nothing.

    Raises:
        BadInput: the records do not fit each other.
    """
    graph = _Graph(links, shared or SharedLinks(ports=(), through={}))
    steps = [_Rank(graph, rank, own).steps() for rank, own in enumerate(work)]
    ends = graph.run()
    return [{number: ends[node] for number, node in own.items()} for own in steps]


class _Graph:
    """The nodes of all ranks."""

    def __init__(self, links: Mapping[tuple[int, int], Link], shared: SharedLinks) -> None:
        self._links, self._shared = links, shared
        self._nodes: list[_Node] = []
        self._messages: dict[tuple[int, int, int, int], int] = {}
        self._calls: dict[tuple[int, int], tuple[int, int]] = {}

    def node(self, before: Iterable[int | None], seconds: float = 0.0) -> int:
        """A new node."""
        self._nodes.append(_Node(seconds=seconds))
        self._wait(len(self._nodes) - 1, before)
        return len(self._nodes) - 1

    def _wait(self, node: int, before: Iterable[int | None]) -> None:
        for other in {other for other in before if other is not None}:
            self._nodes[other].after.append(node)
            self._nodes[node].waits += 1

    def message(self, group: int, pair: tuple[int, int], index: int) -> int:
        """The node of a message between two ranks, which either may name first; it has begun and not yet been sent."""
        key = (group, *pair, index)
        if key not in self._messages:
            self._messages[key] = self.node(())
            self._nodes[self._messages[key]].waits = 1  # for its sender
        return self._messages[key]

    def send(self, message: int, pair: tuple[int, int], size: float, start: int) -> None:
        """Says what a message is, and since when."""
        node = self._nodes[message]
        node.waits -= 1
        self._wait(message, [start])
        node.seconds, node.flow = self._flow([pair], size)

    def exchange(self, start: int, pair: tuple[int, int], out: float, into: float) -> int:
        """A round of an exchange of all with all: one sends and receives at the same time."""
        sent = self.node([start])
        self._nodes[sent].seconds, self._nodes[sent].flow = self._flow([pair], out)
        link = self._links[pair[1], pair[0]]
        alone = self._shared.through.get((pair[1], pair[0]), (link.bytes_per_s, ()))[0]
        return self.node([sent, self.node([start], link.latency_s + into / alone)])

    def call(self, group: int, members: Sequence[int], index: int, deed: Any) -> tuple[int, int]:
        """Start and end of a collective; the first member that names it says what it is."""
        key = (group, index)
        if key not in self._calls:
            start = self.node(())
            self._nodes[start].waits = len(members)
            self._calls[key] = start, self._ended(start, members, deed)
        return self._calls[key]

    def join_call(self, start: int, own: int) -> None:
        """One more member has come."""
        self._nodes[start].waits -= 1
        self._wait(start, [own])

    def _ended(self, start: int, members: Sequence[int], deed: Any) -> int:
        """The node at which a collective ends: a message around its ring; of an exchange of all with all its start."""
        operation, size = int(deed["peer"]), float(deed["bytes"])
        if len(members) == 1 or operation == _ALL_TO_ALL:
            return start
        first = int(deed["spare"]) if operation in (_BROADCAST, _REDUCE) else 0
        ring = [members[(first + i) % len(members)] for i in range(len(members))]
        pairs = list(zip(ring, ring[1:] + ring[:1], strict=True))
        if operation in (_BROADCAST, _REDUCE):
            pairs.pop()
        latency_s, flow = self._flow(pairs, size, among=[(a, b) for a in members for b in members if a != b])
        hops = (len(members) - 1) * (2 if operation == _ALL_REDUCE else 1)
        end = self.node([start])
        self._nodes[end].seconds, self._nodes[end].flow = hops * latency_s, flow
        return end

    def _flow(
        self, pairs: Sequence[tuple[int, int]], size: float, among: Sequence[tuple[int, int]] = ()
    ) -> tuple[float, Flow]:
        """Latency and flow of a message over some pairs at one pace, that of the slowest of `among`."""
        ports: dict[int, int] = defaultdict(int)
        rates = []
        through = self._shared.through
        for pair in among or pairs:
            if pair not in self._links:
                raise BadInput(f"the table of emulated devices has no link from rank {pair[0]} to rank {pair[1]}")
            rates.append(through[pair][0] if pair in through else self._links[pair].bytes_per_s)
        for pair in pairs:
            for port in through[pair][1] if pair in through else ():
                ports[port] += 1
        latency_s = max(self._links[pair].latency_s for pair in among or pairs)
        return latency_s, Flow(left_bytes=size, most_bytes_per_s=min(rates), ports=dict(ports))

    def run(self) -> list[float]:
        """When each node ends.

        Raises:
            BadInput: some never do: a message without its sender, a collective that a member did not join.
        """
        ends = [-1.0] * len(self._nodes)
        network, order = Network(self._shared.ports), count()
        queue: list[tuple[float, int, int, bool]] = []

        def begin(node: int, now: float) -> None:
            one = self._nodes[node]
            at = now + one.seconds
            heapq.heappush(queue, (at, next(order), node, one.flow is not None))

        for node, one in enumerate(self._nodes):
            if not one.waits:
                begin(node, 0.0)
        while (arrives := network.next_end()) or queue:
            if arrives and (not queue or arrives[0] <= queue[0][0]):
                now, node = arrives
                network.remove(now, node)
            else:
                now, _, node, enters = heapq.heappop(queue)
                flow = self._nodes[node].flow
                if enters and flow is not None and flow.left_bytes > 0:
                    if flow.ports:
                        network.add(now, node, flow)
                    else:
                        alone_s = flow.left_bytes / flow.most_bytes_per_s
                        heapq.heappush(queue, (now + alone_s, next(order), node, False))
                    continue
            ends[node] = now
            for other in self._nodes[node].after:
                self._nodes[other].waits -= 1
                if not self._nodes[other].waits:
                    begin(other, now)
        if any(end < 0 for end in ends):
            raise BadInput("the records of the ranks do not fit each other: some wait for what none of them did")
        return ends


class _Rank:
    """Turns one rank's deeds into nodes."""

    def __init__(self, graph: _Graph, rank: int, work: Work) -> None:
        self._graph, self._rank, self._work = graph, rank, work
        self._streams: dict[int, int] = {}
        self._threads: dict[int, int] = {}
        self._events: dict[int, int] = {}
        self._batches: dict[tuple[int, int], int] = {}
        self._rounds: dict[int, list[Any]] = defaultdict(list)
        self._counts: dict[tuple[int, ...], int] = defaultdict(int)
        self._steps: dict[int, int] = {}

    def steps(self) -> dict[int, int]:
        """Number of each training step -> the node at which it began."""
        does = {
            Act.RUN: self._run,
            Act.HOST: self._host,
            Act.NOTE: self._note,
            Act.AWAIT: self._await,
            Act.JOIN: self._join,
            Act.JOIN_EVENT: self._join_event,
            Act.JOIN_ALL: self._join_all,
            Act.SEND: self._send,
            Act.RECEIVE: self._receive,
            Act.COLLECTIVE: self._collective,
            Act.ROUND: self._round,
            Act.STEP: self._step,
        }
        for deed in self._work.deeds:
            does[Act(int(deed["act"]))](deed)
        return self._steps

    def _now(self, deed: Any) -> tuple[int | None, int | None]:
        """What work issued now on a stream waits for."""
        return self._streams.get(int(deed["stream"])), self._threads.get(int(deed["thread"]))

    def _run(self, deed: Any) -> None:
        self._streams[int(deed["stream"])] = self._graph.node(self._now(deed), float(deed["seconds"]))

    def _host(self, deed: Any) -> None:
        thread = int(deed["thread"])
        self._threads[thread] = self._graph.node([self._threads.get(thread)], float(deed["seconds"]))

    def _note(self, deed: Any) -> None:
        self._events[int(deed["id"])] = self._graph.node(self._now(deed))

    def _await(self, deed: Any) -> None:
        stream = int(deed["stream"])
        before = [self._streams.get(stream), self._events.get(int(deed["id"]))]
        self._streams[stream] = self._graph.node(before)

    def _join(self, deed: Any) -> None:
        self._threads[int(deed["thread"])] = self._graph.node(self._now(deed))

    def _join_event(self, deed: Any) -> None:
        thread = int(deed["thread"])
        self._threads[thread] = self._graph.node([self._threads.get(thread), self._events.get(int(deed["id"]))])

    def _join_all(self, deed: Any) -> None:
        thread = int(deed["thread"])
        self._threads[thread] = self._graph.node([self._threads.get(thread), *self._streams.values()])

    def _step(self, deed: Any) -> None:
        before = [self._threads.get(int(deed["thread"])), *self._streams.values()]
        self._steps[int(deed["peer"])] = self._graph.node(before)

    def _start(self, deed: Any) -> int:
        """Where a message's work on its stream starts: together with all of its batch."""
        batch = int(deed["batch"])
        if not batch:
            return self._graph.node(self._now(deed))
        key = batch, int(deed["stream"])
        if key not in self._batches:
            self._batches[key] = self._graph.node(self._now(deed))
        return self._batches[key]

    def _index(self, *key: int) -> int:
        self._counts[key] += 1
        return self._counts[key]

    def _send(self, deed: Any) -> None:
        group, pair, start = int(deed["id"]), (self._rank, int(deed["peer"])), self._start(deed)
        message = self._graph.message(group, pair, self._index(group, *pair))
        self._graph.send(message, pair, float(deed["bytes"]), start)
        self._occupy(deed, message)

    def _receive(self, deed: Any) -> None:
        group, pair, start = int(deed["id"]), (int(deed["peer"]), self._rank), self._start(deed)
        self._occupy(deed, self._graph.node([start, self._graph.message(group, pair, self._index(group, *pair))]))

    def _occupy(self, deed: Any, node: int) -> None:
        """A stream is busy until that node, if it is not longer anyway."""
        stream = int(deed["stream"])
        self._streams[stream] = self._graph.node([self._streams.get(stream), node])

    def _round(self, deed: Any) -> None:
        self._rounds[int(deed["id"])].append(deed)

    def _collective(self, deed: Any) -> None:
        group, own = int(deed["id"]), self._graph.node(self._now(deed))
        start, end = self._graph.call(group, self._work.groups[group], self._index(group), deed)
        self._graph.join_call(start, own)
        for one in self._rounds.pop(group, ()):
            end = self._graph.exchange(end, (self._rank, int(one["peer"])), float(one["bytes"]), float(one["other"]))
        self._occupy(deed, end)
