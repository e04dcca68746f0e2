"""Predicted against measured on cases that nobody chose: random plans, models and emulated clusters of a seed.

`NEBULA_BENCH_SEED` says which (1 without it) and `NEBULA_BENCH_CASES` how many (30). Every case is legal and fits as
predicted; nothing else decides whether it is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.errors import NebulaError
from nebula.graph.experts import expert_parameters
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import EXCHANGES
from nebula.plan.layout import uniform_stages
from nebula.plan.legality import executable_on, violations
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, MadeFrom, Plan, Prediction, Replica, Sharding, Stage
from tests.bench.emulated import launched, places_of, rank_correlation
from tests.bench.rows import Row
from tests.bench.shapes import graph_of, word

Random = np.random.Generator

TIME, MEMORY = 5.0, 3.0
"""Per cent: beyond these a case is worth a look."""

LINKS = ((0.3e9, 6e9), (0.05e9, 1.5e9))
"""Bytes a second within and between nodes, from and to."""


class Drawn(NamedTuple):
    """A case: model, cluster and plan, with what is predicted."""

    model: str
    cluster: Cluster
    plan: Plan
    prediction: Prediction


def rows() -> Iterator[Row]:
    """The errors of every case, then of all."""
    predicted, found, memory = [], [], []
    seed, count = (int(os.environ.get(f"NEBULA_BENCH_{name}", value)) for name, value in (("SEED", 1), ("CASES", 30)))
    for index, case in enumerate(drawn(seed, count)):
        ranks = launched(case.plan, case.cluster, case.model)
        predicted.append(case.prediction.step_time_s)
        found.append(ranks[0]["step_s"])
        held_bytes = max(held.total_bytes for held in case.prediction.memory)
        memory.append(100.0 * (held_bytes / max(own["tensors_bytes"] for own in ranks) - 1.0))
        error = 100.0 * (predicted[-1] / found[-1] - 1.0)
        look = " *" if abs(error) > TIME or abs(memory[-1]) > MEMORY else ""
        yield Row(name=f"{index}: {case.cluster.name}, {case.model}: {case.plan.split}{look}", value=error, unit="%")
        yield Row(name="    peak of the fullest rank", value=memory[-1], unit="%")
    errors = np.abs(100.0 * (np.array(predicted) / np.array(found) - 1.0))
    yield Row(
        name=f"step time, median error of {len(errors)} cases", value=float(np.median(errors)), unit="%", promise=2
    )
    yield Row(name="step time, largest error", value=float(errors.max()), unit="%", promise=8.0)
    ranked = rank_correlation(predicted, found)
    yield Row(name="step time, rank correlation (Spearman)", value=ranked, unit="", promise=0.95, more_is_better=True)
    yield Row(name="peak of memory, median error", value=float(np.median(np.abs(memory))), unit="%", promise=3.0)
    yield Row(name="peak of memory, largest error", value=float(np.abs(memory).max()), unit="%")


def drawn(seed: int, count: int) -> Iterator[Drawn]:
    """The cases of a seed, each from a generator of its own, so that more of them leave the first as they are."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        while True:
            case = _tried(rng)
            if case is not None:
                yield case
                break


def _tried(rng: Random) -> Drawn | None:
    """A case, or None where what was drawn is not legal or does not fit."""
    cluster = random_cluster(rng)
    model = random_model(rng)
    graph = graph_of(model)
    plan = random_plan(rng, graph, cluster)
    if plan is None or violations(plan, layers=len(graph.layers), cluster=cluster):
        return None
    if executable_on(plan, cluster).engine != plan.engine or not _deals(plan, graph):
        return None
    try:
        prediction = evaluate(graph, cluster, plan)
    except NebulaError:
        return None
    fits = all(held.total_bytes < 0.9 * held.limit_bytes for held in prediction.memory)
    return Drawn(model, cluster, plan, prediction) if fits else None


def _deals(plan: Plan, graph: DistributedGraph) -> bool:
    """Whether experts are dealt where there are some alone."""
    return all(stage.expert == 1 for stage in plan.stages) or any(map(expert_parameters, graph.blocks))


