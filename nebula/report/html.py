"""Writes the report: one HTML file with the verdict, the cluster, the step, memory, the search and what was measured.

Everything is inside the file (style, script, drawings as SVG), so it opens offline and prints.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nebula.cost_model.economy import Outlook
from nebula.plan.identity import plan_hash
from nebula.planner.sensitivity import SAME_PLAN
from nebula.report.findings import Findings
from nebula.report.memory_drawing import panels_note
from nebula.report.outlook_words import amount, condition_rows, days_words, outlook_rows, progress_words
from nebula.report.pictures import drawings, panels
from nebula.report.provenance import basis_rows
from nebula.report.rows import device_types, stage_rows
from nebula.report.running import form_rows, shown_commands
from nebula.report.svg import stage_colour
from nebula.report.traffic_drawing import level_rows, traffic_words
from nebula.report.words import (
    bound_words,
    engine_words,
    figure,
    fits,
    fullest,
    measured_words,
    objective_rows,
    percent,
    verdict,
)
from nebula.units import format_bytes, format_count, format_seconds
from nebula.whole_file import write_whole


def report_page(findings: Findings) -> str:
    """The HTML text of the report."""
    environment = Environment(
        loader=PackageLoader("nebula.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seconds": format_seconds,
        "percent": percent,
        "bytes": format_bytes,
        "figure": figure,
    }
    folder = files("nebula.report")
    return environment.get_template("page.html.j2").render(
        plan=findings.plan,
        launch=findings.launch,
        measured=findings.measured,
        search=findings.search,
        what_ifs=findings.what_ifs,
        versions=findings.versions,
        css=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        js=Markup(folder.joinpath("page.js").read_text(encoding="utf-8")),
        drawings={name: Markup(svg) for name, svg in drawings(findings).items()},
        panels={name: [Markup(svg) for svg in svgs] for name, svgs in panels(findings).items()},
        **_words(findings),
    )


def write_report(findings: Findings, path: Path) -> None:
    """Writes the report to `path`, replacing a report that is there."""
    write_whole(path, report_page(findings))


def _clock(findings: Findings) -> str:
    """Words to put behind a comma where times need saying what they are."""
    return ", in virtual time of the emulated devices" if findings.virtual else ""


def _words(findings: Findings) -> dict[str, object]:
    """Everything the page says that is not a drawing."""
    plan, search = findings.plan, findings.search
    rows = [
        {
            "first": row.stages[0],
            "name": row.name,
            "colour": stage_colour(row.stages[0], len(plan.stages)),
            "layers": row.layers,
            "count": row.count_words,
            "places": row.places,
            "types": device_types(findings.cluster, row.groups),
            "ranks": row.ranks,
            "split": row.split,
            "memory": row.memory_words,
        }
        for row in stage_rows(plan, findings.graph)
    ]
    return {
        "fits": fits(plan),
        "split": plan.split,
        "missing": findings.missing,
        "verdict": verdict(plan, virtual=findings.virtual, outlook=findings.outlook),
        "tiles": _tiles(findings),
        "stages": rows,
        "folded": findings.cluster.node_count > 8,
        "timeline_note": _timeline_note(findings),
        "memory_note": panels_note(findings.memory),
        "traffic_note": traffic_words(findings.traffic) if findings.traffic else "",
        "traffic": level_rows(findings.traffic) if findings.traffic else (),
        "parts_note": f"On the stage that ends last{_clock(findings)}; the parts sum to the step.",
        "measured_note": f"Run {findings.measured.run}: {measured_words(findings)}." if findings.measured.steps else "",
        "basis": basis_rows(findings),
        "commands": shown_commands(findings.launch),
        "form": form_rows(findings),
        "hash": plan_hash(plan),
        "others": any(row.how != SAME_PLAN for row in findings.what_ifs),
        "bound": bound_words(plan),
        "slowest_s": max((c.step_time_s for c in search.contenders), default=1.0),
        "inputs": _inputs(findings),
        "outlook": outlook_rows(findings.outlook, virtual=findings.virtual) if findings.outlook else (),
        "conditions": condition_rows(findings.outlook) if findings.outlook else (),
    }


def _tiles(findings: Findings) -> list[dict[str, str]]:
    plan, measured = findings.plan, findings.measured
    if plan.prediction is None:
        return []
    prediction = plan.prediction
    virtual = ", virtual" if findings.virtual else ""
    tiles = [
        (format_seconds(prediction.step_time_s), f"a step, predicted{virtual}"),
        (format_count(prediction.tokens_per_s), f"tokens/s{virtual}"),
        (percent(prediction.mfu), "of the devices' peak (MFU)"),
        (percent(fullest(plan)), "of the memory that the plan may fill, fullest device"),
        (f"{plan.world_size:,}", f"of {findings.cluster.device_count:,} devices used"),
    ]
    if measured.step_time_s:
        tiles.insert(1, (format_seconds(measured.step_time_s), f"a step, measured, {measured.clock} time"))
    tiles += _outlook_tiles(findings.outlook) if findings.outlook else []
    return [{"value": value, "words": words} for value, words in tiles]


def _outlook_tiles(outlook: Outlook) -> list[tuple[str, str]]:
    """Days and money of the token budget where there is one, failures counted."""
    days, money = outlook.days, outlook.money
    tiles = [(progress_words(outlook.goodput.useful), "of the time is progress (goodput)")]
    if days.tokens:
        tiles.append((days_words(days.with_failures), f"for {format_count(days.tokens)} tokens, failures counted"))
    if days.tokens and not money.unknown:
        tiles.append((amount(money.budget), f"in all, {amount(money.per_million_tokens)} a million tokens"))
    return tiles


def _timeline_note(findings: Findings) -> str:
    plan, prediction = findings.plan, findings.plan.prediction
    batches = f"{plan.micro_batches} micro-batch{'es' if plan.micro_batches > 1 else ''}"
    note = f"Schedule {plan.schedule} with {batches}{_clock(findings)}"
    if prediction and len(plan.stages) > 1:
        note += f"; the bubble takes {percent(prediction.parts.bubble_s / prediction.step_time_s)} of the step"
    if findings.measured.spans:
        note += ". Measured lanes show one rank of each stage; their communication holds the wait for the other rank"
    return note + "."


def _inputs(findings: Findings) -> list[tuple[str, str]]:
    """What the plan was made from, with the hashes that tell one input from another."""
    plan, graph, cluster = findings.plan, findings.graph, findings.cluster
    job = plan.job
    return [
        ("plan", plan_hash(plan)),
        (
            "model",
            f"{plan.made_from.model}, {format_count(graph.parameter_count)} parameters ({plan.made_from.model_hash})",
        ),
        ("layers", f"{len(graph.layers)}, {len(graph.blocks)} distinct"),
        ("cluster", f"{cluster.name}, {cluster.device_count:,} devices ({plan.made_from.cluster_hash})"),
        ("global batch", f"{job.global_batch:,} rows of {graph.tokens_per_row:,} tokens"),
        *objective_rows(findings.objective),
        ("token budget", format_count(job.tokens) if job.tokens else "not given"),
        ("memory that may be used", percent(job.memory_fraction)),
        ("engine", engine_words(findings)),
    ]
