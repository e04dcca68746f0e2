"""What an agent knows of its node and of the generation whose workers it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nebula.elastic.agent.hang import Patience
from nebula.elastic.protocol import control_pb2 as wire


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
        started_s: when its workers were started, or one of them anew.
        due_s: when its workers are to have done the step at which they end; 0: they are not asked to.
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
    started_s: float = 0.0
    due_s: float = 0.0
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
