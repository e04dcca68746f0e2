"""The folder of one run: what is in it, how a verb makes one, and what a report reads back from it.

The trainer writes its own files there (nebula.runtime.training names them); these are the ones beside them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebula.cli.details import detailed
from nebula.cli.subject import check_origin, described_graph, findings
from nebula.errors import BadInput
from nebula.report.findings import Findings, Search

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster
    from nebula.plan.conditions import Conditions
    from nebula.plan.values import Plan

PLAN, CLUSTER, SEARCH, CONDITIONS = "plan.json", "cluster.yaml", "search.json", "conditions.json"
REPORT, TRACE = "report.html", "trace.json"


def make_folder(
    folder: Path, plan: Plan, cluster: Cluster, search: Search, conditions: Conditions, *, force: bool
) -> Path:
    """Makes a run folder with its plan, cluster, search record and conditions.

    Raises:
        BadInput: the folder holds a run already and `force` is not set.
    """
    from nebula.cluster.dump import dump_cluster
    from nebula.plan.conditions_file import save_conditions
    from nebula.plan.files import save_plan
    from nebula.report.search_file import save_search

    if folder.exists() and any(folder.iterdir()):
        if not force:
            raise BadInput(f"{folder} holds a run already: name another folder, or replace it with --force")
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_plan(plan, folder / PLAN, overwrite=True)
    (folder / CLUSTER).write_text(dump_cluster(cluster), encoding="utf-8")
    save_search(search, folder / SEARCH)
    save_conditions(conditions, folder / CONDITIONS)
    return folder


def _clear(folder: Path) -> None:
    """Removes what an earlier run left, and nothing that it did not write.

    Raises:
        BadInput: the folder was no run's.
    """
    if not (folder / PLAN).is_file():
        raise BadInput(f"{folder} is not the folder of a run: it holds no {PLAN}, so nothing in it is replaced")
    left = ("steps.jsonl", "timeline.*.json", "evaluation.json", "training.json", "weights.safetensors", REPORT, TRACE)
    for pattern in left:
        for path in folder.glob(pattern):
            path.unlink()


def run_findings(folder: Path) -> Findings:
    """Everything that a run folder tells: plan, model, cluster, search, measurement.

    Raises:
        BadInput: a file is missing, damaged or of another run.
    """
    from nebula.cluster.schema import load_cluster
    from nebula.cost_model.evaluate import evaluate
    from nebula.plan.conditions_file import load_conditions
    from nebula.plan.files import load_plan
    from nebula.planner.sensitivity import what_ifs
    from nebula.report.measured import read_run
    from nebula.report.search_file import load_search
    from nebula.runtime.training import load

    if not (folder / PLAN).is_file():
        raise BadInput(f"{folder} is not the folder of a run: there is no {PLAN} (nebula train writes it)")
    plan = load_plan(folder / PLAN)
    cluster = load_cluster(folder / CLUSTER)
    training = load(folder)
    graph = described_graph(training.preset, training.seq_len, plan.job.precision)
    check_origin(plan, graph, cluster)
    if plan.prediction is None:
        plan = replace(plan, prediction=evaluate(graph, cluster, plan))
    found = findings(plan, graph, cluster, load_search(folder / SEARCH), load_conditions(folder / CONDITIONS))
    rows = what_ifs(graph, cluster, plan, replan=False)
    return replace(detailed(found), measured=read_run(folder), what_ifs=rows)
