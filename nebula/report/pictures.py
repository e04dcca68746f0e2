"""Every drawing of the report's page by name, from the findings; empty where there is nothing to draw."""

from __future__ import annotations

from nebula.report.bars import funnel, time_shares, waterfall
from nebula.report.cluster_drawing import cluster_drawing
from nebula.report.curves import loss_curve, time_curve
from nebula.report.findings import Findings
from nebula.report.front_drawing import front_drawing
from nebula.report.memory_drawing import memory_bars, memory_panels, panels_legend
from nebula.report.timeline_drawing import timeline_drawing
from nebula.report.traffic_drawing import matrices
from nebula.report.what_if_drawing import what_if_bars
from nebula.report.words import stage_names

MOST_RANKS = 16


def drawings(findings: Findings) -> dict[str, str]:
    """Pictures that stand alone."""
    plan, measured = findings.plan, findings.measured
    out = dict.fromkeys(
        ("timeline", "memory", "holders", "parts", "shares", "what_ifs", "loss", "time", "funnel", "front"), ""
    )
    out["cluster"] = cluster_drawing(findings.cluster, plan, findings.traffic)
    if findings.spans:
        out["timeline"] = timeline_drawing(findings.spans, measured.spans, stage_names(plan), measured_lanes(findings))
    if plan.prediction:
        out["memory"] = memory_bars(plan.prediction.memory)
        out["parts"] = waterfall(
            plan.prediction, measured.step_time_s, f"median of {len(measured.steps)} steps, {measured.clock} time"
        )
    if findings.memory:
        out["holders"] = panels_legend(findings.memory)
    if findings.outlook:
        out["shares"] = time_shares(findings.outlook)
    if measured.steps:
        out["loss"], out["time"] = loss_curve(measured.steps), time_curve(measured.steps, measured.clock)
    if findings.what_ifs:
        out["what_ifs"] = what_if_bars(findings.what_ifs)
    if findings.search.candidates:
        out["funnel"] = funnel(findings.search)
    if len(findings.search.time_costs) > 1:
        out["front"] = front_drawing(findings.search.time_costs)
    return out


def panels(findings: Findings) -> dict[str, tuple[str, ...]]:
    """Pictures that stand side by side."""
    return {
        "memory": memory_panels(findings.memory) if findings.memory else (),
        "traffic": matrices(findings.traffic, findings.cluster, findings.plan) if findings.traffic else (),
    }


def measured_lanes(findings: Findings) -> dict[int, str]:
    """The ranks whose timelines are drawn: the first of each stage, then others while there is room."""
    present = {s.lane for s in findings.measured.spans}
    stages = {rank: index for index, stage in enumerate(findings.plan.stages) for rank in stage.ranks}
    first = [next((r for r in stage.ranks if r in present), -1) for stage in findings.plan.stages]
    rest = sorted(present - set(first)) if len(first) == 1 else []
    chosen = sorted([r for r in first if r >= 0] + rest, key=lambda r: (stages.get(r, 0), r))[:MOST_RANKS]
    return {rank: f"stage {stages.get(rank, 0)} · rank {rank}" for rank in chosen}