def random_cluster(rng: Random) -> Cluster:
    """Two or four devices, of one type or two, on one node or more; at times of two kinds."""
    types = 1 + int(rng.random() < 0.5)
    kinds = ["npu", "gpu"] if types == 2 and rng.random() < 0.3 else ["npu", "npu"]
    devices = {f"type{i}": _device(rng, kinds[i]) for i in range(types)}
    shape = [(1, 2), (1, 4), (2, 2), (2, 1), (4, 1)][rng.integers(5)] if types == 1 else None
    groups = [("type0", *shape)] if shape else [(f"type{i}", 1, int(rng.integers(1, 3))) for i in range(2)]
    nodes = [_nodes(rng, f"group{i}", *group) for i, group in enumerate(groups)]
    told = " + ".join(f"{count}×{each}" for _, count, each in groups)
    return load_cluster({"name": f"{told} {'/'.join(kinds[:types])}", "devices": devices, "nodes": nodes})


def _device(rng: Random, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "emulated": True,
        "peak_flops": {"fp32": f"{_between(rng, 80e9, 900e9):.4g}"},
        "memory": "4GiB",
        "memory_bandwidth": f"{_between(rng, 8e9, 90e9):.4g}B/s",
        "kernel_time": f"{_between(rng, 1.0, 12.0):.4g}us",
        "product_efficiency": round(float(rng.uniform(0.6, 1.0)), 3),
        "memory_efficiency": round(float(rng.uniform(0.6, 1.0)), 3),
    }


def _nodes(rng: Random, name: str, device: str, count: int, each: int) -> dict[str, Any]:
    intra, nic = (f"{_between(rng, *span):.4g}B/s" for span in LINKS)
    return {
        "name": name,
        "count": count,
        "device": device,
        "devices_per_node": each,
        "intra": {"kind": "pcie", "bandwidth": intra, "latency": f"{_between(rng, 3.0, 40.0):.3g}us"},
        "nic": {"count": 1, "bandwidth": nic, "latency": f"{_between(rng, 10.0, 100.0):.3g}us"},
    }


