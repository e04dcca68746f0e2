"""What is simulated: a job on nodes that fail, what failures and recoveries take, and which mechanisms are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

from nebula.elastic.policy.values import Bounds, Limits
from nebula.errors import BadInput


class Kind(str, Enum):
    """What happens to a node.

    Attributes:
        WORKER: a worker of it ends.
        NODE: it is gone until it is repaired.
        HANG: a worker of it does nothing any longer.
        SLOW: it works more slowly until it is repaired.
    """

    WORKER = "worker"
    NODE = "node"
    HANG = "hang"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to a node.

    Attributes:
        node: its number, from 0.
        repair_s: until it is as before; of NODE and SLOW.
        factor: by which its steps take longer; of SLOW.
    """

    at_s: float
    node: int
    kind: Kind
    repair_s: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often nodes fail.

    Attributes:
        mtbf_s: mean time between the faults of a node.
        kinds: relative frequency of each kind.
        infant_share: of nodes, also of repaired ones, that are young: their first fault comes early.
        infant_mtbf_s: mean time to that fault.
        shape: of the Weibull distribution of the times of nodes that are not young; 1 is the exponential one, less has
            a heavy tail: many short times and a few very long ones.
        repair_median_s, repair_sigma: of the log-normal distribution of repair times.
        slow_factor: the least and the most by which slow nodes are slower, uniformly.
    """

    mtbf_s: float
    kinds: Mapping[Kind, float]
    infant_share: float = 0.0
    infant_mtbf_s: float = 0.0
    shape: float = 1.0
    repair_median_s: float = 4 * 3600.0
    repair_sigma: float = 1.0
    slow_factor: tuple[float, float] = (1.2, 3.0)

    def __post_init__(self) -> None:
        if not any(self.kinds.values()):
            raise BadInput("faults.kinds: give at least one kind a share above 0")
        if self.infant_share and not self.infant_mtbf_s:
            raise BadInput("faults.infant_share needs faults.infant_mtbf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What detection and recovery take, in seconds; each from a measured row or assumed, as `sources` says.

    Attributes:
        exit_s: from the end of a worker to the controller's event.
        silence_s: until a node that says nothing counts as not heard of.
        hang_s: until a hang is detected by progress.
        hang_timeout_s: until it is without: the communication's own timeout.
        slow_s: until a slow node is known by its times.
        stop_s: until all workers of a generation have ended.
        plan_s: until the next generation has its plan.
        cold_s, warm_s: until new workers are ready to load: processes that have to import everything, and spares.
        memory_load_s, disk_load_s: reading the state.
        gap_s: that survivors of a lost replica stand still.
        save_s, durable_s: by which a checkpoint holds steps up, and until it can be read after that.
        memory_save_s: by which a copy in memory holds a step up.
    """

    exit_s: float
    silence_s: float
    hang_s: float
    hang_timeout_s: float
    slow_s: float
    stop_s: float
    plan_s: float
    cold_s: float
    warm_s: float
    memory_load_s: float
    disk_load_s: float
    gap_s: float
    save_s: float
    durable_s: float
    memory_save_s: float
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanisms:
    """What keeps a job going; each can be left out.

    Attributes:
        restart: anything at all begins a job that failed anew.
        elastic: fewer nodes than wanted are enough, within the job's bounds.
        spare_nodes: nodes stand by.
        warm_spares: processes stand by with everything imported.
        memory_copies: the state is kept in the nodes' memory and in that of a neighbour.
        hang_detection: by progress.
        continuation: replicas that are left go on without a lost one.
        slow_detection: slow nodes are replaced.
    """

    restart: bool = True
    elastic: bool = True
    spare_nodes: bool = True
    warm_spares: bool = True
    memory_copies: bool = True
    hang_detection: bool = True
    continuation: bool = True
    slow_detection: bool = True


NAMES = tuple(one.name for one in fields(Mechanisms) if one.name != "restart")
"""The mechanisms that are compared one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A job and its nodes.

    Attributes:
        bounds: how many nodes it may have; it wants the most of them.
        spare_nodes: further nodes that stand by.
        steps: that make up the training.
        step_s: of one on all wanted nodes; on fewer it takes longer in proportion: the global batch is fixed.
        replica_nodes: that hold one replica of the model together.
        save_every, memory_every: steps between two checkpoints, and two copies in memory.
        deadline_s: a job that is not done by then counts as failed.
        jobs: that are simulated one after the other, each with faults of its own.
        faults: given instead of drawn ones, for every job.
    """

    name: str
    bounds: Bounds
    steps: int
    step_s: float
    rates: Rates
    timings: Timings
    spare_nodes: int = 0
    replica_nodes: int = 1
    save_every: int = 100
    memory_every: int = 1
    deadline_s: float
    jobs: int = 1
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.deadline_s < self.steps * self.step_s:
            raise BadInput(
                f"the deadline of {self.deadline_s:g} s is before {self.steps} steps x {self.step_s:g} s = "
                f"{self.steps * self.step_s:g} s: give more"
            )
        if self.bounds.most % self.replica_nodes:
            raise BadInput(f"{self.bounds.most} nodes are no multiple of the {self.replica_nodes} that hold a replica")

    @property
    def nodes(self) -> int:
        """All of them, spare ones included."""
        return self.bounds.most + self.spare_nodes
