"""The unified cluster object: device types, node groups, links and tiers up to WAN sites, health.

A cluster of 10,000 equal nodes is one group. Devices have global indices: groups in order, nodes in a group in order,
devices in a node in order. What a file looks like is schema.py's question, what lies between two devices topology.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

FLOPS_PER_EXPONENTIAL = 16.0
"""float32 operations per exponential where nothing is stated: Hopper and Blackwell do 256 and 16 per cycle and
multiprocessor (FlashAttention-3, arXiv 2407.08608, section 3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType:
    """One kind of accelerator (or CPU).

    Attributes:
        name: catalogue name or the user's own.
        kind: `gpu`, `npu`, `xpu` or `cpu`; kinds that differ share no communicator.
        peak_flops: dense peak in FLOP/s by dtype (`float32`, `bfloat16`, `float16`, `float8_e4m3fn`).
        memory_bytes: usable device memory.
        memory_bytes_per_s: peak bandwidth of the device memory.
        kernel_s: fixed cost of one kernel launch on the device's time line.
        product_efficiency: attainable share of peak_flops by a large matrix product.
        memory_efficiency: attainable share of memory_bytes_per_s.
        half_product_flops: FLOPs of a product that reaches half of product_efficiency (0: no such loss).
        multiprocessors: units that each work on one tile of a product; 0: unknown, then shapes do not matter.
        exponentials_per_s: rate of the special function units; 0: a sixteenth of the peak of float32.
        older_kernel_share: what attention kernels written for the generation before reach of those written for this one
            (FlashAttention-2 on Hopper does without its instructions).
        unaligned_share: what matrix products reach whose rows are no multiple of 128 bytes, of those whose rows are.
        host_bytes_per_s: copy bandwidth between host and device, per direction, while it copies alone.
        price_per_hour: of one device, in the user's currency; 0 when unknown.
        power_w: board power; 0 when unknown.
        emulated: whether times on it are virtual.
        sources: where each figure comes from: pairs of field and source.
    """

    name: str
    kind: str
    peak_flops: dict[str, float]
    memory_bytes: float
    memory_bytes_per_s: float
    kernel_s: float = 5e-6
    product_efficiency: float = 0.7
    memory_efficiency: float = 0.8
    half_product_flops: float = 0.0
    multiprocessors: int = 0
    exponentials_per_s: float = 0.0
    older_kernel_share: float = 1.0
    unaligned_share: float = 1.0
    host_bytes_per_s: float = 16e9
    price_per_hour: float = 0.0
    power_w: float = 0.0
    emulated: bool = False
    sources: tuple[tuple[str, str], ...] = ()

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s for a dtype; a dtype that is not listed runs at the rate of float32."""
        return self.peak_flops.get(dtype, self.peak_flops["float32"])

    @property
    def shaped(self) -> bool:
        """Whether shapes of products and attention matter to it: an emulated device goes by FLOPs and bytes alone."""
        return self.multiprocessors > 0 and not self.emulated

    @property
    def exponentials(self) -> float:
        """Exponentials per second."""
        return self.exponentials_per_s or self.peak_flops["float32"] / FLOPS_PER_EXPONENTIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection.

    Attributes:
        bytes_per_s: per direction; of the link itself, or what messages attain on it.
        latency_s: of one message.
        attained: whether the rate was measured with messages, so that no share of it is taken.
    """

    kind: str
    bytes_per_s: float
    latency_s: float
    attained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the devices of a node share of its host.

    Attributes:
        memory_bytes: of one node; 0: unknown.
        memory_bytes_per_s: peak of all its channels; by default two sockets of eight channels of DDR4-3200.
        links: to the devices, shared by them evenly; 0: each device has its own.
    """

    memory_bytes: float = 0.0
    memory_bytes_per_s: float = 409.6e9
    links: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """`count` equal nodes.

    Attributes:
        devices_per_node: accelerators of one node.
        intra: between two devices of one node, per device and direction.
        nic_count: network cards of one node.
        nic: one network card.
        excluded: indices of nodes of this group that must not be used.
        slow: pairs of node index and factor (> 1) by which that node is slower.
        ports: for each node the port of the lowest tier that it hangs at, counted through all switches of its site;
            empty: nodes take one port after the other, behind those of the groups before.
        host: of each node.
    """

    name: str
    count: int
    device: DeviceType
    devices_per_node: int
    intra: Link
    nic: Link
    nic_count: int = 1
    excluded: frozenset[int] = frozenset()
    slow: tuple[tuple[int, float], ...] = ()
    ports: tuple[int, ...] = ()
    host: Host = Host()

    @property
    def device_count(self) -> int:
        """Devices of all nodes, excluded ones too."""
        return self.count * self.devices_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A level of switches.

    Attributes:
        nodes: how many consecutive ports one switch of the tier joins, a node at each; 0: all.
        oversubscription: by how much the tier is narrower than what hangs below it, for what passes through it.
        latency_s: added for a message that crosses the tier.
    """

    name: str
    nodes: int = 0
    oversubscription: float = 1.0
    latency_s: float = 5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Node groups at one place."""

    name: str
    groups: tuple[str, ...]


class Address(NamedTuple):
    """Where a device is: index of its group, its node within the group, its place within the node."""

    group: int
    node: int
    local: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Everything a job may run on.

    Attributes:
        tiers: from the node outward; the last spans all nodes of a site. Empty: one flat non-blocking tier.
        sites: empty unless a WAN lies between groups.
        wan: between sites: bandwidth per direction and half the round-trip time; None within one site.
        origin: pairs of fact and where it came from (file, discovery), for people.
    """

    name: str
    groups: tuple[NodeGroup, ...]
    tiers: tuple[Tier, ...] = ()
    sites: tuple[Site, ...] = ()
    wan: Link | None = None
    origin: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def device_count(self) -> int:
        """Devices of all groups, excluded ones too."""
        return sum(g.device_count for g in self.groups)

    @property
    def node_count(self) -> int:
        """Nodes of all groups, excluded ones too."""
        return sum(g.count for g in self.groups)

    def address(self, device: int) -> Address:
        """Where a device of that global index is.

        Raises:
            IndexError: there are fewer devices.
        """
        rest = device
        for index, group in enumerate(self.groups):
            if 0 <= rest < group.device_count:
                return Address(index, *divmod(rest, group.devices_per_node))
            rest -= group.device_count
        raise IndexError(f"device {device} of {self.device_count}")

    def device_type(self, device: int) -> DeviceType:
        """The type of a device of that global index."""
        return self.groups[self.address(device).group].device
