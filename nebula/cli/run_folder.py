"""The folder of one run: what is in it, how a verb makes one, and what a report reads back from it.

The trainer writes its own files there (nebula.runtime.training names them); these are the ones beside them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebula.checkpoint.folder import newest
from nebula.checkpoint.policy import FOLDER, NEVER, Policy
from nebula.cli.details import detailed
from nebula.cli.subject import check_origin, findings, trained_graph
from nebula.errors import BadInput
from nebula.report.findings import Findings, Search

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster
    from nebula.plan.conditions import Conditions
    from nebula.plan.values import Plan

PLAN, CLUSTER, SEARCH, CONDITIONS = "plan.json", "cluster.yaml", "search.json", "conditions.json"
REPORT, TRACE = "report.html", "trace.json"


def make_folder(
    folder: Path,
    plan: Plan,
    cluster: Cluster,
    search: Search,
    conditions: Conditions,
    *,
    force: bool,
    checkpoint: Policy = NEVER,
    resume: bool = False,
) -> Path:
    """Makes a run folder with its plan, cluster, search record and conditions.

    Args:
        force: replace the run that is there, checkpoints within its folder included.
        checkpoint: where the run saves.
        resume: go on with the run that is there, if there is one; its plan is replaced.

    Raises:
        BadInput: the folder, or a folder of checkpoints outside of it, holds a run already and neither is set.
    """
    from nebula.cluster.dump import dump_cluster
    from nebula.plan.conditions_file import save_conditions
    from nebula.plan.files import save_plan
    from nebula.report.search_file import save_search

    if force and resume:
        raise BadInput("--force replaces a run and --resume goes on with it: give one of them")
    if folder.exists() and any(folder.iterdir()):
        if not (force or resume):
            goes_on = ", go on with --resume" if newest(folder / checkpoint.folder) else ""
            raise BadInput(f"{folder} holds a run already: name another folder{goes_on}, or replace it with --force")
        _clear(folder, (TIMELINES, REPORT, TRACE) if resume else LEFT)
    saved = newest(folder / checkpoint.folder) if checkpoint.every else None
    if saved and not resume:
        raise BadInput(
            f"{saved.path.parent} holds checkpoints up to step {saved.step}: go on with --resume, "
            "or name another checkpoint.folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_plan(plan, folder / PLAN, overwrite=True)
    (folder / CLUSTER).write_text(dump_cluster(cluster), encoding="utf-8")
    save_search(search, folder / SEARCH)
    save_conditions(conditions, folder / CONDITIONS)
    return folder


TIMELINES = "timeline.*.json"
LEFT = (
    "steps.jsonl",
    "saves.jsonl",
    TIMELINES,
    "evaluation.json",
    "training.json",
    "weights.safetensors",
    REPORT,
    TRACE,
    f"{FOLDER}/step-*",
)
"""What an earlier run left beside the files that are written anew."""


def _clear(folder: Path, left: tuple[str, ...]) -> None:
    """Removes what an earlier run left, and nothing that it did not write.

    Raises:
        BadInput: the folder was no run's.
    """
    if not (folder / PLAN).is_file():
        raise BadInput(f"{folder} is not the folder of a run: it holds no {PLAN}, so nothing in it is replaced")
    for pattern in left:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
    graph = trained_graph(training, plan.job.precision)
    check_origin(plan, graph, cluster)
    if plan.prediction is None:
        plan = replace(plan, prediction=evaluate(graph, cluster, plan))
    found = findings(plan, graph, cluster, load_search(folder / SEARCH), load_conditions(folder / CONDITIONS))
    rows = what_ifs(graph, cluster, plan, replan=False)
    return replace(detailed(found), measured=read_run(folder), what_ifs=rows)
