"""The small ERNIE on this machine's CPU: its step time as predicted after a profile, beside what it takes.

Each round profiles quickly and then trains, one process and data parallel on two, so that both see the same machine.
Figures are medians over the rounds, the ratio is that of the rounds' own. Other load slows steps and not predictions:
it is printed, with what a step took of its own core.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from nebula.cluster.discover import discover
from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.launch import launch
from nebula.models.describe import graph
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.profiling.result import fitted
from nebula.profiling.start import measure
from tests.bench.rows import Row

ROUNDS, STEPS, ROWS = 3, 8, 8
PROMISED_PCT = 15.0
SCRIPT = Path(__file__).with_name("small_ernie.py")


def rows() -> list[Row]:
    """Predicted, measured and error for one process and for two."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        cluster = _profiled(discover())
        for ranks in (1, 2):
            if ranks <= cluster.groups[0].devices_per_node:
                found.setdefault(ranks, []).append(_compared(cluster, ranks))
    return [row for ranks, rounds in found.items() for row in _rows(ranks, rounds)]


def _rows(ranks: int, rounds: list[tuple[float, float, float]]) -> list[Row]:
    predicted_s, measured_s, own_s = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(predicted / measured for predicted, measured, _ in rounds)
    name = f"small ERNIE, CPU, {ranks} process{'es' * (ranks > 1)}"
    steps = f"{ROUNDS} x {STEPS} steps, load {os.getloadavg()[0]:.1f}"
    return [
        Row(name=f"{name}: predicted", value=1e3 * predicted_s, unit="ms"),
        Row(name=f"{name}: measured, {steps}", value=1e3 * measured_s, unit="ms"),
        Row(name=f"{name}: of that on its core", value=1e3 * own_s, unit="ms"),
        Row(name=f"{name}: predicted by measured", value=ratio, unit=""),
        Row(name=f"{name}: prediction off by", value=100.0 * abs(ratio - 1.0), unit="%", promise=PROMISED_PCT),
    ]


def _profiled(cluster: Cluster) -> Cluster:
    """The cluster with the figures of a quick profile."""
    group = cluster.groups[0]
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(cluster, group, Path(folder), quick=True)
    profile = fitted(measured, group.device, group.intra.kind, source="measured by the benchmark")
    return replace(cluster, groups=(profile.calibration.group(group),))


def _compared(cluster: Cluster, ranks: int) -> tuple[float, float, float]:
    """Predicted seconds, and the medians of wall and own seconds of so many steps."""
    model, group = graph("ernie-3.0-small", dtype="float32"), cluster.groups[0]
    plan = Plan(
        stages=uniform_stages(
            boundaries=(0, len(model.layers)), data=ranks, tensor=1, sharding=Sharding(), micro_batch_rows=ROWS // ranks
        ),
        micro_batches=1,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace(f"{group.name}/0", rank) for rank in range(ranks)),
        job=Job(global_batch=ROWS),
        made_from=MadeFrom(model="", model_hash="", cluster=cluster.name, cluster_hash=cluster_hash(cluster)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path, times = Path(folder) / "plan.json", Path(folder) / "times.json"
        save_plan(plan, path)
        launch(path, SCRIPT, [str(times), str(STEPS)], cluster=cluster, log_dir=Path(folder) / "log")
        took = json.loads(times.read_text())
    predicted_s = evaluate(model, cluster, plan).step_time_s
    return predicted_s, statistics.median(took["wall_s"]), statistics.median(took["own_s"])
