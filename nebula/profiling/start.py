"""Starts a profile: one process for each device of a node, as in a job, and collects what they measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster, NodeGroup
from nebula.errors import BadInput
from nebula.launch import launch
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import PRECISION_DTYPE, Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.profiling.measurements import Measurements, of_plain, together
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
    plan = busy_node(cluster, group)
    save_plan(plan, folder / "plan.json", overwrite=True)
    dtypes = [
        d
        for d in PRECISION_DTYPE.values()
        if d in group.device.peak_flops and (group.device.kind != "cpu" or d == "float32")
    ]
    arguments = [str(folder), "quick" if quick else "full", ",".join(dtypes), str(group.device.memory_bytes)]
    launch(folder / "plan.json", SCRIPT, arguments, cluster=cluster, log_dir=folder / "log", out=out)
    files = [folder / f"measured.{rank}.json" for rank in range(plan.world_size)]
    return together([of_plain(json.loads(path.read_text(encoding="utf-8"))) for path in files])


def busy_node(cluster: Cluster, group: NodeGroup) -> Plan:
    """A plan that places one rank on each device of the group's first node that may be used.

    Raises:
        BadInput: none may.
    """
    usable = [node for node in range(group.count) if node not in group.excluded]
    if not usable:
        raise BadInput(f"every node of {group.name} is excluded; profile a group with a node that may be used")
    ranks = group.devices_per_node
    return Plan(
        stages=uniform_stages(boundaries=(0, 1), data=ranks, tensor=1, sharding=Sharding(), micro_batch_rows=1),
        micro_batches=1,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace(f"{group.name}/{usable[0]}", r) for r in range(ranks)),
        job=Job(global_batch=ranks),
        made_from=MadeFrom(model="", model_hash="", cluster=cluster.name, cluster_hash=cluster_hash(cluster)),
        because="a profile keeps every device of a node busy",
    )
