"""Predicted against measured: steps of the small ERNIE under 63 plans on emulated clusters, in virtual time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.emulator import environment
from nebula.graph.identity import graph_hash
from nebula.launch.command import environment as quiet_environment
from nebula.launch.emulate import device_table
from nebula.models.describe import graph
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.legality import executable_on
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Sharding, Stage
from tests.bench.rows import Row

ROWS, LAYERS = 8, 11
MODEL = graph("ernie-3.0-small", dtype="float32")
WORKER = Path(__file__).with_name("emulated_steps.py")


def _type(flops: str, bandwidth: str) -> dict[str, object]:
    return {
        "kind": "npu",
        "emulated": True,
        "peak_flops": {"fp32": flops},
        "memory": "4GiB",
        "memory_bandwidth": bandwidth,
        "kernel_time": "5us",
        "product_efficiency": 0.9,
        "memory_efficiency": 0.9,
    }


def _nodes(name: str, count: int, device: str, each: int, intra: str, nic: str) -> dict[str, object]:
    return {
        "name": name,
        "count": count,
        "device": device,
        "devices_per_node": each,
        "intra": {"kind": "pcie", "bandwidth": intra, "latency": "20us"},
        "nic": {"count": 1, "bandwidth": nic, "latency": "50us"},
    }


DEVICES = {"quick": _type("400e9", "40GB/s"), "slow": _type("150e9", "20GB/s")}
CLUSTERS = {
    "two nodes of 2": [_nodes("pair", 2, "quick", 2, "1GB/s", "200MB/s")],
    "2 quick, 2 slow": [
        _nodes("fast", 1, "quick", 2, "1GB/s", "300MB/s"),
        _nodes("slow", 1, "slow", 2, "500MB/s", "300MB/s"),
    ],
    "one node of 4": [_nodes("four", 1, "quick", 4, "4GB/s", "1GB/s")],
}


class Case(NamedTuple):
    """A plan on a cluster, predicted and measured: seconds of a step, and bytes of the fullest rank's tensors."""

    plan: Plan
    predicted_s: float
    measured_s: float
    predicted_bytes: float
    measured_bytes: float


def rows() -> Iterator[Row]:
    """The errors of every case, then of all."""
    errors, ranks, memory = [], [], []
    for name, nodes in CLUSTERS.items():
        cluster = load_cluster({"name": name, "devices": DEVICES, "nodes": nodes})
        cases = []
        for case in measured(cluster):
            cases.append(case)
            errors.append(100.0 * (case.predicted_s / case.measured_s - 1.0))
            memory.append(100.0 * (case.predicted_bytes / case.measured_bytes - 1.0))
            words = f"{name}: {case.plan.split}"
            words = words if len(words) < 110 else words[:107] + "..."
            yield Row(name=words, value=errors[-1], unit="%")
            yield Row(name="    peak of the fullest rank", value=memory[-1], unit="%")
        ranks.append(rank_correlation([case.predicted_s for case in cases], [case.measured_s for case in cases]))
        best = min(case.measured_s for case in cases)
        first = min(cases, key=lambda case: case.predicted_s).measured_s
        yield Row(
            name=f"{name}: first by prediction, behind the best", value=100 * (first / best - 1), unit="%", promise=2.0
        )
        yield from _on_both(cluster, cases)
    size, held = np.abs(errors), np.abs(memory)
    yield Row(
        name=f"step time, median error of {len(errors)} cases", value=float(np.median(size)), unit="%", promise=2.0
    )
    yield Row(name="step time, largest error", value=float(size.max()), unit="%", promise=8.0)
    yield Row(name="rank correlation, least of clusters", value=min(ranks), unit="", promise=0.95, more_is_better=True)
    yield Row(name="peak of memory, median error", value=float(np.median(held)), unit="%", promise=3.0)
    yield Row(name="peak of memory, largest error", value=float(held.max()), unit="%", promise=3.0)


def _on_both(cluster: Cluster, cases: Sequence[Case]) -> Iterator[Row]:
    """Plans of fleet that the executor runs as well: by how much its steps are longer, in virtual time."""
    apart = []
    for case in cases:
        twin = replace(case.plan, engine="executor")
        if case.plan.engine == "fleet" and executable_on(twin, cluster).engine == "executor":
            apart.append(100.0 * (launched(twin, cluster)[0]["step_s"] / case.measured_s - 1.0))
    name = f"{cluster.name}: {len(apart)} of fleet's plans on the executor, longer by"
    yield Row(name=f"{name} at least", value=min(apart), unit="%")
    yield Row(name=f"{name} at most", value=max(apart), unit="%")


def measured(cluster: Cluster) -> Iterator[Case]:
    """Every plan that an engine can run, as predicted and measured."""
    for plan in plans(cluster):
        if executable_on(plan, cluster).engine:
            found = launched(plan, cluster)
            prediction = evaluate(MODEL, cluster, plan)
            yield Case(
                plan,
                prediction.step_time_s,
                found[0]["step_s"],
                max(held.total_bytes for held in prediction.memory),
                max(own["tensors_bytes"] for own in found),
            )


