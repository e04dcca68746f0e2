"""The Chrome trace of a step, predicted and measured side by side; it opens in Perfetto and chrome://tracing.

One process per stage of the prediction and per rank of the measurement, in each a thread for compute and one for
communication; arrows follow every micro-batch from stage to stage. The format is that of the Trace Event Format
document (complete events `X`, metadata `M`, flows `s`, `t` and `f`; times in microseconds).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nebula.report.findings import Findings
from nebula.report.spans import Span
from nebula.report.words import stage_names
from nebula.whole_file import write_whole

Event = dict[str, Any]
THREADS = ("compute", "communication")
MEASURED = 100_000
"""Process numbers of measured ranks start here, those of predicted stages at 1."""


def chrome_trace(findings: Findings) -> dict[str, Any]:
    """The trace as a JSON document."""
    stages = {rank: index for index, stage in enumerate(findings.plan.stages) for rank in stage.ranks}
    clock = findings.measured.clock if findings.measured.spans else ""
    held = stage_names(findings.plan)
    predicted = {lane: f"predicted · {held[lane]}" for lane in sorted({s.lane for s in findings.spans})}
    measured = {
        lane: f"measured ({clock} time) · stage {stages.get(lane, 0)} · rank {lane}"
        for lane in sorted({s.lane for s in findings.measured.spans}, key=lambda r: (stages.get(r, 0), r))
    }
    events = [
        *_named(predicted, 1),
        *_named(measured, MEASURED),
        *(_complete(s, 1) for s in findings.spans),
        *(_complete(s, MEASURED) for s in findings.measured.spans),
        *_flows(findings.spans, 1, "predicted"),
        *_flows(_one_replica(findings), MEASURED, "measured"),
    ]
    about = {"model": findings.plan.made_from.model, "cluster": findings.plan.made_from.cluster}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about | {"split": findings.plan.split}}


def write_trace(findings: Findings, path: Path) -> None:
    """Writes the trace, replacing one that is there."""
    write_whole(path, json.dumps(chrome_trace(findings), ensure_ascii=False))


def _named(names: dict[int, str], first: int) -> Iterator[Event]:
    """Names and order of processes and threads."""
    for order, (lane, name) in enumerate(names.items()):
        pid = first + lane
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": first + order}}
        for tid, thread in enumerate(THREADS):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}


def _complete(span: Span, first: int) -> Event:
    return {
        "ph": "X",
        "name": f"{span.kind} {span.micro_batch}" if span.micro_batch >= 0 else span.words,
        "cat": span.thread,
        "pid": first + span.lane,
        "tid": THREADS.index(span.thread),
        "ts": span.start_s * 1e6,
        "dur": (span.end_s - span.start_s) * 1e6,
        "args": {"what": span.words},
    }


def _one_replica(findings: Findings) -> list[Span]:
    """Measured spans of the first rank of each stage, the ones whose micro-batches follow each other."""
    first = {stage.ranks[0] for stage in findings.plan.stages}
    return [s for s in findings.measured.spans if s.lane in first]


def _flows(spans: Sequence[Span], first: int, category: str) -> Iterator[Event]:
    """Arrows along the passes of each micro-batch: forward through the stages, then backward."""
    passes = [s for s in spans if s.kind in ("F", "B", "I") and s.micro_batch >= 0]
    passes.sort(key=lambda s: (s.micro_batch, s.start_s, s.kind != "F"))
    for micro_batch, group in groupby(passes, key=lambda s: s.micro_batch):
        chain = list(group)
        if len({s.lane for s in chain}) < 2:
            continue
        for index, span in enumerate(chain):
            phase = "s" if index == 0 else "f" if index == len(chain) - 1 else "t"
            event = {"ph": phase, "name": f"micro-batch {micro_batch}", "cat": category, "id": first + micro_batch}
            event |= {"pid": first + span.lane, "tid": 0, "ts": (span.start_s + span.end_s) / 2 * 1e6}
            yield event | ({"bp": "e"} if phase == "f" else {})
