"""Ten emulated clusters whose speeds the planner has not seen: what `nebula profile` finds, and what is then chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.plan.job import Objective
from nebula.plan.legality import executable_on
from nebula.plan.values import Job, Plan
from nebula.planner.by_engine import Asked, planned
from nebula.planner.explore.extent import executor_extent
from nebula.planner.explore.search import explore
from nebula.planner.placed_answer import placed_search
from nebula.units import parse_quantity, parse_rate, parse_seconds
from tests.bench.emulated import CLUSTERS, DEVICES, MODEL, ROWS, launched
from tests.bench.rows import Row

SEEDS = range(10)
SPREAD = 0.3
"""Every speed is off by a factor within 1 - SPREAD and 1 + SPREAD."""

TRIED = 4
"""Plans that are run: the planner's answer and the quickest others by prediction."""


def rows() -> Iterator[Row]:
    """For each seed how far figures and steps are off, and how far the choice is behind the best that was run."""
    figures, behind, steps = [], [], []
    for seed in SEEDS:
        name = list(CLUSTERS)[seed % len(CLUSTERS)]
        found, worst = _one(name, np.random.default_rng(seed))
        figures.append(worst)
        measured = [s for _, s in found]
        behind.append(100.0 * (measured[0] / min(measured) - 1.0))
        steps += [100.0 * abs(p / m - 1.0) for p, m in found]
        yield Row(name=f"seed {seed}, {name}: worst figure of the profile", value=100.0 * worst, unit="%")
        yield Row(name="    step times, worst error", value=max(steps[-len(found) :]), unit="%")
        yield Row(name=f"    choice behind the best of {len(found)}", value=behind[-1], unit="%")
    yield Row(name="profile, worst figure of all", value=100.0 * max(figures), unit="%", promise=3.0)
    yield Row(name="step time, median error", value=float(np.median(steps)), unit="%", promise=2.0)
    yield Row(name="step time, largest error", value=max(steps), unit="%", promise=8.0)
    yield Row(name="choices that are the best measured, of ten", value=sum(b == 0.0 for b in behind), unit="")
    yield Row(name="choice behind the best, at most", value=max(behind), unit="%", promise=2.0)


def _one(name: str, rng: np.random.Generator) -> tuple[list[tuple[float, float]], float]:
    """Predicted and measured seconds of the plans for a cluster, and the largest relative error of a figure."""
    given = {"name": name, "devices": _used(name), "nodes": CLUSTERS[name]}
    truth = _perturbed(given, rng)
    with tempfile.TemporaryDirectory() as folder:
        known = profiled(given, truth, Path(folder))
    real = load_cluster(truth)
    plans = chosen(known)
    steps = [
        (evaluate(MODEL, known, plan).step_time_s, max(own["step_s"] for own in launched(plan, real, MODEL.name)))
        for plan in plans
    ]
    return steps, max(abs(ratio - 1.0) for ratio in ratios(known, real))


def _used(name: str) -> dict[str, Any]:
    return {device: DEVICES[device] for device in {nodes["device"] for nodes in CLUSTERS[name]}}


def _perturbed(given: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The cluster file with every speed and latency off by a factor of its own."""
    truth = deepcopy(dict(given))

    def off(value: float, unit: str) -> str:
        return f"{value * rng.uniform(1 - SPREAD, 1 + SPREAD):.6g}{unit}"

    for device in truth["devices"].values():
        device["peak_flops"] = {"fp32": off(parse_quantity(device["peak_flops"]["fp32"]), "")}
        device["memory_bandwidth"] = off(parse_rate(device["memory_bandwidth"]), "B/s")
        device["kernel_time"] = off(parse_seconds(device["kernel_time"]), "s")
    for nodes in truth["nodes"]:
        for link in (nodes["intra"], nodes["nic"]):
            link["bandwidth"] = off(parse_rate(link["bandwidth"]), "B/s")
            link["latency"] = off(parse_seconds(link["latency"]), "s")
    return truth


def profiled(given: Mapping[str, Any], truth: Mapping[str, Any], folder: Path) -> Cluster:
    """The cluster of the file that was given, with what `nebula profile` finds on the true devices."""
    (folder / "truth.yaml").write_text(yaml.safe_dump(dict(truth)))
    names = []
    for nodes in truth["nodes"]:
        names.append(f"{nodes['name']}.yaml")
        words = ["profile", "--cluster", str(folder / "truth.yaml"), "--group", nodes["name"], "--quick"]
        done = CliRunner().invoke(app, [*words, "-o", str(folder / names[-1])])
        assert done.exit_code == 0, done.output
    (folder / "known.yaml").write_text(yaml.safe_dump({**given, "calibration": names}))
    return load_cluster(folder / "known.yaml")


def ratios(known: Cluster, real: Cluster) -> list[float]:
    """Of every figure what was found over what is."""
    found = []
    for mine, true in zip(known.groups, real.groups, strict=True):
        a, b = mine.device, true.device
        found.append(a.peak("float32") * a.product_efficiency / (b.peak("float32") * b.product_efficiency))
        found.append(a.memory_bytes_per_s * a.memory_efficiency / (b.memory_bytes_per_s * b.memory_efficiency))
        found.append(a.kernel_s / b.kernel_s)
        several = sum(group.count for group in real.groups) > 1
        for link, truly in ((mine.intra, true.intra), *([(mine.nic, true.nic)] if several else ())):
            if link.bytes_per_s:
                found += [link.bytes_per_s / truly.bytes_per_s, link.latency_s / truly.latency_s]
    return found


def chosen(cluster: Cluster) -> list[Plan]:
    """What `nebula plan` answers for a cluster, then the plans of both engines that are quickest by prediction."""
    job = Job(global_batch=ROWS)
    answer = planned(Asked(graph=MODEL, cluster=cluster, job=job, objective=Objective())).plan
    every = list(placed_search(MODEL, cluster, job).candidates)
    every += explore(MODEL, cluster, job, extent=executor_extent(job, ("npu",))).candidates
    runnable = {_split(plan): plan for plan in every if executable_on(plan, cluster).engine == plan.engine}
    runnable.pop(_split(answer), None)
    others = sorted(runnable.values(), key=lambda plan: evaluate(MODEL, cluster, plan).step_time_s)
    return [answer, *others[: TRIED - 1]]


def _split(plan: Plan) -> tuple[str, str]:
    return plan.engine, plan.split
