"""What `nebula controller --replicas` does not go with, and the plan that each replica has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan
    from nebula.report.findings import Search


def refuse_with_replicas(*, plan_file: Path | None, memory_every: int | None, script: str, unit: int) -> None:
    """Refuses options that mean nothing where workers are replicas.

    Raises:
        BadInput: one of them was given.
    """
    from nebula.errors import BadInput

    wrong = {
        f"--plan {plan_file}": plan_file is not None and "each replica is one process that holds the whole model",
        f"--memory-every {memory_every}": bool(memory_every)
        and "replicas copy nothing to memory: they have each other",
        f"--script {script}": bool(script) and "the built-in training alone runs as replicas",
        f"--unit {unit}": unit != 1 and "replicas come and go one by one",
    }
    for option, why in wrong.items():
        if why:
            raise BadInput(f"--replicas with {option}: {why}; leave one of the two out")


def member_plan(subject: Subject, shards: int) -> tuple[Plan, Search]:
    """The plan of each member of a group of replicas: one process, a micro-batch for each shard.

    Raises:
        BadInput: the training cannot be parted into so many shards.
    """
    from dataclasses import replace

    from nebula.cluster.places import usable_nodes
    from nebula.errors import BadInput
    from nebula.plan.values import RankPlace
    from nebula.report.findings import Search
    from nebula.runtime.serial import serial_plan

    job, graph = subject.run.job, subject.graph
    if job.precision == "fp16":
        raise BadInput("--replicas: fp16 scales losses by what one process has seen: set job.precision to bf16 or fp32")
    if shards < 1 or job.global_batch % shards:
        raise BadInput(
            f"--replicas {shards}: so many shards do not cut a global batch of {job.global_batch} rows evenly; "
            "give a divisor of it"
        )
    group, node, _ = next(iter(usable_nodes(subject.run.cluster)))
    alone = serial_plan(global_batch=job.global_batch, micro_batches=shards, layers=len(graph.layers))
    plan = replace(alone, ranks=(RankPlace(f"{group.name}/{node}", 0),))
    because = f"every worker is a replica and does some of the {shards} shards of a batch"
    return replace(plan, job=job, because=because), Search()
