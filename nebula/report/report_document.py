"""What `nebula report --json` prints: every figure and sentence of the page, under names.

It begins with the keys of `nebula plan --json`, which mean the same here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nebula.cost_model.flows import AXES
from nebula.cost_model.memory_timeline import MemoryTimeline
from nebula.cost_model.traffic_matrix import TrafficMatrix
from nebula.plan.identity import plan_hash
from nebula.plan.legality import executable_on
from nebula.report.document import plan_document
from nebula.report.explanation_document import rejection_document
from nebula.report.findings import Findings, Measured, Search
from nebula.report.memory_drawing import SLOTS
from nebula.report.provenance import basis_rows
from nebula.report.rows import device_types, stage_rows
from nebula.report.running import form_rows
from nebula.report.traffic_drawing import level_rows, parts_of
from nebula.report.words import fits, measured_words, verdict


def report_document(findings: Findings) -> dict[str, Any]:
    """The document of a report."""
    plan, search = findings.plan, findings.search
    document = plan_document(plan, search, executable_on(plan, findings.cluster), findings.outlook)
    return {
        **document,
        "verdict": verdict(plan, virtual=findings.virtual, outlook=findings.outlook),
        "fits": fits(plan),
        "virtual": findings.virtual,
        "stages": _stages(findings),
        "timeline": [span._asdict() for span in findings.spans],
        "memory": [_memory(timeline.fullest(SLOTS)) for timeline in findings.memory],
        "operations": [asdict(row) for row in basis_rows(findings)],
        "traffic": _traffic(findings.traffic, findings) if findings.traffic else None,
        "what_ifs": [asdict(row) for row in findings.what_ifs],
        "search": {**document["search"], **_search(search)},
        "launch": asdict(findings.launch),
        "objective": asdict(findings.objective),
        "plan_hash": plan_hash(plan),
        "form": [asdict(row) for row in form_rows(findings)],
        "measured": _measured(findings) if findings.measured.run else None,
        "versions": dict(findings.versions),
    }


def _stages(findings: Findings) -> list[dict[str, Any]]:
    """Who holds what, a row for every stage; the memory of each by what holds it."""
    prediction = findings.plan.prediction
    rows = stage_rows(findings.plan, findings.graph, fold_from=len(findings.plan.stages) + 1)
    held = [asdict(memory) for memory in prediction.memory] if prediction else [None] * len(rows)
    return [
        {
            "layers": row.layers,
            "number": row.layer_count,
            "devices": row.places,
            "types": device_types(findings.cluster, row.groups),
            "ranks": row.ranks,
            "split": row.split,
            "memory": memory,
        }
        for row, memory in zip(rows, held, strict=True)
    ]


def _memory(timeline: MemoryTimeline) -> dict[str, Any]:
    """What one device of the pipeline holds, at the fullest moment of each of equal stretches of the step."""
    return {
        "stages": list(timeline.stages),
        "peak_bytes": timeline.peak_bytes,
        "limit_bytes": timeline.limit_bytes,
        "starts_s": timeline.starts_s.tolist(),
        "end_s": timeline.end_s,
        "held_bytes": {holder: values.tolist() for holder, values in timeline.held_bytes},
    }


def _traffic(traffic: TrafficMatrix, findings: Findings) -> dict[str, Any]:
    """Bytes by axis and level, and [from][to] between the nodes that the page puts together."""
    parts = parts_of(traffic, findings.cluster, findings.plan)
    cells = traffic.folded([part.nodes for part in parts])
    return {
        "total_bytes": traffic.total_bytes,
        "levels": [asdict(row) for row in level_rows(traffic)],
        "nodes": [list(part.nodes) for part in parts],
        "sent_bytes": {axis: cells[:, :, j].tolist() for j, axis in enumerate(AXES) if cells[:, :, j].any()},
    }


def _search(search: Search) -> dict[str, Any]:
    contenders = [{**asdict(each), "parts_s": dict(each.parts_s)} for each in search.contenders]
    return {
        "contenders": contenders,
        "notes": list(search.notes),
        "rejected": [rejection_document(each) for each in search.rejections],
        "time_costs": [asdict(each) for each in search.time_costs],
    }


def _measured(findings: Findings) -> dict[str, Any]:
    measured: Measured = findings.measured
    return {
        "run": measured.run,
        "clock": measured.clock,
        "sentence": measured_words(findings),
        "step_time_s": measured.step_time_s,
        "steps": [asdict(step) for step in measured.steps],
        "timeline": [span._asdict() for span in measured.spans],
        "evaluation": dict(measured.evaluation),
    }
