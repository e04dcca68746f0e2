"""How fast plans are priced: one at a time with all of its parts, and candidates by the thousand.

The mix of candidates is what a search asks: splits at random over every degree, micro-batch, sharding and recompute
policy that the cluster has room for (pipelines of 1 to as many stages as layers), each with `EACH` uneven boundaries at
random. Rates are for further boundaries of splits that a batch before has seen, as a search asks for them; the first
batch makes chains, placements and tables, and has a row of its own. Times are those that this process has a core for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from nebula.cli.subject import Subject, load_subject
from nebula.cost_model.candidates import Way
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.many import Many
from tests.bench.rows import Row
from tests.pure.candidate_samples import dealt, plans, random_way

SPLITS, EACH = 400, 200
"""Splits of a batch (the same one may be drawn again), and boundaries of each."""

SUBJECTS = {
    "Titan on 1,920": "titan-1920.yaml",
    "Llama 3 8B on 64": "llama3-8b-a100-64.yaml",
    "small ERNIE on 4": "ernie-small.yaml",
}


def rows() -> list[Row]:
    """Milliseconds of one evaluation, candidates a second."""
    subjects = {name: load_subject(Path("examples") / file, []) for name, file in SUBJECTS.items()}
    titan = next(iter(subjects.values()))
    return [*_alone(titan), *(row for name, subject in subjects.items() for row in _together(name, subject))]


def _splits(subject: Subject, number: int) -> list[Way]:
    cluster, job, rng = subject.run.cluster, subject.run.job, random.Random(1)
    tensors = [t for t in (1, 2, 4, 8) if t <= cluster.groups[0].devices_per_node]
    size = len(subject.graph.layers), cluster.device_count, job
    return [random_way(rng, *size, tensors, ("1f1b",)) for _ in range(number)]


def _alone(subject: Subject) -> list[Row]:
    """Medians over plans of all lengths, each priced after another of its split and before it."""
    graph, cluster, job = subject.graph, subject.run.cluster, subject.run.job
    pricing, splits = Pricing(graph, cluster, job), _splits(subject, 60)
    others, drawn = (
        list(plans(dealt(random.Random(seed), splits, 1, len(graph.layers)), cluster, job).values()) for seed in (2, 3)
    )
    for plan in others:
        pricing.predict(plan)
    warm_s = [_seconds(partial(pricing.predict, plan)) for plan in drawn]
    cold_s = [_seconds(partial(evaluate, graph, cluster, plan)) for plan in drawn[::6]]
    longest = max(len(plan.stages) for plan in drawn)
    return [
        Row(name="a plan of Titan in all parts, warm", value=1e3 * median(warm_s), unit="ms", promise=5),
        Row(name=f"the slowest of 60, of up to {longest} stages", value=1e3 * max(warm_s), unit="ms"),
        Row(name="a plan of Titan in all parts, nothing known", value=1e3 * median(cold_s), unit="ms"),
    ]


def _together(name: str, subject: Subject) -> list[Row]:
    """Candidates a second: the best of 5 batches of further boundaries, and the first."""
    many, splits = Many(Pricing(subject.graph, subject.run.cluster, subject.run.job)), _splits(subject, SPLITS)
    first, *further = (dealt(random.Random(seed), splits, EACH, len(subject.graph.layers)) for seed in range(6))
    first_s = _seconds(partial(many.price, first))
    further_s = min(_seconds(partial(many.price, batch)) for batch in further)
    mix = f"{name}: {len(set(splits))} splits × {len(first) // len(set(splits))}, {first.pipeline.mean():.0f} stages"
    return [
        Row(name=mix, value=len(first) / further_s, unit="1/s", promise=1e5, more_is_better=True),
        Row(name="the first such batch", value=len(first) / first_s, unit="1/s"),
    ]


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
