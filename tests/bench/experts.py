"""Predicted against measured: steps of the small decoder with experts under plans that deal them, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.graph.identity import graph_hash
from nebula.models.describe import graph
from nebula.plan.legality import executable_on
from nebula.plan.values import Job, MadeFrom, Plan, Stage
from tests.bench.emulated import CLUSTERS, DEVICES, ROWS, launched, places_of, rank_correlation, stage_of
from tests.bench.rows import Row

MODEL = graph("ernie-4.5-small", dtype="float32")
EACH = [((rank,), 2) for rank in range(4)]
HALVES = ([((0,), 1), ((1,), 1)], [((2,), 1), ((3,), 1)])


def rows() -> Iterator[Row]:
    """The error of every case, then of all."""
    errors, ranks = [], []
    for name in ("two nodes of 2", "one node of 4"):
        cluster = load_cluster({"name": name, "devices": DEVICES, "nodes": CLUSTERS[name]})
        predicted, found = [], []
        for plan in plans(cluster):
            assert executable_on(plan, cluster).engine == "executor"
            predicted.append(evaluate(MODEL, cluster, plan).step_time_s)
            found.append(launched(plan, cluster, MODEL.name)[0]["step_s"])
            errors.append(100.0 * (predicted[-1] / found[-1] - 1.0))
            yield Row(name=f"{name}: {plan.split}", value=errors[-1], unit="%")
        ranks.append(rank_correlation(predicted, found))
    yield Row(name=f"step time, median error of {len(errors)} cases", value=float(np.median(np.abs(errors))), unit="%")
    yield Row(name="step time, largest error", value=float(np.abs(errors).max()), unit="%")
    yield Row(name="rank correlation, least of clusters", value=min(ranks), unit="", more_is_better=True)


def plans(cluster: Cluster) -> Iterator[Plan]:
    """Plans of four ranks whose experts are whole on each, or dealt over two or four."""
    origin = MadeFrom(
        model=MODEL.name, model_hash=graph_hash(MODEL), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
    )
    for micro_batches, stages, *sequence in _ways():
        yield Plan(
            stages=tuple(stages),
            micro_batches=micro_batches,
            schedule="1f1b",
            engine="executor",
            ranks=places_of(cluster),
            sequence_parallel=bool(sequence),
            job=Job(global_batch=ROWS),
            made_from=origin,
        )


def _ways() -> Iterator[tuple[int, list[Stage]] | tuple[int, list[Stage], str]]:
    for degree in (1, 2, 4):
        yield 1, [_dealt(stage_of((0, 6), EACH), degree)]
    ones = [(ranks, 1) for ranks, _ in EACH]
    yield 2, [replace(_dealt(stage_of((0, 6), ones), 4), recompute="full")]
    for degree in (1, 2):
        yield 4, [_dealt(stage_of(span, held), degree) for span, held in zip(((0, 3), (3, 6)), HALVES, strict=True)]
    pairs = [((0, 1), 2), ((2, 3), 2)]
    for degree in (2, 4):
        yield 2, [_dealt(stage_of((0, 6), pairs), degree)], "sequence"


def _dealt(stage: Stage, degree: int) -> Stage:
    return replace(stage, expert=degree)
