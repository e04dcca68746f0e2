"""Starts a profile: one process for each device of a node, as in a job, and collects what they measured.

Emulated nodes are all on this machine, so there the network between two of them is measured likewise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import device_index
from nebula.cluster.topology import link
from nebula.cluster.values import Cluster, Link, NodeGroup
from nebula.errors import BadInput
from nebula.launch import launch
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import PRECISION_DTYPE, Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.profiling.fit import fit_link
from nebula.profiling.measurements import Measurements, Message, of_plain, together
from nebula.units import format_bytes

SCRIPT = Path(__file__).parent / "entry" / "measure.py"

LEAST_BYTES = 2.0**31
"""Of a device: what products, the largest tensors and the steps hold at the same time."""


def measure(
    cluster: Cluster, group: NodeGroup, folder: Path, *, quick: bool, out: TextIO | None = None
) -> Measurements:
    """What the devices of one node of a group do, all of them busy.

    Args:
        folder: receives the plan, the logs and what each rank measured.
        quick: few samples.

    Raises:
        BadInput: the device has too little memory, or every node of the group is excluded.
        RunFailed: a process failed.
    """
    if group.device.memory_bytes < LEAST_BYTES:
        raise BadInput(
            f"{group.device.name} has {format_bytes(group.device.memory_bytes)}; a profile needs devices of at least "
            f"{format_bytes(LEAST_BYTES)}"
        )
    dtypes = [
        d
        for d in PRECISION_DTYPE.values()
        if d in group.device.peak_flops and (group.device.kind != "cpu" or d == "float32")
    ]
    what = ",".join(dtypes), str(group.device.memory_bytes)
    every = _run(cluster, busy_node(cluster, group), folder, quick, what, out)
    return together([of_plain(json.loads(text)) for text in every])


class Network(NamedTuple):
    """Messages between devices of two nodes, and the link that the cluster file has there."""

    messages: tuple[Message, ...]
    between: Link


def measure_network(
    cluster: Cluster, group: NodeGroup, folder: Path, *, quick: bool, out: TextIO | None = None
) -> Network | None:
    """Messages between a device of a group's node and one of another node, each pair of node groups once.

    Of pairs with other groups, where this one has no second node, that with the fastest link counts: the card of this
    group limits it least.

    Returns:
        None where there is no other node, or where nodes are other machines.
    """
    if not all(each.device.emulated for each in cluster.groups):
        return None
    found = [
        Network(_messages(_run(cluster, plan, folder, quick, ("", "0"), out)), _between(cluster, plan))
        for plan in pairs(cluster, group)
    ]
    return max(found, key=lambda network: fit_link(network.messages).bytes_per_s, default=None)


def _run(
    cluster: Cluster, plan: Plan, folder: Path, quick: bool, what: tuple[str, str], out: TextIO | None
) -> list[str]:
    """What each rank of a plan wrote; `what` is the precisions and the memory of a device, none for messages alone."""
    save_plan(plan, folder / "plan.json", overwrite=True)
    arguments = [str(folder), "quick" if quick else "full", *what]
    launch(folder / "plan.json", SCRIPT, arguments, cluster=cluster, log_dir=folder / "log", out=out)
    return [(folder / f"measured.{rank}.json").read_text(encoding="utf-8") for rank in range(plan.world_size)]


def _messages(texts: list[str]) -> tuple[Message, ...]:
    return together([of_plain(json.loads(text)) for text in texts]).messages


def _between(cluster: Cluster, plan: Plan) -> Link:
    here, there = (device_index(cluster, place.node, place.device) for place in plan.ranks)
    return link(cluster, here, there)


def pairs(cluster: Cluster, group: NodeGroup) -> tuple[Plan, ...]:
    """Plans of two ranks: on two nodes of a group, or where it has one alone, on it and one of each other group."""
    own = [f"{group.name}/{node}" for node in usable(group)]
    others = [f"{each.name}/{node}" for each in cluster.groups if each is not group for node in usable(each)[:1]]
    return tuple(_plan(cluster, (own[0], there)) for there in own[1:2] or others)


def busy_node(cluster: Cluster, group: NodeGroup) -> Plan:
    """A plan that places one rank on each device of the group's first node that may be used.

    Raises:
        BadInput: none may.
    """
    return _plan(cluster, (f"{group.name}/{usable(group)[0]}",) * group.devices_per_node)


def usable(group: NodeGroup) -> list[int]:
    """The nodes of a group that may be used.

    Raises:
        BadInput: none may.
    """
    found = [node for node in range(group.count) if node not in group.excluded]
    if not found:
        raise BadInput(f"every node of {group.name} is excluded; profile a group with a node that may be used")
    return found


def _plan(cluster: Cluster, nodes: Sequence[str]) -> Plan:
    """A plan with one rank for each entry, on the first devices of these nodes."""
    ranks = len(nodes)
    return Plan(
        stages=uniform_stages(boundaries=(0, 1), data=ranks, tensor=1, sharding=Sharding(), micro_batch_rows=1),
        micro_batches=1,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace(node, nodes[:index].count(node)) for index, node in enumerate(nodes)),
        job=Job(global_batch=ranks),
        made_from=MadeFrom(model="", model_hash="", cluster=cluster.name, cluster_hash=cluster_hash(cluster)),
        because="a profile keeps every device busy",
    )
