"""The identity of a cluster: a hash of what a plan depends on.

Names of files and sources do not count, nor does health: an excluded or slow node is the same hardware, and whether
a plan uses an excluded node is asked by the legality table.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from nebula.cluster.values import Cluster, Host

HEALTH = ("excluded", "slow")


def cluster_hash(cluster: Cluster) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the cluster's hardware in canonical JSON."""
    value = asdict(cluster)
    del value["origin"]
    for group in value["groups"]:
        del group["device"]["sources"]
        for key in HEALTH:
            del group[key]
        if not group["ports"]:
            del group["ports"]
        if group["host"] == asdict(Host()):
            del group["host"]
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    """JSON with sorted keys; every number as a float, so that 8 and 8.0 agree."""

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: plain(item) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [plain(item) for item in node]
        return float(node) if isinstance(node, int) and not isinstance(node, bool) else node

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
