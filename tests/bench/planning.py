"""How long planning takes in a warm process: the engines' space, the space beyond them, mixed clusters, many devices.

The promises are the project's aims; a figure that misses one is printed so.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.models.describe import graph
from nebula.plan.values import Job
from nebula.planner.explore.search import explore
from nebula.planner.placed_answer import placed_search
from nebula.planner.search import Answer
from tests.bench.rows import Row

PATIENCE_S = 60.0


def rows() -> list[Row]:
    """Seconds of searches, and what exploration reaches in a minute."""
    titan, llama, deepseek = (
        graph("ernie-3.0-titan"),
        graph("llama3-8b", seq_len=2048),
        graph("deepseek-v3", seq_len=4096),
    )
    found = [
        _timed("cluster object of 10,000 devices", lambda: cluster({"H100-80GB-SXM": 1250}), 0.1)[0],
        _timed("search, Titan on 1,920 Ascend 910", lambda: placed_search(titan, ascend(240), job(1920, "fp16")), 1.0)[
            0
        ],
    ]
    for nodes in (24, 80, 1250, 12500):
        name = f"search, Titan on {8 * nodes:,} Ascend 910"
        found.append(_timed(name, lambda nodes=nodes: placed_search(titan, ascend(nodes), job(1920, "fp16")))[0])
    h800 = cluster({"H800-80GB-SXM": 256})
    mixed = cluster({"A100-80GB-SXM": 16, "V100-32GB-SXM3": 48})
    small = cluster({"A100-80GB-SXM": 4, "V100-32GB-SXM3": 4})
    found += _explored("DeepSeek-V3 on 2,048 H800", lambda: _explore(deepseek, h800, job(4096, "bf16")), 2.0)
    found += _explored("Llama 3 8B on 128 A100 + 384 V100", lambda: _explore(llama, mixed, job(1024, "fp16")), 1.0)
    found += _explored("Llama 3 8B on 32 A100 + 32 V100", lambda: _explore(llama, small, job(512, "fp16")), 1.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return [*found, Row(name="peak memory of all of these", value=peak, unit="MB", promise=1000)]


def job(batch: int, precision: str) -> Job:
    """A job of so many rows."""
    return Job(global_batch=batch, precision=precision)


def ascend(nodes: int) -> Cluster:
    """Nodes of eight Ascend 910, as in the example."""
    return cluster({"Ascend-910": nodes}, kind="hccs", intra="30GB/s", nic="100Gb/s")


def cluster(nodes: dict[str, int], *, kind: str = "nvswitch", intra: str = "200GB/s", nic: str = "200Gb/s") -> Cluster:
    """Nodes of eight devices of each type."""
    return load_cluster(
        {
            "name": "bench",
            "nodes": [
                {
                    "name": device.lower(),
                    "count": count,
                    "device": device,
                    "devices_per_node": 8,
                    "intra": {"kind": kind, "bandwidth": intra},
                    "nic": {"count": 8, "bandwidth": nic, "kind": "infiniband"},
                }
                for device, count in nodes.items()
            ],
        }
    )


def _explore(model: object, on: Cluster, asked: Job) -> Answer:
    began_s = time.perf_counter()
    return explore(model, on, asked, enough=lambda _: time.perf_counter() - began_s > PATIENCE_S)  # type: ignore[arg-type]


def _explored(name: str, run: Callable[[], Answer], promise_s: float) -> list[Row]:
    row, answer = _timed(f"explore, {name}", run, promise_s)
    step_ms = 1e3 * (answer.plan.prediction.step_time_s if answer.plan.prediction else 0.0)
    return [
        row,
        Row(name=f"explore, {name}: gap to the bound", value=100.0 * answer.gap, unit="%"),
        Row(name=f"explore, {name}: predicted step", value=step_ms, unit="ms"),
    ]


def _timed(name: str, run: Callable[[], object], promise_s: float | None = None) -> tuple[Row, Answer]:
    start = time.perf_counter()
    answer = run()
    return Row(name=name, value=time.perf_counter() - start, unit="s", promise=promise_s), answer  # type: ignore[return-value]
