"""What a job is to its controller, and how patient that is: values that hold as long as the controller runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nebula.elastic.policy import Limits
from nebula.elastic.policy.values import Bounds

CALM_NODES = 250
"""So many nodes report at the pace that `heartbeat_s` says; more report less often, so that reports do not pile up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A job.

    Attributes:
        words: script and arguments of every worker.
        environment: of every worker.
        select: the environment that gives a rank its device.
        heartbeat_s: how often agents of a small job report at least.
        longest_heartbeat_s: of a job however large.
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
    longest_heartbeat_s: float = 2.0
    silence_s: float = 3.0
    memory_every: int = 1
    allows_faults: bool = False
    mtbf_s: float = 0.0
    shards: int = 0
    checkpoints: Path = Path("checkpoints")

    @property
    def pace_s(self) -> float:
        """How often agents of this job report at least.

        >>> [Settings(name="", bounds=Bounds(least=1, most=n), words=(), log_folder="").pace_s for n in (8, 500, 10**4)]
        [0.5, 1.0, 2.0]
        """
        return min(self.longest_heartbeat_s, self.heartbeat_s * max(1.0, self.bounds.most / CALM_NODES))
