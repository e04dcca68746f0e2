"""The verb what-if: one plan under slower links, more memory, a lost node and other changes."""

from __future__ import annotations

from dataclasses import asdict

from nebula.cli.options import Json, Overrides, PlanOption, RunFile


def what_if(run: RunFile, overrides: Overrides = None, plan_file: PlanOption = None, json: Json = False) -> None:
    """Price a plan under other links, memory, lost and slow nodes."""
    from nebula.cli.console import Line, print_json, results
    from nebula.cli.subject import chosen_plan, load_subject
    from nebula.planner.sensitivity import what_ifs
    from nebula.report.outcome_table import what_if_table

    subject = load_subject(run, overrides)
    chosen, _ = chosen_plan(subject, plan_file)
    assert chosen.prediction is not None
    line = Line()
    rows = what_ifs(
        subject.graph,
        subject.run.cluster,
        chosen,
        subject.run.objective,
        on_row=lambda number: line.show(lambda: f"pricing: {number} changes"),
    )
    line.clear()
    step_s = chosen.prediction.step_time_s
    if json:
        print_json({"split": chosen.split, "step_time_s": step_s, "rows": [asdict(row) for row in rows]})
    else:
        results().print(what_if_table(rows, chosen.split, step_s))
