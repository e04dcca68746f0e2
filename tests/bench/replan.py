"""How soon a new plan is there when a node of 1,920 Ascend 910 that train ERNIE 3.0 Titan is lost.

Times are those that this process has a core for; all of it runs on one.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from nebula.cli.subject import load_subject
from nebula.cluster.places import exclude
from nebula.planner.replan import Replanner, replan
from nebula.planner.search import search
from tests.bench.rows import Row

LOST = ("atlas/7", "atlas/100", "atlas/120", "atlas/183", "atlas/239")


def rows() -> list[Row]:
    """Seconds from a lost node to the plan: kept warm, and with nothing known; how much slower than a search's plan."""
    subject = load_subject(Path("examples/titan-1920.yaml"), [])
    graph, cluster, job = subject.graph, subject.run.cluster, subject.run.job
    plan = search(graph, cluster, job).plan
    start = time.process_time()
    kept = Replanner(graph, cluster, plan, clock=time.process_time).warm()
    warming_s = time.process_time() - start
    warm = [kept.replan(exclude(cluster, [node])) for node in LOST]
    cold_s: list[float] = []
    for node in LOST[:3]:
        start = time.process_time()
        replan(graph, plan, exclude(cluster, [node]))
        cold_s.append(time.process_time() - start)
    best_s = search(graph, exclude(cluster, LOST[:1]), job).plan.prediction
    assert best_s is not None
    return [
        Row(
            name="re-planning Titan, one node of 240 lost, warm",
            value=median(a.seconds for a in warm),
            unit="s",
            promise=0.3,
        ),
        Row(name="getting warm", value=warming_s, unit="s"),
        Row(name="re-planning with nothing known", value=median(cold_s), unit="s"),
        Row(name="its step over that of a whole search", value=warm[0].options[0].step_s / best_s.step_time_s, unit=""),
    ]
