"""How long `nebula plan` takes in a warm process, imports and files apart, and how that grows with the cluster.

Times are wall: where there is much to do other processes cut the graph, so that they say nothing where other work keeps
the cores busy. Graphs and clusters are built for each search anew and have rows of their own. The promises are the
project's aims; a figure that misses one is printed so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from nebula.cli.subject import load_subject
from nebula.cluster.values import Cluster
from nebula.graph.values import DistributedGraph
from nebula.models.describe import graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.by_engine import Asked, planned
from tests.bench.clusters import SWITCHES, ascend, cluster, job
from tests.bench.rows import Memory, Row

REPEATS = 3
"""Searches of which the median is told, where one is promised."""

TITAN = partial(graph, "ernie-3.0-titan", dtype="float16")
LLAMA = partial(graph, "llama3-70b", seq_len=4096, dtype="bfloat16")

TITAN_NODES = (24, 80, 240, 1250, 12500)
LLAMA_NODES = (8, 64, 256, 1250, 12500)
ROWS = 4
"""Of the global batch for each device, where the batch grows with the cluster."""

Made = TypeVar("Made")


def rows() -> list[Row]:
    """Seconds to build and to search, how they grow from 64 to 100,000 devices, and the memory of all that."""
    with Memory() as memory:
        found = [*_built(), *_titan(), *_growth()]
    peak = memory.peak_megabytes
    return [*found, Row(name="peak memory of all of these, all processes", value=peak, unit="MB", promise=1000)]


def _built() -> list[Row]:
    """What is built before a search."""
    found = [Row(name="graph of ERNIE 3.0 Titan", value=_median_seconds(TITAN), unit="s")]
    for nodes, promise in ((240, None), (1250, 0.1), (12500, None)):
        build_s = _median_seconds(partial(ascend, nodes, SWITCHES))
        found.append(Row(name=f"cluster object of {8 * nodes:,} devices", value=build_s, unit="s", promise=promise))
    return found


def _titan() -> list[Row]:
    """The search that is promised, on one switch and below three tiers of them."""
    found = []
    for name, tiers in (("one switch", ()), ("leaf, pod and core", SWITCHES)):
        search_s = median(
            _search_seconds(TITAN, partial(ascend, 240, tiers), job(1920, "fp16")) for _ in range(REPEATS)
        )
        found.append(Row(name=f"search, Titan on 1,920 Ascend 910, {name}", value=search_s, unit="s", promise=1.0))
    subject = load_subject(Path("examples/titan-1920.yaml"), [])
    on, asked = subject.run.cluster, subject.run.job
    search_s = median(_search_seconds(TITAN, lambda: on, asked) for _ in range(REPEATS))
    return [*found, Row(name="search, examples/titan-1920.yaml", value=search_s, unit="s", promise=1.0)]


def _growth() -> list[Row]:
    """Searches below three tiers: of one batch on more and more devices, and of a batch that grows with them."""
    found = []
    for nodes in TITAN_NODES:
        search_s = _search_seconds(TITAN, partial(ascend, nodes, SWITCHES), job(1920, "fp16"))
        found.append(Row(name=f"Titan, 1,920 rows, {8 * nodes:,} Ascend 910", value=search_s, unit="s"))
    for nodes in LLAMA_NODES:
        a100 = partial(cluster, {"A100-80GB-SXM": nodes}, SWITCHES)
        search_s = _search_seconds(LLAMA, a100, job(8 * nodes * ROWS, "bf16"))
        name = f"Llama 3 70B, {8 * nodes * ROWS:,} rows, {8 * nodes:,} A100"
        found.append(Row(name=name, value=search_s, unit="s"))
    return found


def _search_seconds(model: Callable[[], DistributedGraph], on: Callable[[], Cluster], asked: Job) -> float:
    made, where = model(), on()
    # Titan remembers, so that its elements do not work token by token
    token_wise = model is not TITAN
    one = Asked(graph=made, cluster=where, job=asked, objective=Objective(), token_wise=token_wise)
    return _seconds(lambda: planned(one))


def _median_seconds(work: Callable[[], object]) -> float:
    return median(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
