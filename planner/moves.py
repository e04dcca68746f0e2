"""What it takes to get from one plan to another: which bytes of weights and optimizer states travel, over which links.

Every rank of the new plan keeps what its device holds already and takes the rest from the nearest device that has it.
Where a shard survives on no device, training goes back to the last checkpoint: its states are read from storage, each
byte once, and passed on to replicas over the network. Processes that survive are taken to keep their state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.cost_model.memory import MASTER_BYTES, state_bytes_per_parameter
from nebula.errors import BadInput
from nebula.graph.experts import expert_parameters
from nebula.graph.values import Block
from nebula.plan.conditions import Reliability
from nebula.plan.values import Plan, RankPlace
from nebula.planner.holdings import NOWHERE, Holders, Ints, Segments
from nebula.planner.reach import rings
from nebula.planner.transfers import Part, Transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of the parameters of each layer, by whether tensor parallelism cuts them.

    Attributes:
        cut: elements of each layer that are cut, of all ranks of a tensor group together.
        whole: elements that every rank of a tensor group holds.
        weights_bytes: of each layer's weights for each element.
        states_bytes: of the optimizer's states for each element: master copy and moments.
        master_bytes: the part of them that is the master copy.
        experts: elements of each layer's experts, of all together; empty: there are none.
    """

    cut: tuple[float, ...]
    whole: tuple[float, ...]
    weights_bytes: tuple[float, ...]
    states_bytes: float
    master_bytes: float
    experts: tuple[float, ...] = ()

    @property
    def total_bytes(self) -> float:
        """One copy of all weights and states: a checkpoint."""
        each = zip(self.cut, self.whole, self.experts or (0.0,) * len(self.cut), self.weights_bytes, strict=True)
        return sum((cut + whole + own) * (weights + self.states_bytes) for cut, whole, own, weights in each)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelMoves:
    """What travels at one level of the cluster.

    Attributes:
        name: `node`, a tier, `wan`, or `storage`.
        total_bytes: of all ranks.
        by_rank_bytes: that each rank of the new plan receives there.
        most_sent_bytes: by one device.
        seconds: until the busiest device has sent and received its part.
    """

    name: str
    total_bytes: float
    by_rank_bytes: tuple[float, ...]
    most_sent_bytes: float
    seconds: float

    @property
    def most_received_bytes(self) -> float:
        """By one rank."""
        return max(self.by_rank_bytes, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The way from one plan to another.

    Attributes:
        levels: the nearest first, those where something travels; storage last.
        weights_bytes: that travel.
        master_bytes: and moments_bytes: of the optimizer's states.
        lost_bytes: of the new plan's state of which no copy survives.
        network_s: seconds on the network. Links inside and outside of nodes work at once.
        storage_s: seconds of reading the checkpoint.
    """

    levels: tuple[LevelMoves, ...] = ()
    weights_bytes: float = 0.0
    master_bytes: float = 0.0
    moments_bytes: float = 0.0
    lost_bytes: float = 0.0
    network_s: float = 0.0
    storage_s: float = 0.0

    @property
    def total_bytes(self) -> float:
        """All that travels."""
        return self.weights_bytes + self.master_bytes + self.moments_bytes

    @property
    def by_rank(self) -> tuple[float, ...]:
        """Bytes that each rank of the new plan receives or reads; empty where nothing moves."""
        return tuple(map(sum, zip(*(level.by_rank_bytes for level in self.levels), strict=True)))

    @property
    def seconds(self) -> float:
        """From the start of moving until every rank has its state."""
        return self.network_s + self.storage_s

    @property
    def rolls_back(self) -> bool:
        """Whether training goes back to the last checkpoint, because some shard survives on no device."""
        return self.lost_bytes > 0


def devices_of(plan: Plan, cluster: Cluster) -> Ints:
    """The device of every rank in a cluster; NOWHERE where the node is excluded or there is no such place."""
    nodes = {node: _devices_of_node(cluster, node) for node in dict.fromkeys(place.node for place in plan.ranks)}
    out = {f"{group.name}/{node}" for group in cluster.groups for node in group.excluded}
    nodes |= dict.fromkeys(out & nodes.keys(), range(0))

    def device(place: RankPlace) -> int:
        there = nodes[place.node]
        return there[place.device] if 0 <= place.device < len(there) else NOWHERE

    return np.fromiter(map(device, plan.ranks), np.int64, len(plan.ranks))


def _devices_of_node(cluster: Cluster, node: str) -> range:
    """Global indices of a node's devices; none where there is no such node."""
    try:
        first = device_index(cluster, node, 0)
    except BadInput:
        return range(0)
    return range(first, first + cluster.groups[cluster.address(first).group].devices_per_node)


def moves(before: Plan, after: Plan, cluster: Cluster, sizes: Sizes, under: Reliability | None = None) -> Moves:
    """What moves from one plan to another of the same model.

    Args:
        before: the plan that ran; ranks on nodes that are excluded or gone are lost.
        after: the plan that is to run.
        cluster: as it is now.
        sizes: of the model's layers under the job.
        under: the rate of the checkpoint storage.

    Raises:
        BadInput: the plan that is to run uses a node that is excluded or not there.
    """
    return Left(before, cluster, sizes, under or Reliability()).moves(after)


class Left:
    """What is left of a plan on a cluster that changed, from which other plans take their state.

    Args:
        before: the plan that ran.
        cluster: as it is now.
        sizes: of the model's layers.
        under: the rate of the checkpoint storage.

    Attributes:
        found: the device of every rank, NOWHERE where its node is excluded or gone.
    """

    def __init__(self, before: Plan, cluster: Cluster, sizes: Sizes, under: Reliability) -> None:
        self.before, self.cluster, self.sizes, self.under = before, cluster, sizes, under
        self.found = devices_of(before, cluster)
        self._holders, self._rings = Holders.of(before), rings(cluster)
        self._known = dict(zip(before.ranks, self.found.tolist(), strict=True))

    def moves(self, after: Plan) -> Moves:
        """What moves to another plan; errors as of the function moves."""
        goes_to = self._devices(after)
        if (goes_to == NOWHERE).any():
            node = after.ranks[int((goes_to == NOWHERE).argmax())].node
            raise BadInput(f"the plan uses node {node}, which cluster {self.cluster.name} does not offer; plan again")
        parts = tuple(self._parts(after, goes_to))
        lost_bytes = sum(part.lost_bytes for part in parts)
        count = Transfers(self._rings, self.cluster.device_count)
        for part in parts:
            count.add(part, from_storage=lost_bytes > 0)
        return _moves(count, goes_to, self.sizes, lost_bytes, self.under)

    def _devices(self, plan: Plan) -> Ints:
        """The device of every rank of another plan; places that were asked for before are known."""
        try:
            return np.fromiter(map(self._known.__getitem__, plan.ranks), np.int64, len(plan.ranks))
        except KeyError:
            self._known |= zip(plan.ranks, devices_of(plan, self.cluster).tolist(), strict=True)
            return self._devices(plan)

    def _parts(self, after: Plan, goes_to: Ints) -> Iterator[Part]:
        """Weights and states: what tensor parallelism cuts, what it does not, and experts."""
        segments, holders, sizes = Segments.of(self.before, after), Holders.of(after), self.sizes
        kinds = (("weights", 3, np.array(sizes.weights_bytes)), ("states", 1, sizes.states_bytes))
        for cut, elements in ((True, np.array(sizes.cut)), (False, np.array(sizes.whole))):
            for kind, least, element_bytes in kinds:
                by_segment = np.add.reduceat(elements * element_bytes, segments.first)
                if by_segment.any():
                    have = self._holders.rectangles(self.found, least_sharding=least, cut=cut)
                    need = holders.rectangles(goes_to, least_sharding=least, cut=cut)
                    yield Part.of(kind, have, need, segments, by_segment)
        for kind, least, element_bytes in kinds if any(sizes.experts) else ():
            by_segment = np.add.reduceat(np.array(sizes.experts) * element_bytes, segments.first)
            have = self._holders.expert_rectangles(self.found, least_sharding=least)
            need = holders.expert_rectangles(goes_to, least_sharding=least)
            yield Part.of(kind, have, need, segments, by_segment)


def _moves(count: Transfers, ranks: Ints, sizes: Sizes, lost_bytes: float, under: Reliability) -> Moves:
    """The sums in words that people use; `ranks` are the devices of the new plan."""
    master = sizes.master_bytes / sizes.states_bytes if sizes.states_bytes else 0.0
    read_bytes = float(count.read.sum())
    storage_s = read_bytes / under.storage(len(ranks))
    storage = LevelMoves(
        name="storage",
        total_bytes=read_bytes,
        by_rank_bytes=tuple(count.read[ranks].tolist()),
        most_sent_bytes=0.0,
        seconds=storage_s,
    )
    levels = [
        LevelMoves(
            name=level.name,
            total_bytes=float(received.sum()),
            by_rank_bytes=tuple(received[ranks].tolist()),
            most_sent_bytes=float(sent.max()),
            seconds=float(seconds.max()),
        )
        for level, received, sent, seconds in zip(
            count.levels, count.received, count.sent, count.seconds(), strict=True
        )
    ]
    return Moves(
        levels=tuple(level for level in (*levels, storage) if level.total_bytes),
        weights_bytes=count.by_kind["weights"],
        master_bytes=count.by_kind["states"] * master,
        moments_bytes=count.by_kind["states"] * (1.0 - master),
        lost_bytes=lost_bytes,
        network_s=count.network_s(),
        storage_s=storage_s,
    )


def plan_sizes(chains: Chains, plan: Plan) -> Sizes:
    """The sizes of a model's layers, for plans of any tensor degree.

    What tensor parallelism cuts is told by the plan's degree, or by a degree of 2 where that can be cut.
    """
    try:
        return layer_sizes(chains, plan, other_tensor=2)
    except BadInput:
        return layer_sizes(chains, plan)


def layer_sizes(chains: Chains, plan: Plan, other_tensor: int = 1) -> Sizes:
    """The sizes of a model's layers under a plan's job.

    Args:
        chains: of the graph.
        plan: whose tensor degree tells what is cut.
        other_tensor: a degree to tell it by where the plan's is lower.

    Raises:
        BadInput: the degree does not divide what it must cut, or the optimizer is unknown.
    """
    first, graph = plan.stages[0], chains.graph
    tensor, rows = max(first.tensor // first.context, other_tensor), first.replicas[0].micro_batch_rows
    own = [block.parameter_count for block in graph.blocks]
    local = own
    if tensor > 1:
        every = range(len(graph.blocks))
        local = [chains.block(i, rows, tensor, plan.sequence_parallel).parameter_count for i in every]
    experts = [_expert_elements(block) for block in graph.blocks]
    counts = zip(own, local, experts, strict=True)
    # with a degree of 1 all counts as cut but experts
    cut = [(full - part) * tensor / (tensor - 1) if tensor > 1 else full - held for full, part, held in counts]
    widths = [sum(t.bytes for t in block.parameters) / max(1, block.parameter_count) for block in graph.blocks]
    states_bytes = float(state_bytes_per_parameter(plan.job))
    return Sizes(
        cut=tuple(float(cut[i]) for i in graph.layers),
        whole=tuple(float(own[i] - cut[i] - experts[i]) for i in graph.layers),
        weights_bytes=tuple(widths[i] for i in graph.layers),
        states_bytes=states_bytes,
        master_bytes=0.0 if plan.job.precision == "fp32" else float(MASTER_BYTES),
        experts=tuple(float(experts[i]) for i in graph.layers) if any(experts) else (),
    )


def _expert_elements(block: Block) -> int:
    """Elements of the parameters of a block that belong to one expert each."""
    names = expert_parameters(block)
    return sum(tensor.size for tensor in block.parameters if tensor.name in names)
