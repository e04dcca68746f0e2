"""Clusters for tests: one text with everything a cluster file can say, and hypothesis strategies for clusters."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from nebula.cluster import catalogue
from nebula.cluster.sections import NO_LINK
from nebula.cluster.values import Cluster, DeviceType, Host, Link, NodeGroup, Site, Tier

MIXED = """\
name: mixed
devices: {slow: {like: A100-80GB-SXM, peak_flops: {bf16: 156e12}, memory: 40GiB}}
nodes:
  - {name: fast, count: 8, device: A100-80GB-SXM, devices_per_node: 8,
     intra: {kind: nvswitch, bandwidth: 300GB/s, latency: 5us}, nic: {count: 8, bandwidth: 200Gb/s}}
  - {name: old, count: 16, device: slow, devices_per_node: 8,
     intra: {kind: pcie, bandwidth: 24GB/s, latency: 9us}, nic: {count: 1, bandwidth: 100Gb/s}}
network:
  tiers: [{name: leaf, nodes: 8, oversubscription: 1, latency: 6us}, {name: spine, oversubscription: 2, latency: 10us}]
  sites: [{name: east, nodes: [fast]}, {name: west, nodes: [old]}]
  wan: {bandwidth: 10Gb/s, rtt: 50ms}
"""

positive = st.floats(1, 1e18)
peaks = st.floats(1e6, 1e18)
seconds = st.floats(0, 10)
share = st.floats(1e-3, 1)
words = st.text("abcdefghijklmnopqrstuvwxyzé -_.:#0123456789", min_size=1, max_size=12).filter(lambda t: t.strip() == t)


@st.composite
def device_types(draw: st.DrawFn, name: str) -> DeviceType:
    """A device type of the user's own, or one of the catalogue."""
    if draw(st.booleans()):
        return catalogue.device_type(draw(st.sampled_from(catalogue.names())))
    return DeviceType(
        name=name,
        kind=draw(st.sampled_from(["gpu", "npu", "xpu", "cpu"])),
        peak_flops={"float32": draw(peaks), **draw(st.dictionaries(st.just("bfloat16"), peaks))},
        memory_bytes=draw(positive),
        memory_bytes_per_s=draw(positive),
        kernel_s=draw(seconds),
        product_efficiency=draw(share),
        memory_efficiency=draw(share),
        half_product_flops=draw(st.floats(0, 1e15)),
        multiprocessors=draw(st.integers(0, 200)),
        exponentials_per_s=draw(st.floats(0, 1e13)),
        older_kernel_share=draw(share),
        unaligned_share=draw(share),
        host_bytes_per_s=draw(positive),
        price_per_hour=draw(st.floats(0, 100)),
        power_w=draw(st.floats(0, 2000)),
        emulated=draw(st.booleans()),
        sources=tuple(draw(st.dictionaries(words, words, min_size=1, max_size=2)).items()),
    )


@st.composite
def groups(draw: st.DrawFn, index: int, lone: bool) -> NodeGroup:
    """A node group; one that is alone in its cluster may have one node and no network."""
    count, per_node = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    link = st.builds(Link, kind=words, bytes_per_s=positive, latency_s=seconds, attained=st.booleans())
    offline = lone and count == 1
    return NodeGroup(
        name=f"group {index}",
        count=count,
        device=draw(device_types(f"own {index}")),
        devices_per_node=per_node,
        intra=draw(link) if per_node > 1 else NO_LINK,
        nic=NO_LINK if offline else draw(link),
        nic_count=1 if offline else draw(st.integers(1, 8)),
        excluded=frozenset(draw(st.sets(st.integers(0, count - 1)))),
        slow=tuple((node, 1.5) for node in range(draw(st.integers(0, count)))),
        host=draw(st.builds(Host, memory_bytes=positive, memory_bytes_per_s=positive, links=st.integers(0, per_node))),
    )


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """A legal cluster of up to 3 groups, with or without tiers and sites."""
    number = draw(st.integers(1, 3))
    found = tuple(draw(groups(i, number == 1)) for i in range(number))
    sites: tuple[Site, ...] = ()
    wan = None
    if number > 1 and draw(st.booleans()):
        sites = tuple(Site(name=f"site {g.name}", groups=(g.name,)) for g in found)
        # half of a round trip, so that twice its half is exact
        wan = Link(kind="wan", bytes_per_s=draw(positive), latency_s=draw(seconds))
    tiers: tuple[Tier, ...] = ()
    if draw(st.booleans()):
        # every group takes ports of its own, with gaps and in any order
        found = tuple(
            replace(g, ports=tuple(draw(st.permutations(range(8 * i, 8 * i + 6)))[: g.count]))
            for i, g in enumerate(found)
        )
    if draw(st.booleans()):
        narrow = st.floats(1, 8)
        leaf = Tier(name="leaf", nodes=2, oversubscription=draw(narrow), latency_s=draw(seconds))
        tiers = (leaf, Tier(name="spine", oversubscription=draw(narrow), latency_s=draw(seconds)))
    return Cluster(name=draw(words), groups=found, tiers=tiers, sites=sites, wan=wan)
