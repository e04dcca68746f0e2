"""The keys of a cluster file as pydantic models: which there are, what each holds, what a missing one needs.

Nothing is looked up or compared here; checks.py asks what no single key can say.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nebula.cluster.values import Link, Tier
from nebula.units import parse_bytes, parse_quantity, parse_rate, parse_seconds
from nebula.validation import Called, Name, Section, Whole, parsed_by

# the bounds are far outside of what there is, and keep every time above zero and finite
Size = Annotated[float, parsed_by(parse_bytes), Field(ge=1, le=1e18)]
Rate = Annotated[float, parsed_by(parse_rate), Field(ge=1, le=1e18)]
Seconds = Annotated[float, parsed_by(parse_seconds), Field(ge=0, le=86400)]
Number = Annotated[float, parsed_by(parse_quantity), Field(ge=0)]
Peak = Annotated[float, parsed_by(parse_quantity), Field(ge=1e6, le=1e21)]
Share = Annotated[float, parsed_by(parse_quantity), Field(ge=1e-6, le=1)]
Count = Annotated[Whole, Field(ge=1)]
Index = Annotated[Whole, Field(ge=0)]
Port = Annotated[Whole, Field(ge=0, le=10_000_000)]
Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"]

NO_LINK = Link(kind="none", bytes_per_s=0.0, latency_s=0.0)
"""The link of a node with one device to its peers, and the network card of a lone node."""

NIC_LATENCY_S = 2e-6
"""Assumed latency of a network card and its driver where the file says none."""

INTRA_LATENCY_S = 5e-6
"""Assumed latency inside a node where the file says none."""


class DeviceSection(Section):
    """A device type of the user's own."""

    like: Name = Field("", description="a name of the catalogue that gives what is not said here")
    kind: Literal["gpu", "npu", "xpu", "cpu", ""] = Field("", description="gpu, npu, xpu or cpu")
    peak_flops: dict[Dtype, Peak] = Field({}, description="{fp32: 19.5e12, bf16: 312e12}")
    memory: Size | None = Field(None, description="80GiB")
    memory_bandwidth: Rate | None = Field(None, description="2TB/s")
    kernel_time: Seconds | None = None
    product_efficiency: Share | None = None
    memory_efficiency: Share | None = None
    half_product_flops: Number | None = None
    multiprocessors: Index | None = None
    exponential_rate: Number | None = None
    older_kernel_share: Share | None = None
    unaligned_share: Share | None = None
    host_bandwidth: Rate | None = None
    price_per_hour: Number | None = None
    power: Number | None = None
    emulated: bool | None = None
    sources: dict[Name, Name] = {}


class IntraSection(Section):
    """The link inside a node."""

    kind: Name = Field(description="nvswitch, nvlink, pcie, hccs, xpulink or another name")
    bandwidth: Rate = Field(description="300GB/s")
    latency: Seconds = INTRA_LATENCY_S
    attained: bool = False


class NicSection(Section):
    """The network cards of a node."""

    count: Count = 1
    bandwidth: Rate = Field(description="200Gb/s")
    latency: Seconds = NIC_LATENCY_S
    kind: Name = "network"
    attained: bool = False


class HostSection(Section):
    """What the devices of a node share of its host."""

    memory: Size | None = None
    memory_bandwidth: Rate | None = None
    links: Count | None = None


class NodeSection(Section):
    """A group of equal nodes."""

    name: Called = Field(description="a name of its own")
    count: Count = Field(description="how many such nodes there are")
    device: Name = Field(description="a name of the catalogue or of `devices`")
    devices_per_node: Count = Field(description="how many devices a node has")
    intra: IntraSection | None = Field(None, description="{kind: nvswitch, bandwidth: 300GB/s, latency: 5us}")
    nic: NicSection | None = Field(None, description="{count: 8, bandwidth: 200Gb/s}")
    exclude: list[Index] = []
    slow: dict[Index, Annotated[float, parsed_by(parse_quantity), Field(gt=1, le=1e6)]] = {}
    ports: list[Port] = []
    host: HostSection = HostSection()


class TierSection(Section):
    """A level of switches."""

    name: Called = Field(description="leaf, spine or another name")
    nodes: Index = 0
    oversubscription: Annotated[float, parsed_by(parse_quantity), Field(ge=1, le=1e6)] = 1.0
    latency: Seconds = Tier(name="").latency_s


class SiteSection(Section):
    """Node groups at one place."""

    name: Called = Field(description="a name of its own")
    nodes: list[Name] = Field(description="[names of node groups]")


class WanSection(Section):
    """The network between sites."""

    bandwidth: Rate = Field(description="10Gb/s")
    rtt: Seconds = Field(description="50ms")


class NetworkSection(Section):
    """Everything between nodes."""

    tiers: list[TierSection] = []
    sites: list[SiteSection] = []
    wan: WanSection | None = Field(None, description="{bandwidth: 10Gb/s, rtt: 50ms}")


class ClusterSection(Section):
    """A cluster file."""

    name: Called = Field(description="a name for people")
    devices: dict[Called, DeviceSection] = {}
    nodes: list[NodeSection] = Field(description="[{name: fast, count: 8, device: A100-80GB-SXM, ...}]")
    network: NetworkSection = NetworkSection()
    calibration: Name | list[Name] = Field([], description="calibration.yaml, which `nebula profile` writes")
