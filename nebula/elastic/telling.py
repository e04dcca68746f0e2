"""Where a controller and an agent tell what happens: a line for people, or a JSON object a line for machines.

Every JSON line has `ts, level, event, job_id, run_id, generation, site, node, rank, step, trace_id` and `because`; what
does not apply is null. Units are in the names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

FIELDS = ("job_id", "run_id", "generation", "site", "node", "rank", "step", "trace_id")
LEVELS = {"failed": "error", "hang": "error", "lost": "error", "refused": "warning", "gone": "warning"}
"""Of kinds of events; others are `info`."""


class Tell(Protocol):
    """Tells a sentence; fields that are given are told with it."""

    def __call__(self, sentence: str, *, event: str = "said", **fields: Any) -> None:
        """See Tell."""


def _nothing(sentence: str, *, event: str = "said", **fields: Any) -> None:
    del sentence, event, fields


SILENT: Tell = _nothing
"""Tells nobody."""


def as_text(log: Callable[[str], None]) -> Tell:
    """For people: the sentence, and the last lines of a rank that failed."""

    def tell(sentence: str, *, event: str = "said", **fields: Any) -> None:
        del event
        log("\n".join([sentence, *(f"  | {line}" for line in fields.get("last_lines", ()))]))

    return tell


def as_json(write: Callable[[str], None], clock: Callable[[], float], known: Mapping[str, Any]) -> Tell:
    """For machines.

    Args:
        clock: seconds since 1970.
        known: fields that all lines have.
    """

    def tell(sentence: str, *, event: str = "said", **fields: Any) -> None:
        line = {"ts": round(fields.pop("ts", clock()), 6), "level": LEVELS.get(event, "info"), "event": event}
        base = {name: fields.pop(name, known.get(name)) for name in FIELDS}
        write(json.dumps({**line, **base, "because": sentence, **fields}, ensure_ascii=False, allow_nan=False))

    return tell
