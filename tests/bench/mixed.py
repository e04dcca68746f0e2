"""What mixed clusters are worth: the plan beside the best part alone, and beside all devices as slow as the slowest."""

from __future__ import annotations

import time
from collections.abc import Iterator

from nebula.cluster.values import Cluster
from nebula.graph.values import DistributedGraph
from nebula.models.describe import graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.explore.baselines import alone, as_slowest
from nebula.planner.explore.joint import joint
from nebula.planner.explore.search import explore
from nebula.planner.type_order import in_best_order
from tests.bench.clusters import cluster, job
from tests.bench.rows import Row

PATIENCE_S = 60.0
"""For each search."""

MODELS = {"llama3-8b": 4096, "llama3-70b": 4096, "ernie-3.0-titan": None, "ernie-4.5-21b-a3b": 4096}
"""Presets with their sequence lengths; None: its own."""


def rows() -> Iterator[Row]:
    """Step times, what the baselines take more, and seconds of the searches."""
    narrow = cluster({"A100-80GB-SXM": 8, "A100-40GB-SXM": 8})
    older = cluster({"A100-80GB-SXM": 8, "V100-32GB-SXM3": 8})
    kinds = cluster({"Ascend-910": 128, "H800-80GB-SXM": 64})
    for name, on, batch in (
        ("64 A100 + 64 V100", older, 512),
        ("1,024 Ascend 910 + 512 H800", kinds, 3072),
        ("64 A100-80GB + 64 A100-40GB", narrow, 512),
    ):
        for model, seq_len in MODELS.items():
            made = graph(model, seq_len=seq_len, dtype="float16")
            yield from _compared(f"{model}, {name}", made, on, job(batch, "fp16"))


def _compared(name: str, model: DistributedGraph, on: Cluster, asked: Job) -> Iterator[Row]:
    began_s, objective = time.perf_counter(), Objective()

    def late(_: float) -> bool:
        return time.perf_counter() - began_s > PATIENCE_S

    answer = in_best_order(explore(model, on, asked, enough=late), model, on, asked, objective, enough=late)
    slow = as_slowest(model, on, asked, objective, late)
    answer = joint(answer, slow.plans, model, on)
    yield Row(name=f"{name}: search", value=time.perf_counter() - began_s, unit="s")
    step_s = answer.plan.prediction.step_time_s if answer.plan.prediction else 0.0
    yield Row(name=f"{name}: step", value=step_s, unit="s")
    began_s = time.perf_counter()
    parts = alone(model, on, asked, objective, late)
    for each in (parts[0], slow):
        told = f"    {each.where}"
        if each.step_s:
            yield Row(
                name=told, value=100.0 * (each.step_s / step_s - 1.0), unit="% more", promise=0.0, more_is_better=True
            )
        else:
            yield Row(name=f"{told}: does not fit", value=0.0, unit="")
    together = sum(1.0 / each.step_s for each in parts if each.step_s)
    yield Row(name="    of what the parts reach together, each alone", value=100.0 / step_s / together, unit="%")
    yield Row(name="    searches of the parts", value=time.perf_counter() - began_s, unit="s")