def _between(rng: Random, low: float, high: float) -> float:
    """Evenly on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_model(rng: Random) -> str:
    """A small ERNIE or a small decoder with experts, of some width, length and vocabulary."""
    heads = int(rng.choice([2, 4, 8]))
    changes = {
        "hidden": int(rng.choice([32, 64])) * heads if heads < 8 else 256,
        "heads": heads,
        "ffn": int(rng.choice([256, 512, 1024])),
        "seq_len": int(rng.choice([32, 64, 128])),
        "vocabulary": int(rng.choice([2048, 4096, 8192])),
    }
    return word("ernie-3.0-small" if rng.random() < 0.7 else "ernie-4.5-small", **changes)


def random_plan(rng: Random, graph: DistributedGraph, cluster: Cluster) -> Plan | None:
    """A plan for all devices of a cluster, of fleet or of the executor."""
    engine = "fleet" if rng.random() < 0.4 else "executor"
    micro_batches = int(rng.choice([1, 2, 3, 4, 6]))
    ranks, layers = cluster.device_count, len(graph.layers)
    make = _alike if engine == "fleet" else [_unlike, _virtual, _shared, _shared][rng.integers(4)]
    found = make(rng, ranks, layers)
    if found is None:
        return None
    stages, schedule, sequence = found
    origin = MadeFrom(
        model=graph.name, model_hash=graph_hash(graph), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
    )
    return Plan(
        stages=stages,
        micro_batches=micro_batches,
        schedule=schedule,
        engine=engine,
        ranks=places_of(cluster),
        sequence_parallel=sequence,
        job=Job(global_batch=micro_batches * sum(r.micro_batch_rows for r in stages[0].replicas)),
        made_from=origin,
    )


Way = tuple[tuple[Stage, ...], str, bool] | None
"""Stages, schedule, and whether tensor groups cut the sequence; None where the numbers do not go together."""


def _alike(rng: Random, ranks: int, layers: int) -> Way:
    """Equal stages: data, tensor and pipeline degrees, sharding, recomputation."""
    data, tensor, pipeline = _factors(rng, ranks, 3)
    stage = int(rng.integers(0, 4)) if data > 1 else 0
    stages = uniform_stages(
        boundaries=_boundaries(rng, layers, pipeline),
        data=data,
        tensor=tensor,
        sharding=Sharding(stage=stage, degree=data if stage else 1),
        micro_batch_rows=int(rng.integers(1, 5)),
        recompute=str(rng.choice(["none", "none", "selective", "full"])),
    )
    return stages, "1f1b", False


def _unlike(rng: Random, ranks: int, layers: int) -> Way:
    """Stages of other degrees, and replicas of unequal rows."""
    pipeline = int(rng.choice([1, 2]))
    if ranks % pipeline:
        return None
    each, rows = ranks // pipeline, int(rng.integers(2, 7))
    bounds = _boundaries(rng, layers, pipeline)
    stages = []
    for index, span in enumerate(pairwise(bounds)):
        data, tensor = _factors(rng, each, 2)
        parts = _parts(rng, rows, data)
        if parts is None:
            return None
        first = index * each
        held = [(tuple(range(first + i * tensor, first + (i + 1) * tensor)), n) for i, n in enumerate(parts)]
        stages.append(_stage(span, held, recompute=str(rng.choice(["none", "none", "full"]))))
    return tuple(stages), str(rng.choice(["1f1b", "fthenb", "zb-h1"])), False


def _virtual(rng: Random, ranks: int, layers: int) -> Way:
    """A pipeline over all ranks, with virtual stages or a split backward."""
    schedule = str(rng.choice(["1f1b", "zb-h1", "interleaved", "zb-v", "fthenb"]))
    chunks = 2 if schedule in ("interleaved", "zb-v") else 1
    if ranks * chunks > layers:
        return None
    rows = int(rng.integers(1, 4))
    stages = tuple(
        _stage(span, [((device_of(schedule, index, ranks, chunks),), rows)])
        for index, span in enumerate(pairwise(_boundaries(rng, layers, ranks * chunks)))
    )
    return stages, schedule, False


def _shared(rng: Random, ranks: int, layers: int) -> Way:
    """Ranks that share a sequence or experts, in one stage or two; sharding of states beside it."""
    pipeline = int(rng.choice([1, 1, 2]))
    if ranks % pipeline:
        return None
    each = ranks // pipeline
    data, context, tensor = _factors(rng, each, 3)
    rows, width = int(rng.integers(1, 4)), context * tensor
    exchange, expert = str(rng.choice(EXCHANGES)), int(rng.choice([n for n in (1, 2, 4) if each % n == 0]))
    stage = int(rng.integers(0, 2)) if data > 1 else 0
    stages = tuple(
        _stage(
            span,
            [(tuple(range(index * each + i * width, index * each + (i + 1) * width)), rows) for i in range(data)],
            context=context,
            exchange=exchange,
            expert=expert,
            sharding=Sharding(stage=stage, degree=data if stage else 1),
            recompute=str(rng.choice(["none", "none", "selective", "full"])),
        )
        for index, span in enumerate(pairwise(_boundaries(rng, layers, pipeline)))
    )
    return stages, "1f1b", tensor > 1


def _stage(span: tuple[int, int], held: list[tuple[tuple[int, ...], int]], **more: Any) -> Stage:
    replicas = tuple(Replica(ranks=r, tensor_shares=(1,) * len(r), micro_batch_rows=n) for r, n in held)
    return Stage(layers=span, replicas=replicas, **more)


def _factors(rng: Random, number: int, count: int) -> tuple[int, ...]:
    """So many factors of a number, drawn one after the other."""
    found = []
    for _ in range(count - 1):
        found.append(int(rng.choice([n for n in range(1, number + 1) if number % n == 0])))
        number //= found[-1]
    return tuple(int(n) for n in rng.permutation([*found, number]))


def _boundaries(rng: Random, layers: int, stages: int) -> tuple[int, ...]:
    """Stages of at least a layer each, cut anywhere."""
    cuts = sorted(int(n) for n in rng.choice(np.arange(1, layers), size=stages - 1, replace=False))
    return (0, *cuts, layers)


def _parts(rng: Random, rows: int, replicas: int) -> tuple[int, ...] | None:
    """Rows of a micro-batch dealt to replicas, at least one each."""
    return None if rows < replicas else tuple(b - a for a, b in pairwise(_boundaries(rng, rows, replicas)))
