"""Jobs and clusters that benchmarks plan for."""

from __future__ import annotations

from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.plan.values import Job

SWITCHES = (
    {"name": "leaf", "nodes": 8, "latency": "6us"},
    {"name": "pod", "nodes": 32, "oversubscription": 2, "latency": "8us"},
    {"name": "core", "oversubscription": 3, "latency": "10us"},
)
"""Three tiers, each narrower than the one below."""

Tiers = tuple[dict[str, object], ...]


def job(batch: int, precision: str) -> Job:
    """A job of so many rows."""
    return Job(global_batch=batch, precision=precision)


def ascend(nodes: int, tiers: Tiers = ()) -> Cluster:
    """Nodes of eight Ascend 910, as in the example."""
    return cluster({"Ascend-910": nodes}, tiers, kind="hccs", intra="30GB/s", nic="100Gb/s")


def cluster(
    nodes: dict[str, int], tiers: Tiers = (), *, kind: str = "nvswitch", intra: str = "200GB/s", nic: str = "200Gb/s"
) -> Cluster:
    """Nodes of eight devices of each type, at one switch or below tiers of them."""
    return load_cluster(
        {
            "name": "bench",
            "nodes": [
                {
                    "name": device.lower(),
                    "count": count,
                    "device": device,
                    "devices_per_node": 8,
                    "intra": {"kind": kind, "bandwidth": intra},
                    "nic": {"count": 8, "bandwidth": nic, "kind": "infiniband"},
                }
                for device, count in nodes.items()
            ],
            "network": {"tiers": list(tiers)},
        }
    )
