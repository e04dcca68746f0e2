"""The sites of a WAN in words: how many devices each has, and that no split's groups fit into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nebula.cluster.values import Cluster
from nebula.errors import Infeasible
from nebula.plan.laws import WAN_CROSSED


def site_words(cluster: Cluster, devices: Iterable[int]) -> str:
    """How many of the devices are at each site; empty where there is no WAN."""
    usable = Counter(cluster.groups[cluster.address(device).group].name for device in devices)
    held = [f"{sum(usable[name] for name in site.groups):,} at {site.name}" for site in cluster.sites]
    return " and ".join(held)


class AcrossWan(Infeasible):
    """Every split that fits into memory has a group that would cross a WAN."""


def no_site_holds(cluster: Cluster, devices: Iterable[int]) -> AcrossWan:
    """The error for splits that all fit into memory and of which each has a group across the WAN."""
    sites = " and ".join(site.name for site in cluster.sites)
    return AcrossWan(
        f"every split that fits into memory has a group that spans {WAN_CROSSED.format(sites)}. "
        f"Devices are {site_words(cluster, devices)}, and a group of tensor × sharding_degree ranks lies at one site: "
        "relax objective.fixed, or leave a site out with objective.exclude"
    )