def launched(plan: Plan, cluster: Cluster, preset: str = MODEL.name) -> list[dict[str, float]]:
    """What each rank of a plan measured, in processes of its own: what a plan before it held would count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_plan(plan, folder / "plan.json")
        table = device_table(cluster, plan, folder / "devices.table")
        ranks = plan.world_size
        base = quiet_environment(os.environ, "", ranks=ranks, cores=os.cpu_count() or 1)
        env = {k: v for k, v in base.items() if k not in ("NEBULA_PLAN", "CUSTOM_DEVICE_ROOT")} | environment(table)
        launch = [sys.executable, "-m", "paddle.distributed.launch", "--log_level", "WARNING"]
        launch += ["--devices", ",".join(map(str, range(ranks))), "--log_dir", str(folder / "log")]
        done = subprocess.run(
            [*launch, str(WORKER), str(folder / "plan.json"), preset],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            logs = (folder / "log").glob("workerlog.*")
            raise RuntimeError("\n".join(path.read_text()[-1500:] for path in sorted(logs)))
        return [json.loads((folder / f"plan.{rank}").read_text()) for rank in range(ranks)]


def plans(cluster: Cluster) -> Iterator[Plan]:
    """Plans of four ranks, on fleet and on the executor."""
    origin = MadeFrom(
        model=MODEL.name, model_hash=graph_hash(MODEL), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
    )
    for engine, schedule, micro_batches, stages, *sequence in (*_alike(), *_unlike(), *_on_shares()):
        yield Plan(
            stages=tuple(stages),
            micro_batches=micro_batches,
            schedule=schedule,
            engine=engine,
            ranks=places_of(cluster),
            sequence_parallel=any(sequence),
            job=Job(global_batch=ROWS),
            made_from=origin,
        )


def places_of(cluster: Cluster) -> tuple[RankPlace, ...]:
    """All devices, in order."""
    return tuple(
        RankPlace(f"{group.name}/{node}", device)
        for group in cluster.groups
        for node in range(group.count)
        for device in range(group.devices_per_node)
    )


def _alike() -> Iterator[tuple[str, str, int, tuple[Stage, ...]]]:
    for data, tensor, cuts, micro_batches, sharding, recompute in (
        (4, 1, (0, 11), 1, Sharding(), "none"),
        (4, 1, (0, 11), 2, Sharding(stage=1, degree=4), "none"),
        (2, 2, (0, 11), 2, Sharding(), "none"),
        (2, 1, (0, 6, 11), 4, Sharding(), "none"),
        (1, 2, (0, 6, 11), 4, Sharding(), "full"),
        (1, 1, (0, 4, 7, 10, 11), 8, Sharding(), "none"),
    ):
        yield (
            "fleet",
            "1f1b",
            micro_batches,
            uniform_stages(
                boundaries=cuts,
                data=data,
                tensor=tensor,
                sharding=sharding,
                micro_batch_rows=ROWS // data // micro_batches,
                recompute=recompute,
            ),
        )


def _unlike() -> Iterator[tuple[str, str, int, tuple[Stage, ...]]]:
    for schedule, cuts, micro_batches in (
        ("1f1b", (0, 5, 8, 10, 11), 4),
        ("zb-h1", (0, 4, 7, 10, 11), 8),
        ("interleaved", (0, 2, 4, 5, 6, 7, 8, 10, 11), 4),
        ("zb-v", (0, 2, 4, 5, 6, 7, 8, 10, 11), 8),
    ):
        chunks = (len(cuts) - 1) // 4
        yield (
            "executor",
            schedule,
            micro_batches,
            tuple(
                stage_of(span, [((device_of(schedule, index, 4, chunks),), ROWS // micro_batches)])
                for index, span in enumerate(pairwise(cuts))
            ),
        )
    yield "executor", "1f1b", 4, (stage_of((0, 7), [((0,), 1), ((1,), 1)]), stage_of((7, 11), [((2, 3), 2)]))
    yield "executor", "1f1b", 2, (stage_of((0, 7), [((0, 1), 4)]), stage_of((7, 11), [((2,), 2), ((3,), 2)]))
    yield "executor", "zb-h1", 4, (stage_of((0, 8), [((0,), 1), ((1,), 1)]), stage_of((8, 11), [((2,), 1), ((3,), 1)]))
    yield "executor", "1f1b", 1, (stage_of((0, 11), [((0,), 3), ((1,), 3), ((2,), 1), ((3,), 1)]),)


def _on_shares() -> Iterator[tuple[str, str, int, tuple[Stage, ...], bool]]:
    """Sequence parallelism: a tensor group of four, two side by side, two in a row; then context parallelism."""
    yield "executor", "1f1b", 2, (stage_of((0, 11), [((0, 1, 2, 3), 4)]),), True
    yield "executor", "1f1b", 2, (stage_of((0, 11), [((0, 1), 2), ((2, 3), 2)]),), True
    yield "executor", "1f1b", 4, (stage_of((0, 6), [((0, 1), 2)]), stage_of((6, 11), [((2, 3), 2)])), True
    four, pairs = stage_of((0, 11), [((0, 1, 2, 3), 4)]), stage_of((0, 11), [((0, 1), 2), ((2, 3), 2)])
    yield "executor", "1f1b", 2, (replace(four, context=4, exchange="ulysses"),), False
    yield "executor", "1f1b", 2, (replace(pairs, context=2, exchange="gather"),), False
    yield "executor", "1f1b", 2, (replace(four, context=4, exchange="ring"),), False
    yield "executor", "1f1b", 2, (replace(pairs, context=2, exchange="ring"),), False


def stage_of(layers: tuple[int, int], replicas: list[tuple[tuple[int, ...], int]]) -> Stage:
    held = tuple(Replica(ranks=r, tensor_shares=(1,) * len(r), micro_batch_rows=n) for r, n in replicas)
    return Stage(layers=layers, replicas=held)


def rank_correlation(one: list[float], other: list[float]) -> float:
    """The correlation of ranks."""
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (one, other)))[0, 1])
