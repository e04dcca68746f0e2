"""How long the default answer takes where the executor's space is searched, and exploring beyond it, warm.

The promises are the project's aims; a figure that misses one is printed so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from nebula.cluster.values import Cluster
from nebula.graph.values import DistributedGraph
from nebula.models.describe import graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.by_engine import Asked, planned
from nebula.planner.explore.search import explore
from nebula.planner.search import Answer
from tests.bench.clusters import SWITCHES, cluster, job
from tests.bench.rows import Memory, Row

PATIENCE_S = 60.0

ZONE = {"name": "zone", "nodes": 256, "oversubscription": 1.5, "latency": "9us"}
"""A tier between pod and core."""


def rows() -> list[Row]:
    """Seconds, gaps and step times of explorations, and the memory of all that."""
    llama, deepseek = graph("llama3-8b", seq_len=2048, dtype="float16"), graph("deepseek-v3", seq_len=4096)
    trillion = graph("ernie-5.0-like-1t")
    h800 = cluster({"H800-80GB-SXM": 256})
    mixed = cluster({"A100-80GB-SXM": 16, "V100-32GB-SXM3": 48})
    small = cluster({"A100-80GB-SXM": 4, "V100-32GB-SXM3": 4})
    tiers = (*SWITCHES[:2], ZONE, SWITCHES[2])
    three = cluster({"H800-80GB-SXM": 1024, "A100-80GB-SXM": 512, "Ascend-910B": 512}, tiers)
    cases = (
        ("1 T on 16,384 of three types", trillion, three, job(16384, "bf16"), 10.0),
        ("DeepSeek-V3 on 2,048 H800", deepseek, h800, job(4096, "bf16"), 2.0),
        ("Llama 3 8B on 128 A100 + 384 V100", llama, mixed, job(1024, "fp16"), 1.0),
        ("Llama 3 8B on 32 A100 + 32 V100", llama, small, job(512, "fp16"), 1.0),
    )
    found = []
    with Memory() as memory:
        for name, model, on, asked, promise_s in cases:
            one = Asked(graph=model, cluster=on, job=asked, objective=Objective())
            found += _reached(f"plan, {name}", partial(planned, one), promise_s)
            found += _reached(f"explore, {name}", partial(_explore, model, on, asked), promise_s)
    peak = memory.peak_megabytes
    return [*found, Row(name="peak memory of all of these, all processes", value=peak, unit="MB", promise=1000)]


def _explore(model: DistributedGraph, on: Cluster, asked: Job) -> Answer:
    began_s = time.perf_counter()
    return explore(model, on, asked, enough=lambda _: time.perf_counter() - began_s > PATIENCE_S)


def _reached(name: str, run: Callable[[], Answer], promise_s: float) -> list[Row]:
    row, answer = _timed(name, run, promise_s)
    step_ms = 1e3 * (answer.plan.prediction.step_time_s if answer.plan.prediction else 0.0)
    return [
        row,
        Row(name=f"{name}: gap to the bound", value=100.0 * answer.gap, unit="%"),
        Row(name=f"{name}: predicted step", value=step_ms, unit="ms"),
    ]


def _timed(name: str, run: Callable[[], Answer], promise_s: float) -> tuple[Row, Answer]:
    start = time.perf_counter()
    answer = run()
    return Row(name=name, value=time.perf_counter() - start, unit="s", promise=promise_s), answer
