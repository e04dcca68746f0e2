"""What came of a schedule of faults, for people and for machines."""

from __future__ import annotations

import os
from typing import Any

from nebula.elastic.chaos.run import Outcome, Result


def chaos_document(result: Result) -> dict[str, Any]:
    """The outcome for machines."""
    return {
        "phase": result.phase,
        "steps": result.steps,
        "seconds": result.seconds,
        "load": os.getloadavg()[0],
        "faults": [
            {
                "fault": one.injected.fault.kind.value,
                "node": one.injected.node,
                "ts": one.injected.wall_s,
                "seen_s": one.seen_s if one.seen_s >= 0 else None,
                "back_s": one.back_s if one.back_s >= 0 else None,
                "lost_steps": one.lost_steps,
                "because": one.because,
            }
            for one in result.outcomes
        ],
    }


def chaos_text(result: Result) -> str:
    """The outcome for people."""
    lines = [f"{'fault':12} {'node':12} {'seen s':>8} {'back s':>8} {'again':>6}  because"]
    lines += [_line(one) for one in result.outcomes]
    lines.append(
        f"{len(result.outcomes)} faults in {result.seconds:.0f} s, {result.steps} steps meanwhile; "
        f"the job is {result.phase}; load {os.getloadavg()[0]:.1f}"
    )
    return "\n".join(lines)


def _line(one: Outcome) -> str:
    seen, back = (f"{value:8.2f}" if value >= 0 else f"{'-':>8}" for value in (one.seen_s, one.back_s))
    fault = one.injected.fault.kind.value
    return f"{fault:12} {one.injected.node:12} {seen} {back} {one.lost_steps:6}  {one.because}"
