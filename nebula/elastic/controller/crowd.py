"""The agents that are connected, and what each has told last: addresses, free ports, copies, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from nebula.elastic.controller.restore import Copy
from nebula.elastic.protocol import control_pb2 as wire


@dataclass(slots=True)
class Line:
    """A connected agent.

    Attributes:
        outbox: what it is to be told; None hangs up.
        heard_s: when it last said anything, on the controller's monotonic clock.
        refusal: why it is to be turned away by now; empty while it is not.
    """

    hello: wire.Hello
    heard_s: float
    refusal: Callable[[], str]
    outbox: asyncio.Queue[wire.ToAgent | None] = field(default_factory=asyncio.Queue)
    progress: wire.Progress = field(default_factory=wire.Progress)
    copies: tuple[Copy, ...] = ()

    def tell(self, message: wire.ToAgent) -> None:
        """Has the agent told."""
        self.outbox.put_nowait(message)

    def stopped(self, told: wire.Stopped) -> None:
        """Takes what an agent says once its workers have ended."""
        self.hello.ports[:] = told.ports
        self.holds(told.copies)

    def holds(self, told: Iterable[wire.Copy]) -> None:
        """Takes what copies an agent has."""
        self.copies = tuple(
            Copy(
                node=self.hello.node,
                name=copy.name,
                generation=copy.generation,
                ranks=copy.ranks,
                step=copy.step,
                rank=copy.rank,
                alone=copy.alone,
            )
            for copy in told
        )

    @property
    def peer(self) -> str:
        """Where other agents reach it."""
        return f"{self.hello.address}:{self.hello.peer_port}"


class Crowd:
    """All connected agents, by node."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}

    def silent(self, before_s: float) -> list[str]:
        """Nodes that have said nothing since then."""
        return [node for node, line in self.lines.items() if line.heard_s < before_s]

    def hang_up(self) -> None:
        """Ends all lines."""
        for line in self.lines.values():
            line.outbox.put_nowait(None)

    def forgive(self, late_s: float) -> None:
        """Counts nobody's silence for a time in which nobody was listened to."""
        for line in self.lines.values():
            line.heard_s += late_s

    def copies(self) -> Iterable[Copy]:
        """All that the nodes hold."""
        return (copy for line in self.lines.values() for copy in line.copies)

    def steps(self, members: Iterable[str], generation: int) -> tuple[int, int]:
        """The steps that all ranks of a generation have done, and those that one has; 0 while a node has not told."""
        told = [self.lines[node].progress for node in members if node in self.lines]
        own = [progress for progress in told if progress.generation == generation]
        least = min((progress.least_step for progress in own), default=0) if len(own) == len(list(members)) else 0
        return least, max((progress.most_step for progress in own), default=0)

    def unkept(self, members: Iterable[str]) -> bool:
        """Whether a node had no room for its newest copy in memory."""
        return any(self.lines[node].progress.unkept for node in members if node in self.lines)

    def section(self, members: Iterable[str], generation: int) -> int:
        """The earliest section that a rank of a generation is in; 0, which is BEGIN, while a node has not told."""
        told = [self.lines[node].progress if node in self.lines else wire.Progress() for node in members]
        return min((one.section if one.generation == generation else 0 for one in told), default=0)

    def furthest(self, members: Iterable[str], generation: int) -> int:
        """The latest section that the ranks of a node are in together, of nodes that have told."""
        told = [self.lines[node].progress for node in members if node in self.lines]
        return max((one.section for one in told if one.generation == generation), default=0)

    def step_s(self, members: Iterable[str]) -> float:
        """Seconds of a step of late, of the slowest node."""
        return max((self.lines[node].progress.step_s for node in members if node in self.lines), default=0.0)

    def hellos(self) -> Mapping[str, wire.Hello]:
        """What each said when it came."""
        return {node: line.hello for node, line in self.lines.items()}
