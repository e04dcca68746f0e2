"""The verb check: is a plan file whole, legal and made for this run; does it fit; and on what can it run?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Json, PlanFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.legality import Executable
    from nebula.plan.values import Plan, StageMemory


def check(
    plan_file: PlanFile,
    run: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--run", metavar="RUN.YAML", help="Also check against this run's model and cluster."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a plan file: whole, legal, made for this run, and what can run it."""
    from nebula.cli.console import print_json
    from nebula.cli.phasing import subject_of
    from nebula.cli.subject import check_origin
    from nebula.errors import BadInput
    from nebula.plan.files import load_plan

    plan = load_plan(plan_file)
    subject = subject_of(plan, run) if run else None
    if subject:
        check_origin(plan, subject.graph, subject.run.cluster)
    broken, unpriced = _broken(plan, subject)
    able = _executable(plan, subject)
    if json:
        engines = {kind: {"engine": a.engine, "missing": list(a.missing)} for kind, a in able.items()}
        found = {"legal": not broken, "violations": broken, "split": plan.split, "executable": engines}
        print_json({**found, "unpriced": unpriced} if unpriced else found)
        if broken:
            raise typer.Exit(BadInput.exit_code)
    elif broken:
        raise BadInput(f"{plan_file} is not legal: " + "; ".join(broken))
    else:
        print(f"{plan_file} is legal: {plan.split}; {plan.world_size} ranks")
        for kind, a in able.items():
            print(f"  on {kind}: " + (f"runs on {a.engine}" if a.engine else "no engine: " + "; ".join(a.missing)))
        if unpriced:
            print(f"  not priced, so that it is not known whether it fits: {unpriced}")


def _broken(plan: Plan, subject: Subject | None) -> tuple[list[str], str]:
    """Every broken rule, with a run also what its model and its devices' memory refuse; and why it has no price."""
    from nebula.cost_model.evaluate import evaluate
    from nebula.cost_model.step import Unpriced
    from nebula.errors import BadInput
    from nebula.plan.legality import violations

    if not subject:
        return [v.sentence for v in violations(plan, layers=plan.stages[-1].layers[1], cluster=None)], ""
    graph, cluster = subject.graph, subject.run.cluster
    broken = [v.sentence for v in violations(plan, layers=len(graph.layers), cluster=cluster)]
    broken += other_job(plan, subject)
    if broken:
        return broken, ""
    try:
        memory = evaluate(graph, cluster, plan).memory
    except Unpriced as error:
        return [], str(error)
    except BadInput as error:
        return [str(error)], ""
    return [_too_full(stage, held) for stage, held in enumerate(memory) if held.share > 1.0], ""


def other_job(plan: Plan, subject: Subject) -> list[str]:
    """Where the plan trains otherwise than the run file asks."""
    asked = subject.run.job
    return [
        f"the plan's {name} is {getattr(plan.job, name)}, the run's is {getattr(asked, name)}: plan again"
        for name in ("global_batch", "precision", "optimizer")
        if getattr(plan.job, name) != getattr(asked, name)
    ]


def _too_full(stage: int, held: StageMemory) -> str:
    from nebula.units import format_bytes

    if held.total_bytes > held.limit_bytes:
        return f"stage {stage} needs {format_bytes(held.total_bytes)} > {format_bytes(held.limit_bytes)} of a device"
    host, limit = format_bytes(held.host_bytes), format_bytes(held.host_limit_bytes)
    return f"stage {stage} needs {host} > {limit} of a device's share of its host's memory"


def _executable(plan: Plan, subject: Subject | None) -> dict[str, Executable]:
    """Who can run the plan, by kind of device: the run's kind, or all."""
    from nebula.plan.legality import DEVICE_KINDS, executable, executable_on, kind_of

    if not subject:
        return {kind: executable(plan, kind) for kind in DEVICE_KINDS}
    return {kind_of(subject.run.cluster): executable_on(plan, subject.run.cluster)}
